"""Every row of `resources.budgets`: at the limit it is answered, and beyond it nothing has happened.

The cases are a table beside the table: a row without a case fails. "Nothing" is counted: versions, index rows and
objects before and after (security.md M4: a refused batch of 1,001 had stored 1,000).
"""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from resources import budgets
from resources.budgets import Budget, Effect
from resources.json import Json
from resources.registry import type_id
from scripts import limits_page
from store.versions.tables import INDEX_TABLES, resource_version
from tests.fhir_server.conftest import Api

Request = Callable[[], TestResponse]


def stored(api: Api) -> dict[str, int]:
    """What a request could have left behind: versions and index rows (the audit log's aside), objects."""
    version = resource_version
    own = version.c.type_id != type_id("AuditEvent")
    found = {}
    with api.services.store.database.read() as connection:
        found["versions"] = connection.execute(select(func.count()).select_from(version).where(own)).scalar_one()
        for table in INDEX_TABLES:
            joined = select(func.count()).select_from(table.join(version, version.c.pk == table.c.version_pk))
            found[table.name] = connection.execute(joined.where(own)).scalar_one()
    data = api.services.settings.data
    found["objects"] = sum(1 for file in (data / "objects").rglob("*") if file.is_file())
    return found


@dataclass(frozen=True)
class Case:
    """`over(api, amount)` prepares and gives the request that asks for `amount`."""

    over: Callable[[Api, int], Request]
    accepted: bool = True
    """Whether a request at the limit is tried too."""


def while_the_gate_is_held(api: Api, request: Request) -> TestResponse:
    """The answer to `request`, which must not wait for the writers' gate (SQLite): what is refused holds up nobody."""
    if not api.services.store.database.is_sqlite:
        return request()
    _ = api.hospital_a  # its token is a write of its own
    answers: list[TestResponse] = []
    asking = threading.Thread(target=lambda: answers.append(request()), daemon=True)
    with api.services.store.database.write():
        asking.start()
        asking.join(10)
        assert not asking.is_alive(), "the refusal waits for a write transaction"
    return answers[0]


# What is sent


def _body_bytes(api: Api, amount: int) -> Request:
    body = b'{"resourceType":"Basic","code":{"text":"x"}}'
    return lambda: api.hospital_a.post("Basic", body + b" " * (amount - len(body)))


