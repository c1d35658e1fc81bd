"""What the instances of a study say of their patient and order: each different saying once, however many instances."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import orjson
from sqlalchemy import Connection, select

from dicomweb import attributes
from dicomweb.matching import IDENTITY
from dicomweb.tables import Row, dicom_identity, dicom_instance
from dicomweb.writes import insert_or_nothing, pack, unpack
from resources.json import Json


def number(json: Json) -> int:
    """The number of what an instance says: the same for the same words, never 0."""
    said = orjson.dumps(attributes.pick(json, IDENTITY), option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(blake2b(said, digest_size=8).digest(), signed=True) or 1


def keep(connection: Connection, study_pk: int, headers: Iterable[Json]) -> None:
    """Keep what new instances say."""
    said = {number(json): attributes.pick(json, IDENTITY) for json in headers}
    insert_or_nothing(
        connection,
        dicom_identity,
        [{"study_pk": study_pk, "number": key, "said": pack(value)} for key, value in sorted(said.items())],
    )


def of_study(connection: Connection, study: Row) -> list[tuple[int, Json]]:
    """What the instances of a study that are shown say, with its number; that of the study's representative first."""
    instance, identity = dicom_instance.c, dicom_identity.c
    every = select(instance.identity, instance.patient_id).where(instance.study_pk == study.pk).distinct()
    # Of a study that was rejected wholly, what was said: so it still answers the order that it was rejected for.
    told = connection.execute(every.where(instance.rejected == 0)).all() or connection.execute(every).all()
    numbers = sorted({row.identity for row in told} - {0})
    found = connection.execute(
        select(identity.number, identity.said).where(identity.study_pk == study.pk, identity.number.in_(numbers))
    ).all()
    said = [(row.number, unpack(row.said)) for row in found]
    whole = attributes.pick(unpack(study.attributes), IDENTITY)
    # Stored before this was kept: the study's own words, with the instance's PatientID.
    earlier = [row.patient_id for row in told if row.identity == 0]
    said += [(0, {**whole, "00100020": {"vr": "LO", "Value": [value]}}) for value in earlier]
    return sorted(said, key=lambda one: (one[1] != whole, orjson.dumps(one[1], option=orjson.OPT_SORT_KEYS)))
