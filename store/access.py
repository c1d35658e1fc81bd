"""The values every layer shares, and the ports that the layers above implement.

`Caller` says who asks, `Access` what was done, `Change` what was altered. `Permit` (in `auth`) decides, `Trail` (in
`audit`) remembers, an `Observer` (in `workflow`, `subscriptions`) reacts. The store calls them; it knows none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from sqlalchemy import Connection

from resources import jsontext
from resources.budgets import Budget
from resources.interactions import Interaction as Interaction  # named with Access wherever either is used
from resources.json import Json
from resources.outcomes import Issue
from resources.policies import Where
from resources.search import Query
from resources.values import light

EVERYONE = "*"
"""The audience member that stands for every authenticated organisation (directory resources)."""


@light
@dataclass(frozen=True, slots=True)
class Held:
    """A grant that a caller holds now (`auth.grants`): one more name under which he sees, and perhaps acts."""

    id: str
    name: str
    """Audience member: ``grant:ID`` of what it was given for, or the id of the Organization that delegated."""
    letters: str
    """What it allows, as in a SMART scope: out of ``cruds``."""
    source: str
    """Why there is it, e.g. ``delegation``, ``break-glass`` (`auth.grants.Source`)."""


@light
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
    purpose: str = ""
    """Why: a v3-ActReason code below PurposeOfUse; empty where that is not known (of a stranger)."""
    is_system: bool = False
    acr: str = ""
    """How the person behind the token authenticated (OpenID Connect Core §2); empty: the token does not say."""
    auth_time: datetime | None = None
    """When the person behind the token authenticated; None: the token does not say."""
    recording: Recording | None = field(default=None, compare=False, repr=False)
    """Whether what the caller does has its record yet; None where nobody looks after it: then it is made at once."""
    grants: tuple[Held, ...] = ()
    """The grants that held for him when he asked."""

    def names(self, letters: str) -> frozenset[str]:
        """The audience members that admit him to what one of these scope letters allows: never empty by a grant."""
        own = (self.organization, EVERYONE)
        if not self.grants:
            return frozenset(own)
        return frozenset((*own, *(held.name for held in self.grants if not set(held.letters).isdisjoint(letters))))

    def under(self, audiences: Iterable[frozenset[str]]) -> tuple[tuple[str, str], ...]:
        """For the record: the grants without which he would not see what has these audiences."""
        if not self.grants:
            return ()
        used: dict[Held, None] = {}
        for members in audiences:
            if self.organization not in members and EVERYONE not in members:
                used.update((held, None) for held in self.grants if held.name in members)
        return tuple(pair for held in used for pair in (("grant", held.id), ("grant-source", held.source)))

    @staticmethod
    def system(organization: str, on_behalf_of: Caller | None = None) -> Caller:
        """The server acting by itself, or on a caller's behalf: no permit is asked, every write is still recorded."""
        if on_behalf_of is None:
            # Healthcare operations: "administrative … activities related to the provision of health care".
            return Caller("vigie", organization, role="system", purpose="HOPERAT", is_system=True)
        return replace(on_behalf_of, organization=organization, is_system=True)


