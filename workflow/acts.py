"""What the clock does with each kind of thing that is due: the table of its actions."""

from __future__ import annotations

from collections.abc import Mapping

from resources.codes import TaskKind
from store.access import Work
from workflow import escalation
from workflow.alarms import Due
from workflow.cases import Case
from workflow.escalation import Act
from workflow.leases import HANDOVER, LEASE
from workflow.rules import Parts


def of(parts: Parts) -> Mapping[str, Act]:
    """Kind → what is done with a row that is due."""

    def no_reader(uow: Work, row: Due) -> None:
        """Propose the reading if somebody is on duty by now; else somebody must find one."""
        case = Case.load(uow, parts.context, row.order)
        if case is not None:
            parts.reading.propose_again(uow, case)
            reading = case.tasks.get(TaskKind.READ)
            if reading is not None and not escalation.lacks_reader(reading.json()):
                return  # the row ends with the commit
        parts.escalations.raise_(uow, row)

    def raise_(uow: Work, row: Due) -> None:
        parts.escalations.raise_(uow, row)

    return {
        **dict.fromkeys(escalation.KINDS, raise_),
        "no-reader": no_reader,
        LEASE: parts.leases.expired,
        HANDOVER: parts.leases.ended,
    }
