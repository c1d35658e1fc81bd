"""Resources written by others: the valid ones come back as sent, the invalid ones are refused where they are wrong.

The official examples refer to one another and to what was left out, so the deployment's references are lenient here
(DESIGN §5). R4 §2.6.2 http://hl7.org/fhir/R4/json.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from resources.json import Json
from tests.fhir_server.conftest import Api, shared

_NOT_FOR_CLIENTS = {"AuditEvent": 405}
"""AuditEvents are the server's alone (DESIGN §7): a client's is refused, however valid."""

_REFUSED_WITH_REASON = {
    "Observation-clinical-gender.json": "its performer is an Encounter, no allowed target; its index says so",
    "candle-Subscription-encounter-complete.json": "a topic of another server: Backport SHALL reject unknown topics",
}


class Digits(str):
    """A JSON number by its text: 1.50 is not 1.5."""


def exact(text: str | bytes) -> Any:
    return json.loads(text, parse_float=Digits, parse_int=Digits)


@pytest.fixture
def lenient(make_api: Callable[..., Api]) -> Api:
    return make_api(references="lenient")


def _index(folder: Path) -> Iterator[Json]:
    yield from json.loads((folder / "index.json").read_text(encoding="utf-8"))["entries"]


def test_valid_examples_are_accepted_and_read_back_as_sent(lenient: Api) -> None:
    """R4 §2.6.2: nothing is lost; decimals keep their digits (datatypes.html#decimal)."""
    folder = shared("fhir", "examples-valid")
    faults = []
    for entry in _index(folder):
        sent = (folder / entry["file"]).read_bytes()
        resource = exact(sent)
        path = f"{resource['resourceType']}/{resource['id']}" if "id" in resource else resource["resourceType"]
        answer = lenient.admin.ask("PUT" if "id" in resource else "POST", path, sent, Accept="application/fhir+json")
        expected = _NOT_FOR_CLIENTS.get(resource["resourceType"], 201)
        if entry["file"] in _REFUSED_WITH_REASON:
            expected = 422
        if answer.status_code not in (expected, 200):
            faults.append((entry["file"], answer.status_code, answer.get_data(as_text=True)[:300]))
            continue
        if expected == 201:
            stored = answer.headers["Location"].split("/fhir/")[1].split("/_history")[0]
            back = exact(lenient.admin.get(stored, Accept="application/fhir+json").get_data())
            if _content(back) != _content(resource):
                faults.append((entry["file"], "differs", _difference(_content(resource), _content(back))))
    assert not faults, "\n".join(map(str, faults))


def test_invalid_examples_are_refused_with_the_place(lenient: Api) -> None:
    """R4 §3.1.0.1.8: a 4xx with an OperationOutcome that says where (operationoutcome.html, issue.expression)."""
    folder = shared("fhir", "examples-invalid")
    faults = []
    for entry in _index(folder):
        sent = (folder / entry["file"]).read_bytes()
        type_name = entry.get("resourceType") or "Patient"
        is_transaction = entry.get("interaction") == "transaction" or entry["file"].startswith("ms-Bundle")
        path = "" if is_transaction else type_name
        answer = lenient.admin.post(path, sent)
        if not 400 <= answer.status_code < 500:
            faults.append((entry["file"], answer.status_code, entry["reason"]))
            continue
        outcome = answer.get_json()
        if outcome["resourceType"] != "OperationOutcome" or not all(i.get("diagnostics") for i in outcome["issue"]):
            faults.append((entry["file"], "no precise outcome"))
        elif answer.status_code == 422 and not any(issue.get("expression") for issue in outcome["issue"]):
            faults.append((entry["file"], "no expression", outcome))
    assert not faults, "\n".join(map(str, faults))


def _content(resource: Json) -> Json:
    """Without what the server owns: id (a POST), meta.versionId, meta.lastUpdated."""
    content = {name: value for name, value in resource.items() if name not in ("id", "meta")}
    meta = {k: v for k, v in resource.get("meta", {}).items() if k not in ("versionId", "lastUpdated")}
    return {**content, **({"meta": meta} if meta else {})}


def _difference(sent: Any, back: Any, where: str = "") -> str:
    if isinstance(sent, dict) and isinstance(back, dict):
        for name in sent.keys() | back.keys():
            if sent.get(name) != back.get(name):
                return _difference(sent.get(name), back.get(name), f"{where}.{name}")
    if isinstance(sent, list) and isinstance(back, list) and len(sent) == len(back):
        for number, (one, other) in enumerate(zip(sent, back, strict=True)):
            if one != other:
                return _difference(one, other, f"{where}[{number}]")
    return f"{where}: {str(sent)[:80]} → {str(back)[:80]}"


def test_decimals_keep_their_digits(lenient: Api) -> None:
    """R4 datatypes.html#decimal: the precision is part of the value."""
    sent = (
        '{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1.50},'
        '"component":[{"code":{"text":"a"},"valueQuantity":{"value":0.00000001}},'
        '{"code":{"text":"b"},"valueQuantity":{"value":1E+2}},{"code":{"text":"c"},"valueQuantity":{"value":-0.0}},'
        '{"code":{"text":"d"},"valueQuantity":{"value":12345678901234567890.123456789}}]}'
    )
    answer = lenient.admin.post("Observation", sent.encode())
    assert answer.status_code == 201, answer.get_data(as_text=True)
    text = answer.get_data(as_text=True)
    for digits in ("1.50", "0.00000001", "1E+2", "-0.0", "12345678901234567890.123456789"):
        assert f'"value":{digits}' in text
    assert Decimal("1.50") == json.loads(text, parse_float=Decimal)["valueQuantity"]["value"]
