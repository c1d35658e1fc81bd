"""`./vigie` runs `python -m fhir_server`."""

from fhir_server.commands.cli import main

if __name__ == "__main__":
    main()
