"""An operator's act on record: what was done, by which account of the machine, and how it ended.

One event an act, through the same log as every other access (IHE ATNA, DCM 110100 Application Activity). The agent is
the command line; the account goes along as its number: a name of a person stands in no log.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from auth.clients import Actor
from fhir_server.server import faults
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store.access import Access, Caller, Interaction, Outcome

AGENT = "command-line"
"""Client id under which operators' acts stand in the log."""
_PURPOSE = "HSYSADMIN"
"""v3-ActReason: health system administration."""

Detail = tuple[str, str]


def operator(settings: Settings) -> Caller:
    """Who acts at the command line: the platform's operator, whom no permit is asked for."""
    return Caller(AGENT, settings.platform, role="operator", purpose=_PURPOSE, is_system=True)


def access(
    operation: str, *detail: Detail, failure: str | None = None, patients: tuple[str, ...] = ()
) -> Access:
    """The access that is recorded of an act; `failure`: why it failed; `patients`: whom it concerned."""
    return Access(
        Interaction.ADMIN,
        patients=patients,
        detail=(("operation", operation), ("uid", str(os.getuid())), *detail),
        outcome=Outcome.SUCCESS if failure is None else Outcome.MAJOR,
        reason=failure,
    )


@dataclass(slots=True)
class Act:
    """An act under way. `conclude` puts it on record before its result is given out."""

    _record: Callable[[str | None, tuple[str, ...]], None]
    is_recorded: bool = False

    def conclude(self, failure: str | None = None, *, patients: tuple[str, ...] = ()) -> None:
        """Record how it ended, once. Raises Unavailable where that cannot be recorded."""
        if not self.is_recorded:
            self._record(failure, patients)
            self.is_recorded = True


def actor(settings: Settings) -> Actor:
    """The operator as the registry of clients records it."""
    return Actor(operator(settings), (("uid", str(os.getuid())),))


@contextmanager
def attempted(services: Services, operation: str, *detail: Detail) -> Iterator[None]:
    """One event for a failure of what is done inside, which records its success in its own transaction."""
    try:
        yield
    except Exception as error:
        with suppress(Exception):  # what failed is told, also where the log cannot be written either
            failed = access(operation, *detail, failure=faults.line_of(error) or f"exception: {type(error).__name__}")
            services.ledger.disclose(operator(services.settings), [failed], services.clock())
        raise


@contextmanager
def recorded(services: Services, operation: str, *detail: Detail) -> Iterator[Act]:
    """One event for what is done inside: a success, or a failure where it raises or was concluded so."""

    def record(failure: str | None, patients: tuple[str, ...]) -> None:
        done = access(operation, *detail, failure=failure, patients=patients)
        services.ledger.disclose(operator(services.settings), [done], services.clock())

    act = Act(record)
    try:
        yield act
    except BaseException as error:
        with suppress(Exception):  # what failed is told, also where the log cannot be written either
            act.conclude(faults.line_of(error) or f"exception: {type(error).__name__}")
        raise
    act.conclude()
