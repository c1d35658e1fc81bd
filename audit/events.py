"""The AuditEvents of an access, as they are of the record that will be made of it. Pure.

`audit.form2` says what they are; this is for whoever has the access itself in hand.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from audit import entry, form2
from resources.json import Json
from resources.times import microseconds
from store.access import Access, Caller


def build(
    caller: Caller,
    access: Access,
    at: datetime,
    *,
    observer: str,
    base_url: str,
    platform: str,
    recorded: datetime | None = None,
    new_id: Callable[[], str] | None = None,
) -> list[Json]:
    """The AuditEvents of one access: one per patient, else one.

    `at` is when the activity began, `recorded` when it is recorded (default: the same). `observer` is the reference of
    the Device that the server is, `base_url` its FHIR endpoint, `platform` the Organization that runs it.
    """
    site = {"observer": observer, "base_url": base_url, "platform": platform}
    record = entry.split(entry.written(caller, access, at))
    events = []
    for patient in record.patients or (None,):
        event: Json = {"resourceType": "AuditEvent"}
        if new_id is not None:
            event["id"] = new_id()
        events.append(event | form2.body(
            record.head, record.particulars, patient, site, microseconds(recorded or at)))
    return events
