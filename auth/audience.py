"""Who owns a version and which organisations may see it: a table by resource type.

The server decides it from what is stored, never from what a payload says of itself. Where the rules find no answer,
or two, the audience is the smaller one: a report whose order and patient belong to different hospitals is shown to
neither.

    type                                             audience
    directory types                                  everybody
    AuditEvent                                       platform
    Subscription                                     its owner
    Binary, Provenance                               as what they point to
    anything else of a hospital                      the hospital and the platform
    anything else of the platform                    the platform, and the hospital concerned where `_OPENED` says so

To each of them, but to those for everybody, the grants of that resource, of its patient or of its case are added.

"The hospital concerned" is the owner of the order, the patient or the focus that the resource refers to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from auth import grants
from auth.grants import NEVER, Extent
from resources import references
from resources.codes import TELERADIOLOGY_TASK, TaskKind, has_coding
from resources.json import Json
from resources.lifecycle import SIGNED
from resources.outcomes import FhirError
from resources.registry import patients_of, type_id
from resources.times import microseconds
from store.access import EVERYONE, Audience, Caller, Change, Draft, Interaction, Version
from store.engine.locks import lock_shared
from store.versions.audiences import audience_of, owner_of

if TYPE_CHECKING:
    from store.access import Work

DIRECTORY = frozenset({
    "Organization", "OrganizationAffiliation", "Practitioner", "PractitionerRole", "Location", "HealthcareService",
    "Schedule", "Slot", "Endpoint", "Device", "DeviceDefinition",
    "CodeSystem", "ValueSet", "ConceptMap", "NamingSystem", "ActivityDefinition", "PlanDefinition", "Questionnaire",
    "Library", "Measure", "StructureDefinition", "StructureMap", "SearchParameter", "OperationDefinition",
    "CapabilityStatement", "TerminologyCapabilities", "CompartmentDefinition", "GraphDefinition", "MessageDefinition",
    "ImplementationGuide", "ExampleScenario", "EventDefinition",
})  # fmt: skip
"""Who and what there is, and definitions: for all partners."""

RELEASED = SIGNED | {"cancelled", "entered-in-error"}
"""DiagnosticReport.status from which on the requesting hospital sees the report."""

POINTERS: dict[str, tuple[str, ...]] = {"Binary": ("securityContext",), "Provenance": ("target",)}

CONCERNED: dict[str, tuple[str, ...]] = {
    "DiagnosticReport": ("basedOn", "subject", "encounter"),
    "ImagingStudy": ("basedOn", "subject", "encounter"),
    "ServiceRequest": ("basedOn", "subject", "encounter"),
    "Task": ("focus", "basedOn", "for", "encounter"),
    "Communication": ("basedOn", "subject", "about", "encounter"),
}
"""Elements that say which hospital a resource of the platform concerns. All that lead to a hospital must agree."""

_MINIMUM = {"Patient": "subject", "Encounter": "encounter"}
"""What an order cannot be read without → the search parameter of ServiceRequest that leads from it to its orders."""
_SAYS_WHOSE = (
    "managingOrganization", "serviceProvider", "requester", "custodian", "subject", "patient", "encounter", "basedOn",
    "focus", "for",
)  # fmt: skip
"""Elements that say for whom a delegate writes."""
_ALONE = Extent.RESOURCE
GRANTS_LOCK = "access grants"
"""Held together by those who write while they look for grants, and alone by who gives one (`workflow.granting`)."""

MAX_STEPS = 3
"""From a resource over others of the platform to the hospital: Task → filler order → order."""


class Audiences:
    """The owner and the audience of a version that is about to be written."""

    def __init__(self, platform: str) -> None:
        self.platform = platform
        self._are_grants: WeakKeyDictionary[Work, bool] = WeakKeyDictionary()

    def of(self, uow: Work, caller: Caller, draft: Draft) -> Audience:
        """Ownership never changes; what is new belongs to its writer (the platform, when the server itself writes)."""
        owner = self.owner(uow, caller, draft)
        resource = draft.resource if draft.resource is not None else {}
        if draft.type == "ImagingStudy" and owner == self.platform:
            shown = self._of_images(uow, draft, resource)
        else:
            shown = self.organizations(uow, draft.type, owner, resource)
        return Audience(owner, shown | self.granted(uow, draft.type, draft.id, resource, shown))

    def granted(
        self, uow: Work, type_name: str, id: str, resource: Json, shown: frozenset[str]
    ) -> frozenset[str]:
        """The members that open grants add to an audience: those of the resource, of its patient, of its case.

        A grant of a case or of a patient opens what the hospital itself is shown of it, and nothing else.
        """
        if EVERYONE in shown or type_name in NEVER or not self._grants_are_there(uow):
            return frozenset()
        if type_name in POINTERS:
            return self._granted_of_targets(uow, type_name, resource) | self._on(uow, {(f"{type_name}/{id}", _ALONE)})
        objects = {(f"{type_name}/{id}", _ALONE)}
        if shown - {self.platform}:
            objects |= {(patient, Extent.PATIENT) for patient in patients_of(type_name, resource, uow.base_urls)}
            if type_name == "Patient":
                objects.add((f"Patient/{id}", Extent.PATIENT))
            objects |= {(order, Extent.CASE) for order in self._orders(uow, type_name, id, resource)}
        return self._on(uow, objects)

    def _grants_are_there(self, uow: Work) -> bool:
        """Asked once in a unit of work: where there are none, a write costs one statement on an empty table."""
        found = self._are_grants.get(uow)
        if found is None:
            lock_shared(uow.connection, (GRANTS_LOCK,))
            found = self._are_grants[uow] = grants.are_any(uow.connection, microseconds(uow.now))
        return found

    def _on(self, uow: Work, objects: set[tuple[str, Extent]]) -> frozenset[str]:
        return grants.on(uow.connection, objects, microseconds(uow.now))

    def _granted_of_targets(self, uow: Work, type_name: str, resource: Json) -> frozenset[str]:
        """What may be seen of all that it points to."""
        found: frozenset[str] | None = None
        for version in self._targets(uow, resource, POINTERS[type_name]):
            members = audience_of(uow.connection, version.pk)
            theirs = frozenset(name for name in members if name.startswith(grants.member("")))
            found = theirs if found is None else found & theirs
        return found or frozenset()

    def _orders(self, uow: Work, type_name: str, id: str, resource: Json) -> set[str]:
        """The orders whose case this resource belongs to."""
        if type_name == "ServiceRequest" and resource.get("intent") != "filler-order":
            return {f"ServiceRequest/{id}"}
        if type_name in _MINIMUM:
            asked = [(_MINIMUM[type_name], f"{type_name}/{id}")]
            return {version.reference for version in uow.system.each("ServiceRequest", asked)}
        return set(self._based_on(uow, type_name, resource, MAX_STEPS))

    def _based_on(self, uow: Work, type_name: str, resource: Json, steps: int) -> Iterator[str]:
        elements = tuple(one for one in CONCERNED.get(type_name, ()) if one in ("basedOn", "focus", "about"))
        for version in self._targets(uow, resource, elements):
            if version.type == "ServiceRequest" and version.json().get("intent") != "filler-order":
                yield version.reference
            elif steps > 1:
                yield from self._based_on(uow, version.type, version.json(), steps - 1)

    def owner(self, uow: Work, caller: Caller, draft: Draft) -> str:
        """Who owns the version that `draft` becomes: as before; what is new belongs to its writer."""
        if draft.before is not None:
            return draft.before.owner
        if draft.interaction is Interaction.CREATE:
            return self._writes_for(uow, caller, draft)
        # An update that creates: a deleted resource that is written anew is still its owner's.
        return owner_of(uow.connection, type_id(draft.type), draft.id) or self._writes_for(uow, caller, draft)

    def _writes_for(self, uow: Work, caller: Caller, draft: Draft) -> str:
        """Whose a new resource is: its writer's, or of the one organisation that has delegated this to him and that
        the resource names, or whose patient, encounter or order it is about."""
        acting = {held.name for held in caller.grants if "c" in held.letters and not held.name.startswith("grant:")}
        if not acting or caller.is_system or draft.resource is None or draft.type in NEVER:
            return caller.organization
        found: set[str] = set()
        for element in _SAYS_WHOSE:
            for holder in _holders(draft.resource, element):
                reference = references.parse(str(holder.get("reference", "")), uow.base_urls)
                if reference.type == "Organization" and reference.id is not None:
                    found.add(reference.id)
                elif (version := _resolve(uow, holder)) is not None:
                    found.add(version.owner)
        named = found & acting
        return named.pop() if len(named) == 1 and caller.organization not in found else caller.organization

    def organizations(
        self, uow: Work, type_name: str, owner: str, resource: Json, steps: int = MAX_STEPS
    ) -> frozenset[str]:
        """The audience of this content."""
        if type_name == "AuditEvent":
            return frozenset({self.platform})
        if type_name == "Subscription":
            return frozenset({owner})
        if type_name in DIRECTORY and not _is_private(type_name, resource):
            return frozenset({EVERYONE})
        if type_name in POINTERS:
            return self._as_targets(uow, type_name, owner, resource, steps)
        if owner != self.platform:
            return frozenset({owner, self.platform})
        opened = _OPENED.get(type_name)
        if opened is None or not opened(resource):
            return frozenset({owner})
        hospital = self.hospital_of(uow, type_name, resource)
        if hospital is None or (type_name == "Communication" and not self._addressed(uow, resource, hospital)):
            return frozenset({owner})
        return frozenset({owner, hospital})

    def _of_images(self, uow: Work, draft: Draft, study: Json) -> frozenset[str]:
        """Images that match no order yet are visible to the hospital that sent them; a match must be of the same."""
        if draft.before is None:
            sender = {uow.caller.organization}
        else:
            sender = set(audience_of(uow.connection, draft.before.pk))
        hospitals = (set(self._hospitals(uow, draft.type, study, MAX_STEPS)) | sender) - {self.platform, ""}
        return frozenset({self.platform, *hospitals}) if len(hospitals) == 1 else frozenset({self.platform})

    def hospital_of(
        self, uow: Work, type_name: str, resource: Json, steps: int = MAX_STEPS
    ) -> str | None:
        """The one hospital that a resource of the platform concerns; None: none, or more than one."""
        found = set(self._hospitals(uow, type_name, resource, steps))
        return found.pop() if len(found) == 1 else None

    def _hospitals(self, uow: Work, type_name: str, resource: Json, steps: int) -> Iterator[str]:
        for version in self._targets(uow, resource, CONCERNED.get(type_name, ())):
            if version.owner != self.platform:
                yield version.owner
            elif steps > 1:
                yield from self._hospitals(uow, version.type, version.json(), steps - 1)

    def _as_targets(
        self, uow: Work, type_name: str, owner: str, resource: Json, steps: int
    ) -> frozenset[str]:
        """Seen by whoever sees all that it points to, and by its owner; pointing at nothing, as any other resource."""
        audience: frozenset[str] | None = None
        for version in self._targets(uow, resource, POINTERS[type_name]):
            theirs = (
                frozenset({version.owner})
                if steps <= 1
                else self.organizations(uow, version.type, version.owner, version.json(), steps - 1)
            )
            audience = theirs if audience is None else _common(audience, theirs)
        if audience is None:
            return frozenset({owner, self.platform})
        return audience if EVERYONE in audience else audience | {owner}

    def _addressed(self, uow: Work, communication: Json, hospital: str) -> bool:
        """Whether a recipient is the hospital, or somebody whom the hospital has registered."""
        for holder in _holders(communication, "recipient"):
            reference = references.parse(str(holder.get("reference", "")), uow.base_urls)
            if (reference.type, reference.id) == ("Organization", hospital):
                return True
        return any(version.owner == hospital for version in self._targets(uow, communication, ("recipient",)))

    def _targets(self, uow: Work, resource: Json, elements: tuple[str, ...]) -> Iterator[Version]:
        for element in elements:
            for holder in _holders(resource, element):
                version = _resolve(uow, holder)
                if version is not None:
                    yield version


class Widening:
    """An observer: when a report becomes the hospital's to see, so do its PDF and its provenance.

    They were stored before, with the audience of a draft; a version of theirs with the same content gets the new one.
    """

    def __init__(self, audiences: Audiences) -> None:
        self._audiences = audiences

    def prepare(self, uow: Work, draft: Draft) -> None:
        """Nothing is altered beforehand."""

    def changed(self, uow: Work, change: Change) -> None:
        """Give what a report points to the report's own audience."""
        report, before = change.after, change.before
        if report.type != "DiagnosticReport" or report.deleted or report.owner != self._audiences.platform:
            return
        now = audience_of(uow.connection, report.pk)
        if before is not None and now == audience_of(uow.connection, before.pk):
            return
        for version in self._dependents(uow, report):
            belongs = self._audiences.organizations(uow, version.type, version.owner, version.json())
            belongs |= self._audiences.granted(uow, version.type, version.id, version.json(), belongs)
            if belongs != audience_of(uow.connection, version.pk):
                uow.system.update(version.type, version.id, version.json())

    def _dependents(self, uow: Work, report: Version) -> Iterator[Version]:
        for form in report.json().get("presentedForm", ()):
            version = _resolve(uow, {"reference": form.get("url", "")})
            if version is not None and version.type == "Binary":
                yield version
        yield from uow.system.each("Provenance", [("target", report.reference)])


