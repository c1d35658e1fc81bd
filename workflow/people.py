"""Who the caller is to the workflow: a radiologist of the platform, on duty for what the step asks.

The client's role says that a person is one of the platform's radiologists; the rota says what for. So one person may
regulate in one garde and read in the next with the same client.
"""

from __future__ import annotations

from dataclasses import dataclass

from resources.codes import DutyFunction
from resources.outcomes import ForbiddenTransition
from store.access import Work
from workflow.context import Context
from workflow.rota import Rota

MEDICAL_ROLES = frozenset({"regulator", "radiologist"})
AI_ROLES = frozenset({"ai-vendor"})

_FUNCTION_NAME = {
    DutyFunction.REGULATION: "regulation",
    DutyFunction.READING: "reading",
    DutyFunction.SECOND_READING: "second reading",
}


@dataclass(frozen=True, slots=True)
class People:
    """Questions about the caller."""

    context: Context
    rota: Rota

    def is_radiologist(self, uow: Work) -> bool:
        """Whether the caller is a named radiologist of the platform."""
        caller = uow.caller
        return (
            caller.organization == self.context.platform
            and caller.role in MEDICAL_ROLES
            and caller.practitioner is not None
        )

    def has_duty(self, uow: Work, function: DutyFunction) -> bool:
        """Whether the caller is a radiologist on duty for that function now (the server itself always is)."""
        if uow.caller.is_system:
            return True
        practitioner = uow.caller.practitioner
        return (
            self.is_radiologist(uow)
            and practitioner is not None
            and self.rota.is_on_duty(uow, practitioner, function, uow.now)
        )

    def require_duty(self, uow: Work, function: DutyFunction, what: str) -> None:
        """Raise unless the caller is on duty for that function; `what` begins the text, e.g. "Claiming a reading"."""
        if uow.caller.is_system:
            return
        if not self.is_radiologist(uow):
            raise ForbiddenTransition(f"{what} is for a radiologist of the platform", code="forbidden")
        if not self.has_duty(uow, function):
            raise ForbiddenTransition(
                f"{what} is for a radiologist on duty for {_FUNCTION_NAME[function]}; no garde of the caller covers "
                "this instant",
                code="forbidden",
            )

    def is_caller(self, uow: Work, practitioner: str | None) -> bool:
        """Whether the caller is that Practitioner (the server itself always is)."""
        return uow.caller.is_system or (practitioner is not None and practitioner == uow.caller.practitioner)
