"""Which attributes are kept at which level, which can be matched and how, which are always returned: one table.

PS3.18 Tables 10.6.1-5 (query keys), 10.6.3-3/4/5 (returned attributes); PS3.4 §C.2.2.2 (matching), §C.6.2 (levels).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import lru_cache

from pydicom.datadict import keyword_for_tag, tag_for_keyword

from dicomweb.reader import dictionary_vr
from resources.json import Json
from resources.strings import normalise


class Level(IntEnum):
    """The levels of the information model (PS3.4 §C.6)."""

    STUDY = 1
    SERIES = 2
    INSTANCE = 3


class Match(StrEnum):
    """How a query key is matched (PS3.4 §C.2.2.2)."""

    UID = "uid"
    """List of UID matching."""
    TEXT = "text"
    """Single value and wildcard matching, case-sensitive."""
    NAME = "name"
    """As TEXT, without case and accents, on any component group of a person name."""
    DATE = "date"
    TIME = "time"
    NUMBER = "number"
    MODALITIES = "modalities"
    """A study matches when one of its series does."""
    SOP_CLASSES = "sop-classes"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a search or a result, and where it is kept."""

    path: str
    """Tag as eight hexadecimal digits; several with dots for an attribute inside a sequence."""
    level: Level
    match: Match
    column: str


_KEYS = (
    Attribute("0020000D", Level.STUDY, Match.UID, "study_instance_uid"),
    Attribute("00080020", Level.STUDY, Match.DATE, "study_date"),
    Attribute("00080030", Level.STUDY, Match.TIME, "study_time"),
    Attribute("00080050", Level.STUDY, Match.TEXT, "accession_number"),
    Attribute("00080061", Level.STUDY, Match.MODALITIES, ""),
    Attribute("00080062", Level.STUDY, Match.SOP_CLASSES, ""),
    Attribute("00080090", Level.STUDY, Match.NAME, "referring_physician_name"),
    Attribute("00081030", Level.STUDY, Match.TEXT, "study_description"),
    Attribute("00100010", Level.STUDY, Match.NAME, "patient_name"),
    Attribute("00100020", Level.STUDY, Match.TEXT, "patient_id"),
    Attribute("00100021", Level.STUDY, Match.TEXT, "issuer_of_patient_id"),
    Attribute("00100030", Level.STUDY, Match.DATE, "patient_birth_date"),
    Attribute("00100040", Level.STUDY, Match.TEXT, "patient_sex"),
    Attribute("00200010", Level.STUDY, Match.TEXT, "study_id"),
    Attribute("0020000E", Level.SERIES, Match.UID, "series_instance_uid"),
    Attribute("00080060", Level.SERIES, Match.TEXT, "modality"),
    Attribute("00080021", Level.SERIES, Match.DATE, "series_date"),
    Attribute("00080031", Level.SERIES, Match.TIME, "series_time"),
    Attribute("0008103E", Level.SERIES, Match.TEXT, "series_description"),
    Attribute("00081010", Level.SERIES, Match.TEXT, "station_name"),
    Attribute("00180015", Level.SERIES, Match.TEXT, "body_part_examined"),
    Attribute("00200011", Level.SERIES, Match.NUMBER, "series_number"),
    Attribute("00400244", Level.SERIES, Match.DATE, "performed_procedure_step_start_date"),
    Attribute("00400245", Level.SERIES, Match.TIME, "performed_procedure_step_start_time"),
    Attribute("00400275.00400009", Level.SERIES, Match.TEXT, "scheduled_procedure_step_id"),
    Attribute("00400275.00401001", Level.SERIES, Match.TEXT, "requested_procedure_id"),
    Attribute("00080018", Level.INSTANCE, Match.UID, "sop_instance_uid"),
    Attribute("00080016", Level.INSTANCE, Match.UID, "sop_class_uid"),
    Attribute("00080023", Level.INSTANCE, Match.DATE, "content_date"),
    Attribute("00080033", Level.INSTANCE, Match.TIME, "content_time"),
    Attribute("00200013", Level.INSTANCE, Match.NUMBER, "instance_number"),
)
KEYS: Mapping[str, Attribute] = {attribute.path: attribute for attribute in _KEYS}

