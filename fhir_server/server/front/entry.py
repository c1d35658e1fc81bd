"""The RSGI entry point: `front`, before the application of wsgi.py. Imported in a worker process only."""

from fhir_server.server.front.site import front_of
from wsgi import app

front = front_of(app)
