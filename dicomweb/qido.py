"""QIDO-RS: rows → DICOM JSON, with what is always returned and what was asked in addition.

DICOM PS3.18 §10.6.3 (response), Tables 10.6.3-3, -4, -5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from dicomweb import attributes, corrections, wado
from dicomweb.attributes import RETURNED, Level
from dicomweb.queries import Path
from dicomweb.query_keys import QidoQuery
from dicomweb.tables import Row
from dicomweb.writes import unpack
from resources.budgets import QIDO_ADDITIONAL
from resources.json import Json

MAX_TOLD = 30
"""Attributes named in one Warning."""


def results(rows: Iterable[Row], query: QidoQuery, path: Path, base: str) -> list[Json]:
    """One DICOM JSON object per row. `base`: URL of /dicom-web."""
    known: dict[bytes, Json] = {}

    def decoded(blob: bytes) -> Json:
        found = known.get(blob)
        if found is None:
            found = known[blob] = unpack(blob)
        return found

    return [_result(row, query, path, wado.root(base, row.study_owner), decoded) for row in rows]


def warnings(query: QidoQuery, more: int) -> list[str]:
    """What a client is told beside the results; `more`: how many there are beyond them."""
    found = []
    if more > 0:
        most = QIDO_ADDITIONAL.value  # nobody needs the number: counting on would look at the whole archive
        told = str(more) if more <= most else f"more than {most}"
        found.append(f"There are {told} additional results that can be requested")
    if query.literal:
        found.append("The fuzzymatching parameter is not supported with wildcards. Only literal matching has been "
                     "performed.")
    missing = [attributes.shown(tag) for tag in query.include if not attributes.is_kept(tag, query.level)]
    if missing:
        level = query.level.name.lower()
        found.append(f"The following includefield values are not kept at {level} level: {','.join(missing[:MAX_TOLD])}")
    return found


def _result(row: Row, query: QidoQuery, path: Path, base: str, decoded: Any) -> Json:
    level = query.level
    source: Json = {}
    wanted: set[str] = set(RETURNED[level])
    if level is Level.INSTANCE:
        source |= orjson.loads(wado.absolute(row.metadata, _url(row, level, base)))
    study_level = level is Level.STUDY or path.study is None
    series_level = level is Level.SERIES or (level is Level.INSTANCE and path.series is None)
    more = bool(query.include) or query.include_all
    if study_level or (more and level is Level.SERIES):  # an instance has the levels above in its own header
        source |= decoded(row.study_attributes)
    if series_level:
        source |= decoded(row.series_attributes)
    if row.study_corrected is not None and (study_level or more or level is Level.INSTANCE):
        source = corrections.over(source, decoded(row.study_corrected))
    wanted |= set(RETURNED[Level.STUDY]) if study_level else set()
    wanted |= set(RETURNED[Level.SERIES]) if series_level else set()
    source |= _computed(row, level, base, study_level=study_level or more)
    wanted |= {"0020000D"} | ({"0020000E"} if level is not Level.STUDY else set())
    source.setdefault("0020000D", {"vr": "UI", "Value": [row.study_study_instance_uid]})
    if level is not Level.STUDY:
        source.setdefault("0020000E", {"vr": "UI", "Value": [row.series_series_instance_uid]})
    wanted |= {key.attribute.path.split(".")[0] for key in query.keys}
    wanted |= {tag for tag in query.include if attributes.is_kept(tag, level)}
    body: Json = {}
    for tag in sorted(source if query.include_all else wanted):
        if tag in source:
            body[tag] = source[tag]
        elif tag in RETURNED[level] or tag in query.include:
            body[tag] = {"vr": attributes.vr_of(tag)}
    return body


def _computed(row: Row, level: Level, base: str, *, study_level: bool) -> Json:
    found: Json = {"00080056": {"vr": "CS", "Value": ["ONLINE"]}}
    if study_level:
        modalities = [code for code in row.study_modalities.split("\\") if code]
        found["00080061"] = {"vr": "CS", "Value": modalities} if modalities else {"vr": "CS"}
        found["00201206"] = {"vr": "IS", "Value": [row.study_series_count]}
        found["00201208"] = {"vr": "IS", "Value": [row.study_instance_count]}
    if level is not Level.STUDY:
        found["00201209"] = {"vr": "IS", "Value": [row.series_instance_count]}
    if level is Level.INSTANCE:
        found["00083002"] = {"vr": "UI", "Value": [row.instance_transfer_syntax_uid]}
    found["00081190"] = {"vr": "UR", "Value": [_url(row, level, base)]}
    return found


def _url(row: Row, level: Level, base: str) -> str:
    url = f"{base}/studies/{row.study_study_instance_uid}"
    if level is not Level.STUDY:
        url += f"/series/{row.series_series_instance_uid}"
    if level is Level.INSTANCE:
        url += f"/instances/{row.instance_sop_instance_uid}"
    return url
