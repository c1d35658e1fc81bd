"""Images that are taken back: by a rejection note (IHE RAD IOCM), by `$reject`, by the status of their ImagingStudy.

Rejected instances stay stored and are given by no door: each row says so, every statement that gives images asks for
it. What a study and a series say is then made anew from what is left. A rejection holds for the instances that are
there and, by UID, for those that a note names before they come; of a rejected series it holds for what is still to
come. A new series is a new acquisition and is shown.

IHE RAD TF-1 §36 (IOCM), DICOM PS3.16 CID 7011, PS3.3 §C.17.6.2 (key object documents), PS3.18 §10.4.3
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import orjson
from sqlalchemy import Connection, func, select, update

from dicomweb import corrections, writes
from dicomweb.notes import KEY_OBJECTS, Note
from dicomweb.tables import Row, dicom_header, dicom_instance, dicom_series, dicom_study, image_rejection
from resources.json import Json

_AT_ONCE = 500


def follow(connection: Connection, owner_id: int, note: Note, itself: tuple[str, str]) -> set[str]:
    """Carry out a rejection note of a hospital: what it names, and itself (study and SOP Instance UID), is shown no
    more. What it names and is not there yet will not be shown when it comes. Returns the studies concerned."""
    concerned = set()
    named = {uid for uids in note.studies.values() for uid in uids}
    writes.insert_or_nothing(
        connection, image_rejection,
        [{"owner_id": owner_id, "sop_instance_uid": uid, "code": note.code} for uid in sorted(named)],
    )
    for uid in sorted({*note.studies, itself[0]}):
        study = writes.lock_study(connection, owner_id, uid)
        if study is not None:
            uids = {*note.studies.get(uid, ()), *([itself[1]] if uid == itself[0] else [])}
            hide(connection, study, note.code, instances=uids)
            concerned.add(uid)
    return concerned


def announced(connection: Connection, owner_id: int, uids: Iterable[str]) -> dict[str, int]:
    """SOP Instance UID → code, of those that were rejected before they came."""
    found: dict[str, int] = {}
    wanted = sorted(uids)
    table = image_rejection.c
    for start in range(0, len(wanted), _AT_ONCE):
        some = table.sop_instance_uid.in_(wanted[start : start + _AT_ONCE])
        rows = connection.execute(select(table.sop_instance_uid, table.code).where(table.owner_id == owner_id, some))
        found.update((row[0], row[1]) for row in rows)
    return found


def hide(
    connection: Connection, study: Row, code: int, *, series: Iterable[str] | None = None,
    instances: Iterable[str] | None = None,
) -> int:
    """Reject a (locked) study as it is, some series, or some instances; how many instances were shown until now."""
    table, of_series = dicom_instance, dicom_series
    shown = [table.c.study_pk == study.pk, table.c.rejected == 0]
    if instances is not None:
        count = 0
        wanted = sorted(instances)
        for start in range(0, len(wanted), _AT_ONCE):
            some = table.c.sop_instance_uid.in_(wanted[start : start + _AT_ONCE])
            count += connection.execute(update(table).where(*shown, some).values(rejected=code)).rowcount
    else:
        chosen = [of_series.c.study_pk == study.pk]
        if series is not None:
            chosen.append(of_series.c.series_instance_uid.in_(sorted(series)))
        connection.execute(update(of_series).where(*chosen, of_series.c.rejected == 0).values(rejected=code))
        pks = select(of_series.c.pk).where(*chosen)
        hers = table.c.series_pk.in_(pks)
        count = connection.execute(update(table).where(*shown, hers).values(rejected=code)).rowcount
    if count:
        refresh(connection, study, code)
    return count


def show(connection: Connection, study: Row) -> int:
    """Take the rejections of a (locked) study back; how many instances are shown again."""
    table = dicom_instance
    hidden = [table.c.study_pk == study.pk, table.c.rejected != 0]
    uids = [row[0] for row in connection.execute(select(table.c.sop_instance_uid).where(*hidden))]
    for start in range(0, len(uids), _AT_ONCE):
        some = image_rejection.c.sop_instance_uid.in_(uids[start : start + _AT_ONCE])
        connection.execute(image_rejection.delete().where(image_rejection.c.owner_id == study.owner_id, some))
    notes = table.c.sop_class_uid == KEY_OBJECTS  # a rejection note is never shown
    count = connection.execute(update(table).where(*hidden, ~notes).values(rejected=0)).rowcount
    connection.execute(update(dicom_series).where(dicom_series.c.study_pk == study.pk).values(rejected=0))
    refresh(connection, study, study.rejected)
    return count


def refresh(connection: Connection, study: Row, code: int = 0) -> None:
    """Make what study and series say from the instances that are shown; `code`: why, if none is left."""
    item = dicom_instance.c
    counted = connection.execute(
        select(item.series_pk, func.count(), func.min(item.sop_instance_uid))
        .where(item.study_pk == study.pk, item.rejected == 0)
        .group_by(item.series_pk)
    ).all()
    left = {row[0]: (int(row[1]), str(row[2])) for row in counted}
    modalities: set[str] = set()
    for series in writes.series_of(connection, study.pk):
        count, least = left.get(series.pk, (0, ""))
        values: Json = {"instance_count": count, "revision": series.revision + 1}
        if least and least != series.representative:
            values |= corrections.series_values(least, header(connection, study.pk, least))
        writes.set_row(connection, dicom_series, series.pk, values)
        if count:
            modalities |= {one for one in str(values.get("modality", series.modality)).split("\\") if one}
    total = sum(count for count, _ in left.values())
    values = {
        "series_count": len(left), "instance_count": total, "revision": study.revision + 1,
        "rejected": 0 if total else code,
    }
    if total:
        values["modalities"] = "\\".join(sorted(modalities))
        least = min(uid for _, uid in left.values())
        if least != study.representative:
            values |= corrections.study_values(least, header(connection, study.pk, least), study.corrected)
    writes.set_row(connection, dicom_study, study.pk, values)


def header(connection: Connection, study_pk: int, uid: str) -> Json:
    """The header of one instance of a study, as stored."""
    item = dicom_instance.c
    blob = connection.execute(
        select(dicom_header.c.metadata)
        .join_from(dicom_header, dicom_instance, item.pk == dicom_header.c.instance_pk)
        .where(item.study_pk == study_pk, item.sop_instance_uid == uid)
    ).scalar_one()
    found: Json = orjson.loads(zlib.decompress(blob))
    return found


def born_rejected(connection: Connection, study: Row, uids: Sequence[tuple[str, int]]) -> dict[str, int]:
    """SOP Instance UID → code of new instances (with their series' code) that are never shown."""
    found = announced(connection, study.owner_id, [uid for uid, _ in uids])
    return {**{uid: code for uid, code in uids if code}, **found}