OF_STUDY = (
    "00080005", "00080020", "00080030", "00080050", "00080051", "00080090", "00080201", "00081030", "00081032",
    "00081060", "00081080", "00100010", "00100020", "00100021", "00100022", "00100024", "00100030", "00100032",
    "00100040", "00101010", "00101020", "00101030", "00102160", "001021B0", "00104000", "0020000D", "00200010",
)
"""Patient, study and patient study attributes that the study row keeps."""

OF_SERIES = (
    "00080021", "00080031", "00080060", "00080070", "00080080", "00081010", "0008103E", "00081040", "00081050",
    "00081070", "00081090", "00081111", "00180015", "00181030", "00185100", "0020000E", "00200011", "00200052",
    "00200060", "00400244", "00400245", "00400253", "00400254", "00400275",
)

RETURNED: Mapping[Level, tuple[str, ...]] = {
    Level.STUDY: (
        "00080020", "00080030", "00080050", "00080056", "00080061", "00080090", "00080201", "00081030", "00081190",
        "00100010", "00100020", "00100021", "00100030", "00100040", "0020000D", "00200010", "00201206", "00201208",
    ),
    Level.SERIES: (
        "00080060", "00080201", "0008103E", "00081190", "0020000E", "00200011", "00201209", "00400244", "00400245",
        "00400275",
    ),
    Level.INSTANCE: (
        "00080016", "00080018", "00080056", "00080201", "00081190", "00083002", "00200013", "00280008", "00280010",
        "00280011", "00280100",
    ),
}
"""Always in the answer, without value where the instance has none (Tables 10.6.3-3, -4, -5)."""

COMPUTED: Mapping[str, str] = {
    "00080056": "CS", "00080061": "CS", "00081190": "UR", "00083002": "UI", "00201206": "IS", "00201208": "IS",
    "00201209": "IS",
}
"""What the server adds, and its VR."""


@lru_cache(maxsize=4096)
def path_of(name: str) -> str | None:
    """The path of an attribute named by keyword, tag or dotted path (PS3.18 §8.3.4.1); None where it is none."""
    parts = []
    for part in name.split("."):
        if len(part) == 8 and all(character in "0123456789abcdefABCDEF" for character in part):
            tag = int(part, 16)
            if not (tag >> 16) % 2 and not keyword_for_tag(tag):
                return None
            parts.append(part.upper())
            continue
        found = tag_for_keyword(part)
        if found is None:
            return None
        parts.append(f"{found:08X}")
    return ".".join(parts)


def shown(path: str) -> str:
    """A path by keywords, for people."""
    return ".".join(keyword_for_tag(int(tag, 16)) or tag for tag in path.split("."))


def is_kept(tag: str, level: Level) -> bool:
    """Whether a value of this attribute can be given at this level: instances keep their whole header."""
    if level is Level.INSTANCE:
        return True
    if tag in OF_STUDY or tag in RETURNED[Level.STUDY]:
        return True
    return level is Level.SERIES and (tag in OF_SERIES or tag in RETURNED[Level.SERIES])


def vr_of(tag: str) -> str:
    """VR of a standard attribute, for an element without value."""
    vr = COMPUTED.get(tag) or dictionary_vr(int(tag, 16))
    return vr.split(" or ")[0]


def pick(json: Json, tags: tuple[str, ...]) -> Json:
    """These attributes of a data set, where they are."""
    return {tag: json[tag] for tag in tags if tag in json}


def text(json: Json, tag: str) -> str:
    """All values of a text attribute, joined as DICOM joins them; empty where there is none."""
    values = json.get(tag, {}).get("Value") or []
    joined = "\\".join(str(value) for value in values if value is not None and not isinstance(value, dict))
    return joined.replace("\0", "")  # no database text holds NUL


def number(json: Json, tag: str) -> int | None:
    """The first value as a whole number of 32 bits; None where there is none."""
    values = json.get(tag, {}).get("Value") or [None]
    return values[0] if isinstance(values[0], int) and abs(values[0]) < 2**31 else None


def name_key(value: str) -> str:
    """One component group of a name, as it is compared: no case, no accents, no trailing delimiters."""
    return normalise(value).replace("\0", "").rstrip("^ ")


def names(json: Json, tag: str) -> str:
    """The component groups of all names of an attribute, each between ``=``: matched on any of them."""
    groups = [
        name_key(group)
        for value in json.get(tag, {}).get("Value") or []
        if isinstance(value, dict)
        for group in value.values()
    ]
    return "=" + "=".join(groups) + "=" if groups else ""
