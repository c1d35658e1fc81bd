"""Grants: what one party may see, or do, of another's, from when until when, why, and by whom it was given.

A grant gives its holder one more name. Of a case, a patient or a single resource that name is ``grant:ID``, and stands
in the audience of every version of the object (`auth.audience`); of an Organization (a delegation) it is that
organisation's own. So the one organisation predicate stays the only one, and a grant that ends, or is revoked, ends
everywhere as soon as its holder is asked for his names again: nothing is rewritten.

A row is added, and once revoked; nothing else of it ever changes. Both are on record with the digest of the row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, Row, bindparam, insert, or_, select, update

from auth.tables import access_grant
from resources.outcomes import BadRequest, NotFound
from store.access import Held
from store.engine.statements import Prepared
from store.versions import digests


class Source(StrEnum):
    """Why there is a grant. The values are stored: none is ever renamed."""

    DELEGATION = "delegation"
    """An organisation lets another see, or act, as itself: sites of one group."""
    SHARING = "sharing"
    """The owner shows a case to somebody: a hospital that the patient is transferred to."""
    TRANSFER = "transfer"
    BREAK_GLASS = "break-glass"
    STUDY_LINK = "study-link"
    AI_TASK = "ai-task"


class Extent(StrEnum):
    """How much of the object is meant."""

    ORGANIZATION = "organization"
    """Whatever the organisation itself sees."""
    CASE = "case"
    """An order, its patient and encounter, its studies, its released reports: what its hospital sees of it."""
    PATIENT = "patient"
    """The patient and what refers to him: what his hospital sees of it."""
    RESOURCE = "resource"
    """That resource alone; of an ImagingStudy with its images."""


WHOLE = {"Organization": Extent.ORGANIZATION, "ServiceRequest": Extent.CASE, "Patient": Extent.PATIENT}
"""What a grant of such a type means unless it says `resource`; of any other type the resource itself."""
SUBJECTS = frozenset({"Organization", "Practitioner", "Client"})
"""``Organization/id``, ``Practitioner/id`` of the person behind a client, ``Client/client_id``."""
LETTERS = "cruds"
NEVER = frozenset({"AuditEvent", "Subscription"})
"""Types that no grant opens: who looked, and channels with their credentials, are their organisation's alone."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One row of access_grant, a field for each column. Times are µs since 1970."""

    id: str
    subject: str
    object: str
    extent: str
    letters: str
    since: int
    until: int
    reason: str
    source: str
    owner: str
    granted_by: str
    granted_at: int
    revoked_at: int | None = None
    revoked_by: str | None = None

    @property
    def name(self) -> str:
        """The audience member that it adds to the names of its holder."""
        return self.object.partition("/")[2] if self.extent == Extent.ORGANIZATION else member(self.id)

    def holds(self, at_us: int) -> bool:
        """Whether it is in force at that time."""
        return self.since <= at_us < self.until and self.revoked_at is None

    @property
    def held(self) -> Held:
        """What its holder has by it."""
        return Held(self.id, self.name, self.letters, self.source)


def member(grant_id: str) -> str:
    """The audience member of a grant of an object. No Organization has such an id: a colon cannot stand in one."""
    return f"grant:{grant_id}"


def check(grant: Grant, platform: str, now_us: int) -> None:
    """Raise BadRequest for a grant that is none."""
    kind, _, name = grant.subject.partition("/")
    of_type = grant.object.partition("/")[0]
    faults = (
        (kind not in SUBJECTS or not name, "subject", f"subject is one of {', '.join(sorted(SUBJECTS))}, with its id"),
        (grant.source not in set(Source), "source", f"source is one of {', '.join(Source)}"),
        (not grant.reason.strip(), "reason", "a grant says why it is given"),
        (of_type in NEVER, "object", f"no grant opens {of_type}"),
        (grant.object == f"Organization/{platform}", "object", "the platform delegates to nobody: it sees everybody's"),
        (grant.subject == grant.object, "subject", "an organisation needs no grant on itself"),
        (not set(grant.letters) <= set(LETTERS) or not set(grant.letters) & set("rs"), "interactions",
         f"interactions are letters out of {LETTERS}, with r or s among them"),
        (grant.until <= max(grant.since, now_us), "until", "a grant ends after it begins, and not in the past"),
        ((grant.source == Source.DELEGATION) != (grant.extent == Extent.ORGANIZATION), "source",
         "what is granted on an Organization is a delegation, and nothing else is"),
    )  # fmt: skip
    for is_fault, where, text in faults:
        if is_fault:
            raise BadRequest(text, expression=where)


def add(connection: Connection, grant: Grant) -> None:
    """Insert a grant that was checked."""
    connection.execute(insert(access_grant).values(**{one.name: getattr(grant, one.name) for one in access_grant.c}))


