"""Searches by date, string and token as another server's suite states them, where the standard's answer is known.

FHIR R4 §3.1.1 http://hl7.org/fhir/R4/search.html
The cases are ../shared/fhir/search-cases (microsoft/fhir-server, MIT).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resources.indexing import extract
from resources.matching import matches
from resources.outcomes import BadRequest
from resources.search import parse

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "fhir" / "search-cases"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the shared search cases are not on this machine")


def _cases() -> list[Any]:
    if not CASES.is_dir():
        return []
    found = []
    for file in sorted(CASES.glob("*.json")):
        text = json.loads(file.read_text(encoding="utf-8"))
        found += [pytest.param(text, case, id=f"{file.stem}: {case['query'][:60]}") for case in text["cases"]]
    return found


def _parameters(query: str) -> list[tuple[str, str]]:
    """The cases are written plainly, not percent-encoded."""
    return [(name, value) for name, _, value in (part.partition("=") for part in query.split("&"))]


@pytest.mark.parametrize(("suite", "case"), _cases())
def test_a_search_finds_what_the_standard_says(suite: dict[str, Any], case: dict[str, Any]) -> None:
    """R4 §3.1.1.4.4 (prefixes), §3.1.1.5.9 (string), §3.1.1.5.11 (token)."""
    type_name = suite["resourceType"]
    if case.get("expect_status") == 400:
        with pytest.raises(BadRequest):
            parse(type_name, _parameters(case["query"]))
        return
    query = parse(type_name, _parameters(case["query"]))
    found = [
        number
        for number, resource in enumerate(suite["fixture"])
        if matches(query.criteria, type_name, str(number), None, extract(type_name, resource))
    ]
    assert found == case.get("r4_expect", case["expect"])
