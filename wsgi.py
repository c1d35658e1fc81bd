"""The WSGI entry point: `app`, made from the environment (VIGIE_…)."""

import gc

from fhir_server.server import logs, processes

processes.begin_worker()  # before the imports, which take a second

from fhir_server.server import figures, metrics  # noqa: E402
from fhir_server.server.app import create_app  # noqa: E402

logs.configure("web")
with processes.told("web"):
    app = create_app()
services = app.extensions["vigie"]
own = figures.begin(services.settings.data, "web", services.settings.dimse_port)
metrics.sample(own, services)
gc.freeze()  # what is there now stays: the collector need not look through it again and again
