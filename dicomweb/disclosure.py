"""Every DICOMweb read inside the spine: permitted, found, recorded durably, before a byte leaves.

What was found may still be refused (no representation that is asked for, pixels that cannot be decoded). So for a
caller with a `Recording` the record is only proposed here, and made with the final status; for any other it is made at
once.

One record per request and study. Frames are many and small: the first one of a study that a token asks for is recorded,
durably and before it is answered, as access to the study's frames for the next 60 seconds; those that follow within
that time are covered by it (IHE BALP and DICOM PS3.15 §A.5.3.7 record access per study, not per pixel).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dicomweb import queries
from dicomweb.granting import under
from dicomweb.queries import InstanceRow, Path
from dicomweb.query_keys import QidoQuery
from dicomweb.tables import Row
from store.access import Access, Caller, Interaction, Permit
from store.unit_of_work import Store

WINDOW_S = 60.0
Rows = Sequence[Row]


class Disclosure:
    """The reading side of the store, as DICOMweb uses it."""

    def __init__(self, store: Store, permit: Permit, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._permit = permit
        self._recorded = _Recent(clock)

    def search(self, caller: Caller, query: QidoQuery, path: Path, limit: int, raw: str) -> tuple[Rows, int]:
        """A page of a query and how many more there are; recorded with the patients found."""
        intent = Access(Interaction.DICOM_QUERY, "ImagingStudy", query=raw)
        with self._store.work(caller, write=False, intent=intent) as uow:
            visible = self._permit.visibility(caller, Interaction.DICOM_QUERY, "ImagingStudy")
            rows, more = queries.search(uow, visible, query, path, limit)
            patients = sorted({row.study_patient for row in rows} - {""})
            detail = (
                ("results", str(len(rows))), ("level", query.level.name.lower()),
                *under(uow, caller, [row.study_pk for row in rows]),
            )  # fmt: skip
            uow.note(replace(intent, patients=tuple(patients), detail=detail))
        return rows, more

    def retrieve(
        self, caller: Caller, path: Path, what: str, *, headers: bool = False, layouts: bool = False
    ) -> tuple[Rows, Rows]:
        """Studies and instances that a path names; one record per study."""
        intent = _intent(path, what)
        with self._store.work(caller, write=False, intent=intent) as uow:
            visible = self._permit.visibility(caller, Interaction.DICOM_RETRIEVE, "ImagingStudy")
            studies, rows = queries.retrieve(uow, visible, path, headers=headers, layouts=layouts)
            found = [
                _access(study, what, sum(row.study_pk == study.pk for row in rows), under(uow, caller, [study.pk]))
                for study in studies
            ]
            if caller.recording is None:
                for access in found:
                    uow.note(access)
        if caller.recording is not None:
            caller.recording.propose(*found)
        return studies, rows

    def frames(self, caller: Caller, path: Path) -> InstanceRow:
        """The instance whose frames are asked for; recorded once per token, study and minute."""
        with self._store.work(caller, write=False, intent=_intent(path, "frames")) as uow:
            visible = self._permit.visibility(caller, Interaction.DICOM_RETRIEVE, "ImagingStudy")
            row = queries.instance(uow, visible, path)
            key = (caller.client_id, caller.token_ref, caller.address, row.study_pk)
            is_covered = self._recorded.has(key)
            access = _access(row, "frames", 1, under(uow, caller, [row.study_pk]))
            if caller.recording is None and not is_covered:
                uow.note(access)
        if caller.recording is not None:
            caller.recording.propose(access, is_covered=is_covered, then=lambda: self._recorded.add(key))
        elif not is_covered:
            self._recorded.add(key)
        return row


class _Recent:
    """Keys whose record is durable and young."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[tuple[Any, ...], float] = {}
        self._lock = threading.Lock()

    def has(self, key: tuple[Any, ...]) -> bool:
        return self._until.get(key, 0.0) > self._clock()

    def add(self, key: tuple[Any, ...]) -> None:
        now = self._clock()
        with self._lock:
            if len(self._until) > 10_000:
                self._until = {one: until for one, until in self._until.items() if until > now}
            self._until[key] = now + WINDOW_S


def _intent(path: Path, what: str) -> Access:
    return Access(Interaction.DICOM_RETRIEVE, "ImagingStudy",
                  detail=(("StudyInstanceUID", path.study or ""), ("what", what)))


def _access(
    study: Row | InstanceRow, what: str, count: int, grants: tuple[tuple[str, str], ...] = ()
) -> Access:
    return Access(
        Interaction.DICOM_RETRIEVE,
        "ImagingStudy",
        study.imaging_study_id,
        patients=(study.patient,) if study.patient else (),
        owner=study.owner,
        detail=(("StudyInstanceUID", study.study_instance_uid), ("what", what), ("instances", str(count)), *grants),
    )
