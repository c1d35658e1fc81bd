"""Whose images these are, decided by a person: ``ImagingStudy/{id}/$reconcile`` and ``$reject``.

A decision is a row (`decisions`) that later instances, publications and changes of orders obey; another decision alone
undoes it. It carries a reason, is in the audit log and in a Provenance of the ImagingStudy, and takes effect in its own
commit. Nobody alters what was stored.

docs/workflow.md (S4x), docs/decisions/0023-reconciliation.md
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update

from dicomweb import corrections, decisions, identities, joining, notes, rejecting, uids, writes
from dicomweb.matching import Join, Matching, Number, Trait, Traits, Verdict, compare, of_images, of_patient, outcome
from dicomweb.tables import Row, dicom_identity, dicom_instance, dicom_series, dicom_study
from dicomweb.writes import pack, unpack
from resources.codes import CANONICAL
from resources.json import Json
from resources.outcomes import BadRequest, Conflict, Forbidden, ForbiddenTransition, NotFound
from resources.search_values import escape
from resources.times import instant_text, microseconds
from store.access import Interaction, Resources, Version, Work

ACTIONS = ("confirm", "attach", "detach", "split", "restore")
ACTION_SYSTEM = f"{CANONICAL}/CodeSystem/image-reconciliation"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
SUPPORT = frozenset({"platform", "support"})
"""Roles of the platform's clients that stand in for the hospital, as a regulator on duty does."""
REASON_MAX = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a study."""

    action: str
    reason: str
    order: str = ""
    """``ServiceRequest/id``"""
    patient: str = ""
    """``Patient/id``"""
    series: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    code: int = 0
    """Of a rejection: DCM."""


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Carries out decisions. `publish`: brings the ImagingStudy up to its rows; `is_on_duty`: a regulator, now."""

    publish: Callable[[Work, Row], Any]
    is_on_duty: Callable[[Work], bool] = field(default=lambda uow: False)

    def reconcile(self, uow: Work, study_id: str, asked: Request) -> Version:
        """Decide; the ImagingStudy as it is then (of a split the new one). Raises NotFound, Forbidden, BadRequest,
        ForbiddenTransition (422) with the element that does not fit."""
        study, row = self._study(uow, study_id, asked)
        if asked.action not in ACTIONS:
            raise BadRequest(f"action is one of {', '.join(ACTIONS)}", expression="Parameters.parameter")
        resources = uow.acting_for(row.owner)
        if asked.action == decisions.RESTORE:
            if not rejecting.show(uow.connection, row):
                raise ForbiddenTransition("No image of the study is rejected", expression="ImagingStudy.status")
            self._note(uow, row, asked, {})
        elif not row.instance_count:
            raise ForbiddenTransition(
                "All images of the study are rejected: restore it first", expression="ImagingStudy.status"
            )
        elif asked.action == decisions.SPLIT:
            return self._split(uow, resources, study, row, asked)
        else:
            self._decide(uow, resources, study, row, asked)
        return self._shown(uow, resources, study, row, asked)

    def reject(self, uow: Work, study_id: str, asked: Request) -> Version:
        """Take images back: the study, some series or some instances; the ImagingStudy as it is then."""
        study, row = self._study(uow, study_id, asked)
        if asked.code not in notes.CODES:
            told = ", ".join(map(str, notes.CODES))
            raise BadRequest(f"code is one of {told} (DCM, PS3.16 CID 7011)", expression="Parameters.parameter")
        for uid in (*asked.series, *asked.instances):
            uids.require(uid, "series or instance")
        if not rejecting.hide(
            uow.connection, row, asked.code, series=asked.series or None, instances=asked.instances or None
        ):
            raise ForbiddenTransition("Nothing of the study that is named is shown", expression="ImagingStudy.series")
        self._note(uow, row, asked, {"code": asked.code})
        return self._shown(uow, uow.acting_for(row.owner), study, row, asked)

    # Who, and what

    def _study(self, uow: Work, study_id: str, asked: Request) -> tuple[Version, Row]:
        """The study of an ImagingStudy that the caller sees and may decide on, locked."""
        uow.resources.visibility(Interaction.UPDATE, "ImagingStudy")
        study = uow.resources.read("ImagingStudy", study_id)
        if not self._may(uow, study):
            raise Forbidden(
                "Whose images these are is decided by the hospital that sent them, a regulator on duty or the "
                "platform's support"
            )
        if not asked.reason.strip() or len(asked.reason) > REASON_MAX:
            raise BadRequest(f"A reason is needed, of at most {REASON_MAX} characters", code="required",
                             expression="Parameters.parameter")
        owner_id = uow.register_audience(frozenset({study.owner}))
        uid = next((str(one.get("value", "")).removeprefix("urn:oid:") for one in study.json().get("identifier", [])
                    if one.get("system") == "urn:dicom:uid"), "")
        row = writes.lock_study(uow.connection, owner_id, uid)
        if row is None or row.imaging_study_id != study.id:
            raise NotFound("The ImagingStudy is of no images that are stored here")
        return study, row

    def _may(self, uow: Work, study: Version) -> bool:
        caller = uow.caller
        if caller.is_system or caller.organization == study.owner:
            return True
        is_platform = caller.organization == uow.platform
        return is_platform and (caller.role in SUPPORT or self.is_on_duty(uow))

    # Decisions

    def _decide(self, uow: Work, resources: Resources, study: Version, row: Row, asked: Request) -> None:
        told = identities.of_study(uow.connection, row)
        images = [of_images(one) for _, one in told]
        values: Json = {"identities": " ".join(str(number) for number, _ in told)}
        numbers = [number for one in images for number in one.numbers]
        if asked.action == decisions.DETACH:
            if asked.order or asked.patient:
                raise BadRequest("detach takes neither order nor patient", expression="Parameters.parameter")
            self._note(uow, row, asked, values)
            if row.patient:
                decisions.unteach(uow.connection, row.owner_id, numbers, row.patient)
            return
        order, reference, patient = self._whose(uow, resources, study, row, asked)
        values |= {"order_id": order.id if order is not None else "", "patient": reference}
        decision = self._note(uow, row, asked, values)
        known = joining.known_traits(uow, resources, row, reference, patient, images)
        learned = [number for one in images for number in _learnable(resources, row.owner, one, patient, known)]
        decisions.teach(uow.connection, row.owner_id, learned, reference, decision)

    def _whose(
        self, uow: Work, resources: Resources, study: Version, row: Row, asked: Request
    ) -> tuple[Version | None, str, Json]:
        """The order and the patient that a study is said to be of."""
        named = asked.order
        if asked.action == decisions.CONFIRM:
            if asked.order or asked.patient:
                raise BadRequest("confirm takes neither order nor patient: attach does",
                                 expression="Parameters.parameter")
            based = [str(one.get("reference", "")) for one in study.json().get("basedOn", [])]
            subjects = {self._order(resources, row.owner, one).json()["subject"].get("reference") for one in based}
            if len(subjects) != 1:
                raise ForbiddenTransition(
                    "There is not one patient to confirm: attach the study to an order or a patient",
                    expression="ImagingStudy.basedOn",
                )
            named = based[0]
        if not named and not asked.patient:
            raise BadRequest("attach needs an order or a patient", code="required", expression="Parameters.parameter")
        order = self._order(resources, row.owner, named) if named else None
        subject = "" if order is None else str(order.json().get("subject", {}).get("reference", ""))
        reference = asked.patient or subject
        if order is not None and subject != reference:
            raise ForbiddenTransition("The patient is not the order's", expression="ServiceRequest.subject")
        reference, patient = joining.current_patient(resources, reference)
        if patient is None or resources.read("Patient", reference.partition("/")[2]).owner != row.owner:
            raise ForbiddenTransition("There is no such patient of this hospital", expression="ImagingStudy.subject")
        return order, reference, patient

    def _order(self, resources: Resources, owner: str, reference: str) -> Version:
        type_name, _, id_ = reference.partition("/")
        order = joining.order_of(resources, id_) if type_name == "ServiceRequest" else None
        if order is None or order.owner != owner:  # a foreign one is as if there were none
            raise ForbiddenTransition("There is no such order of this hospital", expression="ImagingStudy.basedOn")
        return order

    def _split(self, uow: Work, resources: Resources, study: Version, row: Row, asked: Request) -> Version:
        """Make a study of its own of some series: with an order or a patient it is attached, else it is of nobody."""
        connection = uow.connection
        rows = {one.series_instance_uid: one for one in writes.series_of(connection, row.pk) if one.instance_count}
        wanted = [rows[uid].pk for uid in asked.series if uid in rows]
        if not wanted or len(set(wanted)) != len(set(asked.series)) or len(set(wanted)) == len(rows):
            raise ForbiddenTransition(
                "split needs some of the study's series, and not all", expression="ImagingStudy.series"
            )
        uid = uids.derived("split", row.owner, row.study_instance_uid, uow.new_id())
        writes.insert_or_nothing(connection, dicom_study, [{
            "owner": row.owner, "owner_id": row.owner_id, "audience_id": row.audience_id, "study_instance_uid": uid,
            "attributes": row.attributes, "stored": row.stored, "updated": row.updated, "complete": 0,
            "imaging_study_id": uow.new_id(),
        }])
        made = self._locked(uow, row.owner_id, uid)
        moved = dicom_instance.c.series_pk.in_(wanted)
        spoken = connection.execute(select(dicom_instance.c.identity).where(moved).distinct()).scalars().all()
        said = connection.execute(
            select(dicom_identity).where(dicom_identity.c.study_pk == row.pk, dicom_identity.c.number.in_(spoken))
        ).all()
        kept = [{"study_pk": made.pk, "number": one.number, "said": one.said} for one in said]
        writes.insert_or_nothing(connection, dicom_identity, kept)
        connection.execute(update(dicom_instance).where(moved).values(study_pk=made.pk))
        connection.execute(
            update(dicom_series).where(dicom_series.c.pk.in_(wanted))
            .values(study_pk=made.pk, sent_study_uid=row.study_instance_uid)
        )
        for one in (row, made):
            rejecting.refresh(connection, one)
        self._note(uow, row, asked, {})
        made = self._locked(uow, row.owner_id, uid)
        action = decisions.ATTACH if asked.order or asked.patient else decisions.DETACH
        self._decide(uow, resources, study, made, Request(action, asked.reason, asked.order, asked.patient))
        self._shown(uow, resources, study, row, asked)
        self.publish(uow, self._locked(uow, row.owner_id, uid))
        found = resources.read("ImagingStudy", made.imaging_study_id)
        self._attest(uow, resources, found, asked, None)
        return found

    def _note(self, uow: Work, row: Row, asked: Request, values: Json) -> int:
        who = uow.caller.practitioner or uow.caller.client_id
        return decisions.record(uow.connection, row, {
            "action": asked.action, "reason": asked.reason, "decided_by": who, "decided": microseconds(uow.now),
            **values,
        })

    # What follows

    def _locked(self, uow: Work, owner_id: int, uid: str) -> Row:
        row = writes.lock_study(uow.connection, owner_id, uid)
        if row is None:
            raise Conflict("The study is being altered at the same time: try again")
        return row

    def _shown(self, uow: Work, resources: Resources, study: Version, row: Row, asked: Request) -> Version:
        """The ImagingStudy after the decision, with its Provenance."""
        self.publish(uow, self._locked(uow, row.owner_id, row.study_instance_uid))
        now = resources.read("ImagingStudy", study.id)
        self._attest(uow, resources, now, asked, study)
        return now

    def _attest(
        self, uow: Work, resources: Resources, now: Version, asked: Request, before: Version | None
    ) -> None:
        """Who decided what about the images, when and why (R4 Provenance)."""
        id_ = uow.caller.organization
        is_kept = resources.exists("Organization", id_)
        organization = {"reference": f"Organization/{id_}"} if is_kept else {"type": "Organization", "display": id_}
        agent: Json = {"who": {"reference": uow.caller.practitioner} if uow.caller.practitioner else organization}
        if uow.caller.practitioner:
            agent["onBehalfOf"] = organization
        reason: Json = {"text": asked.reason}
        if asked.code:
            reason["coding"] = [{"system": DCM, "code": str(asked.code), "display": notes.CODES[asked.code]}]
        body: Json = {
            "resourceType": "Provenance",
            "target": [{"reference": f"{now.reference}/_history/{now.version}"}],
            "recorded": instant_text(uow.now),
            "reason": [reason],
            "activity": {"coding": [{"system": ACTION_SYSTEM, "code": asked.action}]},
            "agent": [agent],
        }
        if before is not None and before.version != now.version:
            what = {"reference": f"{before.reference}/_history/{before.version}"}
            body["entity"] = [{"role": "revision", "what": what}]
        resources.create("Provenance", body)


