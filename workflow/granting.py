"""Giving and taking back grants: who may, and what is shown anew to whom.

A grant is in force with its own commit; what there is of its object gets its name in a second one. Whoever writes a new
version after the first commit adds the name himself (`auth.audience`), and whoever wrote before it is done when the
second begins: a writer holds a lock together with others, the first commit holds it alone. So nothing of the object is
left out, and no writer waits for the second, which may be long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from auth import grants
from auth.audience import GRANTS_LOCK
from auth.grants import WHOLE, Extent, Grant, Source
from resources.json import Json
from resources.outcomes import BadRequest, FhirError, Forbidden, InvalidContent, NotFound
from resources.registry import is_type, type_id, type_name
from resources.times import instant_text, microseconds, of_microseconds
from store.access import Access, Caller, Draft, Interaction, Permit, Version, Work
from store.unit_of_work import Store
from store.versions.audiences import audience_of
from store.versions.tables import ANY_REFERENCE, CURRENT, resource_version, sp_reference
from workflow.context import acting, look_up

MAX_SHOWN = 2000
"""Resources that a grant may show anew: an order's are tens, a patient's hundreds."""
Details = tuple[tuple[str, str], ...]
ADMINISTRATORS = frozenset({"admin"})
"""Roles of the platform's clients that may grant what is not their organisation's."""
ASKED_FOR = frozenset({Source.DELEGATION, Source.SHARING, Source.TRANSFER, Source.AI_TASK})
"""Sources that `$grant` gives; the others come from an operation of their own."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for."""

    subject: str
    object: str
    until: datetime | None
    reason: str
    source: str
    since: datetime | None = None
    letters: str = "rs"
    alone: bool = False
    """That resource alone, where its type would mean a case or a patient."""


