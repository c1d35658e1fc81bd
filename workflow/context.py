"""What the workflow knows of the deployment, and how it writes: through the server's own repository, marked as its own.

Observers see the server's derived writes too; `acting` tells them that a write is the workflow's consequence, not
somebody's wish, so that the guards on who may do a step ask only callers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from resources.json import Json
from resources.outcomes import FhirError, PreconditionFailed
from store.access import Change, Draft, Version, Work
from store.engine.faults import LostRace
from store.engine.ids import random_id

_acting: ContextVar[bool] = ContextVar("workflow_acting", default=False)


Unpublished = Callable[[Work, Version, Iterable[str]], list[str]]
"""Order, ``ImagingStudy/id`` of further studies → ``ImagingStudy/id``."""


def none_unpublished(uow: Work, order: Version, studies: Iterable[str]) -> list[str]:
    """As where nobody stores images."""
    return []


@dataclass(frozen=True, slots=True)
class Context:
    """The deployment's choices that the workflow's rules depend on."""

    platform: str
    """Id of the teleradiology platform's Organization."""
    require_duty: bool = True
    """Whether taking a task asks for a garde of that function at that instant."""
    zone: str = "Europe/Paris"
    """Zone of the times printed on a report, where no policy says another."""
    new_id: Callable[[], str] = field(default=random_id)
    unpublished: Unpublished = none_unpublished
    """Of the studies of an order, or out of those given, which have what their ImagingStudy does not show yet."""

    @property
    def platform_reference(self) -> str:
        """``Organization/id`` of the platform."""
        return f"Organization/{self.platform}"

    def zone_info(self) -> ZoneInfo:
        """The zone; UTC where the machine has no time zone data."""
        return zone_of(self.zone) or ZoneInfo("UTC")


def zone_of(name: str) -> ZoneInfo | None:
    """The zone of that name; None for an empty name and for one that this machine does not know."""
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError):
        return None


@contextmanager
def acting() -> Iterator[None]:
    """Mark the writes inside as the workflow's own."""
    token = _acting.set(True)
    try:
        yield
    finally:
        _acting.reset(token)


def is_acting() -> bool:
    """Whether the workflow itself writes at present: its own rules do not guard it."""
    return _acting.get()


def create(uow: Work, type_name: str, resource: Json, *, resource_id: str | None = None) -> Version:
    """Create on the server's behalf."""
    with acting():
        return uow.system.create(type_name, resource, id=resource_id)


def update(uow: Work, version: Version, **elements: object) -> Version:
    """Write a new version of `version` on the server's behalf: given elements replaced, those given as None removed."""
    resource = deepcopy(version.json())
    for name, value in elements.items():
        if value is None:
            resource.pop(name, None)
        else:
            resource[name] = value
    try:
        with acting():
            return uow.system.update(version.type, version.id, resource, if_match=version.version)
    except PreconditionFailed as error:  # another transaction moved it after we looked: the whole unit starts anew
        raise LostRace from error


def look_up(uow: Work, reference: str | None) -> Version | None:
    """The current version behind a relative reference; None where there is none (integrity tells the caller)."""
    type_name, _, resource_id = (reference or "").partition("/")
    if not type_name or not resource_id or "/" in resource_id:
        return None
    try:
        return uow.system.read(type_name, resource_id)
    except FhirError:
        return None


def before_of(altered: Draft | Change) -> Json | None:
    """The resource that a draft or a change replaces, if it is there and not deleted."""
    return altered.before.json() if altered.before is not None and not altered.before.deleted else None
