"""``[object]/$grant``, ``$revoke`` and ``$grants``: who else may see, or act on, what the caller's organisation owns.

The object is the resource that the path names: an order (its case), a Patient (what refers to it), an Organization (a
delegation), or any other resource alone. A client may give what its organisation owns, an administrator of the platform
anything; both need the right to update the object.
"""

from __future__ import annotations

from datetime import datetime

from fhir_server.edge.exchange import Answer, Asked, of_json
from fhir_server.edge.parameters import Given
from fhir_server.edge.ports import Services
from resources.interactions import Parameter
from resources.json import Json
from resources.outcomes import BadRequest
from resources.times import microseconds, parse_instant
from store.access import Access
from workflow.granting import Wish, described

TYPES = frozenset({
    "ServiceRequest", "Patient", "ImagingStudy", "DiagnosticReport", "Task", "Organization", "Encounter", "Observation",
    "Communication", "DocumentReference", "Binary", "Condition", "Procedure",
})  # fmt: skip
"""What can be granted over the API."""
OF_GRANT = (
    Parameter("subject"),
    Parameter("until", "instant"),
    Parameter("since", "instant"),
    Parameter("reason"),
    Parameter("source", "code"),
    Parameter("interactions", "code"),
    Parameter("alone", "boolean", ("true", "false")),
)
OF_REVOKE = (Parameter("grant", "id"),)
"""What lacks is told once the object is known to be there for the caller."""


def grant(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """Give a grant: 200 with it."""
    given = asked.given
    wish = Wish(
        subject=given.one("subject") or "",
        object=f"{asked.route.type}/{asked.route.id}",
        until=_instant(given, "until"),
        reason=given.one("reason") or "",
        source=given.one("source") or "",
        since=_instant(given, "since"),
        letters=given.one("interactions") or "rs",
        alone=given.one("alone") == "true",
    )
    made = services.granting.add(services.store, asked.caller, wish, intent=intent)
    return of_json(_told([described(made, microseconds(services.clock()))]))


def revoke(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """Take a grant on this object back: 200 with it, again and again."""
    ended = services.granting.revoke(
        services.store, asked.caller, asked.given.one("grant") or "",
        object_=f"{asked.route.type}/{asked.route.id}", intent=intent,
    )  # fmt: skip
    return of_json(_told([described(ended, microseconds(services.clock()))]))


def listed(services: Services, asked: Asked, intent: Access, resource: Json | None) -> Answer:
    """All grants that were ever given on this object."""
    with services.store.work(asked.caller, write=False, intent=intent) as uow:
        found = services.granting.listed(uow, object_=f"{asked.route.type}/{asked.route.id}")
        uow.note_as_one([intent])
    now_us = microseconds(services.clock())
    return of_json(_told([described(one, now_us) for one in found]))


def _instant(given: Given, name: str) -> datetime | None:
    text = given.one(name)
    found = parse_instant(text) if text else None
    if text and found is None:
        raise BadRequest(f"{name} is an instant with an explicit offset", expression=f"http.{name}")
    return found


def _told(grants: list[Json]) -> Json:
    told: Json = {"resourceType": "Parameters"}
    if grants:
        told["parameter"] = [
            {"name": "grant", "part": [{"name": name, "valueString": value} for name, value in one.items()]}
            for one in grants
        ]
    return told
