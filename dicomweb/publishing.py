"""From stored rows to the ImagingStudy, out of the request that stored them.

Whoever stores images, or alters an order or a Patient, raises the revision of the studies concerned in the same commit,
and keeps there when they are due and who is the cause. The worker brings each ImagingStudy up to its rows: with the
Tasks, the outbox and the audit record that follow, in one commit, on behalf of that caller. So a crash between the two
loses nothing, and what a study costs does not depend on how many requests or associations its images came by.

Of several workers one publishes a study: the others wait for its row, and then find nothing to do.

docs/decisions/0006-images.md (matching, quarantine), docs/decisions/0023-publication.md
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import tzinfo
from itertools import groupby

import structlog

from dicomweb import causes, dose, joining, mapping, notes, reconciling, rejecting, writes
from dicomweb.mapping import Instance, Series, Study
from dicomweb.pace import QUIET_S, Pace, is_due
from dicomweb.tables import Row, dicom_study
from dicomweb.writes import unpack
from resources.identifiers import STUDY_UID
from resources.outcomes import Gone, NotFound
from resources.times import microseconds
from store import items
from store.access import Access, Caller, Change, Draft, Interaction, Loop, Resources, Version, Work
from store.engine import wakes
from store.unit_of_work import Store

log = structlog.get_logger("vigie.images")

NAME = "imaging-studies"
AT_ONCE = 20
"""Studies that one step of the loop publishes."""
LOOK_INTERVAL_S = 60.0
"""The loop looks when it is told to, and when something is due; and so often for what nobody told."""
_JOINED_BY = {
    "ServiceRequest": ("identifier", "subject"),
    "Patient": ("identifier", "name", "birthDate", "gender", "active", "link", "extension"),
}
"""Elements that decide whether, and to whom, images are joined."""


class Publisher:
    """Makes and keeps the ImagingStudy of each study. Also an Observer of orders and patients."""

    def __init__(self, *, zone: tzinfo, endpoint: str | None = None, quiet_s: float = QUIET_S) -> None:
        """`endpoint`: URL of /dicom-web. `quiet_s`: a study is complete when no image has come for so long."""
        self._zone = zone
        self._endpoint = endpoint
        self.pace = Pace.of(quiet_s)
        self._next_us: int | None = None
        """When the next study is due, as the last step saw it."""

    # In the commit of what concerns a study

    def announce(self, uow: Work) -> None:
        """Have the worker look after this commit."""
        wakes.announce(uow.connection, NAME)

    def ended(
        self, uow: Work, owner: str, uid: str, *, series: int | None = None, instances: int | None = None
    ) -> None:
        """The modality says that its step is completed (MPPS): the study is complete as soon as so many series and
        instances are here as it says to have made, if it says so."""
        row = writes.lock_study(uow.connection, _owner_id(uow, owner), uid)
        if row is None:
            return
        expected = {"expected_series": series, "expected_instances": instances}
        values = {name: value for name, value in expected.items() if value is not None}
        writes.set_row(uow.connection, dicom_study, row.pk, {**values, "ended": 1, "cause": causes.kept(uow.caller)})
        row = writes.lock_study(uow.connection, row.owner_id, uid)
        if row is not None and not row.complete:
            writes.set_row(uow.connection, dicom_study, row.pk, {"due": min(row.due, self.pace.final_us(row))})
        self.announce(uow)

    # In the worker

    def loop(self, store: Store) -> Loop:
        """The loop that publishes."""

        def sooner_s() -> float:
            if self._next_us is None:
                return LOOK_INTERVAL_S
            return max(0.0, (self._next_us - microseconds(store.now())) / 1_000_000)

        return Loop(NAME, lambda: self.step(store), LOOK_INTERVAL_S, wake=NAME, sooner_s=sooner_s)

    def step(self, store: Store) -> bool:
        """Publish the studies that are due by now. Whether there were any.

        One that cannot be published is told and left alone for a while: it stops none of the others.
        """
        now_us = microseconds(store.now())
        with store.database.glance() as connection:
            found = writes.unpublished(connection, now_us=now_us, limit=AT_ONCE)
            self._next_us = None if found else writes.next_due(connection, now_us=now_us)
        for owner, uid in found:
            try:
                self.publish(store, owner, uid)
            except Exception as fault:
                if not items.is_its_own(fault):
                    raise
                items.tell(NAME, fault)
                self._put_off(store, owner, uid)
        return bool(found)

    def publish(self, store: Store, owner: str, uid: str) -> bool:
        """Bring the ImagingStudy of one study up to its rows if it is due; whether it was."""
        with store.database.glance() as connection:
            row = writes.study(connection, owner, uid)
        if row is None:
            return False
        intent = Access(Interaction.DICOM_STORE, "ImagingStudy", row.imaging_study_id, owner=owner, derived=True,
                        detail=(("StudyInstanceUID", uid),))

        def write(uow: Work) -> bool:
            row = writes.lock_study(uow.connection, _owner_id(uow, owner), uid)
            if row is None or not is_due(row, microseconds(uow.now)):
                return False  # another worker was faster
            patient = self.publish_row(uow, row)
            uow.note(replace(intent, patients=(patient,) if patient else (),
                             detail=(*intent.detail, ("revision", str(row.revision)))))
            return True

        return store.transact(causes.caller_of(row.cause, owner), write, intent=intent)

    def publish_row(self, uow: Work, row: Row) -> str:
        """Bring the ImagingStudy of this (locked) study up to its rows; no new version where it would say the same.

        Returns ``Patient/id`` where the study is joined, else an empty text.
        """
        resources = uow.acting_for(row.owner)
        uow.flush()
        now_us = microseconds(uow.now)
        complete = self.pace.is_complete(row, now_us)
        join = joining.join(uow, resources, row)
        reconciling.settle(uow, resources, row, join)
        row = writes.lock_study(uow.connection, row.owner_id, row.study_instance_uid) or row
        id_ = row.imaging_study_id
        study, series = _rows(uow, row, whole=complete)
        new = mapping.imaging_study(
            study, series, join, zone=self._zone, endpoint=self._endpoint, rejected=row.rejected, complete=complete
        )
        current = _current(resources, id_)
        body = mapping.merged(current.json() if current else None, new)
        is_gone = current is None and row.rejected  # deleted, or never shown: nothing is left to be told of
        if not is_gone and (current is None or not mapping.same(current.json(), body)):
            resources.update("ImagingStudy", id_, body)
        patient = str((join.subject or {}).get("reference", ""))
        writes.mark_published(
            uow.connection,
            row.pk,
            {
                "published": row.revision,
                "matching": join.matching.value,
                "order_id": join.orders[0].partition("/")[2] if join.orders else "",
                "patient": patient,
                **self.pace.published(row, now_us),
            },
        )
        return patient

    def _put_off(self, store: Store, owner: str, uid: str) -> None:
        def write(uow: Work) -> None:
            row = writes.lock_study(uow.connection, _owner_id(uow, owner), uid)
            if row is not None:
                now_us = microseconds(uow.now)
                writes.set_row(uow.connection, dicom_study, row.pk, self.pace.put_off(row, now_us))

        store.transact(Caller.system(owner), write)

    # As an Observer

    def prepare(self, uow: Work, draft: Draft) -> None:
        """Refuse an order whose accession number is open for another patient."""
        if draft.type == "ServiceRequest":
            joining.check_number(uow, draft)

    def changed(self, uow: Work, change: Change) -> None:
        """Have the studies published again that an order or a patient concerns: it came late, or was corrected.

        In this commit they are only marked, and what is marked is not signed.
        """
        version = change.after
        if version.type == "ImagingStudy" and not change.derived:
            self._taken_back(uow, change)
        if version.type not in _JOINED_BY or not _is_other(change, _JOINED_BY[version.type]):
            return
        uow.flush()
        if version.type == "ServiceRequest":
            versions = [one for one in (change.before, version) if one is not None]
            self._raise(uow, versions)
            return
        if change.before is None:
            return  # no order can refer to it yet
        hers = dicom_study.c.patient == version.reference
        found = writes.raise_revision(
            uow.connection, hers, cause=causes.kept(uow.caller), now_us=microseconds(uow.now)
        )
        orders = uow.acting_for(version.owner).each("ServiceRequest", [("subject", version.reference)])
        if self._raise(uow, orders) + found:
            self.announce(uow)

    def _raise(self, uow: Work, orders: Iterable[Version]) -> int:
        """Raise the revision of the studies that these orders concern; how many they are."""
        numbers: dict[str, set[str]] = {}
        ids: dict[str, set[str]] = {}
        for order in orders:
            numbers.setdefault(order.owner, set()).update(joining.accession_numbers(order))
            ids.setdefault(order.owner, set()).add(order.id)
        count = 0
        for owner in sorted(ids):
            count += writes.raise_orders(
                uow.connection, _owner_id(uow, owner), numbers[owner], ids[owner], cause=causes.kept(uow.caller),
                now_us=microseconds(uow.now),
            )
        if count:
            self.announce(uow)
        return count

    def _taken_back(self, uow: Work, change: Change) -> None:
        """Somebody gave an ImagingStudy a final status, or deleted it: its images are rejected; or wishes to take that
        back, which only a decision does (`reconciling`)."""
        version = change.after
        said = change.before if version.deleted else version
        uid = next((str(one.get("value", "")).removeprefix("urn:oid:") for one in
                    (said.json() if said else {}).get("identifier", []) if one.get("system") == STUDY_UID), "")
        row = writes.lock_study(uow.connection, _owner_id(uow, version.owner), uid)
        if row is None or row.imaging_study_id != version.id:
            return
        status = "entered-in-error" if version.deleted else str(version.json().get("status", ""))
        code = notes.CODE_OF_STATUS.get(status, 0)
        if code:
            rejecting.hide(uow.connection, row, code)
        if code or row.rejected:
            row = writes.lock_study(uow.connection, row.owner_id, uid)
            if row is not None:
                self.publish_row(uow, row)


def unpublished(uow: Work, order: Version, studies: Iterable[str]) -> list[str]:
    """``ImagingStudy/id`` of each study of an order, or out of `studies`, that has what its ImagingStudy does not show
    yet: images, another patient, a withdrawn order."""
    ids = [one.partition("/")[2] for one in studies]
    found = writes.waiting_of(uow.connection, order.owner, joining.accession_numbers(order), order.id, ids)
    return [f"ImagingStudy/{one}" for one in found]


def _is_other(change: Change, elements: tuple[str, ...]) -> bool:
    """Whether a change concerns how images are joined."""
    if change.before is None or change.before.deleted or change.after.deleted:
        return True
    before, after = change.before.json(), change.after.json()
    if change.after.type == "ServiceRequest":
        ends = [one.get("status") in joining.NOT_AN_ORDER for one in (before, after)]
        if ends[0] != ends[1]:
            return True
    return any(before.get(name) != after.get(name) for name in elements)


def _owner_id(uow: Work, owner: str) -> int:
    return uow.register_audience(frozenset({owner}))


def _current(resources: Resources, id_: str) -> Version | None:
    try:
        return resources.read("ImagingStudy", id_)
    except (NotFound, Gone):
        return None


def _rows(uow: Work, row: Row, *, whole: bool) -> tuple[Study, list[Series]]:
    """What the rows say; each instance only of the `whole`, as there is no end of looking through them otherwise."""
    study = Study(
        row.owner,
        row.study_instance_uid,
        row.accession_number,
        row.patient_id,
        unpack(row.attributes),
        tuple(code for code in row.modalities.split("\\") if code),
        row.expected_instances or 0,
        dose.of_reports(writes.reports_of(uow.connection, row.pk, dose.SOP_CLASSES, dose.REPORTS_MAX)),
    )
    stored = sorted(writes.instances_of(uow.connection, row.pk), key=lambda one: one.series_pk) if whole else []
    by_series = {
        pk: tuple(Instance(one.sop_instance_uid, one.sop_class_uid, one.instance_number) for one in group)
        for pk, group in groupby(stored, key=lambda one: one.series_pk)
    }
    series = [
        Series(
            one.series_instance_uid, one.modality, unpack(one.attributes), by_series.get(one.pk, ()),
            one.instance_count,
        )
        for one in writes.series_of(uow.connection, row.pk)
        if one.instance_count
    ]
    return study, series

