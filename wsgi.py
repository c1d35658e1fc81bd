"""The WSGI entry point: `app`, made from the environment (VIGIE_…)."""

from fhir_server import logs, processes
from fhir_server.app import create_app

processes.die_with_parent()
logs.configure("web")
app = create_app()
