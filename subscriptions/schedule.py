"""When to try again: the retry ladder, the circuit breaker and the heartbeat's jitter. Pure.

An emergency report is worth trying often in the first minutes and for three days in all. Full jitter (a random share of
the step) keeps a hundred subscriptions from knocking on a returning endpoint at the same instant.

Standard Webhooks 1.0.0 §"Deliverability and reliability" https://github.com/standard-webhooks/standard-webhooks
"""

from __future__ import annotations

from datetime import datetime, timedelta

LADDER_S: tuple[float, ...] = (1, 3, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
"""Step after the first, second, … failure; the last one repeats."""

UNMADE_S: tuple[float, ...] = (1, 3, 10)
"""Pauses before a notification that could not be composed is composed again; then its event is set aside."""
GIVE_UP_AFTER = timedelta(hours=72)
RETRY_AFTER_MAX_S = 3600
BREAKER_FAILURES = 5
"""Consecutive failures of an endpoint after which it is only probed, one request at a time."""
BREAKER_OPEN_S = 30
TIMEOUT_DEFAULT_S, TIMEOUT_MIN_S, TIMEOUT_MAX_S = 10, 1, 30
HEARTBEAT_JITTER = 0.1


def next_attempt(
    attempts: int, now: datetime, *, first_attempt_at: datetime, share: float, retry_after_s: float | None = None
) -> datetime | None:
    """When to try again after `attempts` (≥ 1) failures, or None once the window of 72 h is exhausted.

    `share` in [0, 1) is the jitter; `retry_after_s` is what the endpoint asked for (RFC 9110 §10.2.3), honoured up to
    one hour.
    """
    if now - first_attempt_at >= GIVE_UP_AFTER:
        return None
    delay_s = LADDER_S[min(attempts, len(LADDER_S)) - 1] * share
    if retry_after_s is not None:
        delay_s = max(delay_s, min(max(retry_after_s, 0), RETRY_AFTER_MAX_S))
    return now + timedelta(seconds=delay_s)


def breaker_open_until(failures: int, now: datetime) -> datetime | None:
    """Until when an endpoint with so many consecutive failures is left alone; None while it is trusted."""
    if failures < BREAKER_FAILURES:
        return None
    return now + timedelta(seconds=BREAKER_OPEN_S)


def next_heartbeat(period_s: int, now: datetime, *, share: float) -> datetime:
    """When the next heartbeat is due: the period less up to 10 %, so that a restart does not align them all."""
    return now + timedelta(seconds=period_s * (1 - HEARTBEAT_JITTER * share))


def timeout_s(asked: int | None) -> int:
    """The subscription's `backport-timeout`, clamped."""
    return min(max(asked or TIMEOUT_DEFAULT_S, TIMEOUT_MIN_S), TIMEOUT_MAX_S)
