"""Who should read this study: a pure choice among those on duty, and the reason in words.

Fewest studies in hand first; at equal load someone whose specialties name the order's; then the one whose garde ends
last (the least likely to leave it unread), then by reference, so that the choice is the same for everyone who
computes it. The result is a proposal: anyone on duty may claim the task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

LEAVING = timedelta(minutes=15)
"""Someone whose garde ends sooner than this gets no new study while another is there."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One radiologist on duty for reading."""

    practitioner: str
    """``Practitioner/id``."""
    load: int
    """Reading tasks proposed to or claimed by this person and not finished."""
    until: datetime
    """End of the garde."""
    specialties: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be read."""

    now: datetime
    specialties: frozenset[tuple[str, str]] = frozenset()
    """(system, code) wanted; empty: anyone."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Who is proposed, and why."""

    practitioner: str
    because: str
    """In French: shown in the worklist."""


def choose(candidates: Iterable[Candidate], order: Order) -> Choice | None:
    """The reader to propose, or None where nobody is on duty."""
    present = list(candidates)
    staying = [one for one in present if one.until - order.now >= LEAVING] or present
    if not staying:
        return None
    best = min(staying, key=lambda one: _rank(one, order))
    reasons = [f"charge {best.load} sur {len(present)} lecteur(s) de garde"]
    if order.specialties and order.specialties & best.specialties:
        reasons.append("spécialité demandée")
    if len(staying) < len(present):
        reasons.append("garde non finissante")
    return Choice(best.practitioner, "Proposé : " + ", ".join(reasons))


def _rank(one: Candidate, order: Order) -> tuple[int, bool, float, str]:
    mismatch = bool(order.specialties) and not (order.specialties & one.specialties)
    return one.load, mismatch, -one.until.timestamp(), one.practitioner