class Recording:
    """The record of one access from outside: a request, an entry of a batch. Settled once, where its answer leaves.

    Made where the access comes in, and carried by its `Caller`. A unit of work that commits records what it did, and
    the access is recorded. Everything else (a refusal, a failure, a read whose answer can still be refused) is only
    proposed here, and `Store.settle` writes it with the outcome that the final status gives. So nobody can forget a
    record, and nobody makes a second one.
    """

    __slots__ = (
        "accesses", "caller", "deferred", "failure", "fault", "is_covered", "is_lost", "is_recorded", "reason",
        "request", "then",
    )  # fmt: skip

    def __init__(self, request: str = "", caller: Caller | None = None) -> None:
        self.request = request
        """The raw request: method, URL and query as they came."""
        self.caller = caller
        """Who it is, once that is known."""
        self.accesses: tuple[Access, ...] = ()
        """What it is about, as far as that is known."""
        self.failure: Access | None = None
        """What a unit of work tried when it failed."""
        self.fault: Exception | None = None
        self.reason = ""
        """Why it failed, machine text, for what is no FhirError."""
        self.is_recorded = False
        self.deferred: list[Any] | None = None
        """Where the trail is to leave its rows instead of waiting until they are durable: whoever gave the list waits
        for that before the first byte of the answer leaves. None: the trail waits."""
        self.is_lost = False
        """The record could not be written: the answer is 503 and gives nothing."""
        self.is_covered = False
        """An earlier record of the same caller says it already: a success needs none of its own."""
        self.then: Callable[[], None] | None = None

    def propose(
        self, *accesses: Access, is_covered: bool = False, then: Callable[[], None] | None = None
    ) -> None:
        """Say what the access is about. `then` is called once that is durable as a success."""
        self.accesses, self.is_covered, self.then = accesses, is_covered, then
        self.failure = self.fault = None

    def failed(self, access: Access | None, fault: Exception, reason: str = "") -> None:
        """Say why it failed, and what was tried if that is known better than by what was proposed."""
        self.failure = access or self.failure
        self.fault, self.reason = fault, reason

    def let_go(self) -> None:
        """Forget who and why, once it is settled: they hold the recording too, and a circle waits for the collector."""
        self.caller = self.fault = self.then = None


class Outcome(StrEnum):
    """AuditEvent.outcome: 4 the caller's fault, 8 a refusal for security, 12 the server's fault."""

    SUCCESS = "0"
    MINOR = "4"
    SERIOUS = "8"
    MAJOR = "12"


def outcome_of_status(status: int) -> Outcome:
    """AuditEvent.outcome of an answer by its HTTP status: the one place that says so.

    401 and 403 are refusals for security (8), other 4xx the caller's fault (4), 5xx the server's (12). That a 404 hides
    another organisation's resource (8 too) the status cannot tell: `store.unit_of_work.outcome_of` knows the fault.
    """
    if status < 400:
        return Outcome.SUCCESS
    if status in (401, 403):
        return Outcome.SERIOUS
    return Outcome.MINOR if status < 500 else Outcome.MAJOR


@light
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
    context: tuple[str, ...] = ()
    """What went along with it: ``Type/id/_history/n`` of each."""
    digest: str | None = field(default=None, compare=False)
    """Of the version that was written (`store.versions.digests`)."""
    digests: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """``Type/id/_history/n`` and digest of versions that it is about and did not write."""


@light
@dataclass(frozen=True, slots=True)
class Visibility:
    """What a caller may see of one type: compiled into SQL on every path."""

    organizations: frozenset[str] | None
    """Audience members that admit the caller (its organisation, EVERYONE, its grants); None: the server itself."""
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


