"""The keys of the log, as its table says them. That it says what the records say is verified (`audit.verify`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit import queries
from audit.checkpoint import BadKey, KeyChain, Verifier

if TYPE_CHECKING:
    from sqlalchemy import Connection


def chain(connection: Connection, verifier: Verifier) -> KeyChain:
    """The keys with their spans; `verifier`: the only one, where no key was ever followed by another.

    A row that is damaged is left out: what it would have opened is opened by nothing.
    """
    spans: list[tuple[int, Verifier]] = []
    for seq, former, key in queries.keys(connection):
        for begin, text in ((0, former), (seq, key))[bool(spans) :]:
            try:
                spans.append((begin, Verifier.parse(text)))
            except (BadKey, ValueError):
                continue
    return KeyChain(tuple(spans) or ((0, verifier),))
