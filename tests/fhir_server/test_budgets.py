"""Every row of `resources.budgets`: at the limit it is answered, and beyond it nothing has happened.

The cases are a table beside the table: a row without a case fails. "Nothing" is counted: versions, index rows and
objects before and after (security.md M4: a refused batch of 1,001 had stored 1,000).
"""

from __future__ import annotations

import itertools
import json
import pkgutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from dicomweb.phantom import Phantom, series
from resources import budgets
from resources.budgets import Budget, Effect
from resources.json import Json
from resources.registry import TYPES, type_id
from resources.search_parameters import parameter
from scripts import limits_page
from store.search import limits
from store.versions.tables import INDEX_TABLES, resource_version
from tests.builders import patient
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
    lowered: int | None = None
    """The limit of this test, where the real one would take long to reach."""
    before_the_gate: bool = True
    """Whether it is refused before the write transaction begins; else it is rolled back."""
    shows: Callable[[TestResponse], bool] = lambda _: False
    """Of a cap: whether the answer shows it."""


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
        waits = asking.is_alive()
    asking.join(60)
    assert not waits, "the refusal waits for a write transaction"
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


def _parameters_of_a_read(api: Api, amount: int) -> Request:
    """Of what is no search: the wire alone counts them."""
    made = api.hospital_a.create(patient())
    return lambda: api.hospital_a.get(f"Patient/{made['id']}?" + "&".join(["_elements=id"] * amount))


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


# What is searched for


def _search(path: Callable[[int], str]) -> Callable[[Api, int], Request]:
    return lambda api, amount: lambda: api.hospital_a.get(path(amount))


def _values_in_all(amount: int) -> str:
    whole, rest = divmod(amount, 100)
    counts = [100] * whole + ([rest] if rest else [])
    return "Patient?" + "&".join(f"family={','.join(f'a{n}' for n in range(count))}" for count in counts)


_KEYS = ["name", "family", "given", "gender", "birthdate", "active", "address"]
_REFERRING = [
    name
    for name in sorted(TYPES)
    if (found := parameter(name, "patient")) is not None and "Patient" in found.targets and name != "AuditEvent"
]


def _time(api: Api, amount: int) -> Request:
    """A search by a clock of which each look takes `amount` ms."""
    looks = itertools.count()

    def ask() -> TestResponse:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "clock", lambda: next(looks) * amount / 1000)
            return api.hospital_a.get("Patient?family=x")

    return ask


def _same_number(api: Api, amount: int) -> Request:
    """So many Patients with one number, and a search of the log by it."""
    for _ in range(amount):
        api.hospital_a.create({**patient(), "identifier": [{"system": "urn:ipp", "value": "1"}]})
    return lambda: api.auditor.get("AuditEvent?patient.identifier=urn:ipp|1&date=ge2000")


def _log(api: Api, amount: int) -> Request:
    """So many events, and a search that has a date and no index."""
    for _ in range(amount):
        api.hospital_a.get("Organization?_count=1")
    return lambda: api.auditor.get("AuditEvent?address=nobody&date=ge2000")


# What is answered


def _observation(subject: str | None = None, **more: Any) -> Json:
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, **more}
    return body | ({"subject": {"reference": subject}} if subject else {})


def _included(api: Api, amount: int) -> Request:
    subject = f"Patient/{api.hospital_a.create(patient())['id']}"
    for first in range(0, amount, 500):
        entries = [_entry(_observation(subject)) for _ in range(min(500, amount - first))]
        assert api.hospital_a.post("", _bundle("transaction", entries)).status_code == 200
    return lambda: api.hospital_a.get(f"Patient?_id={subject[8:]}&_revinclude=Observation:patient")


def _rounds(api: Api, amount: int) -> Request:
    """Each Observation has the one before as a member: one include, and `amount` rounds behind it."""
    last = api.hospital_a.create(_observation())
    for _ in range(amount + 1):
        last = api.hospital_a.create(_observation(hasMember=[{"reference": f"Observation/{last['id']}"}]))
    return lambda: api.hospital_a.get(f"Observation?_id={last['id']}&_include:iterate=Observation:has-member")


