"""The RSGI entry point: `front`, before the application of wsgi.py. Imported in a worker process only."""

from fhir_server.server.front.site import front_of
from wsgi import app, own

front = front_of(app)
own.sample("vigie_threads_busy", lambda: {(): float(front.busy)})
own.sample("vigie_requests_waiting", lambda: {(): float(front.waiting)})
