"""A background loop: a named step that is called again at once while it finds work, else after an interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loop:
    """`step` does one bounded piece of work and returns whether it did any. It may raise: it is called again later."""

    name: str
    step: Callable[[], bool]
    interval_s: float
