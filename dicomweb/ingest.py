"""The one door for images, whatever the protocol.

An instance is acknowledged only once its bytes are durable in the object store and its row is committed. The same
object sent again is acknowledged again and stored once; another object under the same SOP Instance UID is refused and
reported, and never overwrites. Instances are committed in groups; each is answered after its own group's commit.

PS3.4 §B.2 (storage), PS3.18 §10.5 (store transaction)
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dicomweb import frames, part10, rows, uids
from dicomweb.attributes import text
from dicomweb.batches import Batch, Origin, Prepared
from dicomweb.part10 import DEFLATED_LE, EXPLICIT_BE, Part10
from dicomweb.publishing import Publisher
from dicomweb.reader import Buffer, Unreadable
from dicomweb.status import Result, StoredOutcome, refused
from resources.json import Json
from resources.outcomes import Forbidden, Unavailable
from store.access import Access, Caller, Interaction, Outcome, Permit, Work
from store.unit_of_work import Store


class Objects(Protocol):
    """What is asked of the object store (`store.objects`)."""

    def put(self, data: Any, /) -> str: ...


WRITERS = 8
"""Objects on their way to the disk at once; their bytes are all that a request holds in memory."""


class Ingest:
    """Stores instances; see `store_instance` for one, `prepare` and `commit` for many."""

    def __init__(self, store: Store, objects: Objects, permit: Permit, publisher: Publisher) -> None:
        self.store = store
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
        prepared = self.prepare(data, batch.origin, study_instance_uid=study_instance_uid,
                                sop_instance_uid=sop_instance_uid)
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
        self, data: Buffer | Part10, origin: Origin, *, study_instance_uid: str | None = None,
        sop_instance_uid: str | None = None,
    ) -> Prepared | StoredOutcome:
        """Read the header within its budgets, check the UIDs, make the bytes durable. A refusal is an outcome."""
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
            stored = self._objects.put(part.stream())
        except OSError:
            return refused(outcome, Result.OUT_OF_RESOURCES, "the object could not be written")
        layout = _layout(part, dataset.bulk, index, dataset.pixels)
        size = part.size_bytes
        syntax = part.transfer_syntax_uid
        json = dict(sorted({**dataset.json, "00083002": {"vr": "UI", "Value": [syntax]}}.items()))
        return Prepared(syntax, json, layout, outcome, stored, digest, size, len(index.frames), origin)

    def commit(self, prepared: Sequence[Prepared], batch: Batch) -> list[StoredOutcome]:
        """Commit rows of one caller together; the outcomes are acknowledgements. A fault of the server is one too."""
        caller = batch.caller
        intent = Access(Interaction.DICOM_STORE, "ImagingStudy", owner=caller.organization,
                        detail=(("instances", str(len(prepared))), ("door", batch.origin.door)))
        try:
            outcomes, announced = self.store.transact(
                caller, lambda uow: self._write(uow, prepared, batch), intent=intent
            )
        except Forbidden:
            return [refused(one.outcome, Result.NOT_AUTHORISED, "not authorised to store images") for one in prepared]
        except Unavailable:
            return [refused(one.outcome, Result.OUT_OF_RESOURCES, "the database is not available") for one in prepared]
        batch.announced |= announced
        for outcome in outcomes:
            if outcome.result.is_stored:
                counted = batch.stored if outcome.is_new else batch.resent
                counted[outcome.study_instance_uid] = counted.get(outcome.study_instance_uid, 0) + 1
        return outcomes

    def _write(
        self, uow: Work, prepared: Sequence[Prepared], batch: Batch
    ) -> tuple[list[StoredOutcome], set[str]]:
        self._permit.visibility(uow.caller, Interaction.DICOM_STORE, "ImagingStudy")
        return rows.write(uow, uow.caller, prepared, batch)

    def finish(self, batch: Batch) -> None:
        """At the end of the request or association: one ImagingStudy version per study, and the record of the whole."""
        owner = batch.caller.organization
        for uid in sorted({*batch.stored, *batch.resent}):
            detail = (
                ("instances", str(batch.stored.get(uid, 0))),
                ("resent", str(batch.resent.get(uid, 0))),
                ("door", batch.origin.door),
            )
            self._publisher.publish(self.store, batch.caller, owner, uid, detail)


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
                    outcomes = ingest.commit([one.prepared for one in members], batch_)
                    for one, outcome in zip(members, outcomes, strict=True):
                        one.outcome = outcome
        assert mine.outcome is not None  # noqa: S101 - the leader answered all it took
        return mine.outcome


MAX_GROUP = 64


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
