"""The values every layer shares, and the ports that the layers above implement.

`Caller` says who asks, `Access` what was done, `Change` what was altered. `Permit` (in `auth`) decides, `Trail` (in
`audit`) remembers, an `Observer` (in `workflow`, `subscriptions`) reacts. The store calls them; it knows none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resources.search import Query
    from store.unit_of_work import UnitOfWork

Json = dict[str, Any]

EVERYONE = "*"
"""The audience member that stands for every authenticated organisation (directory resources)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Made by `auth.guard` (a token), `dicomweb.dimse` (an AE title) or `Caller.system`, never a payload."""

    client_id: str
    organization: str
    """Logical id of the Organization the client belongs to."""
    scopes: frozenset[str] = frozenset()
    """SMART v2 scopes as granted, e.g. ``system/ServiceRequest.rs?status=active``."""
    role: str = ""
    practitioner: str | None = None
    """``Practitioner/id`` of the person behind the client, if there is one."""
    token_ref: str | None = None
    """A random name of the token for the audit record; never a part of the token."""
    address: str = ""
    """Network address of the peer."""
    request_id: str = ""
    purpose: str = "TREAT"
    """v3-ActReason code."""
    is_system: bool = False

    @staticmethod
    def system(organization: str, on_behalf_of: Caller | None = None) -> Caller:
        """The server acting by itself, or on a caller's behalf: no permit is asked, every write is still recorded."""
        if on_behalf_of is None:
            return Caller("vigie", organization, role="system", is_system=True)
        return replace(on_behalf_of, organization=organization, is_system=True)


class Interaction(StrEnum):
    """restful-interaction codes, and the names of what else is audited."""

    READ = "read"
    VREAD = "vread"
    CREATE = "create"
    UPDATE = "update"
    PATCH = "patch"
    DELETE = "delete"
    SEARCH_TYPE = "search-type"
    SEARCH_SYSTEM = "search-system"
    HISTORY_INSTANCE = "history-instance"
    HISTORY_TYPE = "history-type"
    HISTORY_SYSTEM = "history-system"
    TRANSACTION = "transaction"
    BATCH = "batch"
    OPERATION = "operation"
    DICOM_QUERY = "dicom-query"
    DICOM_RETRIEVE = "dicom-retrieve"
    DICOM_STORE = "dicom-store"
    NOTIFY = "notify"
    TOKEN = "token"  # noqa: S105 - the name of an interaction
    REVOKE = "revoke"
    INTROSPECT = "introspect"
    ADMIN = "admin"


class Outcome(StrEnum):
    """AuditEvent.outcome: 4 the caller's fault, 8 a refusal for security, 12 the server's fault."""

    SUCCESS = "0"
    MINOR = "4"
    SERIOUS = "8"
    MAJOR = "12"


@dataclass(frozen=True, slots=True)
class Access:
    """One thing that was done or refused: what becomes one AuditEvent (a query: one per patient found)."""

    interaction: Interaction
    type: str | None = None
    id: str | None = None
    version: int | None = None
    patients: tuple[str, ...] = ()
    """``Patient/id`` references concerned."""
    owner: str | None = None
    """Organisation that owns what was touched, if known."""
    query: str | None = None
    """The raw request (method, path, query or form) of a search."""
    detail: tuple[tuple[str, str], ...] = ()
    """Further facts (StudyInstanceUID, counts, operation name), no personal text."""
    outcome: Outcome = Outcome.SUCCESS
    reason: str | None = None
    """Why it failed, machine text."""
    derived: bool = False
    """Done by the server on the caller's behalf."""


@dataclass(frozen=True, slots=True)
class Visibility:
    """What a caller may see of one type: compiled into SQL on every path."""

    organizations: frozenset[str] | None
    """Audience members that admit the caller (its organisation and EVERYONE); None only for the server itself."""
    constraints: tuple[Query, ...] = ()
    """Search constraints of the scopes: at least one must hold; empty: none asked."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Who owns a version and which organisations may see it. Set by the server, never by the payload."""

    owner: str
    organizations: frozenset[str]


@dataclass(slots=True)
class Draft:
    """A version about to be written. `Observer.prepare` may complete `resource` in place or refuse."""

    type: str
    id: str
    interaction: Interaction
    resource: Json | None
    """None for a delete."""
    before: Version | None


@dataclass(frozen=True, slots=True)
class Version:
    """One stored version of a resource. `content` is the JSON text as it is served, with id and meta stamped in."""

    pk: int
    type: str
    id: str
    version: int
    tx: int
    last_updated: datetime
    deleted: bool
    method: str
    """HTTP method of the interaction that made it: POST, PUT, PATCH, DELETE."""
    owner: str
    content: bytes
    patients: tuple[str, ...] = ()
    """``Patient/id`` references of the patients concerned, kept at writing so that a read needs no parsing."""
    parsed: list[Json] = field(default_factory=list, compare=False, repr=False)

    @property
    def reference(self) -> str:
        return f"{self.type}/{self.id}"

    def json(self) -> Json:
        """The resource as parsed JSON (decimals keep their digits). Do not alter it: copy first."""
        if not self.parsed:
            from resources import jsontext

            self.parsed.append(jsontext.parse(self.content))
        return self.parsed[0]


@dataclass(frozen=True, slots=True)
class Change:
    """What was altered in this unit of work: told to every observer before the commit."""

    interaction: Interaction
    before: Version | None
    after: Version
    caller: Caller
    derived: bool = False


class Permit(Protocol):
    """Who may. Implemented by `auth.policy`."""

    def visibility(self, caller: Caller, interaction: Interaction, type_name: str) -> Visibility:
        """What `caller` may see of `type_name` by this interaction. Raises Forbidden where no scope covers it."""
        ...

    def authorise_write(self, uow: UnitOfWork, caller: Caller, draft: Draft) -> None:
        """Raise Forbidden unless the caller may write this draft (scope, scope constraints, ownership)."""
        ...

    def audience(self, uow: UnitOfWork, caller: Caller, draft: Draft) -> Audience:
        """Owner and audience of the version that `draft` becomes."""
        ...


class Trail(Protocol):
    """Who did. Implemented by `audit.trail`."""

    def append(self, connection: Connection, caller: Caller, accesses: Sequence[Access], at: datetime) -> None:
        """Write the records inside the transaction of `connection`: they commit with the data."""
        ...

    def disclose(self, caller: Caller, accesses: Sequence[Access], at: datetime) -> None:
        """Return once the records are durable. Raises Unavailable: then nothing may be disclosed."""
        ...


class Observer(Protocol):
    """Reacts to changes inside the transaction that makes them."""

    def prepare(self, uow: UnitOfWork, draft: Draft) -> None:
        """Before a version is written: complete `draft.resource`, or raise to refuse it."""
        ...

    def changed(self, uow: UnitOfWork, change: Change) -> None:
        """After all writes of the caller, before the commit. May write through `uow.system`; may raise to refuse."""
        ...
