"""Rules of a Patient that a hospital sends: its identity is stated rightly or not at all (référentiel INS)."""

from __future__ import annotations

from dataclasses import dataclass

from resources import identifiers
from resources.outcomes import InvalidContent
from store.access import Draft, Work


@dataclass(frozen=True, slots=True)
class Patients:
    """An INS comes with a right key and a qualified identity."""

    def prepare(self, uow: Work, draft: Draft) -> None:
        """Raise InvalidContent with every fault of the identity."""
        if draft.resource is None:
            return
        errors = [issue for issue in identifiers.check_patient(draft.resource) if issue.severity == "error"]
        if errors:
            raise InvalidContent(errors[0].diagnostics, issues=errors)
