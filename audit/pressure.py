"""The bound of what waits to be logged. Beyond it reads are refused, first those of whoever is over its share.

A log that is an hour behind is no log for whoever asks what happened in that hour. So what waits is bounded: above
`BACKLOG` records a read of an organisation that took at least its share of the last seconds is 503, above twice as many
every read is. What writes is never refused here, nor is a token: orders, images and signatures have the rest.

Each process judges by itself: what waits it asks the database and the spool twice a second, the shares are those of
its own readers.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from audit.patterns import PATTERNS
from resources.outcomes import Unavailable
from store.access import Access, Interaction

log = structlog.get_logger("vigie.audit")

BACKLOG = 100_000
"""Records: what one core sequences in some six seconds."""
LOOK_S = 0.5
WINDOW_S = 5.0
"""Shares are those of the last one to two windows."""
RATE = 15_000
"""Records a second that are sequenced at least: how long whoever is refused is asked to wait."""
_RETRY_MAX_S = 30
_RESERVED = frozenset(
    interaction for interaction in map(Interaction, PATTERNS) if PATTERNS[interaction].action in ("C", "U", "D")
) | {Interaction.TOKEN, Interaction.REVOKE, Interaction.INTROSPECT, Interaction.ADMIN, Interaction.NOTIFY}
"""What is never refused: whatever writes, whatever somebody waits for that is no read."""


class Pressure:
    """Counts what each organisation reads in this process, and refuses it where too much waits. Safe in threads."""

    def __init__(
        self, waiting: Callable[[], int], *, bound: int = BACKLOG, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`waiting`: about how many records wait to be logged; asked every LOOK_S at most."""
        self._waiting = waiting
        self._bound = bound
        self._clock_s = clock_s
        self._looking = threading.Lock()
        self._look_due_s = 0.0
        self._window_due_s = 0.0
        self._found = 0
        self._now: Counter[str] = Counter()
        self._before: Counter[str] = Counter()

    def admit(self, organization: str, accesses: Sequence[Access]) -> None:
        """Raise Unavailable where these reads are one too many. Called before their records are written."""
        now_s = self._clock_s()
        if now_s >= self._look_due_s:
            self._look(now_s)
        self._now[organization] += len(accesses)
        if self._found <= self._bound or all(access.interaction in _RESERVED for access in accesses):
            return
        if self._found > 2 * self._bound or self._is_over(organization):
            wait_s = min(_RETRY_MAX_S, 1 + math.ceil((self._found - self._bound) / RATE))
            raise Unavailable("The audit log is too far behind", retry_after_s=wait_s)

    def _is_over(self, organization: str) -> bool:
        """Whether it has had at least an equal part of what was read lately."""
        before, now = self._before, self._now
        names = {*list(before), *list(now)}
        total = sum(list(before.values())) + sum(list(now.values()))
        return (before[organization] + now[organization]) * len(names) >= total

    def _look(self, now_s: float) -> None:
        if not self._looking.acquire(blocking=False):
            return  # somebody does
        try:
            if now_s >= self._window_due_s:
                self._before, self._now, self._window_due_s = self._now, Counter(), now_s + WINDOW_S
            self._look_due_s = now_s + LOOK_S
            found = self._waiting()
            if (found > self._bound) != (self._found > self._bound):
                if found > self._bound:
                    log.warning("more waits for the audit log than may: reads are refused", count=found)
                else:
                    log.warning("the audit log has caught up: reads are answered again", count=found)
            self._found = found
        except Exception:  # the record itself will say whether it can be written
            log.exception("what waits for the audit log could not be counted")
        finally:
            self._looking.release()
