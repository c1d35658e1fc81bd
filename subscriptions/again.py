"""What was set aside is tried again: when a process starts (so after an upgrade), every hour, and when an operator
says so.

What can be composed now is told under the subscription's next number, since a subscriber ignores a number that it has
accepted. Where a later event tells of the same resource it is not: the older version would come after the newer. Either
way ``$events`` has it whole under its own number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import structlog

from store import items
from store.unit_of_work import Store
from subscriptions import aside, outbox
from subscriptions.composition import Composer

EVERY_S = 3600.0
PORTION = 100

log = structlog.get_logger("vigie.subscriptions")


class _Tried(Enum):
    """What became of one."""

    TOLD = "told"
    OVERTAKEN = "overtaken"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of those that were set aside: how many, by what."""

    told: int
    """Are told under the subscription's next number."""
    overtaken: int
    """Can be composed, but a later event tells of the same resource already: ``$events`` has them."""
    left: int
    """Stay set aside."""


class Again:
    """Tries again what is set aside."""

    def __init__(self, store: Store, composer: Composer, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._composer = composer
        self._clock = clock
        self._due = 0.0

    def step(self, loop: str) -> None:
        """Try all, if it is time; what one raises, if anything, is told as an item of `loop`."""
        if time.monotonic() < self._due:
            return
        self.retry(loop)
        self._due = time.monotonic() + EVERY_S

    def retry(self, loop: str, subscription_id: str | None = None) -> Retried:
        """Try all, or those of one subscription, now. Two processes may at once: each event is told once."""
        after, became = ("", 0), []
        while True:
            with self._store.database.read() as connection:
                portion = aside.listed(connection, after, limit=PORTION, subscription_id=subscription_id)
            for id, number in portion:
                done = _Tried.LEFT
                with items.apart(loop):
                    done = self._try(id, number)
                became.append(done)
            if len(portion) < PORTION:
                return Retried(*(became.count(one) for one in _Tried))
            after = portion[-1]

    def _try(self, subscription_id: str, number: int) -> _Tried:
        with self._store.database.read() as connection:
            state = outbox.state(connection, subscription_id)
            rows = outbox.events_between(connection, subscription_id, number, number, limit=1)
        if state is None or not rows or not self._composer.can_make(state, rows[0]):
            return _Tried.LEFT
        now = self._clock()
        with self._store.database.write() as connection:
            current = outbox.state(connection, subscription_id, lock=True)
            # One whose notification is under way stays as it is: its content is fixed.
            if current is None or current.status == "off" or current.delivered < number:
                return _Tried.LEFT
            if not aside.take(connection, subscription_id, number):
                return _Tried.LEFT  # another process was faster: it has told it
            overtaken = outbox.is_overtaken(connection, subscription_id, rows[0])
            if not overtaken:
                outbox.repeat_event(connection, current, rows[0], now=now)
        log.info("an event that was set aside can be told", subscription=subscription_id)
        return _Tried.OVERTAKEN if overtaken else _Tried.TOLD
