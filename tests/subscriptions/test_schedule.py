"""The retry ladder and its bounds (reference/security-subscriptions.md §3.5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from subscriptions import schedule

NOW = datetime(2026, 6, 1, 8, tzinfo=UTC)


def test_the_first_retries_come_quickly() -> None:
    """For an emergency report: 1 s, 3 s, 10 s, 30 s, 1 m, 2 m, 5 m at most."""
    steps = [schedule.next_attempt(n, NOW, first_attempt_at=NOW, share=1) for n in range(1, 8)]
    assert [at and (at - NOW).total_seconds() for at in steps] == [1, 3, 10, 30, 60, 120, 300]


def test_the_window_is_72_hours() -> None:
    """Standard Webhooks: about three days, then the subscription is in error."""
    first = NOW - timedelta(hours=72)
    assert schedule.next_attempt(50, NOW, first_attempt_at=first, share=1) is None
    assert schedule.next_attempt(50, NOW - timedelta(seconds=1), first_attempt_at=first, share=1) is not None


@given(
    attempts=st.integers(1, 10_000),
    share=st.floats(0, 1, exclude_max=True),
    retry_after_s=st.none() | st.floats(-1e9, 1e9),
)
def test_an_attempt_is_never_in_the_past_nor_more_than_an_hour_away(
    attempts: int, share: float, retry_after_s: float | None
) -> None:
    """Retry-After is honoured up to one hour, and can only delay."""
    at = schedule.next_attempt(attempts, NOW, first_attempt_at=NOW, share=share, retry_after_s=retry_after_s)
    assert at is not None
    assert NOW <= at <= NOW + timedelta(hours=1)
    if retry_after_s is not None and 0 < retry_after_s < 3600:
        assert at >= NOW + timedelta(seconds=retry_after_s) - timedelta(microseconds=1)


@given(share=st.floats(0, 1, exclude_max=True))
def test_heartbeats_are_spread(share: float) -> None:
    """Never later than asked, never more than a tenth earlier."""
    at = schedule.next_heartbeat(100, NOW, share=share)
    assert NOW + timedelta(seconds=90) <= at <= NOW + timedelta(seconds=100)


def test_the_breaker_opens_after_five_failures_in_a_row() -> None:
    """Then the endpoint is only probed."""
    assert schedule.breaker_open_until(4, NOW) is None
    assert schedule.breaker_open_until(5, NOW) == NOW + timedelta(seconds=30)