def revoke(connection: Connection, grant_id: str, at_us: int, by: str) -> bool:
    """Revoke a grant, once; False where it was revoked already. Raises NotFound."""
    table = access_grant.c
    changed = connection.execute(
        update(access_grant)
        .where(table.id == grant_id, table.revoked_at.is_(None))
        .values(revoked_at=at_us, revoked_by=by)
    ).rowcount
    if not changed:
        find(connection, grant_id)
    return bool(changed)


def find(connection: Connection, grant_id: str) -> Grant:
    """A grant by its id. Raises NotFound."""
    row = connection.execute(select(access_grant).where(access_grant.c.id == grant_id)).first()
    if row is None:
        raise NotFound("No such grant")
    return _grant(row)


def listed(
    connection: Connection, *, owner: str | None = None, object_: str | None = None, limit: int = 1000
) -> list[Grant]:
    """Grants, the newest first: of one owner's data, on one object, or all."""
    table = access_grant.c
    asked = select(access_grant).order_by(table.granted_at.desc(), table.id).limit(limit)
    if owner is not None:
        asked = asked.where(table.owner == owner)
    if object_ is not None:
        asked = asked.where(table.object == object_)
    return [_grant(row) for row in connection.execute(asked)]


_HELD = Prepared(
    select(access_grant).where(
        access_grant.c.subject.in_([bindparam("subject_0"), bindparam("subject_1"), bindparam("subject_2")]),
        access_grant.c.until > bindparam("now"),
        access_grant.c.revoked_at.is_(None),
    )
)
_COLUMNS = tuple(access_grant.c.keys())


def of_holder(
    connection: Connection, client_id: str, organization: str, practitioner: str | None, now_us: int
) -> tuple[Grant, ...]:
    """The grants of a client, of its person and of its organisation that hold, or are still to begin."""
    asked = {
        "subject_0": f"Client/{client_id}",
        "subject_1": f"Organization/{organization}",
        "subject_2": practitioner or "",
        "now": now_us,
    }
    return tuple(Grant(**dict(zip(_COLUMNS, row, strict=True))) for row in _HELD.all(connection, asked))


def holding(grants: Iterable[Grant], at_us: int) -> tuple[Held, ...]:
    """What of these is held at that time."""
    return tuple(grant.held for grant in grants if grant.holds(at_us))


_ANY = Prepared(
    select(access_grant.c.id)
    .where(
        access_grant.c.until > bindparam("now"),
        access_grant.c.revoked_at.is_(None),
        access_grant.c.extent != Extent.ORGANIZATION.value,
    )
    .limit(1)
)


def are_any(connection: Connection, now_us: int) -> bool:
    """Whether there is any grant of an object that has not ended: what most deployments answer with no."""
    return _ANY.first(connection, {"now": now_us}) is not None


def on(connection: Connection, objects: Collection[tuple[str, Extent]], now_us: int) -> frozenset[str]:
    """The audience members of the grants on one of these (``Type/id``, extent) that have not ended."""
    if not objects:
        return frozenset()
    table = access_grant.c
    asked = select(table.id, table.object, table.extent).where(
        table.object.in_(sorted({name for name, _ in objects})), table.until > now_us, table.revoked_at.is_(None)
    )
    wanted = {(name, extent.value) for name, extent in objects}
    return frozenset(member(row.id) for row in connection.execute(asked) if (row.object, row.extent) in wanted)


def holders(connection: Connection, members: Collection[str], now_us: int) -> frozenset[str]:
    """Subjects of the grants that hold at that time and add one of these audience members to their holder's names."""
    table = access_grant.c
    ids = [name.removeprefix("grant:") for name in members if name.startswith("grant:")]
    organizations = [f"Organization/{name}" for name in members if not name.startswith("grant:")]
    asked = select(table.subject).where(
        or_(table.id.in_(ids), (table.extent == Extent.ORGANIZATION.value) & table.object.in_(organizations)),
        table.since <= now_us,
        table.until > now_us,
        table.revoked_at.is_(None),
    )
    return frozenset(connection.execute(asked).scalars())


def rows(connection: Connection, grant_id: str | None = None) -> Iterator[tuple[str, str]]:
    """(``grant/…``, digest of the row) of one grant, or of every one: what the audit log says of the registry."""
    statement = select(access_grant).order_by(access_grant.c.id)
    if grant_id is not None:
        statement = statement.where(access_grant.c.id == grant_id)
    for row in connection.execute(statement):
        yield f"grant/{row.id}", digests.of_row("access_grant", row._asdict())


def _grant(row: Row[tuple[object, ...]]) -> Grant:
    return Grant(**row._mapping)


def described(grants: Sequence[Grant], now_us: int) -> Iterator[tuple[Grant, str]]:
    """Each with its state: `holds`, `future`, `expired`, `revoked`."""
    for grant in grants:
        if grant.revoked_at is not None:
            yield grant, "revoked"
        elif grant.until <= now_us:
            yield grant, "expired"
        else:
            yield grant, "holds" if grant.since <= now_us else "future"
