"""How many requests a client, and an organisation, may have in flight, and how many a second: in each process.

The one place where it is decided is where a token is known: at the guard, or before it at a front that holds requests
back. A limit that is reached is answered 429 with Retry-After, and takes neither a thread nor the database.

RFC 6585 §4
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from resources.outcomes import TooManyRequests
from resources.values import light

ADMITTED = "vigie.admitted"
"""Key of the WSGI environment: the `Admitted` of a request that has passed."""
HOLDER = "vigie.holder"
"""Key of the WSGI environment: the `Holder` of a request that a front has looked at."""
BURST_S = 2.0
"""A bucket holds what its rate gives in this time."""
MAX_BUCKETS = 10_000


@light
@dataclass(frozen=True, slots=True)
class Holder:
    """Whose token a request bears."""

    client_id: str
    organization: str


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Per process. Rates are requests a second, in flight are requests whose answer is not complete."""

    client_in_flight: int = 256
    organization_in_flight: int = 512
    client_rate: int = 6000
    organization_rate: int = 12000


class _Account:
    """What one client, or one organisation, has in flight, and its bucket."""

    __slots__ = ("at_s", "in_flight", "tokens")

    def __init__(self, tokens: float, at_s: float) -> None:
        self.in_flight = 0
        self.tokens = tokens
        self.at_s = at_s


Accounts = tuple[_Account, _Account]
"""Of the client and of its organisation."""


class Admitted:
    """A request in flight. `release` it when its answer is complete; a second time does nothing."""

    __slots__ = ("_accounts", "_admission")

    def __init__(self, admission: Admission, accounts: Accounts) -> None:
        self._admission = admission
        self._accounts: Accounts | tuple[()] = accounts

    def release(self) -> None:
        """Give the places back, once."""
        accounts, self._accounts = self._accounts, ()
        if accounts:
            self._admission.release(accounts)

    def __del__(self) -> None:
        self.release()  # an answer that was dropped without a word is complete too


class Admission:
    """Counts the requests of one process. Safe in threads."""

    def __init__(
        self, limits: AdmissionLimits | None = None, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits or AdmissionLimits()
        self._clock_s = clock_s
        self._accounts: OrderedDict[tuple[str, str], _Account] = OrderedDict()
        self._mutex = threading.Lock()

    def admit(self, holder: Holder) -> Admitted:
        """Let a request in. Raises TooManyRequests: then nothing is counted."""
        return Admitted(self, self.enter(holder.client_id, holder.organization))

    def enter(self, client_id: str, organization: str) -> Accounts:
        """As `admit`, for whoever will surely `release` the accounts."""
        limits, now_s = self._limits, self._clock_s()
        with self._mutex:
            client = self._account("client", client_id, limits.client_rate, now_s)
            whole = self._account("organization", organization, limits.organization_rate, now_s)
            if client.in_flight >= limits.client_in_flight:
                raise TooManyRequests("Too many requests of this client are in flight", retry_after_s=1)
            if whole.in_flight >= limits.organization_in_flight:
                raise TooManyRequests("Too many requests of this organisation are in flight", retry_after_s=1)
            for account, rate in ((client, limits.client_rate), (whole, limits.organization_rate)):
                if account.tokens < 1:
                    wait_s = max(1, math.ceil((1 - account.tokens) / rate))
                    raise TooManyRequests("Too many requests in a short time", retry_after_s=wait_s)
            client.tokens -= 1
            client.in_flight += 1
            whole.tokens -= 1
            whole.in_flight += 1
        return client, whole

    def release(self, accounts: Accounts | tuple[()]) -> None:
        """Give places back."""
        with self._mutex:
            for account in accounts:
                account.in_flight -= 1

    def _account(self, kind: str, name: str, rate: int, now_s: float) -> _Account:
        burst = max(1.0, rate * BURST_S)
        account = self._accounts.get((kind, name))
        if account is None:
            account = self._accounts[kind, name] = _Account(burst, now_s)
            if len(self._accounts) > MAX_BUCKETS:
                self._forget()
        elif now_s > account.at_s:
            account.tokens = min(burst, account.tokens + (now_s - account.at_s) * rate)
            account.at_s = now_s
        return account

    def _forget(self) -> None:
        """Drop the oldest account that has nothing in flight."""
        idle = next((key for key, account in self._accounts.items() if not account.in_flight), None)
        if idle is not None:
            del self._accounts[idle]