@dataclass(frozen=True, slots=True)
class Granting:
    """Gives, revokes and lists grants."""

    permit: Permit
    platform: str

    def add(
        self, store: Store, caller: Caller, wish: Wish, *, by: Details = (), intent: Access | None = None
    ) -> Grant:
        """Give a grant. Raises BadRequest, NotFound where there is no such object for the caller, Forbidden."""

        def begin(uow: Work) -> Grant:
            grant = self._grant(uow, wish)
            if len(list(self._opened(uow, grant))) > MAX_SHOWN:
                raise InvalidContent(f"A grant shows {MAX_SHOWN} resources at most", code="too-costly")
            uow.lock(GRANTS_LOCK)
            grants.add(uow.connection, grant)
            self._record(uow, "grant-add", grant, by)
            return grant

        grant = store.transact(caller, begin, intent=intent)
        store.transact(caller, lambda uow: self._show(uow, grant), intent=intent)
        return grant

    def revoke(
        self, store: Store, caller: Caller, grant_id: str, *, object_: str | None = None, by: Details = (),
        intent: Access | None = None,
    ) -> Grant:
        """Take a grant back; again: nothing changes. Raises NotFound, Forbidden."""

        def end(uow: Work) -> Grant:
            grant = grants.find(uow.connection, grant_id)
            if object_ is not None and grant.object != object_:
                raise NotFound("No such grant")
            self._authorise(uow, grant.object, grant.owner)
            if grants.revoke(uow.connection, grant_id, microseconds(uow.now), uow.caller.client_id):
                grant = grants.find(uow.connection, grant_id)
            self._record(uow, "grant-revoke", grant, by)
            return grant

        return store.transact(caller, end, intent=intent)

    def listed(self, uow: Work, *, object_: str | None = None) -> list[Grant]:
        """The grants on an object of the caller's, or (the operator) all. Raises NotFound, Forbidden."""
        if object_ is not None:
            self._authorise(uow, object_, self._owner(uow, object_))
        elif not uow.caller.is_system:
            raise Forbidden("All grants are listed to the operator")
        return grants.listed(uow.connection, object_=object_)

    def _grant(self, uow: Work, wish: Wish) -> Grant:
        owner = self._owner(uow, wish.object)
        self._authorise(uow, wish.object, owner)
        if not uow.caller.is_system and wish.source not in ASKED_FOR:
            raise BadRequest(f"source is one of {', '.join(sorted(ASKED_FOR))}", expression="source")
        if wish.until is None:
            raise BadRequest("a grant says until when it holds", expression="until")
        whole = WHOLE.get(wish.object.partition("/")[0], Extent.RESOURCE)
        now_us = microseconds(uow.now)
        grant = Grant(
            id=uow.new_id(),
            subject=wish.subject,
            object=wish.object,
            extent=(Extent.RESOURCE if wish.alone else whole).value,
            letters="".join(letter for letter in grants.LETTERS if letter in wish.letters) or wish.letters,
            since=microseconds(wish.since) if wish.since is not None else now_us,
            until=microseconds(wish.until),
            reason=wish.reason,
            source=wish.source,
            owner=owner,
            granted_by=uow.caller.client_id,
            granted_at=now_us,
        )
        grants.check(grant, self.platform, now_us)
        if set(wish.letters) - set(grants.LETTERS):
            raise BadRequest(f"interactions are letters out of {grants.LETTERS}", expression="interactions")
        if not grant.subject.startswith("Client/") and look_up(uow, grant.subject) is None:
            raise BadRequest("subject does not exist here", expression="subject")
        return grant

    def _owner(self, uow: Work, reference: str) -> str:
        """Whose data a grant on this would open. Raises NotFound where the caller does not see it."""
        kind, _, name = reference.partition("/")
        if not is_type(kind):
            raise NotFound
        if not uow.caller.is_system and not uow.resources.exists(kind, name):
            uow.resources.read(kind, name)  # refused, and recorded, as any read
        version = uow.system.read(kind, name)
        return name if kind == "Organization" else version.owner

    def _authorise(self, uow: Work, reference: str, owner: str) -> None:
        caller = uow.caller
        if caller.is_system:
            return
        self.permit.visibility(caller, Interaction.UPDATE, reference.partition("/")[0])
        is_admin = caller.organization == self.platform and caller.role in ADMINISTRATORS
        if caller.organization != owner and not is_admin:
            raise Forbidden("A grant is given, and taken back, by the organization that owns what it opens")

    def _show(self, uow: Work, grant: Grant) -> None:
        """Write what the grant opens anew, with its name in the audience: the same content, the next version."""
        for version in list(self._opened(uow, grant)):
            draft = Draft(version.type, version.id, Interaction.UPDATE, version.json(), version)
            belongs = self.permit.audience(uow, uow.caller, draft)
            if belongs.organizations != audience_of(uow.connection, version.pk):
                with acting():
                    uow.system.update(version.type, version.id, version.json(), if_match=version.version)

    def _opened(self, uow: Work, grant: Grant) -> Iterator[Version]:
        """The current resources that may be of the object, targets before what points to them."""
        if grant.extent == Extent.ORGANIZATION:
            return
        found = look_up(uow, grant.object)
        if found is None:
            return
        seen = {found.reference}
        if grant.extent == Extent.CASE:
            for element in ("subject", "encounter"):
                part = look_up(uow, found.json().get(element, {}).get("reference"))
                if part is not None and part.reference not in seen:
                    seen.add(part.reference)
                    yield part
        yield found
        if grant.extent == Extent.RESOURCE:
            return
        for version in referring(uow, found):
            if version.reference not in seen:
                seen.add(version.reference)
                yield version

    def _record(self, uow: Work, operation: str, grant: Grant, by: Details) -> None:
        """The act, with the digest of the row as it is now: `audit verify` compares."""
        ((_, digest),) = grants.rows(uow.connection, grant.id)
        patient = (grant.object,) if grant.object.startswith("Patient/") else ()
        told = (
            ("operation", operation), *by, ("grant", grant.id), ("subject", grant.subject), ("object", grant.object),
            ("source", grant.source), ("interactions", grant.letters), ("until", _instant(grant.until)),
            ("row", digest),
        )  # fmt: skip
        uow.note(Access(Interaction.ADMIN, patients=patient, owner=grant.owner, detail=told))


def referring(uow: Work, target: Version) -> Iterator[Version]:
    """The current resources that refer to `target`, provenance apart; at most `MAX_SHOWN` and one."""
    uow.flush()
    version, row = resource_version.c, sp_reference.c
    asked = (
        select(version.type_id, version.resource_id)
        .join(sp_reference, row.version_pk == version.pk)
        .where(
            row.param_id == ANY_REFERENCE, row.target_type_id == type_id(target.type), row.target_id == target.id,
            version.valid_to == CURRENT, version.deleted == 0,
        )
        .distinct()
        .order_by(version.type_id, version.resource_id)
        .limit(MAX_SHOWN + 1)
    )  # fmt: skip
    for number, id_ in uow.connection.execute(asked).all():
        try:
            yield uow.system.read(type_name(number), id_)
        except FhirError:
            continue


def described(grant: Grant, now_us: int) -> Json:
    """One grant as a Parameters part, or as JSON for a command: flat, texts and instants."""
    ((_, state),) = grants.described([grant], now_us)
    told = {
        "grant": grant.id, "state": state, "subject": grant.subject, "object": grant.object, "extent": grant.extent,
        "interactions": grant.letters, "since": _instant(grant.since), "until": _instant(grant.until),
        "source": grant.source, "reason": grant.reason, "granted-by": grant.granted_by,
        "granted-at": _instant(grant.granted_at), "revoked-by": grant.revoked_by,
        "revoked-at": None if grant.revoked_at is None else _instant(grant.revoked_at),
    }  # fmt: skip
    return {name: value for name, value in told.items() if value is not None}


def _instant(us: int) -> str:
    return instant_text(of_microseconds(us))
