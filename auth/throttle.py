"""Failed authentications are slowed down, per address and client: token buckets in the memory of each process.

A bucket empties by failures alone, and a full answer needs none of it: whoever shares an address with an attacker, or
is the client that an attacker names from elsewhere, is not locked out of an emergency.
"""

from __future__ import annotations

import ipaddress
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

MAX_BUCKETS = 10_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class Throttle:
    """`burst` failures at once, then one each `1 / refill_per_s` seconds, for each (address, client)."""

    def __init__(self, *, burst: int = 20, refill_per_s: float = 0.5) -> None:
        self._burst = float(burst)
        self._refill_per_s = refill_per_s
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()
        self._mutex = threading.Lock()

    def wait_s(self, address: str, client_id: str, now_s: float) -> int:
        """Seconds until this pair may try again; 0: now."""
        with self._mutex:
            bucket = self._buckets.get((network_of(address), client_id))
            if bucket is None:
                return 0
            self._fill(bucket, now_s)
            return 0 if bucket.tokens >= 1 else math.ceil((1 - bucket.tokens) / self._refill_per_s)

    def failed(self, address: str, client_id: str, now_s: float) -> None:
        """One failure of this pair."""
        key = (network_of(address), client_id)
        with self._mutex:
            bucket = self._buckets.get(key)
            if bucket is None:
                bucket = self._buckets[key] = _Bucket(self._burst, now_s)
                if len(self._buckets) > MAX_BUCKETS:
                    self._buckets.popitem(last=False)
            self._fill(bucket, now_s)
            bucket.tokens = max(0.0, bucket.tokens - 1)
            self._buckets.move_to_end(key)

    def _fill(self, bucket: _Bucket, now_s: float) -> None:
        # A clock that was set back gives nothing and takes nothing.
        bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now_s - bucket.at_s) * self._refill_per_s)
        bucket.at_s = now_s


def network_of(address: str) -> str:
    """What one sender can choose from: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((parsed, 64), strict=False).network_address)
    return str(parsed)
