"""What follows from a person's answer to a garde: the participant's status, and the readings proposed to who is gone.

FHIR R4 §12.11  http://hl7.org/fhir/R4/appointmentresponse.html
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import structlog

from resources import scheduling
from resources.codes import TELERADIOLOGY_TASK, DutyFunction, TaskKind
from resources.json import Json
from resources.lifecycle import IN_ERROR
from resources.outcomes import Forbidden, ForbiddenTransition, InvalidContent
from resources.scheduling import OCCUPIES, ON_DUTY
from store.access import Change, Draft, Version, Work
from workflow import context
from workflow.cases import Case
from workflow.context import Context, before_of, look_up
from workflow.reading import Reading
from workflow.rota import Rota

log = structlog.get_logger("vigie.workflow")


@dataclass(frozen=True, slots=True)
class Answers:
    """Guard and sequel of AppointmentResponse, of those that answer a garde."""

    context: Context
    rota: Rota

    def prepare(self, uow: Work, draft: Draft) -> None:
        """An answer is the participant's own, or the planner's who was told; of a garde that can still be changed."""
        response = draft.resource
        garde = _garde(uow, response)
        if response is None or garde is None:
            return
        caller = uow.caller
        if not caller.is_system and caller.organization != self.context.platform:
            raise Forbidden("Only the platform plans its gardes")
        if garde.json().get("status") not in OCCUPIES - {"fulfilled"}:
            raise ForbiddenTransition(
                f"The garde is {garde.json().get('status')}: there is nothing to answer",
                expression="AppointmentResponse.appointment",
            )
        actor = response.get("actor", {}).get("reference")
        if actor not in scheduling.people(garde.json()):
            raise InvalidContent(
                "The answer's actor is nobody of that garde: give the participant's own reference",
                expression="AppointmentResponse.actor",
            )
        if caller.practitioner is not None and self.rota.practitioner_of(uow, actor) != caller.practitioner:
            raise Forbidden("An answer to a garde is the participant's own")

    def changed(self, uow: Work, change: Change) -> None:
        """The participant's status is what he answered."""
        if change.after.deleted or change.derived:
            return
        response = change.after.json()
        garde = _garde(uow, response)
        if garde is None:
            return
        actor = response.get("actor", {}).get("reference")
        participants: list[Json] = deepcopy(garde.json()["participant"])
        for one in participants:
            if one.get("actor", {}).get("reference") == actor:
                one["status"] = response["participantStatus"]
        if participants != garde.json()["participant"]:
            context.update(uow, garde, participant=participants)


@dataclass(frozen=True, slots=True)
class Leaving:
    """Sequel of Appointment: what was proposed to who is not on duty any more is proposed to somebody who is."""

    context: Context
    rota: Rota
    reading: Reading

    def changed(self, uow: Work, change: Change) -> None:
        """After a garde of now was declined, cancelled, moved or ended."""
        before = before_of(change)
        after = {} if change.after.deleted else change.after.json()
        function = scheduling.duty_function(before)
        if function is None or change.after.owner != self.context.platform:
            return
        interval = scheduling.interval_of(before or {})
        left = _working(before) - (_working(after) if scheduling.interval_of(after) == interval else set())
        if not left or interval is None or interval.end <= uow.now:
            return
        if not scheduling.accepted(after) and after.get("status") in ON_DUTY:
            log.warning("nobody has accepted a garde", appointment=change.after.reference)
        if function is not DutyFunction.READING or uow.now not in interval:
            return
        present = {duty.practitioner for duty in self.rota.on_duty(uow, uow.now, DutyFunction.READING)}
        gone = {self.rota.practitioner_of(uow, person) for person in left} - present - {None}
        for person in sorted(filter(None, gone)):
            self._propose_again(uow, person)

    def _propose_again(self, uow: Work, person: str) -> None:
        """A reading that is claimed stays its reader's: only what is ready was a proposal."""
        asked = [("owner", person), ("status", "ready"), ("code", f"{TELERADIOLOGY_TASK}|{TaskKind.READ}")]
        for task in uow.system.each("Task", asked):
            case = Case.load(uow, self.context, task.json().get("focus", {}).get("reference"))
            if case is not None:
                self.reading.propose_again(uow, case)


def _working(appointment: Json | None) -> set[str]:
    """Whose work the garde is, as it stands."""
    if appointment is None or appointment.get("status") not in ON_DUTY:
        return set()
    return set(scheduling.accepted(appointment))


def _garde(uow: Work, response: Json | None) -> Version | None:
    """The garde that is answered; None where it is another appointment, or none."""
    if response is None or response.get("participantStatus") == IN_ERROR:
        return None
    found = look_up(uow, response.get("appointment", {}).get("reference"))
    if found is None or found.type != "Appointment" or scheduling.duty_function(found.json()) is None:
        return None
    return found
