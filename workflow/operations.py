"""The workflow's own operations: `$sign`, `$next`, `$acknowledge`, `$protocols` and `$on-duty`.

They only say in one call what ordinary interactions say too: `$sign` is an update to status final, `$next` a search by
deadline and the claim of what it found, with the same guards.

FHIR R4 §3.2.0 Operations  http://hl7.org/fhir/R4/operations.html
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime

from resources.codes import DutyFunction
from resources.json import Json
from resources.lifecycle import SIGNED
from resources.outcomes import BadRequest, Forbidden, ForbiddenTransition
from resources.scheduling import Interval
from resources.times import instant_text, parse_instant
from store.access import Version, Work
from workflow.dialogue import Dialogue
from workflow.leases import Leases
from workflow.protocols import Protocols
from workflow.rota import Rota
from workflow.worklist import Next


@dataclass(frozen=True, slots=True)
class Operations:
    """Functions that the edge routes; each takes the unit of work of the request."""

    rota: Rota
    next: Next
    dialogue: Dialogue
    leases: Leases

    def acknowledge(self, uow: Work, communication_id: str) -> Version:
        """Say that the message was read. Raises as the recipient's update would."""
        return self.dialogue.acknowledge(uow, communication_id)

    def next_task(self, uow: Work, function: str | None = None) -> Version | None:
        """The caller's next case, claimed; None where nothing waits. `function`: regulation or reading."""
        wanted = next((one for one in (DutyFunction.REGULATION, DutyFunction.READING) if one == function), None)
        if function and wanted is None:
            raise BadRequest("function is regulation or reading", expression="http.function")
        return self.next.claim(uow, wanted)

    def protocols(self, uow: Work, order_id: str) -> Json:
        """Parameters: a `protocol` for each entry of the catalogue that may be given for this order."""
        order = uow.resources.read("ServiceRequest", order_id)
        found = Protocols(self.dialogue.context).fitting(uow, order.json(), order.owner)
        return {"resourceType": "Parameters", **({"parameter": found} if found else {})}

    def heartbeat(self, uow: Work, task_id: str) -> Json:
        """The caller still works on the Task: until when the claim holds. Raises NotFound, ForbiddenTransition."""
        until = self.leases.heartbeat(uow, task_id)
        return {"resourceType": "Parameters", "parameter": [{"name": "until", "valueInstant": instant_text(until)}]}

    def sign(self, uow: Work, report_id: str, *, if_match: int | None = None) -> Version:
        """Sign the report as it is stored: the version with status final. Raises as the update would."""
        current = uow.resources.read("DiagnosticReport", report_id)
        report = deepcopy(current.json())
        if report.get("status") in SIGNED:
            raise ForbiddenTransition("The report is signed already", expression="DiagnosticReport.status")
        report["status"] = "final"
        return uow.resources.update("DiagnosticReport", report_id, report, if_match=if_match or current.version)

    def on_duty(self, uow: Work, *, at: str | None = None, function: str | None = None) -> Json:
        """Parameters: one `duty` for each person on duty at `at` (default now) for `function` (default any), and one
        `gap` for each garde then that nobody has accepted.

        The rota is the platform's: it is not shown to hospitals (auth/audience.py), so nor is what follows from it.
        """
        if not uow.caller.is_system and uow.caller.organization != uow.platform:
            raise Forbidden("The rota is the platform's")
        moment = _moment(at) or uow.now
        wanted = next((one for one in DutyFunction if one == function), None)
        if function and wanted is None:
            raise BadRequest(f"function is one of {', '.join(DutyFunction)}")
        found = self.rota.on_duty(uow, moment, wanted)
        gaps = self.rota.gaps(uow, moment, wanted)
        return {
            "resourceType": "Parameters",
            "parameter": [
                {
                    "name": "duty",
                    "part": [
                        {"name": "practitioner", "valueReference": {"reference": duty.practitioner}},
                        {"name": "function", "valueCode": str(duty.function)},
                        {"name": "appointment", "valueReference": {"reference": duty.appointment}},
                        _period(duty.interval),
                    ],
                }
                for duty in sorted(found, key=lambda one: (one.function, one.practitioner))
            ]
            + [
                {
                    "name": "gap",
                    "part": [
                        {"name": "function", "valueCode": str(gap.function)},
                        {"name": "appointment", "valueReference": {"reference": gap.appointment}},
                        _period(gap.interval),
                    ],
                }
                for gap in sorted(gaps, key=lambda one: (one.function, one.appointment))
            ],
        }


def _period(interval: Interval) -> Json:
    return {
        "name": "period",
        "valuePeriod": {"start": instant_text(interval.start), "end": instant_text(interval.end)},
    }


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    moment = parse_instant(text.replace(" ", "+"))
    if moment is None:
        raise BadRequest("at is an instant with an explicit offset, e.g. 2026-10-25T02:30:00+01:00")
    return moment
