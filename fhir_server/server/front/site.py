"""The RSGI entry point: `front`, the front before the application of wsgi.py, in one worker process."""

from __future__ import annotations

from functools import partial

from flask import Flask

from auth.forms import MAX_BYTES
from fhir_server.server.front.application import BodySizes, Front, FrontLimits
from fhir_server.server.recorder import count_refusal
from fhir_server.server.services import Services


def front_of(app: Flask) -> Front:
    """The front before an application that `create_app` made."""
    services: Services = app.extensions["vigie"]
    settings = services.settings
    return Front(
        app,
        bases=settings.bases,
        host=settings.host,
        port=settings.port,
        spool=settings.data / "spool",
        sizes=BodySizes(settings.max_body_bytes, services.imaging.max_request_bytes, MAX_BYTES),
        limits=FrontLimits(threads=settings.threads),
        guard=services.authority.guard,
        refused=partial(count_refusal, services.authority),
        stop=services.authority.close,
        trail=services.ledger if services.ledger.settles_soon else None,
    )
