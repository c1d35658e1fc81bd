"""Rules of an Observation: what a device says, it says as itself."""

from __future__ import annotations

from dataclasses import dataclass

from resources.outcomes import ForbiddenTransition
from store.access import Draft, Work
from workflow.people import AI_ROLES


@dataclass(frozen=True, slots=True)
class Observations:
    """An Observation of an AI vendor names its Device (R4 Observation.device)."""

    def prepare(self, uow: Work, draft: Draft) -> None:
        """Raise ForbiddenTransition where a device hides."""
        if draft.resource is not None and uow.caller.role in AI_ROLES and not draft.resource.get("device"):
            raise ForbiddenTransition(
                "An Observation of an AI vendor names its Device", expression="Observation.device"
            )