def _learnable(resources: Resources, owner: str, images: Traits, patient: Json, known: Traits) -> Sequence[Number]:
    """The numbers of images that a decision teaches to be the patient's: those that are nobody's own, where the other
    traits say that it is she. Another person's number under which she was imaged by mistake is not hers."""
    evidence = dict(compare(images, of_patient(patient)))
    evidence[Trait.IDENTIFIER] = Verdict.AGREE
    if outcome(evidence) is not Matching.MATCHED:
        return ()
    found = []
    for number in images.numbers:
        if number in known.others or any(number.value == one.value for one in known.numbers):
            continue
        holders = resources.each("Patient", [("identifier", escape(number.value))], owner=owner, portion=2)
        if next(holders, None) is None:
            found.append(number)
    return found


def settle(uow: Work, resources: Resources, row: Row, join: Join) -> None:
    """Bring what a study gives in place of what was sent to what was decided about it: nothing, where nobody did."""
    wanted = _wanted(uow, resources, row, join)
    if wanted == (None if row.corrected is None else unpack(row.corrected)):
        return
    packed = None if wanted is None else pack(wanted)
    header = rejecting.header(uow.connection, row.pk, row.representative)
    values = corrections.study_values(row.representative, header, packed)
    writes.set_row(uow.connection, dicom_study, row.pk, {**values, "corrected": packed})
    uow.connection.execute(
        update(dicom_series).where(dicom_series.c.study_pk == row.pk).values(revision=dicom_series.c.revision + 1)
    )


def _wanted(uow: Work, resources: Resources, row: Row, join: Join) -> Json | None:
    tags: list[str] = []
    given: Json = {}
    decision = decisions.of_study(uow.connection, row.pk)
    if decision is None:
        return None
    _, patient = joining.current_patient(resources, str((join.subject or {}).get("reference", "")))
    if patient is not None:
        tags += corrections.OF_PATIENT
        given |= corrections.of_patient(patient)
        order = joining.order_of(resources, join.orders[0].partition("/")[2]) if join.orders else None
        if order is not None:
            tags += corrections.OF_ORDER
            given |= corrections.of_number(joining.accession_number(order))
    if any(one.sent_study_uid for one in writes.series_of(uow.connection, row.pk)):
        tags += corrections.OF_SPLIT
        given |= corrections.of_study(row.study_instance_uid)
    if not tags:
        return None
    when = datetime.fromtimestamp(decision.decided / 1_000_000, UTC).strftime("%Y%m%d%H%M%S.%f+0000")
    reason = corrections.COERCE if decision.action == decisions.CONFIRM else corrections.CORRECT
    return {"tags": sorted(tags), "given": given, "when": when, "reason": reason}
