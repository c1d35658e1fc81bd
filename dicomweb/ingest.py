"""The one door for images, whatever the protocol.

An instance is acknowledged only once its bytes are durable in the object store and its row is committed. The same
object sent again is acknowledged again and stored once; another object under the same SOP Instance UID is refused and
reported, and never overwrites. Instances are committed in groups; each is answered after its own group's commit.

PS3.4 §B.2 (storage), PS3.18 §10.5 (store transaction)
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from dicomweb import attributes, frames, instances, part10, uids
from dicomweb.attributes import OF_SERIES, OF_STUDY, names, number, text
from dicomweb.instances import Row, dicom_series, dicom_study, pack
from dicomweb.part10 import DEFLATED_LE, EXPLICIT_BE, Part10
from dicomweb.publishing import Publisher
from dicomweb.reader import Buffer, Unreadable
from dicomweb.status import Result, StoredOutcome
from resources.outcomes import Forbidden, Unavailable
from store.access import Access, Caller, Interaction, Outcome, Permit
from store.unit_of_work import Store, UnitOfWork
from store.versions import microseconds

Json = dict[str, Any]


class Objects(Protocol):
    """What is asked of the object store (`store.objects`)."""

    def put(self, data: Any, /) -> str: ...


@dataclass(frozen=True, slots=True)
class Origin:
    """By which door an instance came."""

    door: str
    """stow-rs, c-store or demo."""
    client: str = ""
    address: str = ""
    calling_ae: str = ""
    called_ae: str = ""

    def json(self) -> str:
        pairs = (("door", self.door), ("client", self.client), ("address", self.address),
                 ("callingAE", self.calling_ae), ("calledAE", self.called_ae))
        return orjson.dumps({name: value for name, value in pairs if value}).decode()


@dataclass(frozen=True, slots=True)
class Prepared:
    """An instance whose bytes are durable and whose header is read; its row is not written yet."""

    part: Part10
    json: Json
    layout: Json
    outcome: StoredOutcome
    digest: str
    dataset_digest: str
    size_bytes: int
    frame_count: int
    origin: Origin


@dataclass(slots=True)
class Batch:
    """The instances of one request or association: what is published, and recorded, at its end."""

    caller: Caller
    origin: Origin
    stored: dict[str, int] = field(default_factory=dict)
    """StudyInstanceUID → number of instances newly stored."""
    resent: dict[str, int] = field(default_factory=dict)
    announced: set[str] = field(default_factory=set)
    """Studies for which the record that storing began is durable."""


class Ingest:
    """Stores instances; see `store_instance` for one, `prepare` and `commit` for many."""

    def __init__(self, store: Store, objects: Objects, permit: Permit, publisher: Publisher) -> None:
        self.store = store
        self._objects = objects
        self._permit = permit
        self._publisher = publisher
        self._groups: dict[Caller, _Group] = {}
        self._groups_lock = threading.Lock()

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
            return _refused(outcome, *fault)
        view = memoryview(part.body)
        base = len(part.head) if part.transfer_syntax_uid != DEFLATED_LE else 0
        index = frames.index(dataset, lambda offset, size: bytes(view[offset - base : offset - base + size]))
        if dataset.pixels is not None and not index.complete:
            outcome = _refused(outcome, Result.STORED_INCOMPLETE, "the pixel data is not what the header says")
        if {part.sop_instance_uid, part.sop_class_uid} - {"", found["00080016"], found["00080018"]}:
            # Tools that rewrite UIDs forget the file meta information; the data set is what counts.
            outcome = _refused(outcome, Result.STORED_INCOMPLETE, "the file meta information names another object")
        digest = part.dataset_digest
        try:
            stored = self._objects.put(part.stream())
        except OSError:
            return _refused(outcome, Result.OUT_OF_RESOURCES, "the object could not be written")
        layout = _layout(part, dataset.bulk, index, dataset.pixels)
        size = part.size_bytes
        # The row needs no bytes: nothing may hold the mapping of a spooled part open.
        kept = Part10(b"", b"", part.sop_class_uid, part.sop_instance_uid, part.transfer_syntax_uid)
        json = dict(sorted({**dataset.json, "00083002": {"vr": "UI", "Value": [part.transfer_syntax_uid]}}.items()))
        return Prepared(kept, json, layout, outcome, stored, digest, size, len(index.frames), origin)

    def commit(self, prepared: Sequence[Prepared], batch: Batch) -> list[StoredOutcome]:
        """Commit rows of one caller together; the outcomes are acknowledgements. Faults of the server become outcomes."""
        caller = batch.caller
        intent = Access(Interaction.DICOM_STORE, "ImagingStudy", owner=caller.organization,
                        detail=(("instances", str(len(prepared))), ("door", batch.origin.door)))
        try:
            outcomes, announced = self.store.transact(
                caller, lambda uow: self._write(uow, caller, prepared, batch), intent=intent
            )
        except Forbidden:
            return [_refused(one.outcome, Result.NOT_AUTHORISED, "not authorised to store images") for one in prepared]
        except Unavailable:
            return [_refused(one.outcome, Result.OUT_OF_RESOURCES, "the database is not available") for one in prepared]
        batch.announced |= announced
        for outcome in outcomes:
            if outcome.result.is_stored:
                counted = batch.stored if outcome.is_new else batch.resent
                counted[outcome.study_instance_uid] = counted.get(outcome.study_instance_uid, 0) + 1
        return outcomes

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

    # Rows

    def _write(
        self, uow: UnitOfWork, caller: Caller, prepared: Sequence[Prepared], batch: Batch
    ) -> tuple[list[StoredOutcome], set[str]]:
        self._permit.visibility(caller, Interaction.DICOM_STORE, "ImagingStudy")
        store, connection, owner = uow.store, uow.connection, caller.organization
        owner_id = store.audiences.register(connection, frozenset({owner}), uow.fresh_audiences)
        audience = store.audiences.register(connection, frozenset({owner, store.platform}), uow.fresh_audiences)
        place = _Place(owner, owner_id, audience, microseconds(uow.now))
        # Studies are locked in one order, so that two batches over the same studies do not wait for each other.
        study_uids = sorted({one.outcome.study_instance_uid for one in prepared})
        studies = {uid: self._study(uow, place, uid) for uid in study_uids}
        known = instances.stored_digests(connection, owner_id, {one.outcome.sop_instance_uid for one in prepared})
        digests = {uid: digest for uid, (digest, _) in known.items()}
        outcomes: list[StoredOutcome] = []
        fresh: dict[str, list[Prepared]] = {}
        for one in prepared:
            uid = one.outcome.sop_instance_uid
            digest = digests.get(uid)
            if digest is None:
                digests[uid] = one.dataset_digest
                fresh.setdefault(one.outcome.study_instance_uid, []).append(one)
                outcomes.append(one.outcome)
            elif digest == one.dataset_digest:
                outcomes.append(StoredOutcome(one.outcome.result, one.outcome.sop_class_uid, uid,
                                              one.outcome.study_instance_uid, one.outcome.series_instance_uid))
            else:
                outcomes.append(_refused(one.outcome, Result.DUPLICATE_DIFFERS,
                                         "another object is stored under this SOP Instance UID"))
        for uid in study_uids:
            if uid in fresh:
                self._add(uow, place, studies[uid], fresh[uid])
            elif studies[uid].instance_count == 0:
                instances.remove_empty(connection, studies[uid].pk)
        announced = set(fresh) - batch.announced
        for uid in sorted(announced):
            uow.note(_access(owner, uid, studies[uid].patient, (("phase", "begin"), ("door", batch.origin.door))))
        refused = [one for one in outcomes if not one.result.is_stored]
        if refused:
            uow.note(Access(Interaction.DICOM_STORE, "ImagingStudy", owner=owner, outcome=Outcome.MINOR,
                            detail=(("refused", str(len(refused))),), reason="0111 duplicate SOP instance differs"))
        return outcomes, announced

    def _study(self, uow: UnitOfWork, place: _Place, uid: str) -> Row:
        row = instances.lock_study(uow.connection, place.owner_id, uid)
        if row is not None:
            return row
        instances.insert_or_nothing(uow.connection, dicom_study, [{
            "owner": place.owner, "owner_id": place.owner_id, "audience_id": place.audience_id,
            "study_instance_uid": uid, "attributes": pack({}), "stored": place.now_us, "updated": place.now_us,
        }])
        row = instances.lock_study(uow.connection, place.owner_id, uid)
        assert row is not None  # noqa: S101 - it was inserted, or was there
        return row

    def _add(self, uow: UnitOfWork, place: _Place, study: Row, fresh: Sequence[Prepared]) -> None:
        """Rows of new instances of one study, and what study and series say because of them."""
        connection = uow.connection
        series = {row.series_instance_uid: row for row in instances.series_of(connection, study.pk)}
        groups: dict[str, list[Prepared]] = {}
        for one in fresh:
            groups.setdefault(one.outcome.series_instance_uid, []).append(one)
        rows: list[Json] = []
        count = len(series)
        for uid, members in groups.items():
            row = series.get(uid)
            least = min(members, key=_sop_uid)
            changes: Json = {}
            if row is None or _sop_uid(least) < row.representative:
                changes = _series_values(least)
            if row is None:
                pk = instances.insert_series(connection, {
                    "study_pk": study.pk, "audience_id": study.audience_id, "series_instance_uid": uid,
                    "instance_count": len(members), "revision": 1, **changes,
                })
            else:
                pk = row.pk
                changes["instance_count"] = row.instance_count + len(members)
                changes["revision"] = row.revision + 1
                instances.set_row(connection, dicom_series, pk, changes)
            rows.extend(_instance_values(one, pk, study, place) for one in members)
            count += row is None
        by_uid = {_sop_uid(one): one for one in fresh}
        made = instances.insert_instances(connection, rows)
        instances.insert_headers(connection, [(pk, by_uid[uid].json, by_uid[uid].layout) for uid, pk in made.items()])
        modalities = {
            code for row in instances.series_of(connection, study.pk) for code in row.modality.split("\\") if code
        }
        least = min(fresh, key=_sop_uid)
        values: Json = {}
        if not study.representative or _sop_uid(least) < study.representative:
            values = _study_values(least)
        values |= {
            "modalities": "\\".join(sorted(modalities)),
            "series_count": count,
            "instance_count": study.instance_count + len(fresh),
            "revision": study.revision + 1,
            "updated": place.now_us,
        }
        instances.set_row(connection, dicom_study, study.pk, values)


@dataclass(frozen=True, slots=True)
class _Place:
    """Whose the rows are, and when."""

    owner: str
    owner_id: int
    audience_id: int
    now_us: int


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


def _refused(outcome: StoredOutcome, result: Result, reason: str) -> StoredOutcome:
    return StoredOutcome(result, outcome.sop_class_uid, outcome.sop_instance_uid, outcome.study_instance_uid,
                         outcome.series_instance_uid, reason, is_new=result.is_stored)


def _access(owner: str, uid: str, patient: str, detail: tuple[tuple[str, str], ...]) -> Access:
    from dicomweb.mapping import resource_id

    return Access(Interaction.DICOM_STORE, "ImagingStudy", resource_id(owner, uid), owner=owner,
                  patients=(patient,) if patient else (), detail=(("StudyInstanceUID", uid), *detail))


def _sop_uid(one: Prepared) -> str:
    return one.outcome.sop_instance_uid


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


def _study_values(one: Prepared) -> Json:
    json = one.json
    return {
        "representative": _sop_uid(one),
        "study_date": text(json, "00080020").split("\\")[0],
        "study_time": text(json, "00080030").split("\\")[0],
        "accession_number": text(json, "00080050"),
        "referring_physician_name": names(json, "00080090"),
        "study_description": text(json, "00081030"),
        "patient_name": names(json, "00100010"),
        "patient_id": text(json, "00100020"),
        "issuer_of_patient_id": text(json, "00100021"),
        "patient_birth_date": text(json, "00100030"),
        "patient_sex": text(json, "00100040"),
        "study_id": text(json, "00200010"),
        "attributes": pack(attributes.pick(json, OF_STUDY)),
    }


def _series_values(one: Prepared) -> Json:
    json = one.json
    requests = json.get("00400275", {}).get("Value") or [{}]
    return {
        "representative": _sop_uid(one),
        "modality": text(json, "00080060"),
        "series_number": number(json, "00200011"),
        "series_description": text(json, "0008103E"),
        "series_date": text(json, "00080021").split("\\")[0],
        "series_time": text(json, "00080031").split("\\")[0],
        "station_name": text(json, "00081010"),
        "body_part_examined": text(json, "00180015"),
        "performed_procedure_step_start_date": text(json, "00400244"),
        "performed_procedure_step_start_time": text(json, "00400245"),
        "scheduled_procedure_step_id": text(requests[0], "00400009"),
        "requested_procedure_id": text(requests[0], "00401001"),
        "attributes": pack(attributes.pick(json, OF_SERIES)),
    }


def _instance_values(one: Prepared, series_pk: int, study: Row, place: _Place) -> Json:
    json = one.json
    return {
        "series_pk": series_pk,
        "study_pk": study.pk,
        "owner_id": place.owner_id,
        "audience_id": place.audience_id,
        "sop_instance_uid": _sop_uid(one),
        "sop_class_uid": one.outcome.sop_class_uid,
        "transfer_syntax_uid": one.part.transfer_syntax_uid,
        "instance_number": number(json, "00200013"),
        "content_date": text(json, "00080023"),
        "content_time": text(json, "00080033"),
        "patient_id": text(json, "00100020"),
        "frame_count": one.frame_count,
        "digest": one.digest,
        "dataset_digest": one.dataset_digest,
        "size_bytes": one.size_bytes,
        "origin": one.origin.json(),
        "stored": place.now_us,
    }

