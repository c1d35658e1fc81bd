"""The one door for images, whatever the protocol.

An instance is acknowledged only once its bytes are durable in the object store and its row is committed. The same
object sent again, in whatever encoding, is acknowledged again and stored once; another object under the same SOP
Instance UID is refused and reported, and never overwrites. Bytes become an object only once everything else is decided,
so a refused instance leaves nothing. Instances are committed in groups; each is answered after its own group's commit.

PS3.4 §B.2 (storage), PS3.18 §10.5 (store transaction)
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection

from dicomweb import frames, part10, rows, sop_classes, uids, writes
from dicomweb.attributes import text
from dicomweb.batches import Batch, Origin, Prepared
from dicomweb.part10 import DEFLATED_LE, EXPLICIT_BE, Part10
from dicomweb.publishing import Publisher
from dicomweb.reader import Buffer, Unreadable
from dicomweb.sameness import Decoder, same
from dicomweb.status import Result, StoredOutcome, refused
from dicomweb.writes import Stored
from resources.json import Json
from resources.outcomes import FhirError, Forbidden, Unavailable
from store.access import Access, Caller, Interaction, Outcome, Permit, Work
from store.objects import Staged
from store.unit_of_work import Store

log = structlog.get_logger("vigie.images")


class Objects(Protocol):
    """What is asked of the object store (`store.objects`)."""

    def stage(self, source: Any, /) -> Staged: ...

    def place(self, connection: Connection, staged: Iterable[Staged], /) -> None: ...

    def discard(self, staged: Staged, /) -> None: ...

    def path(self, digest: str, /) -> Path: ...


NOT_PERMITTED = "not authorised to store images"
WRITERS = 8
"""Objects on their way to the disk at once; their bytes are all that a request holds in memory."""


class Ingest:
    """Stores instances; see `store_instance` for one, `prepare` and `commit` for many."""

    def __init__(
        self, store: Store, objects: Objects, permit: Permit, publisher: Publisher, decoder: Decoder
    ) -> None:
        self.store = store
        self._decoder = decoder
        self._objects = objects
        self._permit = permit
        self._publisher = publisher
        self._groups: dict[Caller, _Group] = {}
        self._groups_lock = threading.Lock()
        self.writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="image-writer")
        """Makes bytes durable in parallel: the disk joins the fsyncs of several files into one."""

    def store_instance(
        self, data: Buffer | Part10, batch: Batch, *, study_instance_uid: str | None = None,
        sop_instance_uid: str | None = None,
    ) -> StoredOutcome:
        """Store one instance and return once that is durable. Concurrent calls of one caller share commits."""
        prepared = self.prepare(data, batch, study_instance_uid=study_instance_uid, sop_instance_uid=sop_instance_uid)
        if isinstance(prepared, StoredOutcome):
            return prepared
        with self._groups_lock:
            group = self._groups.setdefault(batch.caller, _Group())
        return group.commit(self, prepared, batch)

    def close(self) -> None:
        """Let what is on its way to the disk arrive."""
        self.writers.shutdown()

    def authorise(self, caller: Caller) -> None:
        """Refuse, with a record, who may not store: before the body is read."""
        with self.store.work(caller, write=False, intent=Access(Interaction.DICOM_STORE, "ImagingStudy")):
            self._permit.visibility(caller, Interaction.DICOM_STORE, "ImagingStudy")

    def prepare(
        self, data: Buffer | Part10, batch: Batch, *, study_instance_uid: str | None = None,
        sop_instance_uid: str | None = None,
    ) -> Prepared | StoredOutcome:
        """Read the header within its budgets, check the UIDs, make the bytes durable: they are no object yet.

        A refusal is an outcome; of whoever may not store not a byte is kept. What is prepared must be committed.
        """
        try:
            self._permit.visibility(batch.caller, Interaction.DICOM_STORE, "ImagingStudy")
        except Forbidden:
            return StoredOutcome(Result.NOT_AUTHORISED, sop_instance_uid=sop_instance_uid or "", reason=NOT_PERMITTED)
        try:
            part = data if isinstance(data, Part10) else part10.parse(data)
            dataset = part.dataset()
        except Unreadable as error:
            return StoredOutcome(Result.NOT_UNDERSTOOD, sop_instance_uid=sop_instance_uid or "", reason=str(error))
        found = {tag: text(dataset.json, tag) for tag in ("00080016", "00080018", "0020000D", "0020000E")}
        clean = {tag: value if uids.is_uid(value) else "" for tag, value in found.items()}
        outcome = StoredOutcome(
            Result.STORED, clean["00080016"], clean["00080018"], clean["0020000D"], clean["0020000E"], is_new=True
        )
        fault = _uid_fault(part, found, study_instance_uid, sop_instance_uid)
        if fault is not None:
            return refused(outcome, *fault)
        if not sop_classes.may_store(outcome.sop_class_uid):
            return refused(outcome, Result.SOP_CLASS_NOT_SUPPORTED, "the SOP Class is no storage class")
        view = memoryview(part.body)
        base = len(part.head) if part.transfer_syntax_uid != DEFLATED_LE else 0
        index = frames.index(dataset, lambda offset, size: bytes(view[offset - base : offset - base + size]))
        if dataset.pixels is not None and not index.complete:
            outcome = refused(outcome, Result.STORED_INCOMPLETE, "the pixel data is not what the header says")
        if {part.sop_instance_uid, part.sop_class_uid} - {"", found["00080016"], found["00080018"]}:
            # Tools that rewrite UIDs forget the file meta information; the data set is what counts.
            outcome = refused(outcome, Result.STORED_INCOMPLETE, "the file meta information is of another object")
        digest = part.dataset_digest
        try:
            staged = self._objects.stage(part.stream())
        except OSError:
            return refused(outcome, Result.OUT_OF_RESOURCES, "the object could not be written")
        layout = _layout(part, dataset.bulk, index, dataset.pixels)
        size = part.size_bytes
        syntax = part.transfer_syntax_uid
        json = dict(sorted({**dataset.json, "00083002": {"vr": "UI", "Value": [syntax]}}.items()))
        return Prepared(syntax, json, layout, outcome, staged, digest, size, len(index.frames), batch.origin)

    def commit(self, prepared: Sequence[Prepared], batch: Batch) -> list[StoredOutcome]:
        """Commit rows of one caller together; the outcomes are acknowledgements. A fault of the server is one too."""
        try:
            outcomes = self._committed(list(prepared), batch)
        except Forbidden:
            outcomes = [refused(one.outcome, Result.NOT_AUTHORISED, NOT_PERMITTED)
                        for one in prepared]
        except (FhirError, OSError) as error:
            told = "the database is not available" if isinstance(error, Unavailable) else "it could not be recorded"
            outcomes = [refused(one.outcome, Result.OUT_OF_RESOURCES, told) for one in prepared]
        finally:
            for one in prepared:
                self._objects.discard(one.staged)
        for outcome in outcomes:
            if outcome.result.is_stored:
                counted = batch.stored if outcome.is_new else batch.resent
                counted[outcome.study_instance_uid] = counted.get(outcome.study_instance_uid, 0) + 1
        return outcomes

    def _committed(self, prepared: list[Prepared], batch: Batch) -> list[StoredOutcome]:
        """The outcomes of a commit. What stands under a UID in other bytes is compared between two transactions: the
        stored object never changes, so what was found holds in the second."""
        intent = Access(Interaction.DICOM_STORE, "ImagingStudy", owner=batch.caller.organization,
                        detail=(("instances", str(len(prepared))), ("door", batch.origin.door)))
        outcomes: list[StoredOutcome | None] = [None] * len(prepared)
        left = list(range(len(prepared)))
        while left:
            members = [prepared[number] for number in left]
            written = self.store.transact(batch.caller, partial(self._write, members, batch), intent=intent)
            batch.announced |= written.announced
            for number, outcome in zip(left, written.outcomes, strict=True):
                outcomes[number] = outcome
            left = [number for number in left if outcomes[number] is None]
            for number in left:
                prepared[number] = self._compared(prepared[number], written.stored)
        return [one for one in outcomes if one is not None]

    def _compared(self, one: Prepared, stored: dict[str, Stored]) -> Prepared:
        known = stored[one.outcome.sop_instance_uid]
        is_same = same(one.staged.file, self._objects.path(known.digest), self._decoder)
        return replace(one, compared=known.dataset_digest, is_same=is_same)

    def _write(self, prepared: Sequence[Prepared], batch: Batch, uow: Work) -> rows.Written:
        self._permit.visibility(uow.caller, Interaction.DICOM_STORE, "ImagingStudy")
        written = rows.write(uow, uow.caller, prepared, batch, self._publisher.pace)
        if written.fresh:
            self._publisher.announce(uow)
        # Last, since it cannot be taken back: whoever stored the same bytes meanwhile refers to the same object.
        self._objects.place(uow.connection, [one.staged for one in written.fresh])
        return written

    def finish(self, batch: Batch) -> None:
        """At the end of the request or association: the record of the whole. The ImagingStudy is the publisher's."""
        owner = batch.caller.organization
        intent = Access(Interaction.DICOM_STORE, "ImagingStudy", owner=owner, detail=(("door", batch.origin.door),))
        uids_ = sorted({*batch.stored, *batch.resent})
        if not uids_:
            return
        with self.store.work(batch.caller, write=False, intent=intent) as uow:
            for uid in uids_:
                study = writes.study(uow.connection, owner, uid)
                detail = (
                    ("StudyInstanceUID", uid),
                    ("instances", str(batch.stored.get(uid, 0))),
                    ("resent", str(batch.resent.get(uid, 0))),
                    ("door", batch.origin.door),
                )
                uow.note(replace(
                    intent, detail=detail, id=study.imaging_study_id if study else None,
                    patients=(study.patient,) if study and study.patient else (),
                ))

    def note_refused(self, caller: Caller, origin: Origin, outcomes: Sequence[StoredOutcome]) -> None:
        """One record of all the instances that a request had refused, beside those of the studies it stored."""
        refusals = [one for one in outcomes if not one.result.is_stored]
        if not refusals or caller.recording is None:
            return
        codes = sorted({f"{one.result.value.failure_reason or 0:04X}" for one in refusals})
        access = Access(
            Interaction.DICOM_STORE, "ImagingStudy", owner=caller.organization, query=caller.recording.request,
            detail=(("refused", str(len(refusals))), ("reasons", " ".join(codes)), ("door", origin.door)),
        )
        if len(refusals) == len(outcomes):  # then the status says so, and the record is made with it
            caller.recording.propose(access)
            return
        with self.store.work(caller, write=False) as uow:
            uow.note(replace(access, outcome=Outcome.MINOR, reason=f"{codes[0]} instances were refused"))