def _depth(api: Api, amount: int) -> Request:
    nested: Json = {"url": "urn:x", "valueString": "x"}
    for _ in range((amount - 3) // 2):
        nested = {"url": "urn:x", "extension": [nested]}
    deep: Json = {"resourceType": "Basic", "code": {"text": "x"}, "extension": [nested]}
    if (amount - 3) % 2:
        deep["code"] = {"text": "x", "extension": deep.pop("extension")}
    return lambda: api.hospital_a.post("Basic", deep)


def _number(text: str) -> Callable[[Api, int], Request]:
    def over(api: Api, amount: int) -> Request:
        number = text.format(zeros="0" * (amount - 2), amount=amount)
        body = '{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":%s}}'
        return lambda: api.hospital_a.post("Observation", (body % number).encode())

    return over


def _parameters(api: Api, amount: int) -> Request:
    return lambda: api.hospital_a.get("Patient?" + "&".join(["_elements=id"] * amount))


def _entry(resource: Json) -> Json:
    return {"resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}}


def _bundle(kind: str, entries: list[Json]) -> Json:
    return {"resourceType": "Bundle", "type": kind, "entry": entries}


def _basic(**more: Any) -> Json:
    return {"resourceType": "Basic", "code": {"text": "x"}, **more}


def _entries(kind: str) -> Callable[[Api, int], Request]:
    return lambda api, amount: lambda: api.hospital_a.post("", _bundle(kind, [_entry(_basic())] * amount))


def _bundle_elements(kind: str) -> Callable[[Api, int], Request]:
    def over(api: Api, amount: int) -> Request:
        # The Bundle, its type, resourceType and entry; each entry with its request (3) and resource (5).
        entries = [_entry(_basic(extension=[])) for _ in range(5)]
        each = 1 + 3 + 5
        left = amount - 4 - 5 * each
        for number, entry in enumerate(entries):
            share = left // 5 + (left % 5 if number == 4 else 0)
            entry["resource"]["extension"] = _values(share)
        return lambda: api.hospital_a.post("", _bundle(kind, entries))

    return over


def _values(amount: int) -> list[Json]:
    """Extensions that are `amount` JSON values together."""
    made = [{"url": "urn:x", "valueInteger": 1} for _ in range(amount // 3)]
    if amount % 3:
        made[0] = {"url": "urn:x", "valueInteger": 1, **({"id": "a"} if amount % 3 == 1 else {})}
        if amount % 3 == 2:
            made[0]["id"] = made[1]["id"] = "a"
    return made


def _elements(api: Api, amount: int) -> Request:
    # Basic, resourceType, code, its text, extension.
    return lambda: api.hospital_a.post("Basic", _basic(extension=_values(amount - 5)))


def _index_rows(api: Api, amount: int) -> Request:
    body = {"resourceType": "Basic", "code": {"coding": [{"code": f"c{number}"} for number in range(amount)]}}
    return lambda: api.hospital_a.post("Basic", body)


def _transaction_rows(api: Api, amount: int) -> Request:
    shares = [amount // 5 + (amount % 5 if number == 4 else 0) for number in range(5)]
    bodies = [
        {"resourceType": "Basic", "code": {"coding": [{"code": f"c{number}"} for number in range(share)]}}
        for share in shares
    ]
    return lambda: api.hospital_a.post("", _bundle("transaction", [_entry(body) for body in bodies]))


CASES: dict[str, list[Case]] = {
    "BODY_BYTES": [Case(_body_bytes)],
    "JSON_DEPTH": [Case(_depth)],
    "NUMBER_DIGITS": [Case(_number("1.{zeros}"))],
    "NUMBER_EXPONENT": [Case(_number("1E{amount}")), Case(_number("1E-{amount}"))],
    "PARAMETERS": [Case(_parameters)],
    "BUNDLE_ENTRIES": [Case(_entries("batch")), Case(_entries("transaction"))],
    "BUNDLE_ELEMENTS": [Case(_bundle_elements("batch")), Case(_bundle_elements("transaction"))],
    "RESOURCE_ELEMENTS": [Case(_elements)],
    "RESOURCE_INDEX_ROWS": [Case(_index_rows)],
    "TRANSACTION_INDEX_ROWS": [Case(_transaction_rows)],
}

_ALL = [
    pytest.param(budget, case, id=f"{budget.name}-{number}")
    for budget in budgets.BUDGETS
    for number, case in enumerate(CASES.get(budget.name, []))
]


def test_every_row_of_the_table_has_a_case() -> None:
    """A limit without a test is a promise: add the case with the row."""
    assert [budget.name for budget in budgets.BUDGETS] == list(CASES)


def test_the_page_is_what_the_table_says() -> None:
    """docs/limits.md: `python -m scripts.limits_page` writes it."""
    assert limits_page.PAGE.read_text(encoding="utf-8") == limits_page.page()


@pytest.mark.parametrize("budget", budgets.BUDGETS, ids=lambda budget: budget.name)
def test_the_function_that_checks_is_there(budget: Budget) -> None:
    """A function that was renamed is renamed in the table too."""
    module, _, name = budget.checked.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize(("budget", "case"), _ALL)
def test_one_more_than_the_limit_is_told_and_leaves_nothing(api: Api, budget: Budget, case: Case) -> None:
    """RFC 9110 §15.5: a 4xx was not carried out; what is cut says so (security.md M3, M4, M5, fhir.md F1)."""
    request = case.over(api, budget.value + 1)
    before = stored(api)
    answer = while_the_gate_is_held(api, request) if budget.effect is Effect.REFUSED else request()
    assert stored(api) == before
    body = answer.get_json()
    assert answer.status_code == budget.status, json.dumps(body)[:500]
    assert budget.status < 500
    told = _issues(body)
    assert (budget.code, budget.text) in told, told
    if budget.effect is Effect.REFUSED:
        assert len(told) == 1


@pytest.mark.parametrize(("budget", "case"), [one for one in _ALL if one.values[1].accepted])  # type: ignore[attr-defined]
def test_at_the_limit_it_is_answered(api: Api, budget: Budget, case: Case) -> None:
    """The number that is told is the one that is meant."""
    answer = case.over(api, budget.value)()
    body = answer.get_json()
    assert answer.status_code in (200, 201), json.dumps(body)[:500]
    assert (budget.code, budget.text) not in _issues(body)


def _issues(body: Json) -> list[tuple[str, str]]:
    """The issues of an OperationOutcome, or of those in a searchset's entries."""
    outcomes = [body] if body["resourceType"] == "OperationOutcome" else [
        entry["resource"] for entry in body.get("entry", []) if entry.get("search", {}).get("mode") == "outcome"
    ]
    return [(issue["code"], issue["diagnostics"]) for outcome in outcomes for issue in outcome["issue"]]
