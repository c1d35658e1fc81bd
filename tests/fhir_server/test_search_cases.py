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


def test_a_search_says_that_an_index_is_being_rebuilt(api: Api) -> None:
    """Until it is done, what was stored before may be missing (store.versions.standing)."""
    from sqlalchemy import insert

    from resources.registry import type_id
    from store.reindex import Reindex
    from store.versions.tables import index_rule

    def told(path: str) -> list[str]:
        bundle = api.platform.get(path).get_json()
        outcomes = [e["resource"] for e in bundle.get("entry", []) if e["search"]["mode"] == "outcome"]
        return [issue["code"] for outcome in outcomes for issue in outcome["issue"]]

    asked = ("/fhir/Practitioner", "/fhir/PractitionerRole?practitioner.family=x", "/fhir?_type=Practitioner")
    assert [told(path) for path in asked] == [[], [], []]
    services = api.services
    with services.database.write() as connection:
        connection.execute(insert(index_rule).values(type_id=type_id("Practitioner"), rule=0))
    services.store.standing = type(services.store.standing)()
    assert [told(path) for path in asked] == [["incomplete"]] * 3
    assert told("/fhir/Organization") == []
    Reindex(services.database, ["Practitioner"], base_urls=services.fhir_bases).run(lambda _: None)
    services.store.standing._looked_at -= 6
    assert [told(path) for path in asked] == [[], [], []]