class _Group:
    """Group commit: whoever comes first commits for all who wait (leader and followers)."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._list = threading.Lock()

    def commit(self, ingest: Ingest, prepared: Prepared, batch: Batch) -> StoredOutcome:
        mine = _Waiting(prepared, batch)
        with self._list:
            self._waiting.append(mine)
        with self._turn:
            if mine.outcome is None:
                with self._list:
                    taken, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
                # The batches of a caller differ only in what they count; each is told of its own.
                for batch_, members in _by_batch(taken):
                    _commit(ingest, members, batch_)
        return mine.outcome or _unrecorded(prepared)


MAX_GROUP = 64


def _commit(ingest: Ingest, members: Sequence[_Waiting], batch: Batch) -> None:
    """Commit for those who wait, and tell each. A fault that nobody foresaw is a refusal for all of them."""
    try:
        outcomes = ingest.commit([one.prepared for one in members], batch)
    except Exception:  # the followers wait in threads of their own, and must be answered
        log.exception("a group of instances could not be committed")
        outcomes = [_unrecorded(one.prepared) for one in members]
    for one, outcome in zip(members, outcomes, strict=True):
        one.outcome = outcome


def _unrecorded(prepared: Prepared) -> StoredOutcome:
    return refused(prepared.outcome, Result.OUT_OF_RESOURCES, "it could not be recorded")


@dataclass(slots=True)
class _Waiting:
    prepared: Prepared
    batch: Batch
    outcome: StoredOutcome | None = None


def _by_batch(taken: list[_Waiting]) -> list[tuple[Batch, list[_Waiting]]]:
    groups: dict[int, tuple[Batch, list[_Waiting]]] = {}
    for one in taken:
        groups.setdefault(id(one.batch), (one.batch, []))[1].append(one)
    return list(groups.values())


def _uid_fault(
    part: Part10, found: dict[str, str], study: str | None, sop: str | None
) -> tuple[Result, str] | None:
    names_of = {"00080016": "SOPClassUID", "00080018": "SOPInstanceUID", "0020000D": "StudyInstanceUID",
                "0020000E": "SeriesInstanceUID"}
    for tag, name in names_of.items():
        if not uids.is_uid(found[tag]):
            return Result.MISMATCH, f"{name} is missing or is not a UID"
    if sop is not None and sop != found["00080018"]:
        return Result.MISMATCH, "SOPInstanceUID is not the Affected SOP Instance UID"
    if sop is not None and part.sop_class_uid != found["00080016"]:
        return Result.MISMATCH, "SOPClassUID is not the Affected SOP Class UID"
    if study is not None and study != found["0020000D"]:
        return Result.MISMATCH, "StudyInstanceUID is not that of the request"
    return None


def _layout(part: Part10, bulk: dict[str, tuple[int, int, str]], index: frames.FrameIndex, pixels: Any) -> Json:
    """What retrieval needs to know of the stored file."""
    layout: Json = {"head": len(part.head)}
    if bulk:
        layout["bulk"] = {path: list(where) for path, where in bulk.items()}
    if part.transfer_syntax_uid == DEFLATED_LE:
        layout["deflated"] = True
    if part.transfer_syntax_uid == EXPLICIT_BE:
        layout["bigEndian"] = pixels.vr if pixels else ""
    if pixels is not None:
        layout["pixels"] = [f"{pixels.tag:08X}", pixels.offset, pixels.length, pixels.fragments is not None]
    if index.bit_offset:
        layout["bits"] = index.bit_offset
    spans = index.frames
    if pixels is not None and pixels.fragments is None and spans and not index.bit_offset:
        layout["native"] = [spans[0][0][0], spans[0][0][1], len(spans)]
    elif spans:
        layout["frames"] = [[list(span) for span in frame] for frame in spans]
    return layout
