"""Protocols out of the catalogue: who writes it, which entry a regulator's order names, which entries fit an order.

FHIR R4 ServiceRequest.instantiatesCanonical, ActivityDefinition  http://hl7.org/fhir/R4/activitydefinition.html
"""

from __future__ import annotations

from dataclasses import dataclass

from resources import protocols
from resources.codes import CATALOGUE, codings
from resources.json import Json
from resources.outcomes import Conflict, Forbidden, ForbiddenTransition, InvalidContent
from store.access import Draft, Version, Work
from workflow.cases import Case
from workflow.context import Context, before_of

_AT = "ServiceRequest.instantiatesCanonical"


@dataclass(frozen=True, slots=True)
class Protocols:
    """Guard of ActivityDefinition; questions to the catalogue."""

    context: Context

    def prepare(self, uow: Work, draft: Draft) -> None:
        """An entry of the catalogue is the platform's, complete, one for each version, and kept once published."""
        before, after = before_of(draft), draft.resource
        if not protocols.is_protocol(before or {}) and not protocols.is_protocol(after or {}):
            return
        if not uow.caller.is_system and uow.caller.organization != self.context.platform:
            raise Forbidden("The catalogue of protocols is the platform's")
        if after is None:
            if before is not None and before.get("status") in ("active", "retired"):
                raise ForbiddenTransition("A published protocol is not deleted: retire it")
            return
        issues = protocols.check(before, after)
        if issues:
            raise InvalidContent(issues[0].diagnostics, issues=issues)
        uow.lock(f"protocol:{after['url']}")
        if any(
            version.id != draft.id and version.json().get("version") == after["version"]
            for version in self._versions(uow, str(after["url"]))
        ):
            raise Conflict("There is this version of the protocol already", expression="ActivityDefinition.version")

    def fitting(self, uow: Work, order: Json, hospital: str) -> list[Json]:
        """The entries that may be given for an order, those of its indication first; each as a Parameters part."""
        reasons = {pair for one in order.get("reasonCode", []) for pair in codings(one)}
        by_url: dict[str, list[Json]] = {}
        wanted = set(codings(order.get("code", {})))
        asked = [("topic", _TOPIC), ("status", "active")]
        for version in uow.system.each("ActivityDefinition", asked, owner=uow.platform):
            definition = version.json()
            if wanted.intersection(codings(definition.get("code", {}))):
                by_url.setdefault(str(definition["url"]), []).append(definition)
        newest = [one for found in by_url.values() if (one := protocols.newest(found)) is not None]
        newest.sort(key=lambda one: (not (protocols.indications(one) & reasons), str(one.get("title"))))
        return [_proposal(one, reasons, hospital) for one in newest]

    def pin(self, uow: Work, case: Case, protocol: Json) -> None:
        """Bring the canonicals of a regulator's order to the version that is given, and name it as the scanner does.

        Raises ForbiddenTransition where one is unknown, not in force, or for another exam.
        """
        named = protocol.get("instantiatesCanonical")
        if not isinstance(named, list) or not named:
            return
        pinned, names = [], []
        for index, text in enumerate(named):
            definition = self._given(uow, case, protocol, str(text), f"{_AT}[{index}]")
            pinned.append(protocols.canonical(definition))
            names += protocols.scanner_names(definition, f"Organization/{case.order.owner}")
        protocol["instantiatesCanonical"] = pinned
        details = [one.get("text") for one in protocol.get("orderDetail", [])]
        wanted = [{"text": text} for name in names if (text := f"Protocole du scanner : {name}") not in details]
        if wanted:
            protocol["orderDetail"] = [*protocol.get("orderDetail", []), *wanted]

    def _given(self, uow: Work, case: Case, protocol: Json, canonical: str, at: str) -> Json:
        url, _, version = canonical.partition("|")
        found = [one.json() for one in self._versions(uow, url) if one.owner == uow.platform]
        if version:
            found = [one for one in found if one.get("version") == version]
        if not found:
            raise ForbiddenTransition("There is no such protocol in the catalogue", expression=at)
        usable = [one for one in found if protocols.is_usable(one)]
        definition = protocols.newest(usable)
        if definition is None:
            raise ForbiddenTransition("The protocol is not in force: it is a draft, or retired", expression=at)
        if not protocols.is_for(definition, protocol.get("code") or case.order_json.get("code", {})):
            raise ForbiddenTransition("The protocol is for another exam than ServiceRequest.code", expression=at)
        return definition

    def _versions(self, uow: Work, url: str) -> list[Version]:
        found = uow.system.each("ActivityDefinition", [("url", _escaped(url))])
        return [version for version in found if protocols.is_protocol(version.json())]


_TOPIC = f"{CATALOGUE}|{protocols.IMAGING_PROTOCOL}"


def _escaped(value: str) -> str:
    r"""A value for a search: R4 escapes `,`, `|`, `$` and `\` by a backslash (search.html#escaping)."""
    return "".join(f"\\{char}" if char in "\\,|$" else char for char in value)


def _proposal(definition: Json, reasons: set[tuple[str, str]], hospital: str) -> Json:
    parts: list[Json] = [
        {"name": "definition", "valueCanonical": protocols.canonical(definition)},
        {"name": "title", "valueString": str(definition.get("title", ""))},
        {"name": "description", "valueMarkdown": str(definition.get("description", ""))},
        {"name": "for-indication", "valueBoolean": bool(protocols.indications(definition) & reasons)},
    ]
    names = protocols.scanner_names(definition, f"Organization/{hospital}")
    return {"name": "protocol", "part": [*parts, *({"name": "scanner", "valueString": one} for one in names)]}
