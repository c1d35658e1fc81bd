"""The catalogue of imaging protocols: ActivityDefinitions of the platform, one for each version of each protocol.

An entry has `topic` imaging-protocol, `url` and `version`, the exam in `code`, indications in `useContext` (focus), and
how each hospital's scanner calls it in the extension `SCANNER_PROTOCOL`. What is active is not rewritten: it is
retired, and the next version is another resource of the same `url`.

FHIR R4 ActivityDefinition  http://hl7.org/fhir/R4/activitydefinition.html
"""

from __future__ import annotations

from collections.abc import Iterable

from resources.codes import CANONICAL, CATALOGUE, code_of, codings
from resources.json import Json
from resources.lifecycle import changed_elements
from resources.outcomes import Issue

IMAGING_PROTOCOL = "imaging-protocol"
SCANNER_PROTOCOL = f"{CANONICAL}/StructureDefinition/scanner-protocol"
"""Extension of an ActivityDefinition: `hospital` (valueReference to its Organization) and `name` (valueString) of the
protocol at its scanner; `device` (valueReference) where it has several."""
USAGE = "http://terminology.hl7.org/CodeSystem/usage-context-type"

_FIXED = ("url", "version", "code", "kind", "description", "useContext", "topic", "purpose", "usage")
"""What an active entry goes on saying: what was given to patients refers to it. The names of scanners may be added."""


def is_protocol(definition: Json) -> bool:
    """Whether an ActivityDefinition is an entry of the catalogue."""
    return code_of(definition.get("topic", []), CATALOGUE) == IMAGING_PROTOCOL


def check(before: Json | None, after: Json) -> list[Issue]:
    """The faults of an entry."""
    issues = [
        Issue("error", "required", f"A protocol of the catalogue has a {name}", (f"ActivityDefinition.{name}",))
        for name in ("url", "version", "title", "code", "description")
        if not after.get(name)
    ]
    if after.get("kind") != "ServiceRequest":
        text = "A protocol of the catalogue is of the kind ServiceRequest"
        issues.append(Issue("error", "value", text, ("ActivityDefinition.kind",)))
    if before is not None and before.get("status") in ("active", "retired"):
        issues += [
            Issue(
                "error", "business-rule",
                f"ActivityDefinition.{name} of a published protocol is not altered: retire it, write the next version",
                (f"ActivityDefinition.{name}",),
            )
            for name in changed_elements(before, after, _FIXED)
        ]  # fmt: skip
        if after.get("status") not in (before["status"], "retired"):
            text = "A published protocol can only be retired"
            issues.append(Issue("error", "business-rule", text, ("ActivityDefinition.status",)))
    return issues


def is_for(definition: Json, code: Json) -> bool:
    """Whether an entry is for the exam of this code."""
    return not frozenset(codings(definition.get("code", {}))).isdisjoint(codings(code))


def indications(definition: Json) -> set[tuple[str, str]]:
    """The codings of the indications that an entry is meant for."""
    contexts = [
        one.get("valueCodeableConcept", {})
        for one in definition.get("useContext", [])
        if one.get("code", {}).get("code") == "focus"
    ]
    return {pair for one in contexts for pair in codings(one)}


def scanner_names(definition: Json, hospital: str) -> list[str]:
    """How the scanners of that hospital (``Organization/id``) call it."""
    found = []
    for extension in definition.get("extension", []):
        if extension.get("url") != SCANNER_PROTOCOL:
            continue
        parts = {part.get("url"): part for part in extension.get("extension", [])}
        if parts.get("hospital", {}).get("valueReference", {}).get("reference") == hospital:
            found.append(str(parts.get("name", {}).get("valueString", "")))
    return [name for name in found if name]


def newest(definitions: Iterable[Json]) -> Json | None:
    """Of the versions of one protocol the newest: by number where versions are numbers (2.10 after 2.9)."""
    return max(definitions, key=lambda one: _order(str(one.get("version", ""))), default=None)


def canonical(definition: Json) -> str:
    """The canonical of this very version."""
    return f"{definition.get('url')}|{definition.get('version')}"


def _order(version: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in version.split("."))


def is_usable(definition: Json) -> bool:
    """Whether it may be given today."""
    return definition.get("status") == "active"

