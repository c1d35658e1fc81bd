"""Who has opened a signed report: noted once, at the first read by the hospital that asked for it (S11).

A read is one select and stays one: each process remembers which versions it has looked into, and only the first read
of a version by a hospital (of the report, or of its PDF) looks whether T9 is written and writes it, after the record of
the read is durable. A failure of that is told, and is no failure of the read.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import structlog

from resources.codes import BUSINESS_STATUS, TaskKind, code_of
from resources.diagnostic_report import based_on
from resources.lifecycle import SIGNED
from store.access import Access, Caller, Interaction, Outcome, Version, Work
from store.unit_of_work import Store
from workflow import escalation, milestones
from workflow.cases import Case
from workflow.context import Context, look_up

log = structlog.get_logger("vigie.workflow")

REMEMBERED = 10_000
_TYPES = frozenset({"DiagnosticReport", "Binary"})
_READS = frozenset({Interaction.READ, Interaction.VREAD})


class Openings:
    """What `Store` tells of reads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[tuple[str, str, int | None, str], None] = {}
        self._lock = Lock()

    def is_news(self, caller: Caller, type_name: str | None, id: str | None, version: int | None) -> bool:
        """Whether a read of this version may be the first of a report by its hospital."""
        if type_name not in _TYPES or id is None or caller.is_system or caller.organization == self._context.platform:
            return False
        return (type_name, id, version, caller.organization) not in self._known

    def read(self, store: Store, caller: Caller, accesses: Sequence[Access]) -> None:
        """These accesses are durable: note what was opened by them."""
        for one in accesses:
            if one.interaction not in _READS or one.outcome is not Outcome.SUCCESS:
                continue
            if not self.is_news(caller, one.type, one.id, one.version):
                continue
            reference, organization = f"{one.type}/{one.id}", caller.organization
            try:
                store.transact(
                    Caller.system(self._context.platform),
                    lambda uow, what=reference, who=organization: self._note(uow, what, who),  # type: ignore[misc]
                )
            except Exception as fault:  # whatever it is, the read was answered
                log.error("an opening could not be noted", exc_info=fault)
                continue
            with self._lock:
                self._known[str(one.type), str(one.id), one.version, organization] = None
                while len(self._known) > REMEMBERED:
                    del self._known[next(iter(self._known))]

    def _note(self, uow: Work, reference: str, organization: str) -> None:
        report = self._report(uow, reference)
        if report is None or report.json().get("status") not in SIGNED:
            return
        for order in based_on(report.json()):
            case = Case.load(uow, self._context, order)
            if case is None or case.order.owner != organization:
                continue
            milestones.reached(uow, order, "T9", report.reference)
            root = case.task(TaskKind.ORDER) or {}
            if code_of(root.get("businessStatus", {}), BUSINESS_STATUS) in ("signed", "delivered"):
                case.move(TaskKind.ORDER, business="acknowledged")
            escalation.has_reached(uow, report.reference)

    def _report(self, uow: Work, reference: str) -> Version | None:
        version = look_up(uow, reference)
        if version is not None and version.type == "Binary":
            version = look_up(uow, version.json().get("securityContext", {}).get("reference"))
        return version if version is not None and version.type == "DiagnosticReport" else None
