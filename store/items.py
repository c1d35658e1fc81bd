"""Work on several things, of which one may fail: that one is told and counted, the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from resources.outcomes import Unavailable
from store.engine.faults import DRIVER_ERRORS, is_away, is_race

log = structlog.get_logger("vigie.loops")

_counts: list[Callable[[str], None]] = []


def count_with(count: Callable[[str], None]) -> None:
    """Have `count` called with the name of the loop for each item that failed in this process."""
    _counts[:] = [count]


@contextmanager
def apart(loop: str, *, shared: bool = False) -> Iterator[None]:
    """`with` the work on one item of a loop: what it raises ends here, unless it is the database's fault.

    `shared`: the items share a transaction, which no database error leaves usable.
    """
    try:
        yield
    except Exception as error:
        if not is_its_own(error, shared=shared):
            raise
        tell(loop, error)


def is_its_own(error: Exception, *, shared: bool = False) -> bool:
    """Whether the item is to blame for what it raised, and not the database."""
    if isinstance(error, Unavailable):
        return False
    return not (isinstance(error, DRIVER_ERRORS) and (shared or is_away(error) or is_race(error)))


def tell(loop: str, error: Exception) -> None:
    """Log and count that an item failed."""
    log.error("an item of a loop failed", loop=loop, exc_info=error)
    for count in _counts:
        count(loop)
