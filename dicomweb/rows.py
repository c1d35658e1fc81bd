"""The rows of new instances, and what their series and study say because of them.

Runs inside one unit of work. What a study says does not depend on the order in which its instances arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import and_

from dicomweb import causes, corrections, identities, notes, rejecting, writes
from dicomweb.attributes import number, text
from dicomweb.batches import Batch, Prepared
from dicomweb.pace import Pace
from dicomweb.status import Result, StoredOutcome, refused
from dicomweb.tables import Row, dicom_series, dicom_study
from dicomweb.writes import Stored, pack
from resources.json import Json
from resources.times import microseconds
from store.access import Access, Caller, Interaction, Outcome, Work


@dataclass(frozen=True, slots=True)
class Place:
    """Whose the rows are, and when."""

    owner: str
    owner_id: int
    audience_id: int
    now_us: int


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the instances of one transaction."""

    outcomes: list[StoredOutcome | None]
    """In the order given. None: other bytes are stored under this UID, and nobody has compared them yet."""
    announced: set[str]
    """Studies for which the record that storing began is written."""
    fresh: list[Prepared]
    """The instances whose rows were written: their bytes must become objects."""
    stored: dict[str, Stored]
    """SOP Instance UID → what is stored, of those that are undecided."""


def write(uow: Work, caller: Caller, prepared: Sequence[Prepared], batch: Batch, pace: Pace) -> Written:
    """Write the rows of what is new, and when the studies are to be published because of it."""
    connection, owner = uow.connection, caller.organization
    owner_id = uow.register_audience(frozenset({owner}))
    audience = uow.register_audience(frozenset({owner, uow.platform}))
    place = Place(owner, owner_id, audience, microseconds(uow.now))
    # Studies are locked in one order, so that two batches over the same studies do not wait for each other.
    # Of a series that people made a study of its own, what is still to come belongs there.
    moved = writes.moved_series(connection, owner_id, {one.outcome.study_instance_uid for one in prepared})

    def study_of(one: Prepared) -> str:
        sent = one.outcome.study_instance_uid
        return moved.get((sent, one.outcome.series_instance_uid), sent)

    study_uids = sorted({study_of(one) for one in prepared})
    studies = {uid: _study(uow, place, uid) for uid in study_uids}
    known = writes.stored_digests(connection, owner_id, {one.outcome.sop_instance_uid for one in prepared})
    written = Written([], set(), [], {})
    fresh: dict[str, list[Prepared]] = {}
    for one in prepared:
        uid = one.outcome.sop_instance_uid
        stored = known.get(uid)
        if stored is None:
            # A second instance with this UID in the same group is compared with this one, in a turn of its own.
            known[uid] = Stored(one.staged.digest, one.dataset_digest)
            fresh.setdefault(study_of(one), []).append(one)
            written.fresh.append(one)
            written.outcomes.append(one.outcome)
        elif one.dataset_digest == stored.dataset_digest or (one.compared == stored.dataset_digest and one.is_same):
            written.outcomes.append(replace(one.outcome, is_new=False))
        elif one.compared == stored.dataset_digest:
            reason = "another object is stored under this SOP Instance UID"
            written.outcomes.append(refused(one.outcome, Result.DUPLICATE_DIFFERS, reason))
        else:
            written.outcomes.append(None)
            written.stored[uid] = stored
    for uid in study_uids:
        if uid in fresh:
            _add(uow, place, studies[uid], fresh[uid], pace)
        elif not studies[uid].representative:
            writes.remove_empty(connection, studies[uid].pk)
    _follow_notes(uow, place, written.fresh, batch)
    written.announced.update(set(fresh) - batch.announced)
    for uid in sorted(written.announced):
        # Not yet the access itself, whose record comes with the last instance: so it is the server's own word.
        uow.note(_began(owner, studies[uid], (("door", batch.origin.door),)))
    turned_away = [one for one in written.outcomes if one is not None and not one.result.is_stored]
    if turned_away and caller.recording is None:  # else the request's record will tell of all that it refused
        uow.note(Access(Interaction.DICOM_STORE, "ImagingStudy", owner=owner, outcome=Outcome.MINOR,
                        detail=(("refused", str(len(turned_away))),), reason="duplicate: another object has this UID"))
    return written


def _follow_notes(uow: Work, place: Place, fresh: Sequence[Prepared], batch: Batch) -> None:
    """Carry out the rejection notes among what came, once all of it has its rows."""
    for one in fresh:
        note = notes.note_of(one.json)
        if note is None:
            continue
        itself = (one.outcome.study_instance_uid, _sop_uid(one))
        for uid in rejecting.follow(uow.connection, place.owner_id, note, itself):
            batch.resent.setdefault(uid, 0)  # so that the record of the whole names it
            hers = and_(dicom_study.c.owner_id == place.owner_id, dicom_study.c.study_instance_uid == uid)
            writes.raise_revision(uow.connection, hers, cause=causes.kept(uow.caller), now_us=place.now_us)
        detail = (("rejected", str(note.code)), ("StudyInstanceUID", itself[0]), ("door", batch.origin.door))
        uow.note(Access(Interaction.DICOM_STORE, "ImagingStudy", owner=place.owner, derived=True, detail=detail))


