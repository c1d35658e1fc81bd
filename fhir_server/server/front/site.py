"""The RSGI entry point: `front`, the front before the application of wsgi.py, in one worker process."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from flask import Flask
from sqlalchemy import text

from auth.forms import MAX_BYTES
from fhir_server.server.front.answers import WriteLimits
from fhir_server.server.front.application import BodySizes, Front, FrontLimits
from fhir_server.server.front.bodies import BodyLimits
from fhir_server.server.front.repeated import Repeated
from fhir_server.server.recorder import count_refusal
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store.engine.database import Database
from store.engine.faults import DRIVER_ERRORS


def front_of(app: Flask) -> Front:
    """The front before an application that `create_app` made, as it is wrapped now."""
    services: Services = app.extensions["vigie"]
    settings = services.settings
    with suppress(*DRIVER_ERRORS):
        services.authority.clients.origins()  # remembered from now on
    return Front(
        app.wsgi_app,
        bases=settings.bases,
        host=settings.host,
        port=settings.port,
        spool=settings.data / "spool",
        sizes=BodySizes(settings.max_body_bytes, services.imaging.max_request_bytes, MAX_BYTES),
        limits=limits_of(settings),
        ask=partial(_ask, services.database),
        guard=services.authority.guard,
        refused=partial(count_refusal, services.authority),
        stop=services.authority.close,
        origins=services.authority.clients.remembered_origins,
        workers=settings.workers,
        trail=services.ledger,
        at_once=services.ledger.settles_soon,
        repeated=Repeated(services.authority.guard, services.store, services.shown),
    )


def _ask(database: Database) -> None:
    with database.glance() as connection:
        connection.execute(text("SELECT 1"))


def limits_of(settings: Settings) -> FrontLimits:
    """What requests may cost one web worker."""
    return FrontLimits(
        threads=settings.threads,
        answer_s=settings.answer_timeout_s,
        bodies=BodyLimits(
            grace_s=settings.body_grace_s,
            min_rate=settings.body_min_rate,
            memory=settings.body_memory_bytes,
            disk=settings.body_disk_bytes,
            count=settings.bodies_at_once,
            per_key=settings.bodies_of_one,
        ),
        write=WriteLimits(grace_s=settings.write_grace_s, min_rate=settings.body_min_rate),
    )
