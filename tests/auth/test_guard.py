"""A request becomes a Caller, or is refused, and both are known afterwards.

RFC 6750 https://www.rfc-editor.org/rfc/rfc6750
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event, update

from auth.refusals import Refusals
from auth.service import Authority
from auth.tables import oauth_token
from auth.throttle import Throttle
from resources.outcomes import Unavailable
from store.access import Access, Caller, Interaction, Outcome
from store.engine.database import Database
from tests.auth.conftest import application
from tests.auth.engines import ON_ONE_ENGINE
from tests.auth.signing import ORIGIN, Machine
from tests.auth.test_token_endpoints import bearer
from tests.support import PLATFORM, Clock, MemoryTrail


def test_a_token_names_its_caller(http: FlaskClient, register: Callable[..., Machine]) -> None:
    """Client, organisation, person and the granted scopes; nothing of it comes from the request."""
    machine = register(scope="system/*.cruds", practitioner="Practitioner/p1")
    token = machine.token(http, "system/Patient.rs system/Task.r")
    body = http.get("/fhir/whoami", headers={**bearer(token), "X-Request-Id": "r-1"}).get_json()
    assert body == {
        "client_id": machine.client_id,
        "organization": "hospital-a",
        "scopes": ["system/Patient.rs", "system/Task.r"],
        "address": "127.0.0.1",
        "request_id": "r-1",
        "practitioner": "Practitioner/p1",
    }


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (None, None),
        ("", "invalid_token"),
        ("Bearer", "invalid_token"),
        ("Bearer ", "invalid_token"),
        ("Bearer a b", "invalid_token"),
        ("Bearer unknown", "invalid_token"),
        ("Bearer " + "x" * 43, "invalid_token"),
        ("Bearer " + "x" * 5000, "invalid_token"),
        ("Basic YTpi", "invalid_token"),
        ("Token abc", "invalid_token"),
        ("Bearer é", "invalid_token"),
    ],
)
def test_without_a_good_token_there_is_a_challenge(
    http: FlaskClient, trail: MemoryTrail, header: str | None, error: str | None
) -> None:
    """RFC 6750 §3 and §3.1: no error code where no credentials were sent."""
    answer = http.get("/fhir/whoami?name=Martin", headers={} if header is None else {"Authorization": header})
    assert answer.status_code == 401
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer realm="')
    assert ("error=" in challenge) is (error is not None)
    (access,) = trail.disclosed
    assert (access.interaction, access.outcome) == (Interaction.OPERATION, Outcome.SERIOUS)
    assert access.query == "GET http://localhost/fhir/whoami?name=Martin"
    assert (access.reason or "").startswith("login: ")


def test_a_token_in_the_url_is_no_token(http: FlaskClient, ehr: Machine) -> None:
    """RFC 6750 §2.3 SHOULD NOT; the URL ends in logs."""
    assert http.get("/fhir/whoami", query_string={"access_token": ehr.token(http)}).status_code == 401


def test_a_token_lives_for_five_minutes(
    http: FlaskClient, ehr: Machine, clock: Clock, trail: MemoryTrail
) -> None:
    """SMART: expires_in SHOULD NOT exceed 300 s; the end is exact although lookups are remembered."""
    token = ehr.token(http)
    clock.advance(seconds=297)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 200
    clock.advance(seconds=2)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 200
    clock.advance(seconds=1)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 401
    assert trail.disclosed[-1].reason == "login: expired token"
    assert trail.callers[-1].client_id == ehr.client_id


def test_longer_lives_cannot_be_configured(database: Database, trail: MemoryTrail) -> None:
    """SMART 2.2 backend services."""
    with pytest.raises(ValueError, match="300"):
        Authority(database, trail=trail, platform=PLATFORM, origins=(ORIGIN,), token_lifetime_s=301)


def test_a_lookup_is_remembered(http: FlaskClient, ehr: Machine, database: Database, clock: Clock) -> None:
    """A read by id must not pay for a second query; after five seconds the database is asked again."""
    token = ehr.token(http)
    http.get("/fhir/whoami", headers=bearer(token))
    statements = []

    def count(*arguments: object) -> None:
        statements.append(arguments[2])

    event.listen(database.engine, "before_cursor_execute", count)
    try:
        http.get("/fhir/whoami", headers=bearer(token))
        assert statements == []
        clock.advance(seconds=5)
        http.get("/fhir/whoami", headers=bearer(token))
        assert statements
    finally:
        event.remove(database.engine, "before_cursor_execute", count)


def test_a_clock_that_is_set_back_makes_nothing_last_longer(
    http: FlaskClient, ehr: Machine, database: Database, clock: Clock, authority: Authority
) -> None:
    """What was remembered in the future is asked again."""
    token = ehr.token(http)
    http.get("/fhir/whoami", headers=bearer(token))
    clock.advance(seconds=-60)
    authority.clients.disable(ehr.client_id)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 401


@pytest.mark.parametrize("hours", [24, 1])
def test_a_token_of_a_wrong_clock_does_not_outlive_it(
    http: FlaskClient, ehr: Machine, database: Database, clock: Clock, hours: int
) -> None:
    """Seen: a token issued during a wrong day lived 24 h 05 min. It was good while the clock was wrong, no longer."""
    clock.advance(hours=hours)
    token = ehr.token(http)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 200
    clock.advance(hours=-hours)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 401
    clock.advance(minutes=4)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 401
    with database.write() as connection:  # whatever wrote them: issued now, and to live for a day
        now_s = int(clock().timestamp())
        connection.execute(update(oauth_token).values(issued=now_s, expires=now_s + 86_400))
    clock.advance(seconds=10)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 401


def test_the_clocks_of_two_nodes_may_differ_a_little(http: FlaskClient, ehr: Machine, clock: Clock) -> None:
    token = ehr.token(http)
    clock.advance(seconds=-20)
    assert http.get("/fhir/whoami", headers=bearer(token)).status_code == 200


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, "203.0.113.9", "127.0.0.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        (2, "198.51.100.1, 203.0.113.9", "198.51.100.1"),
        (2, "203.0.113.9", "127.0.0.1"),
        (1, "2001:DB8::1", "2001:db8::1"),
        (1, "<script>", ""),
        (1, "", ""),
    ],
)
def test_the_address_is_the_peers_or_a_counted_proxys(
    database: Database, trail: MemoryTrail, clock: Clock, ehr: Machine, proxies: int, forwarded: str, address: str
) -> None:
    """Reference §5.1: exact hop count; a forged X-Forwarded-For changes nothing."""
    made = Authority(
        database, trail=trail, platform=PLATFORM, origins=(ORIGIN,), clock=clock, trusted_proxies=proxies
    )
    http = application(made).test_client()
    answer = http.get("/fhir/whoami", headers={**bearer(ehr.token(http)), "X-Forwarded-For": forwarded})
    assert answer.get_json()["address"] == address


@ON_ONE_ENGINE
@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2_3", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("é", False)]
)
def test_a_request_keeps_its_id_if_it_is_plain(http: FlaskClient, ehr: Machine, given: str, kept: bool) -> None:
    """Reference §5.1: [A-Za-z0-9._-]{1,64}, else one is made."""
    body = http.get("/fhir/whoami", headers={**bearer(ehr.token(http)), "X-Request-Id": given}).get_json()
    assert (body["request_id"] == given) is kept
    assert body["request_id"]


def test_a_refusal_that_cannot_be_recorded_is_a_503(http: FlaskClient, trail: MemoryTrail) -> None:
    """DESIGN §3."""
    trail.failure = Unavailable("away")
    assert http.get("/fhir/whoami").status_code == 503


# — failures are slowed down —


STRANGER = Caller("", "", address="192.0.2.1")
REFUSED = Access(Interaction.OPERATION, outcome=Outcome.SERIOUS, reason="login: unknown token")


@pytest.fixture
def slow_authority(database: Database, trail: MemoryTrail, clock: Clock) -> Iterator[Authority]:
    made = Authority(
        database, trail=trail, platform=PLATFORM, origins=(ORIGIN,), clock=clock,
        throttle=Throttle(burst=3, refill_per_s=0.5),
    )  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def slow(slow_authority: Authority) -> FlaskClient:
    return application(slow_authority).test_client()


def test_failures_of_one_address_and_client_are_slowed_down(slow: FlaskClient, ehr: Machine, clock: Clock) -> None:
    """RFC 6749 §4.3.2 asks for a limit of guesses; Retry-After says when."""
    statuses = [ehr.ask(slow, assertion=ehr.assertion(jti=1)).status_code for _ in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    answer = ehr.ask(slow, assertion=ehr.assertion(jti=1))
    assert answer.get_json()["error"] == "temporarily_unavailable"
    assert int(answer.headers["Retry-After"]) == 2
    clock.advance(seconds=2)
    assert ehr.ask(slow, assertion=ehr.assertion(jti=1)).status_code == 401


def test_nobody_is_locked_out_by_the_failures_of_others(
    slow: FlaskClient, ehr: Machine, register: Callable[..., Machine]
) -> None:
    """An attacker who shares the address and names the client stops neither it nor the others."""
    other = register("hospital-b")
    token = other.token(slow)
    for _ in range(10):
        ehr.ask(slow, assertion=ehr.assertion(jti=1))
        slow.get("/fhir/whoami", headers=bearer("x" * 43))
    assert ehr.ask(slow).status_code == 200
    assert other.ask(slow, assertion=other.assertion(jti=1)).status_code == 401
    assert slow.get("/fhir/whoami", headers=bearer(token)).status_code == 200
    assert slow.get("/fhir/whoami", headers=bearer("x" * 43)).status_code == 429


def test_an_expired_token_hears_401_while_a_neighbour_guesses(
    slow: FlaskClient, ehr: Machine, clock: Clock
) -> None:
    """A client that heard 429 would wait where it should fetch a new token."""
    token = ehr.token(slow)
    clock.advance(seconds=301)
    for _ in range(10):
        slow.get("/fhir/whoami", headers=bearer("x" * 43))
    assert slow.get("/fhir/whoami", headers=bearer(token)).status_code == 401


def test_invented_names_share_one_bucket(slow: FlaskClient, ehr: Machine) -> None:
    """Another name each time gains nothing."""
    statuses = []
    for number in range(6):
        stranger = Machine(f"stranger-{number}", ehr.key, ehr.clock)
        statuses.append(stranger.ask(slow).status_code)
    assert statuses == [401, 401, 401, 429, 429, 429]


def test_a_flood_is_on_record_without_filling_it(
    slow: FlaskClient, slow_authority: Authority, trail: MemoryTrail
) -> None:
    """Reference §4.3: denials are recorded; one record tells of many, and of every one."""
    statuses = [slow.get("/fhir/whoami", headers=bearer("x" * 43)).status_code for _ in range(60)]
    assert statuses == [401] * 3 + [429] * 57
    assert len(trail.disclosed) == 3
    assert slow_authority.refusals.flush() == 57
    counted = [int(dict(access.detail).get("attempts", "1")) for access in trail.disclosed]
    assert counted == [1, 1, 1, 57]
    assert {access.outcome for access in trail.disclosed} == {Outcome.SERIOUS}
    assert slow_authority.refusals.flush() == 0


def test_what_was_only_counted_is_on_record_without_a_further_request(
    database: Database, trail: MemoryTrail, clock: Clock
) -> None:
    """Nobody need come again for it: a timer writes it down."""
    counting = Refusals(Throttle(burst=1), trail=trail, clock=clock, flush_s=0.01)
    for _ in range(5):
        counting.record(STRANGER, REFUSED)
    deadline = time.monotonic() + 30
    while _attempts(trail) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert _attempts(trail) == 5


def test_a_process_that_stops_writes_down_what_it_counted(trail: MemoryTrail, clock: Clock) -> None:
    counting = Refusals(Throttle(burst=1), trail=trail, clock=clock, flush_s=3600)
    for _ in range(5):
        counting.record(STRANGER, REFUSED)
    counting.close()
    assert _attempts(trail) == 5


def test_counts_that_cannot_be_written_are_counted_on(trail: MemoryTrail, clock: Clock) -> None:
    counting = Refusals(Throttle(burst=1), trail=trail, clock=clock, flush_s=3600)
    for _ in range(5):
        counting.record(STRANGER, REFUSED)
    trail.failure = Unavailable("away")
    assert counting.flush() == 0
    trail.failure = None
    counting.record(STRANGER, REFUSED)
    assert counting.flush() == 5
    assert _attempts(trail) == 6


def test_however_many_senders_none_is_lost(trail: MemoryTrail, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory that a flood from many addresses takes is bounded; beyond, they are counted together."""
    monkeypatch.setattr("auth.refusals.MAX_COUNTED", 3)
    counting = Refusals(Throttle(burst=1), trail=trail, clock=clock, flush_s=3600)
    for number in range(20):
        for _ in range(2):
            counting.record(replace(STRANGER, address=f"192.0.2.{number}"), REFUSED)
    counting.flush()
    assert _attempts(trail) == 40
    assert len(trail.disclosed) == 20 + 4
    counting.close()


def _attempts(trail: MemoryTrail) -> int:
    return sum(int(dict(access.detail).get("attempts", "1")) for access in trail.disclosed)


def test_neighbours_in_one_ipv6_network_are_one_sender() -> None:
    """A /64 is what one subscriber has."""
    throttle = Throttle(burst=1)
    throttle.failed("2001:db8::1", "c", 0.0)
    assert throttle.wait_s("2001:db8::ffff:2", "c", 0.0) == 2
    assert throttle.wait_s("2001:db8:1::1", "c", 0.0) == 0
    assert throttle.wait_s("2001:db8::1", "d", 0.0) == 0
    throttle.failed("::ffff:192.0.2.1", "c", 0.0)
    assert throttle.wait_s("192.0.2.1", "c", 0.0) == 2
