"""Where a report's PDF is printed and sealed: beside the transaction that signs it, so that nobody waits for it.

The signing guard runs first, in the transaction. If it holds, and no file of just this page is ready, the transaction
is left (`store.engine.faults.Outside`), the page is printed and sealed, and the whole begins anew: the guard again,
then the page is compared with what was printed. What is not used within a minute is forgotten.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import structlog

from resources.outcomes import Unavailable
from store.engine.faults import Outside
from store.engine.keyring import KeyFault
from workflow import report_pdf
from workflow.report_pdf import Layout
from workflow.seal import Seal

log = structlog.get_logger("vigie.seal")

KEPT = timedelta(minutes=1)
"""How long a file that was printed may be used: its time is the time of the signature."""
FILES_MAX = 128
_NO_TIME = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Printed:
    """A file, and the time that it bears."""

    pdf: bytes
    at: datetime


class Press:
    """Prints and seals. One per process."""

    def __init__(self, seal: Seal | None, before: Callable[[], object] | None = None) -> None:
        """`before` is called outside the transaction too, before a report is marked as withdrawn."""
        self._seal = seal
        self._before = before
        self._printed: OrderedDict[bytes, Printed] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def sealed_by(self) -> str:
        """Who seals; empty: nobody does. Raises Unavailable where the key cannot be used."""
        try:
            return "" if self._seal is None else self._seal.described
        except KeyFault as fault:
            log.exception("reports cannot be sealed")
            raise Unavailable("Reports cannot be sealed at present") from fault

    def take(self, page: Callable[[datetime], Layout], now: datetime, *, is_withdrawal: bool = False) -> Printed:
        """The file of the page that `page` gives for a time. Raises Outside where it is still to be printed."""
        key = sha256(repr(page(_NO_TIME)).encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            found = self._printed.get(key)
        if found is not None and timedelta() <= now - found.at <= KEPT:
            return found

        def work() -> None:
            if is_withdrawal and self._before is not None:
                self._before()
            pdf = report_pdf.render(page(now))
            self._keep(key, Printed(pdf if self._seal is None else self._seal.sealed(pdf), now))

        raise Outside(work)

    def _keep(self, key: bytes, printed: Printed) -> None:
        with self._lock:
            self._printed[key] = printed
            self._printed.move_to_end(key)
            for other, one in list(self._printed.items()):
                if other != key and (printed.at - one.at > KEPT or len(self._printed) > FILES_MAX):
                    del self._printed[other]
