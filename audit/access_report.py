"""What a patient is told of who touched the record: who, when, what, why, from which organisation. Pure.

An access is an AuditEvent as its reader may see it, with what a person asks for and nothing else; what was withheld
from the reader is not there either. CSP R. 1111-8-7 and GDPR article 15 (access to one's data) are asked with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from resources.json import Json


class Line(NamedTuple):
    """One access, as a row of a table; empty: not known, or it does not apply."""

    when: str
    """FHIR instant at which it began."""
    who: str
    """Reference of the person, or the id of the program that acted by itself."""
    role: str
    program: str
    """Id of the client."""
    organization: str
    """Reference."""
    action: str
    """C, R, U, D, E."""
    what: str
    """Code of the interaction, as in docs/audit.md."""
    resources: str
    """References, with a space between."""
    purpose: str
    """Code of v3-ActReason."""
    outcome: str
    """0, 4, 8, 12."""
    event: str
    """Reference of the AuditEvent."""


def line(event: Json, patient: str) -> Line:
    """The access that an AuditEvent tells; `patient`: reference of whom it is told to."""
    agents: list[Json] = event.get("agent", [])
    actor: Json = next((agent for agent in agents if agent.get("requestor")), {})
    who = actor.get("who", {})
    program = next((
        agent["who"]["identifier"].get("value", "")
        for agent in agents if "reference" not in agent.get("who", {}) and "identifier" in agent.get("who", {})
    ), "")  # fmt: skip
    organizations = [agent["who"]["reference"] for agent in agents if _is_organization(agent)]
    whats = [entity.get("what", {}).get("reference", "") for entity in event.get("entity", ())]
    return Line(
        when=event.get("period", {}).get("start", event.get("recorded", "")),
        who=who.get("reference") or who.get("identifier", {}).get("value") or who.get("display", ""),
        role=actor.get("role", [{}])[0].get("text", ""),
        program=program,
        organization=organizations[-1] if organizations else "",
        action=event.get("action", ""),
        what=event.get("subtype", [{}])[0].get("code", ""),
        resources=" ".join(what for what in whats if what and what not in (patient, "#oo")),
        purpose=event.get("purposeOfEvent", [{}])[0].get("coding", [{}])[0].get("code", ""),
        outcome=event.get("outcome", ""),
        event=f"AuditEvent/{event['id']}",
    )


_TYPES = {
    "when": "valueInstant", "action": "valueCode", "what": "valueCode", "purpose": "valueCode", "outcome": "valueCode",
}  # fmt: skip
_REFERENCES = frozenset({"organization", "event"})


def parameter(told: Line) -> Json:
    """The access as a parameter with parts (R4 http://hl7.org/fhir/R4/parameters.html)."""
    return {"name": "access", "part": list(_parts(told))}


def _parts(told: Line) -> Iterator[Json]:
    for name, value in told._asdict().items():
        if not value:
            continue
        if name == "resources":
            yield from ({"name": "resource", "valueReference": {"reference": one}} for one in value.split())
        elif name in _REFERENCES or (name == "who" and "/" in value):
            yield {"name": name, "valueReference": {"reference": value}}
        else:
            yield {"name": name, _TYPES.get(name, "valueString"): value}


def report(told: Iterable[Line], total: int | None, following: str | None) -> Json:
    """A page of the report. `following`: URL of the next one."""
    found: list[Json] = [] if total is None else [{"name": "total", "valueUnsignedInt": total}]
    found += [parameter(one) for one in told]
    if following is not None:
        found.append({"name": "next", "valueUrl": following})
    return {"resourceType": "Parameters", **({"parameter": found} if found else {})}


def _is_organization(agent: Json) -> bool:
    return str(agent.get("who", {}).get("reference", "")).startswith("Organization/")
