"""What may be asked in the query of each DICOMweb route: one marshmallow schema for each kind of route.

A parameter that is not declared is refused, as is one that is given twice where it has one meaning. What is declared
changes the answer, or a ``Warning`` header says that it does not. The names of query attributes (`attributes.KEYS`) are
declared by level. A test walks every route with every parameter of its schema, by the values under ``metadata``, and
docs/dicom-conformance.md holds the table that `table` makes.

PS3.18 §8.3 (query parameters)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from marshmallow import Schema, fields
from werkzeug.datastructures import MultiDict

from dicomweb import attributes, pictures
from dicomweb.attributes import Level
from resources.budgets import PARAMETERS, QIDO_RESULTS
from resources.outcomes import BadRequest

_SHOWN = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_MEDIA_RANGE = re.compile(r"\s*[\w!#$&^.+*-]+/[\w!#$&^.+*-]+\s*(?:;.*)?", re.ASCII | re.DOTALL)
_UTF_8 = re.compile(r"(?:.*,)?\s*utf-?8\s*(?:;.*)?(?:,.*)?", re.IGNORECASE | re.DOTALL)


class Parameter(fields.Field[Any]):
    """A parameter that is given once, or as often as one likes where `repeats`, and read by a function of its text.

    `valid`, `invalid`: a value of each sort. `says`: what it is, for the conformance statement.
    """

    def __init__(
        self, read: Callable[[str], Any], says: str, *, valid: str, invalid: str, clause: str, repeats: bool = False,
        default: Any = None,
    ) -> None:
        more = {"says": says, "valid": valid, "invalid": invalid, "clause": clause}
        super().__init__(load_default=() if repeats else default, metadata=more)
        self.read, self.repeats = read, repeats

    def _deserialize(self, value: list[str], attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if self.repeats:
            return tuple(self.read(one) for one in value)
        if len(value) > 1:
            raise BadRequest(f"{attr} is given more than once")
        return self.read(value[0])


def _media_ranges(text: str) -> str:
    if not _MEDIA_RANGE.fullmatch(text):
        raise BadRequest("accept is not a list of media types (PS3.18 §8.3.3.1)")
    return text


def _charset(text: str) -> str:
    if not _UTF_8.fullmatch(text):
        raise BadRequest("charset: answers are in UTF-8 (PS3.18 §8.3.3.2)")
    return "utf-8"


def _flag(name: str) -> Callable[[str], bool]:
    def read(text: str) -> bool:
        if text not in {"true", "false"}:
            raise BadRequest(f"{name} is true or false (PS3.18 §8.3.4)")
        return text == "true"

    return read


def _count(name: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise BadRequest(f"{name} is not an unsigned integer (PS3.18 §8.3.4.4)")
        return int(text)

    return read


def included(text: str) -> tuple[str, ...]:
    """The tags of an includefield list, or ``all`` (§8.3.4.3)."""
    found = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        path = name if name == "all" else attributes.path_of(name)
        if path is None:
            raise BadRequest("includefield names an attribute that is not in the data dictionary")
        found.append(path.split(".")[0])
    return tuple(found)


class Negotiated(Schema):
    """On every route (§8.3.3)."""

    accept = Parameter(
        _media_ranges, "media types, in place of the header Accept", valid="*/*", invalid="nothing", clause="§8.3.3.1",
        repeats=True,
    )
    charset = Parameter(
        _charset, "a list with `utf-8` in it", valid="utf-8", invalid="iso-8859-1", clause="§8.3.3.2"
    )


class Searched(Negotiated):
    """QIDO-RS, beside the query keys of its level (§8.3.4)."""

    includefield = Parameter(
        included, "attributes in addition, or `all`; with a Warning for what is not kept at the level",
        valid="PatientName,00080050", invalid="NoSuchKeyword", clause="§8.3.4.3", repeats=True,
    )
    limit = Parameter(
        _count("limit"), f"results in one answer, at most {QIDO_RESULTS.value:,}", valid="10", invalid="-1",
        clause="§8.3.4.4",
    )
    offset = Parameter(
        _count("offset"), "results to skip", valid="0", invalid="1.5", clause="§8.3.4.4", default=0
    )
    fuzzymatching = Parameter(
        _flag("fuzzymatching"), "person names by the beginnings of their components; a value with wildcards is matched "
        "as it stands, with a Warning", valid="true", invalid="maybe", clause="§8.3.4.2", default=False,
    )
    emptyvaluematching = Parameter(
        _flag("emptyvaluematching"), 'whether `""` finds what has no value', valid="true", invalid="1",
        clause="§8.3.4", default=False,
    )
    multiplevaluematching = Parameter(
        _flag("multiplevaluematching"), "`false` refuses several values with `\\` but for UIDs and modalities",
        valid="true", invalid="1", clause="§8.3.4", default=True,
    )


class Described(Negotiated):
    """Metadata (§10.4.1.1.2)."""

    includefield = Parameter(
        included, "these attributes and the UIDs alone, or `all`", valid="PatientName,00080050",
        invalid="NoSuchKeyword", clause="§8.3.4.3", repeats=True,
    )


class Rendered(Negotiated):
    """Pictures (§8.3.5.1)."""

    annotation = Parameter(
        pictures.annotation, "`patient`, `technique`: not burned in, with a Warning", valid="patient,technique",
        invalid="foo", clause="§8.3.5.1.1", default=(),
    )
    quality = Parameter(
        pictures.quality, "1 to 100, for JPEG; with a Warning for others", valid="50", invalid="0", clause="§8.3.5.1.2"
    )
    viewport = Parameter(
        pictures.viewport, "`width,height` or `width,height,x,y,width,height`", valid="8,8,0,0,8,8", invalid="8",
        clause="§8.3.5.1.3",
    )
    window = Parameter(
        pictures.window, "`centre,width,linear` or `linear-exact` or `sigmoid`", valid="40,80,linear",
        invalid="40,80", clause="§8.3.5.1.4",
    )
    iccprofile = Parameter(
        pictures.icc_profile, "`no`; pictures have no profile", valid="no", invalid="yes", clause="§8.3.5.1.5"
    )


class Thumbnail(Negotiated):
    """Small pictures (§8.3.5.2)."""

    viewport = Parameter(
        pictures.thumbnail_viewport, "`width,height`", valid="8,8", invalid="8,8,0,0,8,8", clause="§8.3.5.2"
    )


@dataclass(frozen=True, slots=True)
class Declared:
    """The parameters of one kind of route; `keys`: the level whose query attributes are parameters too."""

    title: str
    schema: Schema
    keys: Level | None = None


# By the name of the view, which is also what the log and the metrics call the kind of route.
DECLARED: Mapping[str, Declared] = {
    "store": Declared("STOW-RS", Negotiated()),
    "search_studies": Declared("QIDO-RS studies", Searched(), Level.STUDY),
    "search_series": Declared("QIDO-RS series", Searched(), Level.SERIES),
    "search_instances": Declared("QIDO-RS instances", Searched(), Level.INSTANCE),
    "retrieve": Declared("WADO-RS study, series, instance", Negotiated()),
    "metadata": Declared("WADO-RS metadata", Described()),
    "frames": Declared("WADO-RS frames", Negotiated()),
    "bulkdata": Declared("WADO-RS bulk data", Negotiated()),
    "rendered": Declared("WADO-RS rendered", Rendered()),
    "thumbnail": Declared("WADO-RS thumbnail", Thumbnail()),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """The parameters of one request, read."""

    values: Mapping[str, Any]
    """By name: all that its schema declares."""
    keys: tuple[tuple[str, str], ...] = ()
    """The others: names and values of query attributes, not read yet (`query_keys`)."""

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


def read(view: str, sent: MultiDict[str, str]) -> Asked:
    """What a request to this view asks. BadRequest for what is not declared, or cannot be read."""
    declared = DECLARED[view]
    if not sent:
        return Asked(_DEFAULTS[view])
    PARAMETERS.check(sum(len(values) for values in sent.listvalues()))
    own: dict[str, list[str]] = {}
    keys: list[tuple[str, str]] = []
    for name, values in sent.lists():
        if name.lower() in declared.schema.fields:
            own[name.lower()] = own.get(name.lower(), []) + values
        elif declared.keys is not None:
            keys += [(name, value) for value in values if name]  # Weasis begins its query with "?&"
        elif name:
            raise BadRequest(f"{shown(name)} is not defined here", code="not-supported")
    return Asked(declared.schema.load(own), tuple(keys))


_DEFAULTS: Mapping[str, Mapping[str, Any]] = {view: one.schema.load({}) for view, one in DECLARED.items()}


def shown(name: str) -> str:
    """How a parameter that a client named is named to it."""
    return f"The parameter {name}" if _SHOWN.fullmatch(name) else "A parameter"


def table() -> str:
    """The parameters of every kind of route, as the conformance statement has them."""
    routes: dict[tuple[str, str, str], list[str]] = {}
    for one in DECLARED.values():
        for name, parameter in sorted(one.schema.fields.items()):
            says = parameter.metadata["says"]
            if isinstance(parameter, Parameter) and parameter.repeats:
                says += "; repeatable"
            routes.setdefault((f"`{name}`", says, parameter.metadata["clause"]), []).append(one.title)
    for level in Level:
        known = ", ".join(attributes.shown(key.path) for key in attributes.KEYS.values() if key.level is level)
        titles = [one.title for one in DECLARED.values() if one.keys is not None and one.keys >= level]
        routes[known, "to be matched; by keyword or tag, each once", "§8.3.4.1"] = titles
    rows = ["| parameter | value | routes | PS3.18 |", "|---|---|---|---|"]
    for (name, says, clause), titles in routes.items():
        where = "all" if len(titles) == len(DECLARED) else ", ".join(titles)
        rows.append(f"| {name} | {says} | {where} | {clause} |")
    return "\n".join(rows)
