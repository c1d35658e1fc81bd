"""Reads asked again in the same words have the same answers and records as the first time, and every door still holds.

RSGI alone: `wsgi.py` knows no such thing. In the loop on SQLite, in threads on PostgreSQL.
FHIR R4 §3.1.0.2; RFC 6750; DESIGN §3 (a record before the first byte), §6.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update
from werkzeug.test import TestResponse

from audit import queries
from audit.committer import GroupCommitter
from auth.tables import oauth_token
from auth.tokens import REMEMBERED_FOR_S
from fhir_server.demo import world
from fhir_server.server.front import application, repeated
from fhir_server.server.front.repeated import Entered, Held, Kept, Repeated
from resources.outcomes import Unavailable
from store.engine.queue import Floor
from tests.fhir_server.conftest import Api
from tests.support import patient

pytestmark = [
    pytest.mark.parametrize("door", ["front"], indirect=True),
]
Short = list[bool]
"""Of each read whose head was known, whether it was answered the short way."""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Short:
    """Of each read whose head was known, whether it was answered the short way."""
    ways: Short = []
    enter, carry_out = Repeated.enter, Repeated.carry_out

    def entered(self: Repeated, kept: Kept, path: str) -> Entered | None:
        found = enter(self, kept, path)
        if found is None:
            ways.append(False)
        return found

    def told(self: Repeated, entered: Entered) -> Held | None:
        held = carry_out(self, entered)
        ways.append(held is not None)
        return held

    monkeypatch.setattr(Repeated, "enter", entered)
    monkeypatch.setattr(Repeated, "carry_out", told)
    return ways


def _told(answer: TestResponse) -> tuple[int, list[tuple[str, str]], bytes]:
    """An answer, without what is drawn at random."""
    return answer.status_code, [pair for pair in answer.headers.items() if pair[0] != "X-Request-Id"], answer.data


def _entries(api: Api, count: int) -> list[Any]:
    """The last records, without what is drawn at random or is a time."""
    intake = api.services.ledger._intake
    with api.services.database.read() as connection:
        if intake is None:
            rows = list(queries.pending(connection, Floor(), 10_000))
        else:
            rows = [row for taken in intake.next(connection, 10_000) for row in taken.rows]
    found = []
    for row in rows[-count:]:
        content = json.loads(row.entry)
        assert content["caller"].pop("request_id")
        del content["at"]
        found.append(content)
    assert len(found) == count
    return found


HEADS = {
    "as a script": {"User_Agent": "curl/8"},
    "FHIR JSON": {"Accept": "application/fhir+json"},
    "as a browser": {"Accept": "*/*", "Accept_Encoding": "gzip, deflate, br", "Accept_Language": "fr"},
    "gzip": {"Accept_Encoding": "gzip"},
    "no coding": {"Accept_Encoding": "identity"},
    "another word for its host": {"Host": "LOCALHOST"},
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_the_answer_and_the_record_are_those_of_the_long_way(
    api: Api, short: Short, head: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status, fields in their order, body; who, what, whose patient. Short bodies and long ones."""
    client = api.hospital_a
    subject = client.create(patient(identifier=[{"system": "urn:oid:1.2", "value": "1"}]))
    note = client.create({
        "resourceType": "Observation", "status": "final", "code": {"text": "é" * 3000},
        "subject": {"reference": f"Patient/{subject['id']}"},
    })  # fmt: skip
    paths = [f"Patient/{subject['id']}", f"Observation/{note['id']}"]
    with monkeypatch.context() as patched:
        patched.setattr(Repeated, "find", lambda self, scope: None)
        long = [_told(client.get(path, **head)) for path in paths]
    assert not short
    records = _entries(api, 2)
    again = [_told(client.get(path, **head)) for path in paths]
    assert (again, short) == (long, [True, True])
    assert _entries(api, 2) == records
    assert [status for status, _, _ in again] == [200, 200]


def test_every_answer_has_a_request_id_and_a_record_of_its_own(api: Api, short: Short) -> None:
    """That there is one record each, the fixture asserts (`tests.counting`)."""
    client = api.hospital_a
    path = f"Patient/{client.create(patient())['id']}"
    ids = {client.get(path).headers["X-Request-Id"] for _ in range(5)}
    assert (len(ids), short) == (5, [True] * 4)


def test_the_record_names_where_each_request_came_from(api: Api, short: Short) -> None:
    """IHE BALP AuditEvent.agent.network: the same words from elsewhere are another's."""
    client = api.hospital_a
    path = f"Patient/{client.create(patient())['id']}"
    for _ in range(2):
        for address in ("192.0.2.1", "2001:db8::1"):
            client.flask.get(
                f"/fhir/{path}", headers={"Authorization": f"Bearer {client.token}"},
                environ_base={"REMOTE_ADDR": address},
            )  # fmt: skip
    assert [entry["caller"]["address"] for entry in _entries(api, 4)] == ["192.0.2.1", "2001:db8::1"] * 2
    assert short == [True, True]


