"""History of an instance, a type or the system, newest first, stable under writes.

FHIR R4 §3.1.0.11 http://hl7.org/fhir/R4/http.html#history
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, false, func, or_, select, tuple_

from resources.budgets import ANSWER_BYTES, HISTORY_TOTAL, PAGE_MATCHES
from resources.outcomes import NotFound
from resources.registry import TYPES, type_id
from resources.times import microseconds
from store.access import Access, Interaction, Version, Visibility
from store.search.execute import constraint_clauses
from store.search.pages import Page
from store.search.reader import Reader, types_visible
from store.versions.audiences import admits
from store.versions.queries import HEAD, contents
from store.versions.tables import CURRENT, resource_version


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Versions, deletions included, newest first."""

    versions: list[Version]
    total: int | None
    """Number of versions on all pages; None where there are too many to count (Bundle.total is optional)."""
    next: str | None
    """Token of the next page; None on the last."""


def page(
    reader: Reader,
    type_name: str | None,
    id: str | None,
    *,
    since: datetime | None,
    at: datetime | None,
    count: int,
    token: str | None,
) -> HistoryPage:
    """One page. `since`: versions made at or after it; `at`: versions current at that time (§3.1.0.11)."""
    uow = reader.uow
    interaction = _interaction(type_name, id)
    if id is not None:
        reader.attempt(interaction, type_name, id)
    else:
        reader.attempt(interaction, type_name)
    subject = f"history {type_name}/{id} {since} {at}"
    found = uow.store.pages.open(token, reader.caller, subject, uow.now) if token else None
    snapshot = found.snapshot if found else uow.snapshot
    version = resource_version
    asked: list[ColumnElement[bool]] = [snapshot.seen(version.c.valid_from)]
    if id is not None:
        assert type_name is not None  # noqa: S101 - an id belongs to a type
        asked.append(version.c.resource_id == id)
    asked.append(_visible(reader, interaction, type_name))
    if since is not None:
        asked.append(version.c.last_updated >= microseconds(since))
    if at is not None:
        asked.append(_current_at(microseconds(at)))
    count = min(count, PAGE_MATCHES.value)
    with uow.deadline.running(uow.connection, write=uow.write):
        rows = _rows(reader, asked, found.last_pk if found else None, count, one=id is not None)
        total = found.total if found else _total(reader, asked, _scanned(reader, type_name, id))
        texts = contents(uow.connection, [row[0] for row in rows[:count]], ANSWER_BYTES.value)
    if id is not None and not rows and found is None and since is None and at is None:
        assert type_name is not None  # noqa: S101 - as above
        raise reader.not_found(type_name, id)
    versions = [reader.version((*row, text)) for row, text in zip(rows, texts, strict=False)]
    _note(reader, interaction, versions, type_name, id)
    following = None
    if versions and len(rows) > len(versions):
        issued = found.issued if found else uow.now
        following = uow.store.pages.seal(
            Page(snapshot, versions[-1].pk, issued, total), reader.caller, subject
        )
    return HistoryPage(versions, total, following)


def _interaction(type_name: str | None, id: str | None) -> Interaction:
    if type_name is None:
        return Interaction.HISTORY_SYSTEM
    return Interaction.HISTORY_TYPE if id is None else Interaction.HISTORY_INSTANCE


def _visible(reader: Reader, interaction: Interaction, type_name: str | None) -> ColumnElement[bool]:
    """The predicate of one type, or of all the types that the caller may see."""
    if type_name is not None:
        visible = reader.visibility(interaction, type_name)
        return and_(resource_version.c.type_id == type_id(type_name), *_admits(reader, visible))
    groups = types_visible(reader, interaction, tuple(TYPES))
    clauses = [
        and_(resource_version.c.type_id.in_([type_id(name) for name in names]), *_admits(reader, visible))
        for visible, names in groups
    ]
    return or_(*clauses) if clauses else false()


def _admits(reader: Reader, visible: Visibility) -> list[ColumnElement[bool]]:
    return [
        *admits(resource_version, visible.organizations),
        *constraint_clauses(resource_version, visible, reader),
    ]


def _current_at(at_us: int) -> ColumnElement[bool]:
    """Made by then, and not replaced by then."""
    version = resource_version
    later = version.alias("later")
    replaced = (
        select(later.c.pk)
        .where(
            later.c.type_id == version.c.type_id,
            later.c.resource_id == version.c.resource_id,
            later.c.version == version.c.version + 1,
            later.c.last_updated <= at_us,
        )
        .correlate(version)
        .exists()
    )
    return and_(version.c.last_updated <= at_us, or_(version.c.valid_to == CURRENT, ~replaced))


def _scanned(reader: Reader, type_name: str | None, id: str | None) -> list[ColumnElement[bool]]:
    """The versions that a count has to look at, of whomever: a range of an index."""
    scanned = []
    if type_name is not None:
        scanned.append(resource_version.c.type_id == type_id(type_name))
    if id is not None:
        scanned.append(resource_version.c.resource_id == id)
    return scanned


def _total(
    reader: Reader, asked: list[ColumnElement[bool]], scanned: list[ColumnElement[bool]]
) -> int | None:
    """How many versions fulfil `asked`; None where more than HISTORY_TOTAL would have to be looked at."""
    connection, most = reader.uow.connection, HISTORY_TOTAL.value
    looked_at = select(resource_version.c.pk).where(*scanned).limit(most + 1).subquery()
    if connection.execute(select(func.count()).select_from(looked_at)).scalar_one() > most:
        return None
    counted = select(func.count()).select_from(resource_version).where(*asked)
    return int(connection.execute(counted).scalar_one())


def _rows(
    reader: Reader, asked: list[ColumnElement[bool]], last_pk: int | None, count: int, *, one: bool
) -> list[tuple[Any, ...]]:
    """Versions, the newest first. `one`: they are of one resource."""
    version = resource_version
    last = version.alias("last")
    order: tuple[ColumnElement[Any], ...]
    if one:  # its versions are numbered; instants may step back
        order = (version.c.version,)
        ended: tuple[Any, ...] = (select(last.c.version).where(last.c.pk == last_pk).scalar_subquery(),)
    else:
        order = (version.c.last_updated, version.c.pk)
        ended = (select(last.c.last_updated).where(last.c.pk == last_pk).scalar_subquery(), last_pk)
    statement: Select[tuple[Any, ...]] = (
        select(*HEAD).where(*asked).order_by(*(column.desc() for column in order)).limit(count + 1)
    )
    if last_pk is not None:
        statement = statement.where(tuple_(*order) < tuple_(*ended))
    return [tuple(row) for row in reader.uow.connection.execute(statement)]


def _note(
    reader: Reader,
    interaction: Interaction,
    versions: list[Version],
    type_name: str | None,
    id: str | None,
) -> None:
    if reader.derived:
        return
    intent = reader.uow.intent
    patients = dict.fromkeys(patient for version in versions for patient in version.patients)
    reader.note(
        Access(
            interaction,
            type_name,
            id,
            patients=tuple(patients),
            owner=versions[0].owner if versions and id is not None else None,
            query=intent.query if intent and intent.interaction is interaction else None,
            detail=(("count", str(len(versions))),),
        ),
        versions,
    )


__all__ = ["HistoryPage", "NotFound", "page"]
