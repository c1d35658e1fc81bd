"""`./vigie` runs `python -m fhir_server`."""

from fhir_server.commands.main import main

if __name__ == "__main__":
    main(prog_name="vigie")
