"""Refusals of those whom nobody knows, on record: each by itself, and those of a flood by their number.

A flood must not fill the audit log, and must not pass unseen. What the throttle turns away is counted in memory, and a
timer writes the counts down every few seconds, and once more when the process stops; only a process that is killed
(SIGKILL, power) loses what it counted since.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from auth.throttle import Throttle, network_of
from resources.outcomes import Unavailable
from store.access import Access, Caller, Interaction, Trail

log = structlog.get_logger("vigie.auth")

FLUSH_S = 5.0
"""A refusal that was only counted is on record after this long, and the time that the record takes."""
MAX_COUNTED = 10_000
"""Senders that are counted apart; all further ones are counted together."""

_NOT_CREDENTIALS = "(no client)"
"""Names a bucket as no client can be named."""

_Key = tuple[str, str, Interaction]


@dataclass(slots=True)
class _Counted:
    caller: Caller
    access: Access
    count: int


class Refusals:
    """Records refusals; `flush` and `close` write down what was only counted."""

    def __init__(
        self, throttle: Throttle, *, trail: Trail, clock: Callable[[], datetime], flush_s: float = FLUSH_S
    ) -> None:
        self._throttle = throttle
        self._trail = trail
        self._clock = clock
        self._flush_s = flush_s
        self._counted: dict[_Key, _Counted] = {}
        self._mutex = threading.Lock()
        self._timer: threading.Timer | None = None
        self._is_closed = False

    def record(self, caller: Caller, access: Access, key: str | None = None) -> int:
        """Record a refusal, or count it in a flood; seconds that this address (as this client) must wait, 0: none.

        `key`: the client that has the bucket, by default the caller's client id. Raises Unavailable.
        """
        now = self._clock()
        client = caller.client_id if key is None else key
        wait_s = self._throttle.wait_s(caller.address, client, now.timestamp())
        if wait_s:
            self._count(caller, access, client)
        else:
            self._throttle.failed(caller.address, client, now.timestamp())
            self._trail.disclose(caller, [access], now)
        return wait_s

    def note(self, caller: Caller, access: Access) -> None:
        """Record what was refused to a stranger for another reason than his credentials, or count it in a flood.

        It has a bucket of its own: who asks for what is not there is not locked out of authenticating.
        """
        self.record(caller, access, _NOT_CREDENTIALS)

    def count(self, caller: Caller, access: Access) -> None:
        """Count a refusal, and have it recorded by number: for where nothing may wait for a disk."""
        self._count(replace(caller, recording=None), access, f"{caller.client_id or _NOT_CREDENTIALS} {access.reason}")

    def flush(self) -> int:
        """Write down what was counted; how many refusals that were. What cannot be written is counted on."""
        with self._mutex:
            taken, self._counted = self._counted, {}
        written = 0
        for key, counted in taken.items():
            attempts = (("attempts", str(counted.count)),)
            access = replace(counted.access, detail=counted.access.detail + attempts)
            try:
                self._trail.disclose(counted.caller, [access], self._clock())
            except Unavailable:
                self._add(key, counted)
            else:
                written += counted.count
        return written

    def close(self) -> None:
        """Write down what was counted, and start no timer any more."""
        with self._mutex:
            self._is_closed = True
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self.flush()

    def _count(self, caller: Caller, access: Access, client: str) -> None:
        key = (network_of(caller.address), client, access.interaction)
        if key not in self._counted and len(self._counted) >= MAX_COUNTED:
            key, caller = ("", "", access.interaction), Caller("", "")
        self._add(key, _Counted(caller, access, 1))
        with self._mutex:
            if self._timer is None and not self._is_closed:
                self._timer = threading.Timer(self._flush_s, self._turn)
                self._timer.daemon = True
                self._timer.start()

    def _add(self, key: _Key, counted: _Counted) -> None:
        with self._mutex:
            known = self._counted.setdefault(key, counted)
            if known is not counted:
                known.count += counted.count

    def _turn(self) -> None:
        with self._mutex:
            self._timer = None
        try:
            self.flush()
        except Exception:
            log.exception("refusals could not be recorded")
        with self._mutex:
            again = bool(self._counted) and self._timer is None and not self._is_closed
            if again:
                self._timer = threading.Timer(self._flush_s, self._turn)
                self._timer.daemon = True
                self._timer.start()
