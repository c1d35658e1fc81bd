"""What a Communication must hold that closes a critical result: about this report and patient, and six facts.

The finding, when it was made, who said it to whom, when it was received and how, and that it was read back. A person
who was reached by telephone and is not registered here is a contained Practitioner with a name and a telecom; a bare
`display` says nothing of who it was, and an organisation has no ears.

ACR Practice Parameter for Communication of Diagnostic Imaging Findings; R4 Communication
http://hl7.org/fhir/R4/communication.html
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from resources.codes import FINDING_TIME, READ_BACK
from resources.json import Json
from resources.outcomes import Issue
from resources.times import parse_instant

PEOPLE = ("Practitioner", "PractitionerRole", "RelatedPerson", "Patient")
"""Who can be told."""
_AHEAD = timedelta(minutes=5)
"""So far another clock may be ahead of ours."""


def reports_of(task: Json) -> list[str]:
    """The reports that a `communicate-critical` Task is about."""
    found = [part.get("valueReference", {}).get("reference", "") for part in task.get("input", [])]
    return [reference for reference in found if reference.startswith("DiagnosticReport/")]


def closing_issues(said: Json, task: Json, now: datetime) -> list[Issue]:
    """Why this Communication does not close that Task; empty: it does."""
    return [Issue("error", "required", text, (f"Communication.{name}",)) for name, text in _faults(said, task, now)]


def _faults(said: Json, task: Json, now: datetime) -> Iterator[tuple[str, str]]:
    if said.get("status") != "completed":
        yield "status", "Only a completed Communication closes a critical result"
    about = {one.get("reference") for one in said.get("about", [])}
    if about.isdisjoint(reports_of(task)):
        yield "about", "The Communication must be about the report with the critical finding"
    if said.get("subject", {}).get("reference") != task.get("for", {}).get("reference"):
        yield "subject", "The Communication's subject must be the patient of the report"
    orders = [one.get("reference", "") for one in said.get("basedOn", [])]
    if orders and task.get("focus", {}).get("reference") not in orders:
        yield "basedOn", "The Communication is based on another order"
    if not _says_finding(said):
        yield "payload", "The finding must be said, in payload or reasonCode"
    found = parse_instant(_extension(said, FINDING_TIME, "valueDateTime"))
    if found is None or found > now + _AHEAD:
        yield f"extension('{FINDING_TIME}')", "When the finding was made must be said"
    if not _is_person(said, said.get("sender", {})):
        yield "sender", "Who made the call must be a person"
    if not any(_is_person(said, one) for one in said.get("recipient", [])):
        yield "recipient", (
            "Who was told must be a person: a reference, or a contained Practitioner with name and telecom"
        )
    received = parse_instant(said.get("received"))
    if received is None or received > now + _AHEAD or (found is not None and received < found):
        yield "received", "When it was received must be said: after the finding, and not to come"
    if not said.get("medium"):
        yield "medium", "How it was communicated must be said"
    if _extension(said, READ_BACK, "valueBoolean") is not True:
        yield f"extension('{READ_BACK}')", "Whoever was told must have read it back"


def _says_finding(said: Json) -> bool:
    if any(str(part.get("contentString", "")).strip() for part in said.get("payload", [])):
        return True
    return any(one.get("coding") or str(one.get("text", "")).strip() for one in said.get("reasonCode", []))


def _is_person(said: Json, holder: Json) -> bool:
    reference = str(holder.get("reference", ""))
    if reference.startswith("#"):
        inner: Json = next((one for one in said.get("contained", []) if f"#{one.get('id')}" == reference), {})
        named = any(name.get("family") or name.get("text") for name in inner.get("name", []))
        reached = any(str(one.get("value", "")).strip() for one in inner.get("telecom", []))
        return inner.get("resourceType") in PEOPLE and named and reached
    return reference.partition("/")[0] in PEOPLE


def _extension(said: Json, url: str, name: str) -> object:
    return next((one.get(name) for one in said.get("extension", []) if one.get("url") == url), None)
