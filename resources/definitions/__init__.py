"""The standard's own definitions as compact tables, for all R4 types.

`scripts/derive_definitions.py` writes the JSON beside this file from hl7.fhir.r4.core 4.0.1; nothing here is typed by
hand. Each table is read on first use and kept; callers must not change what they are given.

http://hl7.org/fhir/R4/downloads.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_FOLDER = Path(__file__).parent


def _read(name: str) -> Any:
    return json.loads((_FOLDER / name).read_text(encoding="utf-8"))


@cache
def search_parameters() -> list[Json]:
    """The 1375 official SearchParameters: id, code, type, base, and where given expression, target, component.

    A component is `{"definition": id of a parameter, "expression": path}`. `Resource` and `DomainResource` are bases
    of the common ones. http://hl7.org/fhir/R4/searchparameter-registry.html
    """
    rows: list[Json] = _read("search_parameters.json")
    return rows


@cache
def compartments() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Compartment (`Patient`, `Encounter`, …) → type → codes of the parameters that put a resource into it.

    The code `{def}` stands for the resource itself. http://hl7.org/fhir/R4/compartmentdefinition.html
    """
    return {
        row["code"]: {name: tuple(codes) for name, codes in row["members"].items()}
        for row in _read("compartments.json")
    }
