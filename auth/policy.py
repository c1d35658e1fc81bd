"""Who may: scope, interaction, type and organisation become what a caller may see and write.

Reading: the organisation's audience and the constraints of the scopes are given to the store, which compiles them
into every statement. Writing: the scope must allow it, a constrained scope must hold before **and** after, and only
the owner alters what exists (a Task also the organisations that it is shown to: the workflow guards its transitions),
or whom a grant lets do so (`auth.grants`).

SMART 2.2 https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from auth import scopes
from auth.audience import Audiences
from auth.grants import NEVER
from resources import indexing, interactions, matching
from resources.json import Json
from resources.lifecycle import differing
from resources.outcomes import Forbidden
from store.access import EVERYONE, Audience, Caller, Draft, Interaction, Visibility
from store.versions.audiences import audience_of

if TYPE_CHECKING:
    from datetime import datetime

    from store.access import Work

LETTERS: Mapping[Interaction, str] = {row.interaction: row.letters for row in interactions.TABLE if row.letters}
"""The scope letter that each interaction needs; of several, one is enough. What is not here is never allowed on a type.

`u` covers update-as-create, as SMART says. A batch or transaction asks for each entry.
"""

SERVER_ONLY = frozenset({"AuditEvent"})
"""Written by the server alone: nobody alters the record of what was done."""

SHARED_WRITE: Mapping[str, frozenset[str] | None] = {
    "Task": None,
    "ServiceRequest": frozenset({"priority", "identifier"}),
    "Communication": frozenset({"received", "status", "note"}),
}
"""Type → elements that the organisations of its audience may alter too (None: any); which step is right, and who may
take it, the workflow says. An order's priority is a regulator's, the receipt of a message its recipient's; what the
server adds beside (an identifier, a note of who read) is among them."""


class Policy:
    """The Permit of the store."""

    def __init__(self, platform: str) -> None:
        self.audiences = Audiences(platform)

    def visibility(self, caller: Caller, interaction: Interaction, type_name: str) -> Visibility:
        """What `caller` may see of `type_name` by this interaction. Raises Forbidden where no scope covers it."""
        if caller.is_system:
            return _EVERYTHING
        # Who may see a thing by a grant hears that he may not alter it, not that it is absent.
        names = caller.names("r" + LETTERS.get(interaction, "")) if _opens(caller, type_name) else None
        visible = _visibility(caller.organization, caller.scopes, interaction, type_name, names)
        if visible is None:
            raise _not_covered(caller, interaction, type_name)
        return visible

    def authorise_write(self, uow: Work, caller: Caller, draft: Draft) -> None:
        """Raise Forbidden unless the caller may write this draft."""
        if draft.type in SERVER_ONLY:
            raise Forbidden(f"{draft.type} is written by the server alone")
        if caller.is_system:
            return
        granting = _granting(caller, draft.interaction, draft.type)
        if not granting:
            raise _not_covered(caller, draft.interaction, draft.type)
        self._check_constraints(uow, granting, draft)
        self._check_ownership(uow, caller, draft)

    def audience(self, uow: Work, caller: Caller, draft: Draft) -> Audience:
        """Owner and audience of the version that `draft` becomes."""
        return self.audiences.of(uow, caller, draft)

    def _check_constraints(self, uow: Work, granting: tuple[scopes.Scope, ...], draft: Draft) -> None:
        """Neither out of a constrained scope nor into it: what is there satisfies it, and what will be there too."""
        if not all(scope.constraint for scope in granting):
            return
        if draft.before is not None and not draft.before.deleted:
            existing = draft.before
            if not self._satisfies(uow, granting, draft, existing.json(), existing.last_updated):
                raise Forbidden("The resource is outside the search constraint of the granted scope")
        if draft.resource is not None and not self._satisfies(uow, granting, draft, draft.resource, uow.now):
            raise Forbidden("The resource would be outside the search constraint of the granted scope")

    def _satisfies(
        self, uow: Work, granting: tuple[scopes.Scope, ...], draft: Draft, resource: Json, at: datetime
    ) -> bool:
        rows = indexing.extract(draft.type, resource, base_urls=uow.base_urls)
        for scope in granting:
            query = scope.query(draft.type)
            if query is None or matching.matches(query.criteria, draft.type, draft.id, at, rows):
                return True
        return False

    def _check_ownership(self, uow: Work, caller: Caller, draft: Draft) -> None:
        owner = self.audiences.owner(uow, caller, draft)
        if owner == caller.organization:
            return
        acting = caller.names(LETTERS[draft.interaction]) - {EVERYONE} if _opens(caller, draft.type) else frozenset()
        if owner in acting:
            return  # it acts for the owner, which has delegated this to it
        if draft.before is not None and draft.resource is not None:
            audience = audience_of(uow.connection, draft.before.pk)
            if _is_shared(draft) and audience & ({caller.organization} | acting):
                return
            if any(name in audience for name in acting if name.startswith("grant:")):
                return
        raise Forbidden(f"Only the organization that owns the {draft.type} may alter it")


def _is_shared(draft: Draft) -> bool:
    """Whether the draft alters only what others than the owner may alter."""
    if draft.type not in SHARED_WRITE or draft.before is None or draft.resource is None:
        return False
    elements = SHARED_WRITE[draft.type]
    before = draft.before.json() if not draft.before.deleted else {}
    if elements is None:
        return True
    altered = differing(before, draft.resource)
    return bool(altered) and altered <= elements


_EVERYTHING = Visibility(None)


@lru_cache(maxsize=16384)
def _visibility(
    organization: str, granted: frozenset[str], interaction: Interaction, type_name: str, names: frozenset[str] | None
) -> Visibility | None:
    letters = LETTERS.get(interaction)
    if letters is None or not organization:
        return None
    granting = scopes.granting(granted, type_name, letters)
    if not granting:
        return None
    queries = [scope.query(type_name) for scope in granting]
    asked = tuple(query for query in queries if query is not None)
    # One scope without a constraint is enough to ask for none.
    members = frozenset({organization, EVERYONE}) if names is None else names
    return Visibility(members, asked if len(asked) == len(queries) else ())


def _opens(caller: Caller, type_name: str) -> bool:
    """Whether the caller has grants, and such may open this type."""
    return bool(caller.grants) and type_name not in NEVER


def _granting(caller: Caller, interaction: Interaction, type_name: str) -> tuple[scopes.Scope, ...]:
    letters = LETTERS.get(interaction)
    if letters is None or not caller.organization:
        return ()
    return scopes.granting(caller.scopes, type_name, letters)


def _not_covered(caller: Caller, interaction: Interaction, type_name: str) -> Forbidden:
    if not caller.organization:
        return Forbidden("The client belongs to no organization")
    letters = LETTERS.get(interaction, "")
    wanted = " or ".join(f"system/{type_name}.{letter}" for letter in letters)
    return Forbidden(f"No granted scope covers {interaction} of {type_name}" + (f": {wanted}" if wanted else ""))