def _answer_bytes(api: Api, amount: int) -> Request:
    subject = f"Patient/{api.hospital_a.create(patient())['id']}"
    for _ in range(4):
        api.hospital_a.create(_observation(subject, note=[{"text": "x" * (amount // 3)}]))
    return lambda: api.hospital_a.get(f"Patient?_id={subject[8:]}&_revinclude=Observation:patient")


def _bundle_answer_bytes(api: Api, amount: int) -> Request:
    large = api.hospital_a.create(_observation(note=[{"text": "x" * amount}]))
    read = {"request": {"method": "GET", "url": f"Observation/{large['id']}"}}
    return lambda: api.hospital_a.post("", _bundle("transaction", [read, read, _entry(_basic())]))


def _self(answer: TestResponse) -> str:
    return str(next(link["url"] for link in answer.get_json()["link"] if link["relation"] == "self"))


def _no_total(answer: TestResponse) -> bool:
    return "total" not in answer.get_json() and len(answer.get_json()["entry"]) == 2


def _studies(api: Api, amount: int) -> Request:
    """A page of one study, and `amount` beyond it."""
    for number in range(amount + 1):
        (file,) = series(Phantom(slices=1, side=8, study_instance_uid=f"1.2.826.0.1.3680043.10.999.77.{number}"))
        body = b"--xyz\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n--xyz--\r\n"
        kind = 'multipart/related; type="application/dicom"; boundary=xyz'
        assert api.hospital_a.post("/dicom-web/studies", body, Content_Type=kind).status_code == 200
    path = "/dicom-web/studies?limit=1&StudyDate=20260601&PatientID=PHANTOM-1"
    return lambda: api.hospital_a.get(path, Accept="application/dicom+json")


def _more_than(answer: TestResponse) -> bool:
    assert "additional results that can be requested" in answer.headers["Warning"]
    return "There are more than" in answer.headers["Warning"]


def _history(api: Api, amount: int) -> Request:
    made = api.hospital_a.create(_basic())
    for _ in range(amount - 1):
        api.hospital_a.put(f"Basic/{made['id']}", made)
    return lambda: api.hospital_a.get(f"Basic/{made['id']}/_history?_count=2")


CASES: dict[str, list[Case]] = {
    "BODY_BYTES": [Case(_body_bytes)],
    "JSON_DEPTH": [Case(_depth)],
    "NUMBER_DIGITS": [Case(_number("1.{zeros}"))],
    "NUMBER_EXPONENT": [Case(_number("1E{amount}")), Case(_number("1E-{amount}"))],
    "PARAMETERS": [Case(_parameters), Case(_parameters_of_a_read)],
    "BUNDLE_ENTRIES": [Case(_entries("batch")), Case(_entries("transaction"))],
    "BUNDLE_ELEMENTS": [Case(_bundle_elements("batch")), Case(_bundle_elements("transaction"))],
    "RESOURCE_ELEMENTS": [Case(_elements)],
    "RESOURCE_INDEX_ROWS": [Case(_index_rows)],
    "TRANSACTION_INDEX_ROWS": [Case(_transaction_rows)],
    "SEARCH_VALUES": [Case(_search(_values_in_all))],
    "PARAMETER_VALUES": [Case(_search(lambda amount: "Patient?family=" + ",".join(f"a{n}" for n in range(amount))))],
    "VALUE_LENGTH": [Case(_search(lambda amount: "Patient?family=" + "a" * amount))],
    "CHAIN_DEPTH": [
        Case(_search(lambda amount: "Patient?organization" + ".partof" * (amount - 1) + ".name=x")),
        Case(_search(lambda amount: "Patient?_has:Observation:patient:" + "has-member." * (amount - 1) + "code=x")),
    ],
    "CHAIN_TYPES": [Case(_search(lambda _: "Provenance?target._id=x"), accepted=False)],
    "SORT_KEYS": [Case(_search(lambda amount: "Patient?_sort=" + ",".join(_KEYS[:amount])))],
    "INCLUDES": [
        Case(
            _search(
                lambda amount: "Patient?_revinclude:iterate=Observation:patient"
                + "".join(f"&_revinclude={name}:patient" * 3 for name in _REFERRING[: amount - 1])
            )
        )
    ],
    "SEARCH_MS": [Case(_time)],
    "AUDIT_SCAN": [Case(_log, lowered=4, accepted=False, before_the_gate=False)],
    "RULE_MATCHES": [Case(_same_number, lowered=9, before_the_gate=False)],
    "PAGE_MATCHES": [
        Case(_search(lambda amount: f"Patient?_count={amount}"), shows=lambda answer: "_count=1000" in _self(answer)),
    ],
    "HISTORY_TOTAL": [Case(_history, lowered=4, shows=_no_total)],
    "QIDO_ADDITIONAL": [Case(_studies, lowered=2, shows=_more_than)],
    "INCLUDED": [Case(_included)],
    "INCLUDE_ROUNDS": [Case(_rounds)],
    "ANSWER_BYTES": [Case(_answer_bytes, lowered=30_000, accepted=False)],
    "BATCH_ANSWER_BYTES": [Case(_bundle_answer_bytes, lowered=10_000, accepted=False, before_the_gate=False)],
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
    assert callable(pkgutil.resolve_name(budget.checked))


def _lowered(budget: Budget, case: Case, monkeypatch: pytest.MonkeyPatch) -> Budget:
    """The limit of this test, wherever it is used."""
    if case.lowered is None:
        return budget
    low = replace(budget, value=case.lowered)
    for module in list(sys.modules.values()):
        if getattr(module, budget.name, None) is budget:
            monkeypatch.setattr(module, budget.name, low)
    return low


@pytest.mark.parametrize(("budget", "case"), _ALL)
def test_one_more_than_the_limit_is_told_and_leaves_nothing(
    api: Api, budget: Budget, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9110 §15.5: a 4xx was not carried out; what is cut says so (security.md M3, M4, M5, fhir.md F1)."""
    budget = _lowered(budget, case, monkeypatch)
    request = case.over(api, budget.value + 1)
    before = stored(api)
    held = budget.effect is Effect.REFUSED and case.before_the_gate
    answer = while_the_gate_is_held(api, request) if held else request()
    assert stored(api) == before
    body = answer.get_json()
    assert answer.status_code == budget.status, json.dumps(body)[:500]
    assert budget.status < 500
    if budget.effect is Effect.CAPPED:
        assert case.shows(answer)
        return
    told = _issues(body)
    assert (budget.code, budget.text) in told, told
    if budget.effect is Effect.REFUSED:
        assert len(told) == 1


@pytest.mark.parametrize(("budget", "case"), [one for one in _ALL if one.values[1].accepted])  # type: ignore[attr-defined]
def test_at_the_limit_it_is_answered(
    api: Api, budget: Budget, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number that is told is the one that is meant."""
    budget = _lowered(budget, case, monkeypatch)
    answer = case.over(api, budget.value)()
    body = answer.get_json()
    assert answer.status_code in (200, 201), json.dumps(body)[:500]
    if budget.effect is Effect.CAPPED:
        assert budget.name == "PAGE_MATCHES" or not case.shows(answer)
        return
    assert (budget.code, budget.text) not in _issues(body)


def _issues(body: Json) -> list[tuple[str, str]]:
    """The issues of an OperationOutcome, or of those in a searchset's entries."""
    outcomes = [body] if body["resourceType"] == "OperationOutcome" else [
        entry["resource"] for entry in body.get("entry", []) if entry.get("search", {}).get("mode") == "outcome"
    ]
    return [(issue["code"], issue["diagnostics"]) for outcome in outcomes for issue in outcome["issue"]]


def test_a_batch_whose_answers_are_full_still_writes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads beyond the budget are refused one by one and are no access; writes are done, and answered without their
    resource (R4 §3.1.0.11.1; security.md M5: 1,000 reads of one large Patient took a worker to 1.4 GB)."""
    large = api.hospital_a.create(_observation(note=[{"text": "x" * 10_000}]))
    _lowered(budgets.BATCH_ANSWER_BYTES, Case(_entries("batch"), lowered=15_000), monkeypatch)
    read = {"request": {"method": "GET", "url": f"Observation/{large['id']}"}}
    bundle = _bundle("batch", [_entry(_basic()), read, read, read, _entry(_basic()), read])
    entries = api.hospital_a.post("", bundle, Prefer="return=representation").get_json()["entry"]
    statuses = [entry["response"]["status"][:3] for entry in entries]
    assert statuses == ["201", "200", "200", "400", "201", "400"]
    assert ["resource" in entry for entry in entries] == [True, True, True, False, False, False]
    assert entries[3]["response"]["outcome"]["issue"][0]["code"] == "too-costly"


def test_a_large_entry_of_a_batch_is_refused_by_itself(api: Api) -> None:
    """R4 §3.1.0.11.1: the entries stand alone."""
    large = {"resourceType": "Basic", "code": {"coding": [{"code": f"c{n}"} for n in range(10_001)]}}
    entries = api.hospital_a.post("", _bundle("batch", [_entry(_basic()), _entry(large)])).get_json()["entry"]
    assert [entry["response"]["status"][:3] for entry in entries] == ["201", "422"]
    conditional = _entry(large)
    conditional["request"]["ifNoneExist"] = "code=nothing"
    entries = api.hospital_a.post("", _bundle("batch", [conditional])).get_json()["entry"]
    assert entries[0]["response"]["outcome"]["issue"][0]["code"] == "too-costly"


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_large_entry_of_a_batch_waits_for_no_writer(api: Api) -> None:
    """Counted before its transaction, as the resource of a request of its own is."""
    large = {"resourceType": "Basic", "code": {"coding": [{"code": f"c{n}"} for n in range(10_001)]}}
    answer = while_the_gate_is_held(api, lambda: api.hospital_a.post("", _bundle("batch", [_entry(large)])))
    assert answer.get_json()["entry"][0]["response"]["status"][:3] == "422"


@pytest.mark.parametrize("path", ["Basic", "Basic/$validate"])
def test_a_resource_is_counted_before_it_is_looked_at(api: Api, path: str) -> None:
    """Each of its values could be wrong, and be told: what is too much is not validated."""
    amount = budgets.RESOURCE_ELEMENTS.value + 1
    wrong = [{"nonsense": 1} for _ in range(amount // 2)]
    answer = api.hospital_a.post(path, _basic(extension=wrong))
    assert answer.status_code == 422
    assert _issues(answer.get_json()) == [("too-costly", budgets.RESOURCE_ELEMENTS.text)]