def _is_shared_task(task: Json) -> bool:
    """The order's own, the acquisition, and the hospital's request to cancel."""
    shared = [(TELERADIOLOGY_TASK, kind) for kind in (TaskKind.ACQUIRE, TaskKind.CANCEL)]
    return has_coding(task.get("code", {}), shared) or not task.get("partOf")


_OPENED: dict[str, Callable[[Json], bool]] = {
    "DiagnosticReport": lambda report: report.get("status") in RELEASED,
    "ImagingStudy": lambda study: True,
    "ServiceRequest": lambda order: order.get("intent") == "filler-order",
    "Task": _is_shared_task,
    "Communication": lambda communication: True,
}
"""Which resources of the platform the hospital concerned sees too. Everything else (Observations of devices and of
second readers, other Tasks, the rota) stays on the platform."""


def _is_private(type_name: str, resource: Json) -> bool:
    """A directory type that does not belong in a directory: a patient's device, an endpoint with its credentials."""
    return (type_name == "Device" and "patient" in resource) or (type_name == "Endpoint" and "header" in resource)


def _common(first: frozenset[str], second: frozenset[str]) -> frozenset[str]:
    if EVERYONE in first:
        return second
    return first if EVERYONE in second else first & second


def _holders(resource: Json, element: str) -> list[Json]:
    value = resource.get(element)
    values = value if isinstance(value, list) else [value]
    return [holder for holder in values if isinstance(holder, dict)]


def _resolve(uow: Work, holder: Json) -> Version | None:
    text = holder.get("reference")
    if not isinstance(text, str):
        return None
    reference = references.parse(text, uow.base_urls)
    if reference.type is None or reference.id is None:
        return None
    try:
        return uow.system.read(reference.type, reference.id)
    except FhirError:
        return None  # absent or deleted: whether it may be missing is asked by the store, at the end
