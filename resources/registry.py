"""One row per resource type: its number, its interactions, and how it reaches a patient.

The numbers are the positions in the sorted list of the 146 concrete R4 types. They are stored in every row of the
database, so they never change: R4 4.0.1 is closed, and a type of another release would be appended by hand.

http://hl7.org/fhir/R4/resourcelist.html, http://hl7.org/fhir/R4/compartmentdefinition-patient.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resources import definitions, interactions
from resources.interactions import Interaction
from resources.json import Json

READ = interactions.of_type(writes=False)
WRITE = interactions.of_type(writes=True)
"""Codes of http://hl7.org/fhir/R4/valueset-type-restful-interaction.html"""

_READ_ONLY = frozenset({"AuditEvent"})
"""Written by the server alone: nobody alters the record of what was done (DESIGN §7)."""

_BEYOND_THE_COMPARTMENT = {"Task": ("patient",)}
"""Types that name a patient although R4 leaves them out of the Patient compartment. A Task carries its patient in
`Task.for`; an access to it concerns that patient, so its audit record must say so."""

_DATES = ("date", "authored", "authored-on", "started", "issued", "sent", "recorded", "created", "period")
"""Codes of the parameter that says when the thing happened, the first that a type has."""


@dataclass(frozen=True, slots=True)
class ResourceType:
    """What the server knows about a type, before its own rules."""

    name: str
    id: int
    """Fixed for ever; 1 is the first."""
    interactions: frozenset[Interaction]
    patient_params: tuple[str, ...]
    """Search parameters that put it into a Patient compartment."""
    patient_paths: tuple[tuple[str, ...], ...]
    """The same as element paths below the resource, to a Reference."""
    date_param: str | None
    """The date parameter that best says when it happened."""


def type_id(name: str) -> int:
    """The number of a type; KeyError for what is no R4 type."""
    return TYPES[name].id


def type_name(number: int) -> str:
    """The type with this number; KeyError if there is none."""
    return _NAMES[number]


def is_type(name: object) -> bool:
    """Whether this is a concrete R4 resource type."""
    return isinstance(name, str) and name in TYPES


_PATIENT = re.compile(r"Patient/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")


def patients_of(type_name: str, resource: Json, base_urls: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The patients in whose compartment a resource is, as ``Patient/x``, each once; a Patient is in its own.

    Literal references count, relative or below one of `base_urls`; logical and contained ones do not.
    """
    found: dict[str, None] = {}
    if type_name == "Patient" and isinstance(resource.get("id"), str):
        found["Patient/" + resource["id"]] = None
    for path in TYPES[type_name].patient_paths:
        for holder in _values(resource, path):
            text = holder.get("reference") if isinstance(holder, dict) else None
            if isinstance(text, str):
                match = _PATIENT.fullmatch(_relative(text, base_urls))
                if match:
                    found["Patient/" + match[1]] = None
    return tuple(found)


def _relative(text: str, base_urls: tuple[str, ...]) -> str:
    for base in base_urls:
        if text.startswith(base):
            return text[len(base) :].lstrip("/")
    return text


def _values(node: Any, path: tuple[str, ...]) -> Iterator[Any]:
    if isinstance(node, list):
        for item in node:
            yield from _values(item, path)
    elif not path:
        yield node
    elif isinstance(node, dict) and path[0] in node:
        yield from _values(node[path[0]], path[1:])


def _build() -> dict[str, ResourceType]:
    names = sorted(row.name for row in definitions.types().values() if row.kind == "resource" and not row.abstract)
    by_type = _parameters_by_type(names)
    compartment = definitions.compartments()["Patient"]
    rows = {}
    for number, name in enumerate(names, start=1):
        codes = tuple(code for code in compartment.get(name, ()) if code != "{def}")
        codes += _BEYOND_THE_COMPARTMENT.get(name, ())
        dates = (code for code in _DATES if by_type[name].get(code, {}).get("type") == "date")
        rows[name] = ResourceType(
            name=name,
            id=number,
            interactions=READ if name in _READ_ONLY else READ | WRITE,
            patient_params=codes,
            patient_paths=tuple(
                dict.fromkeys(path for code in codes for path in _paths(name, by_type[name][code]["expression"]))
            ),
            date_param=next(dates, None),
        )
    return rows


def _parameters_by_type(names: list[str]) -> dict[str, dict[str, Json]]:
    found: dict[str, dict[str, Json]] = {name: {} for name in names}
    for row in definitions.search_parameters():
        for base in row["base"]:
            if base in found:
                found[base][row["code"]] = row
    return found


def _paths(name: str, expression: str) -> Iterator[tuple[str, ...]]:
    """The alternatives of an expression that begin at this type.

    The compartment's expressions have one shape, a plain path, with or without `.where(resolve() is Patient)`; that
    the reference is to a Patient is asked of every one.
    """
    for alternative in expression.split("|"):
        head, *path = alternative.strip().removesuffix(".where(resolve() is Patient)").split(".")
        if head == name:
            if not path or not all(part.isalpha() for part in path):
                raise ValueError(f"Not a plain path: {alternative}")
            yield tuple(path)


TYPES: Mapping[str, ResourceType] = _build()
_NAMES = {row.id: row.name for row in TYPES.values()}