@light
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
    """HTTP method of the interaction that made it: POST, PUT, DELETE."""
    owner: str
    content: bytes
    patients: tuple[str, ...] = ()
    """``Patient/id`` references of the patients concerned, kept at writing so that a read needs no parsing."""
    parsed: list[Json] = field(default_factory=list, compare=False, repr=False)

    @property
    def reference(self) -> str:
        """``Type/id``."""
        return f"{self.type}/{self.id}"

    def json(self) -> Json:
        """The resource as parsed JSON (decimals keep their digits). Do not alter it: copy first."""
        if not self.parsed:
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


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Matches in order, and what they include."""

    matches: list[Version]
    includes: list[Version]
    total: int | None
    """Number of matches on all pages, where it was asked for or is known anyway."""
    next: str | None
    """Token of the next page; None on the last."""
    cuts: tuple[Budget, ...] = ()
    """The limits at which what is included was cut: there is more."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queue at one moment: how many wait in it, counted up to `COUNTED`, and since when the oldest (µs; None: none).

    Made by short statements over what waits, never over what is done: their cost does not grow with the archive.
    """

    count: int
    oldest_us: int | None


COUNTED = 100_000
"""A queue longer than this is told as this long."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A background loop: `step` is called again at once while it finds work, else after `interval_s` seconds.

    `step` does one bounded piece of work and returns whether it did any. It may raise: it is called again later.
    """

    name: str
    step: Callable[[], bool]
    interval_s: float
    wake: str = ""
    """What a transaction announces that gives this loop work: it is called again soon after the commit."""
    sooner_s: Callable[[], float] | None = None
    """Asked after a step that found no work: in how many seconds there may be some, as far as is known."""

    @property
    def rest_s(self) -> float:
        """How long to rest now, in seconds: never longer than the interval."""
        return self.interval_s if self.sooner_s is None else min(self.interval_s, self.sooner_s())


class Resources(Protocol):
    """Resources as one caller sees them. Implemented by `store.repository`."""

    def visibility(self, interaction: Interaction, type_name: str) -> Visibility:
        """What the caller may see of a type. Raises Forbidden where no scope covers it."""
        ...

    def read(self, type_name: str, id: str) -> Version:
        """The current version. Raises NotFound, Gone."""
        ...

    def vread(self, type_name: str, id: str, version: int) -> Version:
        """One version. Raises NotFound, Gone."""
        ...

    def exists(self, type_name: str, id: str) -> bool:
        """Whether the caller may see such a resource; not recorded as an access."""
        ...

    def search(self, query: Query, *, token: str | None = None) -> SearchPage:
        """A page of matches and what they include. Raises BadRequest, Gone, Forbidden."""
        ...

    def find(self, type_name: str, parameters: Sequence[tuple[str, str]]) -> list[Version]:
        """All matches of a search written as (name, value) pairs, for rules of the server."""
        ...

    def each(
        self,
        type_name: str,
        parameters: Sequence[tuple[str, str]],
        *,
        owner: str | None = None,
        portion: int = 1000,
    ) -> Iterator[Version]:
        """As `find`, of one owner if given, read in portions, however many there are; for rules of the server."""
        ...

    def count(self, type_name: str, parameters: Sequence[tuple[str, str]]) -> int:
        """How many match; for rules of the server."""
        ...

    def count_by(self, type_name: str, parameters: Sequence[tuple[str, str]], by: str) -> dict[str, int]:
        """How many match for each ``Type/id`` that they refer to by the parameter `by`; for rules of the server."""
        ...

    def create(self, type_name: str, resource: Json, *, id: str | None = None) -> Version:
        """Store a new resource; the server chooses the id unless given."""
        ...

    def update(
        self,
        type_name: str,
        id: str,
        resource: Json,
        *,
        if_match: int | None = None,
        create: bool = True,
        interaction: Interaction = Interaction.UPDATE,
    ) -> Version:
        """Store the next version. Raises PreconditionFailed, NotFound, Gone."""
        ...

    def delete(self, type_name: str, id: str, *, if_match: int | None = None) -> Version:
        """Store a deletion. Raises NotFound, PreconditionFailed."""
        ...


class Policies(Protocol):
    """What was decided by policy, as one process knows it. Implemented by `store.policies`."""

    def value(self, connection: Connection, name: str, where: Where) -> Any:
        """The value of a policy; read-only. Raises KeyError where there is no such policy."""
        ...

    def forget(self) -> None:
        """Read again when next asked."""
        ...


class Work(Protocol):
    """A unit of work as permits, observers and rules see it. Implemented by `store.unit_of_work`."""

    @property
    def caller(self) -> Caller:
        """Whose unit of work it is."""
        ...

    @property
    def connection(self) -> Connection:
        """The transaction, for a package's own tables."""
        ...

    @property
    def now(self) -> datetime:
        """The time of this transaction, aware, UTC."""
        ...

    @property
    def tx(self) -> int | None:
        """The number of this transaction in the order of all; None in a read."""
        ...

    @property
    def resources(self) -> Resources:
        """What the caller does: permitted, recorded."""
        ...

    @property
    def system(self) -> Resources:
        """What the server does on the caller's behalf: not permitted by anyone, each write recorded as derived."""
        ...

    def acting_for(self, organization: str) -> Resources:
        """As `system`, and what is created belongs to `organization`."""
        ...

    @property
    def unsettled(self) -> tuple[int, tuple[int, ...]]:
        """Transactions that have not ended, this one included: those with this number and later, and these earlier."""
        ...

    @property
    def policies(self) -> Policies:
        """What was decided by policy; asked by `store.policies.value`."""
        ...

    @property
    def new_id(self) -> Callable[[], str]:
        """Draws a logical id."""
        ...

    @property
    def platform(self) -> str:
        """Logical id of the Organization that is the teleradiology platform."""
        ...

    @property
    def base_urls(self) -> tuple[str, ...]:
        """FHIR bases of this server: an absolute reference below one of them is a reference to this server."""
        ...

    def note(self, access: Access) -> None:
        """Record an access beside the repository's own."""
        ...

    def warn(self, issue: Issue) -> None:
        """Tell the caller of `issue` (severity warning) beside the answer to a write that is carried out."""
        ...

    def flush(self) -> None:
        """Write buffered index rows, so that a statement on them sees this transaction's own versions."""
        ...

    def lock(self, key: str) -> None:
        """Hold `key` until the end of the transaction: others that ask for it wait."""
        ...

    def register_audience(self, organizations: frozenset[str]) -> int:
        """The number by which tables name this set of organisations."""
        ...


