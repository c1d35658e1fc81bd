"""Limits of requests in flight and of their rate. RFC 6585 §4"""

from __future__ import annotations

import pytest

from auth import admission as admission_module
from auth.admission import Admission, AdmissionLimits, Holder
from resources.outcomes import TooManyRequests

A1, A2, B1 = Holder("a1", "a"), Holder("a2", "a"), Holder("b1", "b")


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def admission(**limits: int) -> tuple[Admission, Clock]:
    clock = Clock()
    return Admission(AdmissionLimits(**limits), clock_s=clock), clock


def test_a_client_has_its_requests_in_flight_and_gets_its_places_back() -> None:
    admitting, _ = admission(client_in_flight=2)
    held = [admitting.admit(A1), admitting.admit(A1)]
    with pytest.raises(TooManyRequests) as refused:
        admitting.admit(A1)
    assert refused.value.retry_after_s == 1
    admitting.admit(A2)
    held[0].release()
    held[0].release()
    held.append(admitting.admit(A1))
    with pytest.raises(TooManyRequests):
        admitting.admit(A1)
    held.clear()  # dropped without a word
    admitting.admit(A1)


def test_the_clients_of_an_organisation_share_its_limit_and_another_has_its_own() -> None:
    admitting, _ = admission(organization_in_flight=2)
    held = [admitting.admit(A1), admitting.admit(A2)]
    with pytest.raises(TooManyRequests):
        admitting.admit(A1)
    held.append(admitting.admit(B1))


def test_a_rate_has_a_burst_of_two_seconds_and_fills_with_time() -> None:
    admitting, clock = admission(client_rate=2, organization_rate=3)
    for _ in range(4):
        admitting.admit(A1).release()
    with pytest.raises(TooManyRequests) as refused:
        admitting.admit(A1)
    assert refused.value.retry_after_s == 1
    for _ in range(2):
        admitting.admit(A2).release()
    with pytest.raises(TooManyRequests):
        admitting.admit(A2)  # the organisation's six
    clock.now_s += 1
    admitting.admit(A1).release()
    clock.now_s -= 50  # a clock that was set back gives nothing, and takes nothing
    admitting.admit(A1).release()
    with pytest.raises(TooManyRequests):
        admitting.admit(A1)


def test_who_was_quiet_for_long_has_a_burst_and_no_more() -> None:
    """What an hour of silence saved would else come at once."""
    admitting, clock = admission(client_rate=2)
    for _ in range(3):
        clock.now_s += 3600
        for _ in range(4):
            admitting.admit(A1).release()
        with pytest.raises(TooManyRequests):
            admitting.admit(A1)


def test_what_is_refused_is_not_counted() -> None:
    admitting, clock = admission(client_in_flight=1, client_rate=1)
    admitted = admitting.admit(A1)
    for _ in range(5):
        with pytest.raises(TooManyRequests):
            admitting.admit(A1)
    admitted.release()
    clock.now_s += 1
    admitting.admit(A1)


def test_accounts_of_those_who_ask_no_more_are_forgotten_and_none_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by who is here, not by who ever was; and nobody is let in twice for others' sake."""
    monkeypatch.setattr(admission_module, "MAX_BUCKETS", 4)
    admitting, _ = admission(client_in_flight=1)
    held = admitting.admit(A1)
    for number in range(50):
        admitting.admit(Holder(f"c{number}", f"o{number}")).release()
    assert len(admitting._accounts) <= 4
    with pytest.raises(TooManyRequests):
        admitting.admit(A1)
    held.release()
    admitting.admit(A1).release()