@pytest.mark.parametrize(
    "more",
    [
        {"If_None_Match": 'W/"1"'}, {"If_Modified_Since": "Thu, 01 Jan 2099 00:00:00 GMT"}, {"X_Request_Id": "mine"},
        {"Prefer": "handling=strict"}, {"Origin": "https://a.example"}, {"Range": "bytes=0-1"}, {"X_Other": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_a_head_with_any_other_field_goes_the_long_way(api: Api, short: Short, more: dict[str, str]) -> None:
    client = api.hospital_a
    path = f"Patient/{client.create(patient())['id']}"
    told = [_told(client.get(path, **more)) for _ in range(3)]
    assert (short, told[0]) == ([], told[1])


def test_what_is_no_plain_read_goes_the_long_way(api: Api, short: Short) -> None:
    client = api.hospital_a
    path = f"Patient/{client.create(patient())['id']}"
    client.get(path)
    for other in (
        f"{path}?_elements=id", f"{path}/_history", f"{path}?_pretty=true", "Patient", "metadata",
    ):  # fmt: skip
        assert client.get(other).status_code == 200
    assert True not in short
    binary = client.create({"resourceType": "Binary", "contentType": "text/plain", "data": "aGVsbG8="})["id"]
    told = [_told(client.get(path, Accept="text/plain, */*")) for _ in range(2)]
    assert (told[0], short.pop()) == (told[1], True)
    assert client.get(f"Binary/{binary}", Accept="text/plain, */*").data == b"hello", "the content, not the resource"
    for other in (f"{path}/_history/1", f"{path}/", "AuditEvent/x", "Binary/x", "Nothing/x", "Patient/a%0A"):
        client.get(other)
    assert client.ask("HEAD", path).data == b""
    assert True not in short


def test_absent_foreign_and_deleted_are_told_as_ever(api: Api, short: Short) -> None:
    """DESIGN §6: foreign and absent are the same; a deleted one is Gone. Each has its record (the fixture counts)."""
    mine, other = api.hospital_a, api.hospital_b
    theirs = other.create(patient())["id"]
    own = mine.create(patient())["id"]
    gone = mine.create(patient())["id"]
    assert mine.delete(f"Patient/{gone}").status_code == 204
    assert mine.get(f"Patient/{own}").status_code == 200
    answers = [mine.get(f"Patient/{id}") for id in (theirs, "absent", gone)]
    assert [answer.status_code for answer in answers] == [404, 404, 410]
    assert answers[0].data == answers[1].data
    assert short == [False] * 3
    outcomes = [record["access"]["outcome"] for record in _entries(api, 3)]
    assert outcomes == ["8", "4", "4"]


def test_a_scope_that_gives_no_read_or_a_part_of_them_is_asked_each_time(api: Api, short: Short) -> None:
    """A head is no permission: it is known from a type that the token may read."""
    organization = api.hospital_a
    whole = organization.create(patient())["id"]
    order = organization.create({
        "resourceType": "Observation", "status": "final", "code": {"text": "x"},
        "subject": {"reference": f"Patient/{whole}"},
    })["id"]  # fmt: skip
    narrow = api.client("hospital", world.HOSPITAL_A, "system/Patient.r system/Observation.rs?status=amended")
    assert narrow.get(f"Patient/{whole}").status_code == 200
    assert narrow.get(f"Patient/{whole}").status_code == 200
    assert narrow.get(f"Observation/{order}").status_code == 404
    assert narrow.get("Organization/x").status_code == 403
    assert short == [True, False, False]


def test_a_revoked_token_gives_nothing_once_it_is_no_longer_remembered(
    api: Api, short: Short, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 7009 §2.1; a lookup is remembered for five seconds (docs/security.md)."""
    client = api.hospital_a
    path = f"Patient/{client.create(patient())['id']}"
    assert [client.get(path).status_code for _ in range(2)] == [200, 200]
    with api.services.database.write() as connection:
        connection.execute(update(oauth_token).values(revoked=1))
    now = api.services.authority.guard._clock
    later = now().timestamp() + REMEMBERED_FOR_S
    monkeypatch.setattr(api.services.authority.guard, "_clock", lambda: datetime.fromtimestamp(later, UTC))
    monkeypatch.setattr(api.services.authority.guard._tokens, "_clock", lambda: datetime.fromtimestamp(later, UTC))
    assert [client.get(path).status_code for _ in range(2)] == [401, 401], "unknown, then known to be revoked"
    assert short == [True, False, False]


def test_the_bounds_of_a_client_hold_for_heads_that_are_known(make_api: Callable[..., Api], short: Short) -> None:
    """RFC 6585 §4; what is turned away is recorded once (the fixture counts)."""
    api = make_api(client_rate=3)
    client = api.hospital_a
    path = f"Patient/{client.create(patient())['id']}"
    statuses = [client.get(path).status_code for _ in range(12)]
    assert 429 in statuses
    assert set(statuses) == {200, 429}
    assert short.count(True) + 1 == statuses.count(200)
    assert api.services.authority.guard.admission._accounts["client", client.client_id].in_flight == 0


def test_nothing_is_disclosed_where_its_record_is_not_durable(
    api: Api, short: Short, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN §3: 503, with nothing of the resource; and the place among the requests in flight is free again."""
    client = api.hospital_a
    path = f"Patient/{client.create(patient('Unseen'))['id']}"
    client.get(path)

    def fails(self: object, rows: object) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(Unavailable("The disk is full", retry_after_s=1))
        return future

    with monkeypatch.context() as patched:
        patched.setattr(GroupCommitter, "submit_soon", fails)
        answer = client.get(path)
    assert (answer.status_code, b"Unseen" in answer.data, short) == (503, False, [True])
    assert answer.headers["Retry-After"] == "1"
    assert client.get(path).status_code == 200
    assert api.services.authority.guard.admission._accounts["client", client.client_id].in_flight == 0


def test_a_secret_of_a_subscription_is_masked_for_all_but_its_creator(api: Api, short: Short) -> None:
    """What is shown depends on who asks, not on the words that he asks in."""
    made = api.hospital_a.create({
        "resourceType": "Subscription", "status": "requested", "reason": "r",
        "criteria": "DiagnosticReport?status=final",
        "channel": {"type": "rest-hook", "endpoint": "http://127.0.0.1:9/x", "payload": "application/fhir+json",
                    "header": ["Authorization: Bearer own"]},
    })  # fmt: skip
    other = api.client("hospital", world.HOSPITAL_A, "system/*.rs")
    for client, is_shown in ((api.hospital_a, True), (other, False)):
        answers = [client.get(f"Subscription/{made['id']}") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert [b"Bearer own" in answer.data for answer in answers] == [is_shown] * 2
    assert short == [True, True]


def test_heads_that_are_known_are_bounded(api: Api, short: Short, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that varies its words takes no memory but that of so many heads, none of them long."""
    monkeypatch.setattr(repeated, "MAX_HEADS", 5)
    known: list[Repeated] = []
    learn = Repeated.learn

    def learned(self: Repeated, *given: Any) -> None:
        learn(self, *given)
        known.append(self)

    monkeypatch.setattr(Repeated, "learn", learned)
    client = api.hospital_a
    path = f"Patient/{client.create(patient())['id']}"
    for number in range(12):
        assert client.get(path, User_Agent=f"agent {number}").status_code == 200
        assert len(known[-1]._kept) <= 5
    before = dict(known[-1]._kept)
    client.get(path, User_Agent="x" * repeated.MAX_BYTES)
    assert known[-1]._kept == before
    assert not short


@pytest.mark.parametrize(("fails_after_s", "status"), [(0.0, 200), (1.1, 503)])
def test_a_read_that_fails_late_is_told_and_not_tried_at_length(
    api: Api, short: Short, monkeypatch: pytest.MonkeyPatch, fails_after_s: float, status: int
) -> None:
    """DESIGN §3, every wait has a limit: a lock that was waited for in vain is not waited for a second time."""
    client = api.hospital_a
    path = f"Patient/{client.create(patient())['id']}"
    client.get(path)

    def fails(self: Repeated, entered: Entered) -> Held | None:
        clock = SimpleNamespace(monotonic=lambda: entered.began + fails_after_s)
        monkeypatch.setattr(application, "time", clock)
        raise RuntimeError("the database has other things to do")

    monkeypatch.setattr(Repeated, "carry_out", fails)
    answer = client.get(path)
    monkeypatch.undo()
    assert answer.status_code == status
    assert client.get(path).status_code == 200
    assert api.services.authority.guard.admission._accounts["client", client.client_id].in_flight == 0


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.uncounted
def test_a_thread_that_nobody_waits_for_any_more_keeps_its_place_in_flight(
    make_api: Callable[..., Api], short: Short, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN §3: 503 in time; the bound of a client counts what is at work for it, until the thread comes back."""
    api = make_api(answer_timeout_s=1)
    client = api.hospital_a
    path = f"Patient/{client.create(patient())['id']}"
    client.get(path)
    account = api.services.authority.guard.admission._accounts["client", client.client_id]
    goes_on = threading.Event()

    def waits(self: Repeated, entered: Entered) -> Held | None:
        goes_on.wait(30)
        return None

    monkeypatch.setattr(Repeated, "carry_out", waits)
    try:
        answer = client.get(path)
        assert (answer.status_code, account.in_flight) == (503, 1)
    finally:
        goes_on.set()
    monkeypatch.undo()
    assert client.get(path).status_code == 200
    deadline = time.monotonic() + 30
    while account.in_flight:
        assert time.monotonic() < deadline
        time.sleep(0.01)
