"""The operator's duty with the clock: say that a leap of it is the right time."""

from __future__ import annotations

from typing import Any

from fhir_server.duties import acts, deployment
from fhir_server.server.faults import CannotRun
from fhir_server.server.services import CLOCK
from fhir_server.server.settings import Settings
from resources.times import instant_text, utc_now
from store.engine.clock import Leap

CONFIRM = "clock-confirm"


def confirm(settings: Settings) -> dict[str, Any]:
    """Have the processes of this host believe the wall clock, which has leapt; by how many seconds, and the time now.

    The record is made before anything believes it, at the time that was believed. Raises CannotRun where there is
    nothing to confirm, Unavailable where it cannot be recorded.
    """
    file = settings.data / CLOCK
    with deployment.opened(settings) as services:
        leap = Leap.seen(file)
        with acts.recorded(services, CONFIRM, ("seconds", f"{leap.seconds:+.0f}")) as act:
            if not leap.seconds:
                raise CannotRun("the clock of this host is believed: there is nothing to confirm")
            with leap.confirming(file):
                act.conclude()
    return {"seconds": round(leap.seconds, 3), "now": instant_text(utc_now())}