class Permit(Protocol):
    """Who may. Implemented by `auth.policy`."""

    def visibility(self, caller: Caller, interaction: Interaction, type_name: str) -> Visibility:
        """What `caller` may see of `type_name` by this interaction. Raises Forbidden where no scope covers it."""
        ...

    def authorise_write(self, uow: Work, caller: Caller, draft: Draft) -> None:
        """Raise Forbidden unless the caller may write this draft (scope, scope constraints, ownership)."""
        ...

    def audience(self, uow: Work, caller: Caller, draft: Draft) -> Audience:
        """Owner and audience of the version that `draft` becomes."""
        ...


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of what a shelf holds, in the order asked for."""

    versions: list[Version]
    more: bool
    """There are others behind the last."""


class Shelf(Protocol):
    """Resources of one type that are no versions of the store, and are kept elsewhere. Implemented by `audit.reading`.

    Nobody writes them through the store; each has one version. Its key (`Version.pk`) says nothing to the store.
    """

    @property
    def type(self) -> str:
        """The type that is here, and nowhere else."""
        ...

    def end(self, connection: Connection) -> int:
        """What is here now, as a number: the pages of a search show nothing that came later."""
        ...

    def one(self, connection: Connection, visible: Visibility, id: str) -> Version | None:
        """The resource with this id; None where there is none that may be seen."""
        ...

    def some(
        self,
        connection: Connection,
        visible: Visibility,
        query: Query,
        *,
        upto: int,
        after: int | None,
        limit: int,
        check: Callable[[], None],
    ) -> Slice:
        """At most `limit` matches behind the version with the key `after`. Raises BadRequest.

        `upto`: what `end` said. `check` raises where the search takes too long.
        """
        ...

    def count(
        self, connection: Connection, visible: Visibility, query: Query, *, upto: int, check: Callable[[], None]
    ) -> int:
        """How many match. Raises BadRequest."""
        ...


class Reads(Protocol):
    """Learns of reads once their record is durable. Implemented by `workflow.openings`."""

    def is_news(self, caller: Caller, type_name: str | None, id: str | None, version: int | None) -> bool:
        """Whether it wants to learn of this read; quick, of memory alone."""
        ...

    def read(self, store: Any, caller: Caller, accesses: Sequence[Access]) -> None:
        """These accesses were disclosed by this store. Raises nothing."""
        ...


class Trail(Protocol):
    """Who did. Implemented by `audit.service`."""

    @property
    def shelf(self) -> Shelf | None:
        """Where the AuditEvents are that it makes; None: it makes none."""
        ...

    def append(self, connection: Connection, caller: Caller, accesses: Sequence[Access], at: datetime) -> None:
        """Write the records inside the transaction of `connection`: they commit with the data."""
        ...

    def disclose(self, caller: Caller, accesses: Sequence[Access], at: datetime) -> None:
        """Return once the records are durable. Raises Unavailable: then nothing may be disclosed."""
        ...

    def owed(self, caller: Caller, accesses: Sequence[Access], at: datetime) -> list[Any]:
        """The records as rows, for whoever makes them durable before he discloses. Raises Unavailable as `disclose`."""
        ...


class Observer(Protocol):
    """Reacts to changes inside the transaction that makes them."""

    def prepare(self, uow: Work, draft: Draft) -> None:
        """Before a version is written: complete `draft.resource`, or raise to refuse it."""
        ...

    def changed(self, uow: Work, change: Change) -> None:
        """After all writes of the caller, before the commit. May write through `uow.system`; may raise to refuse."""
        ...
