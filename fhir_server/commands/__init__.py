"""The commands of `./vigie`: arguments in, one duty called, lines and an exit status out."""