def _study(uow: Work, place: Place, uid: str) -> Row:
    row = writes.lock_study(uow.connection, place.owner_id, uid)
    if row is not None:
        return row
    writes.insert_or_nothing(uow.connection, dicom_study, [{
        "owner": place.owner, "owner_id": place.owner_id, "audience_id": place.audience_id,
        "study_instance_uid": uid, "attributes": pack({}), "stored": place.now_us, "updated": place.now_us,
        "complete": 0,
        # Random, as every id that the server gives: one that follows from the UID could be taken by somebody else
        # before the images come, and asked for to learn whether they have.
        "imaging_study_id": uow.new_id(),
    }])
    row = writes.lock_study(uow.connection, place.owner_id, uid)
    if row is None:
        raise RuntimeError("a study row that was inserted is not there")
    return row


def _add(uow: Work, place: Place, study: Row, fresh: Sequence[Prepared], pace: Pace) -> None:
    """Rows of new instances of one study, and what study and series say because of them."""
    connection = uow.connection
    series = {row.series_instance_uid: row for row in writes.series_of(connection, study.pk)}
    groups: dict[str, list[Prepared]] = {}
    for one in fresh:
        groups.setdefault(one.outcome.series_instance_uid, []).append(one)
    # Rejected before it came, or of a rejected series: stored, acknowledged, shown by no door.
    of_series = {uid: row.rejected for uid, row in series.items()}
    told = [(_sop_uid(one), of_series.get(one.outcome.series_instance_uid, 0)) for one in fresh]
    rejected = rejecting.born_rejected(connection, study, told)
    rows: list[Json] = []
    count = len(series)
    for uid, members in groups.items():
        row = series.get(uid)
        least = min(members, key=_sop_uid)
        changes: Json = {}
        if row is None or _sop_uid(least) < row.representative:
            changes = corrections.series_values(_sop_uid(least), least.json)
        if row is None:
            pk = writes.insert_series(connection, {
                "study_pk": study.pk, "audience_id": study.audience_id, "series_instance_uid": uid,
                "instance_count": len(members), "revision": 1, **changes,
            })
        else:
            pk = row.pk
            changes["instance_count"] = row.instance_count + len(members)
            changes["revision"] = row.revision + 1
            writes.set_row(connection, dicom_series, pk, changes)
        rows.extend(
            {**_instance_values(one, pk, study, place), "rejected": rejected.get(_sop_uid(one), 0)} for one in members
        )
        count += row is None
    by_uid = {_sop_uid(one): one for one in fresh}
    identities.keep(connection, study.pk, [one.json for one in fresh])
    made = writes.insert_instances(connection, rows)
    writes.insert_headers(connection, [(pk, by_uid[uid].json, by_uid[uid].layout) for uid, pk in made.items()])
    modalities = {
        code for row in writes.series_of(connection, study.pk) for code in row.modality.split("\\") if code
    }
    least = min(fresh, key=_sop_uid)
    values: Json = {}
    if not study.representative or _sop_uid(least) < study.representative:
        values = corrections.study_values(_sop_uid(least), least.json, study.corrected)
    values |= {
        "modalities": "\\".join(sorted(modalities)),
        "series_count": count,
        "instance_count": study.instance_count + len(fresh),
        "revision": study.revision + 1,
        "updated": place.now_us,
        "cause": causes.kept(uow.caller),
        **pace.stored(study, place.now_us, (count - study.series_count, len(fresh))),
    }
    writes.set_row(connection, dicom_study, study.pk, values)
    if rejected or any(row.instance_count == 0 for row in series.values()):  # then counting on is not enough
        locked = writes.lock_study(connection, study.owner_id, study.study_instance_uid)
        if locked is not None:
            rejecting.refresh(connection, locked, study.rejected or next(iter(rejected.values()), 0))


def _began(owner: str, study: Row, detail: tuple[tuple[str, str], ...]) -> Access:
    return Access(Interaction.DICOM_BEGIN, "ImagingStudy", study.imaging_study_id, owner=owner, derived=True,
                  patients=(study.patient,) if study.patient else (),
                  detail=(("StudyInstanceUID", study.study_instance_uid), *detail))


def _sop_uid(one: Prepared) -> str:
    return one.outcome.sop_instance_uid


def _instance_values(one: Prepared, series_pk: int, study: Row, place: Place) -> Json:
    json = one.json
    return {
        "series_pk": series_pk,
        "study_pk": study.pk,
        "owner_id": place.owner_id,
        "audience_id": place.audience_id,
        "sop_instance_uid": _sop_uid(one),
        "sop_class_uid": one.outcome.sop_class_uid,
        "transfer_syntax_uid": one.transfer_syntax_uid,
        "instance_number": number(json, "00200013"),
        "content_date": text(json, "00080023"),
        "content_time": text(json, "00080033"),
        "patient_id": text(json, "00100020"),
        "identity": identities.number(json),
        "frame_count": one.frame_count,
        "digest": one.staged.digest,
        "dataset_digest": one.dataset_digest,
        "size_bytes": one.size_bytes,
        "origin": one.origin.json(),
        "stored": place.now_us,
    }

