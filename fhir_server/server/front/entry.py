"""The RSGI entry point: `front`, before the application of wsgi.py. Imported in a worker process only."""

import gc

from fhir_server.server.front.site import front_of
from wsgi import app, own

front = front_of(app)
own.sample("vigie_threads_busy", lambda: {(): float(front.busy)})
own.sample("vigie_requests_waiting", lambda: {(): float(front.waiting)})

# What was made until now (the registry, the definitions of FHIR) stays for good: to walk it again and again would
# hold every request up. What requests make ends with them, by its counts; circles are looked for less often.
gc.collect()
gc.freeze()
gc.set_threshold(10_000, 20, 50)
