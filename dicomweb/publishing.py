"""From stored rows to the ImagingStudy: one version per batch, joined to its order by accession number.

It runs at the end of each request or association, again whenever an order or a patient changes (as an Observer, in the
same commit as that change), and in a loop that finds studies whose rows are newer than their ImagingStudy, so that a
crash between the commit of the images and the publication loses nothing.

docs/decisions/0006-images.md (matching, quarantine)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import tzinfo
from itertools import groupby

import structlog

from dicomweb import joining, mapping, notes, rejecting, writes
from dicomweb.mapping import Instance, Series, Study
from dicomweb.tables import Row
from dicomweb.writes import unpack
from resources.outcomes import Gone, NotFound, Unavailable
from resources.times import microseconds
from store import items
from store.access import Access, Caller, Change, Draft, Interaction, Resources, Version, Work
from store.unit_of_work import Store

log = structlog.get_logger("vigie.images")

NAME = "imaging-studies"
AT_ONCE = 20
"""Studies that one step of the loop publishes."""
AGAIN_US = 600 * 1_000_000
"""After this a study that could not be published is tried again."""


class Publisher:
    """Makes and keeps the ImagingStudy of each study. Also an Observer of orders and patients."""

    def __init__(self, *, zone: tzinfo, endpoint: str | None = None, quiet_s: float = 15.0) -> None:
        """`quiet_s`: how long a study has had no new instance before the loop publishes it in the requests' stead."""
        self._zone = zone
        self._endpoint = endpoint
        self._quiet_us = int(quiet_s * 1_000_000)
        self._failed: dict[tuple[str, str], int] = {}
        """Studies that could not be published, and when they are tried again (µs)."""

    # At the end of a request or association

    def publish(self, store: Store, caller: Caller, owner: str, uid: str, detail: tuple[tuple[str, str], ...]) -> None:
        """Bring the ImagingStudy of one study up to its rows, in a unit of work of its own."""
        intent = Access(Interaction.DICOM_STORE, "ImagingStudy", owner=owner,
                        detail=(("StudyInstanceUID", uid), *detail))

        def write(uow: Work) -> None:
            row = writes.lock_study(uow.connection, _owner_id(uow, owner), uid)
            if row is None:
                return
            patient = self.publish_row(uow, row)
            uow.note(replace(intent, id=row.imaging_study_id, patients=(patient,) if patient else ()))

        store.transact(caller, write, intent=intent)

    def publish_row(self, uow: Work, row: Row) -> str:
        """Bring the ImagingStudy of this (locked) study up to its rows; no new version where it would say the same.

        Returns ``Patient/id`` where the study is joined, else an empty text.
        """
        resources = uow.acting_for(row.owner)
        uow.flush()
        join = joining.join(uow, resources, row)
        id_ = row.imaging_study_id
        new = mapping.imaging_study(
            *_rows(uow, row), join, zone=self._zone, endpoint=self._endpoint, rejected=row.rejected
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
            },
        )
        return patient

    def step(self, store: Store) -> bool:
        """Publish studies that a crash left unpublished. Whether there were any.

        One that cannot be published is told and left alone for a while: it stops none of the others.
        """
        now_us = microseconds(store.now())
        with store.database.glance() as connection:
            limit = AT_ONCE + len(self._failed)
            found = writes.unpublished(connection, before=now_us - self._quiet_us, limit=limit)
        self._failed = {study: at for study, at in self._failed.items() if study in set(found)}
        due = [study for study in found if self._failed.get(study, 0) <= now_us][:AT_ONCE]
        published = 0
        for owner, uid in due:
            try:
                self.publish(store, Caller.system(owner), owner, uid, (("recovered", "true"),))
            except Unavailable:
                raise  # of the database, not of this study
            except Exception as fault:  # noqa: BLE001 - of this study, whatever it is
                self._failed[owner, uid] = now_us + AGAIN_US
                items.tell(NAME, fault)
            else:
                self._failed.pop((owner, uid), None)
                published += 1
        return bool(published)

    # As an Observer

    def prepare(self, uow: Work, draft: Draft) -> None:
        """Nothing to complete or refuse."""

    def changed(self, uow: Work, change: Change) -> None:
        """Publish again the studies that an order or a patient concerns: it came late, or was corrected."""
        version = change.after
        if version.type == "ImagingStudy" and not change.derived:
            self._taken_back(uow, change)
        if version.type not in {"ServiceRequest", "Patient"}:
            return
        uow.flush()
        if version.type == "ServiceRequest":
            orders: Iterable[Version] = [version]
        elif change.before is None:
            return  # no order can refer to it yet
        else:
            orders = uow.acting_for(version.owner).each("ServiceRequest", [("subject", version.reference)])
        numbers: dict[str, set[str]] = {}
        ids: dict[str, set[str]] = {}
        for order in orders:
            numbers.setdefault(order.owner, set()).update(joining.accession_numbers(order))
            ids.setdefault(order.owner, set()).add(order.id)
        for owner in sorted(ids):
            owner_id = _owner_id(uow, owner)
            for row in writes.studies_of_orders(uow.connection, owner_id, numbers[owner], ids[owner]):
                locked = writes.lock_study(uow.connection, owner_id, row.study_instance_uid)
                if locked is not None:
                    self.publish_row(uow, locked)


    def _taken_back(self, uow: Work, change: Change) -> None:
        """Somebody gave an ImagingStudy a final status, or deleted it: its images are rejected; or wishes to take that
        back, which only a decision does (`reconciling`)."""
        version = change.after
        said = change.before if version.deleted else version
        uid = next((str(one.get("value", "")).removeprefix("urn:oid:") for one in
                    (said.json() if said else {}).get("identifier", []) if one.get("system") == mapping.STUDY_UID), "")
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


def _owner_id(uow: Work, owner: str) -> int:
    return uow.register_audience(frozenset({owner}))


def _current(resources: Resources, id_: str) -> Version | None:
    try:
        return resources.read("ImagingStudy", id_)
    except (NotFound, Gone):
        return None


def _rows(uow: Work, row: Row) -> tuple[Study, list[Series]]:
    study = Study(
        row.owner,
        row.study_instance_uid,
        row.accession_number,
        row.patient_id,
        unpack(row.attributes),
        tuple(code for code in row.modalities.split("\\") if code),
    )
    stored = sorted(writes.instances_of(uow.connection, row.pk), key=lambda one: one.series_pk)
    by_series = {
        pk: tuple(Instance(one.sop_instance_uid, one.sop_class_uid, one.instance_number) for one in group)
        for pk, group in groupby(stored, key=lambda one: one.series_pk)
    }
    series = [
        Series(one.series_instance_uid, one.modality, unpack(one.attributes), by_series.get(one.pk, ()))
        for one in writes.series_of(uow.connection, row.pk)
        if one.instance_count
    ]
    return study, series
