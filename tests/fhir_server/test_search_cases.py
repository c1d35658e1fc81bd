"""Search cases of microsoft/fhir-server over HTTP; `r4_expect` is the standard's answer where it differs.

R4 §3.1.1 http://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import json
import uuid
from urllib.parse import quote, urlencode

import pytest

from tests.fhir_server.conftest import Api, shared


def _encoded(query: str) -> str:
    pairs = [pair.partition("=") for pair in query.split("&")]
    return "&".join(f"{quote(name, safe=':._')}={quote(value, safe='')}" for name, _, value in pairs)


@pytest.mark.parametrize("kind", ["date", "string", "token"])
def test_each_case_finds_what_the_standard_says(api: Api, kind: str) -> None:
    cases = json.loads((shared("fhir", "search-cases") / f"{kind}.json").read_text(encoding="utf-8"))
    tag = uuid.uuid4().hex
    ids = []
    for resource in cases["fixture"]:
        text = json.dumps(resource).replace("{tag}", tag)
        ids.append(api.hospital_a.create(json.loads(text))["id"])
    faults = []
    for case in cases["cases"]:
        mine = urlencode({"_tag": f"http://e2e-test|{tag}"})
        if "expect_status" in case:
            answer = api.hospital_a.get(f"{cases['resourceType']}?{mine}&{_encoded(case['query'])}")
            if answer.status_code != case["expect_status"]:
                faults.append((case["query"], answer.status_code, case["expect_status"]))
            continue
        wanted = case.get("r4_expect", case.get("expect"))
        found = api.hospital_a.found(f"{cases['resourceType']}?{mine}&{_encoded(case['query'])}")
        numbers = sorted(ids.index(one["id"]) for one in found)
        if numbers != sorted(wanted):
            faults.append((case["query"], numbers, sorted(wanted)))
    assert not faults, "\n".join(map(str, faults))
