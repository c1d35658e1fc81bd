"""Whether the registry (clients with their scopes and keys, AE titles, policies) is what the log says was registered.

The record of each change says a digest of the row as it is after it (a detail `row`); the last one holds. What was
there before there were digests is logged once, as `registry-baseline`; another baseline that says something new is a
finding: it would be the way to have an altered row recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import orjson
from sqlalchemy import Connection

from audit import clinical, forms
from audit.forms import Row

BASELINE = "registry-baseline"
"""Operation of the record that says the digests of all rows that there were."""
KINDS = ("client_id", "ae", "policy", "grant")
"""Details that name what a record is about."""

Registered = Callable[[Connection], Iterable[tuple[str, str]]]
"""(``kind/name``, digest) of every row of a registry."""


def of_all(connection: Connection, registries: Sequence[Registered]) -> Iterator[tuple[str, str]]:
    """The rows of all registries."""
    for registry in registries:
        yield from registry(connection)


@dataclass(slots=True)
class Registry:
    """Takes the records of the log, then compares. Memory: one digest for each row of the registries."""

    findings: list[tuple[int, str, str]] = field(default_factory=list)
    """(position or 0, kind, text)."""
    unproven: int = 0
    """Rows that no record says anything of yet."""
    _last: dict[str, tuple[str, int]] = field(default_factory=dict)
    _has_baseline: bool = False

    def expect(self, row: Row) -> None:
        """The next record of the log."""
        if row.form != forms.FORM_1 and row.head is not None:
            self._expect(row.head, row.particulars, row.seq)

    def compare(self, connection: Connection, registries: Sequence[Registered]) -> None:
        """Read the registries, and say in `findings` what is not as it was registered."""
        for head, particulars in clinical.waiting(connection):
            self._expect(head, particulars, 0)
        left = dict(self._last)
        for name, digest in of_all(connection, registries):
            known = left.pop(name, None)
            if known is None:
                self.unproven += not self._has_baseline
                if self._has_baseline:
                    self.findings.append((0, "unrecorded", f"{name} is registered without an audit record"))
            elif known[0] != digest:
                self.findings.append((known[1], "altered", f"{name} is not registered as it was recorded last"))
        for name, (_, seq) in left.items():
            self.findings.append((seq, "missing", f"{name} was registered and is gone"))

    def _expect(self, head: str, particulars: str, seq: int) -> None:
        if '"interaction":"admin"' not in head or '"operation"' not in particulars:
            return
        try:
            content = orjson.loads(particulars)
            detail = dict(content["detail"])
            if detail.get("operation") == BASELINE:
                self._baseline([(str(name), str(digest)) for name, digest in content.get("digests", ())], seq)
            elif "row" in detail:
                for kind in KINDS:
                    if kind in detail:
                        self._last[f"{kind}/{detail[kind]}"] = (str(detail["row"]), seq)
        except (ValueError, KeyError, TypeError):
            return  # it cannot be read: that is found by its leaf

    def _baseline(self, rows: list[tuple[str, str]], seq: int) -> None:
        for name, digest in rows:
            if self._has_baseline:
                if self._last.get(name, ("", 0))[0] != digest:
                    self.findings.append((seq, "altered", f"{name} was recorded again as if it had always been so"))
            else:
                # A change that was recorded meanwhile says more than what was read before it.
                self._last.setdefault(name, (digest, seq))
        self._has_baseline = True
