"""Two records of one person become one: what followed the source follows the target, in the commit of the link.

A hospital that finds out who its unknown patient is says so by `Patient.link` of type `replaced-by`, by an update or by
`$merge`. Orders, Tasks, studies, drafts and whatever else refers to the source then refer to the target. A signed
report becomes a corrected version, whose Provenance says why; its document stays as it was signed.

FHIR R4 §8.1.6 http://hl7.org/fhir/R4/patient.html#merge, R5 http://hl7.org/fhir/R5/patient-operation-merge.html
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from resources.codes import DOCUMENT_COMPLETION, PROVENANCE_PARTICIPANT, concept
from resources.json import Json
from resources.lifecycle import SIGNED
from resources.outcomes import ForbiddenTransition, InvalidContent, NotFound
from resources.times import instant_text
from store.access import Change, Draft, Interaction, Version, Work
from workflow import context
from workflow.context import Context, before_of, look_up
from workflow.granting import referring

MAX_MOVED = 500
"""Resources that follow in one commit: a patient's emergencies are tens."""
REPLACED_BY, REPLACES = "replaced-by", "replaces"
_STAYS = frozenset({"Patient", "Provenance", "Subscription"})
"""Types whose references say how things were."""


@dataclass(frozen=True, slots=True)
class Merging:
    """Guard and sequel of Patient, and `$merge`."""

    context: Context

    def prepare(self, uow: Work, draft: Draft) -> None:
        """A link `replaced-by` is set once, to a living patient of the same owner, and not taken away."""
        before, after = before_of(draft), draft.resource
        old = _target(before)
        if after is None:
            if old is not None:
                raise ForbiddenTransition("A patient that was merged is kept: its link tells where its record is")
            return
        new = _target(after)
        if old is not None and (new != old or _count(after) > 1):
            raise ForbiddenTransition(
                f"The record was merged into {old}: what followed is not told apart again. Move what is another "
                "patient's resource by resource",
                expression="Patient.link",
            )
        if new is None:
            return
        if _count(after) > 1:
            raise InvalidContent("A patient is replaced by one other", expression="Patient.link")
        after["active"] = False
        if new != old:
            self._check(uow, draft, new)

    def changed(self, uow: Work, change: Change) -> None:
        """Have everything follow."""
        if change.after.deleted or change.derived:
            return
        before = before_of(change)
        new = _target(change.after.json())
        if new is None or new == _target(before):
            return
        target = look_up(uow, new)
        if target is not None and target.owner == change.after.owner:
            self._follow(uow, change.after, target)

    def merge(self, uow: Work, source: str, target: str, *, preview: bool = False) -> tuple[Version, int]:
        """The target as it is after the merge, and how many resources followed (`preview`: would follow).

        Raises NotFound where either is not the caller's to see, and as the update of the source would.
        """
        one, other = uow.resources.read("Patient", _id(source)), uow.resources.read("Patient", _id(target))
        if one.owner != other.owner:
            raise NotFound(foreign=True)
        found = len(list(_followers(uow, one)))
        body = deepcopy(one.json())
        body["link"] = [*body.get("link", ()), {"other": {"reference": other.reference}, "type": REPLACED_BY}]
        self._check(uow, Draft("Patient", one.id, Interaction.UPDATE, body, one), other.reference)
        if not preview:
            uow.resources.update("Patient", one.id, body, if_match=one.version)
        return other, found

    def _check(self, uow: Work, draft: Draft, reference: str) -> None:
        target = look_up(uow, reference)
        if target is None or draft.before is None or target.owner != draft.before.owner:
            return  # absent and another's are one: integrity says so, and nothing would follow
        if target.id == draft.id:
            raise InvalidContent("A patient does not replace itself", expression="Patient.link")
        if _target(target.json()) is not None:
            raise ForbiddenTransition(f"{reference} was merged itself: name the record that is left",
                                      expression="Patient.link")
        if len(list(_followers(uow, draft.before))) > MAX_MOVED:
            raise InvalidContent(
                f"More than {MAX_MOVED} resources refer to this patient: they are not moved in one commit",
                code="too-costly",
            )

    def _follow(self, uow: Work, source: Version, target: Version) -> None:
        old, new = source.reference, target.reference
        for version in list(_followers(uow, source)):
            body = _moved(version.json(), old, new)
            if version.type == "DiagnosticReport" and version.json().get("status") in SIGNED:
                moved = context.update(uow, version, **{**body, "status": "corrected",
                                                        "issued": instant_text(uow.now)})
                self._explain(uow, version, moved)
            else:
                context.update(uow, version, **body)
        known = {(one.get("system"), one.get("value")) for one in target.json().get("identifier", [])}
        gained = [
            {**one, "use": "old"} for one in source.json().get("identifier", [])
            if (one.get("system"), one.get("value")) not in known
        ]  # fmt: skip
        link = {"other": {"reference": old}, "type": REPLACES}
        current = look_up(uow, new) or target
        elements: dict[str, Any] = {"link": [*current.json().get("link", ()), link]}
        if gained:
            elements["identifier"] = [*current.json().get("identifier", ()), *gained]
        context.update(uow, current, **elements)

    def _explain(self, uow: Work, before: Version, after: Version) -> None:
        """Why a signed report has another version: its author wrote nothing, its patient's record was merged."""
        who = uow.caller.practitioner or f"Organization/{uow.caller.organization}"
        body: Json = {
            "resourceType": "Provenance",
            "target": [{"reference": f"{after.reference}/_history/{after.version}"}],
            "recorded": instant_text(uow.now),
            "activity": concept(DOCUMENT_COMPLETION, "AU"),
            "reason": [{"text": "Identités fusionnées : le dossier du patient a été réuni à un autre"}],
            "agent": [{"type": concept(PROVENANCE_PARTICIPANT, "enterer"), "who": {"reference": who}}],
            "entity": [{"role": "revision", "what": {"reference": f"{before.reference}/_history/{before.version}"}}],
        }
        context.create(uow, "Provenance", body)


def _followers(uow: Work, source: Version) -> Iterator[Version]:
    return (version for version in referring(uow, source) if version.type not in _STAYS)


def _moved(resource: Json, old: str, new: str) -> Json:
    """The elements of a resource that refer to the source, referring to the target."""
    found = {}
    for name, value in resource.items():
        moved = _replaced(value, old, new)
        if moved != value:
            found[name] = moved
    return found


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, list):
        return [_replaced(one, old, new) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("reference") == old:
        return {**{name: one for name, one in value.items() if name not in ("display", "identifier")}, "reference": new}
    return {name: _replaced(one, old, new) for name, one in value.items()}


def _target(patient: Json | None) -> str | None:
    """Whom a patient was replaced by, as ``Patient/id``."""
    for link in (patient or {}).get("link", ()):
        if link.get("type") == REPLACED_BY:
            return str(link.get("other", {}).get("reference", "")) or None
    return None


def _count(patient: Json) -> int:
    return sum(link.get("type") == REPLACED_BY for link in patient.get("link", ()))


def _id(reference: str) -> str:
    return reference.removeprefix("Patient/")
