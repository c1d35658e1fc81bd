"""Reading the image tables: what a caller may see of them, found by QIDO keys or by path.

The organisation predicate is that of the store (`store.audiences.admits`): it is part of every statement here, before
LIMIT. Where a caller's scopes carry search constraints, a study counts only if the caller may read its ImagingStudy.

PS3.18 §10.6 (search), §10.4 (retrieve).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, ColumnElement, Select, and_, bindparam, exists, func, or_, select

from dicomweb import attributes
from dicomweb.attributes import Level, Match
from dicomweb.query_keys import DateRange, Key, QidoQuery, TimeRange
from dicomweb.tables import Row, dicom_header, dicom_instance, dicom_series, dicom_study
from resources.budgets import QIDO_ADDITIONAL
from resources.json import Json
from resources.outcomes import Conflict, Gone, NotFound
from store.access import Visibility, Work
from store.engine.statements import Prepared
from store.versions.audiences import admits, admits_prepared

_TABLES = {Level.STUDY: dicom_study, Level.SERIES: dicom_series, Level.INSTANCE: dicom_instance}


@dataclass(frozen=True, slots=True)
class Path:
    """What the address of a request names. `owner` is set under ``/owners/{organization}``."""

    study: str | None = None
    series: str | None = None
    instance: str | None = None
    owner: str | None = None


# Search


def search(uow: Work, visible: Visibility, query: QidoQuery, path: Path, limit: int) -> tuple[list[Row], int]:
    """The rows of a page, and how many more there are; QIDO_ADDITIONAL + 1 of them stand for any number."""
    dialect = uow.connection.dialect.name
    statement = _base(query.level, visible)
    for key in query.keys:
        statement = statement.where(_condition(key, query, dialect))
    if path.owner is not None:
        statement = statement.where(dicom_study.c.owner == path.owner)
    if path.study is not None:
        statement = statement.where(dicom_study.c.pk.in_([row.pk for row in studies(uow, visible, path)]))
    if path.series is not None:
        statement = statement.where(dicom_series.c.series_instance_uid == path.series)
    ordered = statement.order_by(*_order(query.level))
    if visible.constraints:
        return _constrained_page(uow, ordered, query.offset, limit)
    rows = list(uow.connection.execute(ordered.limit(limit + 1).offset(query.offset)).all())
    more = 0
    if len(rows) > limit:
        counted = statement.limit(query.offset + limit + QIDO_ADDITIONAL.value + 1).subquery()
        total = uow.connection.execute(select(func.count()).select_from(counted)).scalar_one()
        more = int(total) - query.offset - limit
    return rows[:limit], more


def _base(level: Level, visible: Visibility) -> Select[Any]:
    """All rows of a level that the caller may see and that are not rejected, each with its study (and series)."""
    study = [column.label(f"study_{column.name}") for column in dicom_study.c]
    if level is Level.STUDY:
        return select(*study).where(dicom_study.c.instance_count > 0, *admits(dicom_study, visible.organizations))
    series = [column.label(f"series_{column.name}") for column in dicom_series.c]
    if level is Level.SERIES:
        return (
            select(*study, *series)
            .join_from(dicom_series, dicom_study, dicom_study.c.pk == dicom_series.c.study_pk)
            .where(dicom_series.c.instance_count > 0, *admits(dicom_study, visible.organizations))
        )
    instance = [column.label(f"instance_{column.name}") for column in dicom_instance.c]
    return (
        select(*study, *series, *instance, dicom_header.c.metadata)
        .join_from(dicom_instance, dicom_series, dicom_series.c.pk == dicom_instance.c.series_pk)
        .join(dicom_study, dicom_study.c.pk == dicom_instance.c.study_pk)
        .join(dicom_header, dicom_header.c.instance_pk == dicom_instance.c.pk)
        .where(dicom_instance.c.rejected == 0, *admits(dicom_study, visible.organizations))
    )


def _order(level: Level) -> tuple[ColumnElement[Any], ...]:
    """Newest study first, then by number as a reader expects; always total, so that pages are stable."""
    study = (dicom_study.c.study_date.desc(), dicom_study.c.study_time.desc(), dicom_study.c.pk.desc())
    if level is Level.STUDY:
        return study
    series = (_last_if_null(dicom_series.c.series_number), dicom_series.c.pk.asc())
    if level is Level.SERIES:
        return (*study, *series)
    return (*study, *series, _last_if_null(dicom_instance.c.instance_number), dicom_instance.c.pk.asc())


def _last_if_null(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.coalesce(column, 2**31 - 1).asc()


def _constrained_page(uow: Work, ordered: Select[Any], offset: int, limit: int) -> tuple[list[Row], int]:
    """For scopes with search constraints: walk the rows and keep those whose ImagingStudy the caller may read."""
    kept: list[Row] = []
    verdict: dict[int, bool] = {}
    passed = 0
    for row in uow.connection.execute(ordered):
        if row.study_pk not in verdict:
            verdict[row.study_pk] = _is_readable(uow, row.study_imaging_study_id)
        if not verdict[row.study_pk]:
            continue
        passed += 1
        if passed > offset and len(kept) < limit:
            kept.append(row)
        if passed > offset + limit + QIDO_ADDITIONAL.value:
            break
    return kept, max(0, passed - offset - len(kept))


def _is_readable(uow: Work, imaging_study_id: str) -> bool:
    return bool(imaging_study_id) and uow.resources.exists("ImagingStudy", imaging_study_id)


def _condition(key: Key, query: QidoQuery, dialect: str) -> ColumnElement[bool]:
    attribute = key.attribute
    if attribute.match is Match.MODALITIES:
        return _series_has(dicom_series.c.modality, key.values, dialect)
    if attribute.match is Match.SOP_CLASSES:
        return exists().where(
            dicom_instance.c.study_pk == dicom_study.c.pk, dicom_instance.c.sop_class_uid.in_(key.values),
            dicom_instance.c.rejected == 0,
        ).correlate(dicom_study)
    column = _TABLES[attribute.level].c[attribute.column]
    if attribute.match is Match.UID:
        return column.in_(key.values)
    return or_(*(_one(attribute.match, column, value, query.fuzzy, dialect) for value in key.values))


def _series_has(column: ColumnElement[Any], values: Sequence[Any], dialect: str) -> ColumnElement[bool]:
    series = dicom_series.alias("sibling")
    modality = series.c[column.key or "modality"]
    return (
        exists()
        .where(
            series.c.study_pk == dicom_study.c.pk, series.c.instance_count > 0,
            or_(*(wildcard(modality, str(v), dialect) for v in values)),
        )
        .correlate(dicom_study)
    )


def _one(match: Match, column: ColumnElement[Any], value: Any, fuzzy: bool, dialect: str) -> ColumnElement[bool]:
    if isinstance(value, DateRange | TimeRange):
        bounds = [column != ""]
        if isinstance(value, TimeRange) and value.low and value.high and value.low > value.high:  # over midnight
            return and_(*bounds, or_(column >= value.low, column <= value.high))
        if value.low:
            bounds.append(column >= value.low)
        if value.high:
            bounds.append(column <= value.high)
        return and_(*bounds)
    if match is Match.NAME and value:
        return _name(column, value, fuzzy)
    if isinstance(value, int):
        return column == value
    return wildcard(column, value, dialect)


def _name(column: ColumnElement[Any], value: str, fuzzy: bool) -> ColumnElement[bool]:
    """On any component group, without case and accents; fuzzy: each word begins one of the components."""
    wanted = attributes.name_key(value)
    if fuzzy and not set(value) & {"*", "?"}:
        words = [word for word in wanted.replace("^", " ").replace("=", " ").split() if word]
        starts = [
            or_(*(column.like(f"%{mark}{_escaped(word)}%", escape="\\") for mark in ("=", "^", " "))) for word in words
        ]
        return and_(*starts) if starts else column == ""
    pattern = _escaped(wanted).replace("*", "%").replace("?", "_")
    return column.like(f"%={pattern}=%", escape="\\")


def wildcard(column: ColumnElement[Any], value: str, dialect: str) -> ColumnElement[bool]:
    """Single value or wildcard matching, case-sensitive on both engines (PS3.4 §C.2.2.2.4)."""
    if not set(value) & {"*", "?"}:
        return column == value
    if dialect == "sqlite":
        return column.op("GLOB", is_comparison=True)(value.replace("[", "[[]"))
    return column.like(_escaped(value).replace("*", "%").replace("?", "_"), escape="\\")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


# Retrieve


def studies(uow: Work, visible: Visibility, path: Path) -> list[Row]:
    """The rows that a StudyInstanceUID means to this caller. Raises NotFound: foreign and absent answer the same.

    Two hospitals may use one UID. Each has its images under ``/owners/{organization}``, and nothing else is there. The
    plain address means whatever the caller sees if that is one hospital's, and raises Conflict if it is several's: it
    never chooses. To the platform, what itself stored under the UID (results of an algorithm) is shown beside it.
    """
    table = dicom_study
    statement = select(table).where(table.c.study_instance_uid == path.study).order_by(table.c.pk)
    if path.owner is not None:
        statement = statement.where(table.c.owner == path.owner)
    found = list(uow.connection.execute(statement.where(*admits(table, visible.organizations))).all())
    if visible.constraints:
        found = [row for row in found if _is_readable(uow, row.imaging_study_id)]
    if not found:
        known = uow.connection.execute(select(table.c.pk).where(table.c.study_instance_uid == path.study)).first()
        raise NotFound("No such study, series or instance", foreign=known is not None)
    chosen = [row for row in found if row.instance_count]
    if not chosen:
        raise Gone("The study was rejected")
    beside = uow.platform if uow.caller.organization == uow.platform else None
    if len({row.owner for row in chosen} - {beside}) > 1:
        raise _several(row.owner for row in chosen)
    return chosen


def _several(owners: Iterable[str]) -> Conflict:
    """The refusal of an address that means several things, with those that mean one (RFC 9110 §15.5.10: enough for the
    user to recognise the source of the conflict)."""
    addresses = ", ".join(f"/dicom-web/owners/{owner}" for owner in sorted(set(owners)))
    return Conflict(
        f"Several organizations have a study of this UID: ask below the one that is meant of {addresses}",
        code="multiple-matches",
    )


def retrieve(uow: Work, visible: Visibility, path: Path, *, headers: bool = False, layouts: bool = False,
             ) -> tuple[list[Row], list[Row]]:
    """The studies and the instances that a path names, in reading order. Raises NotFound where it names none."""
    found = studies(uow, visible, path)
    extra: list[Any] = []
    if headers:
        extra.append(dicom_header.c.metadata)
    if layouts:
        extra.append(dicom_header.c.layout)
    statement = (
        select(
            dicom_instance,
            dicom_series.c.series_instance_uid,
            dicom_series.c.revision,
            dicom_study.c.study_instance_uid,
            dicom_study.c.owner,
            dicom_study.c.corrected,
            *extra,
        )
        .join_from(dicom_instance, dicom_series, dicom_series.c.pk == dicom_instance.c.series_pk)
        .join(dicom_study, dicom_study.c.pk == dicom_instance.c.study_pk)
        .where(dicom_instance.c.study_pk.in_([row.pk for row in found]), dicom_instance.c.rejected == 0)
        .order_by(*_order(Level.INSTANCE))
    )
    if extra:
        statement = statement.join(dicom_header, dicom_header.c.instance_pk == dicom_instance.c.pk)
    if path.series is not None:
        statement = statement.where(dicom_series.c.series_instance_uid == path.series)
    if path.instance is not None:
        statement = statement.where(dicom_instance.c.sop_instance_uid == path.instance)
    rows = list(uow.connection.execute(statement).all())
    if not rows:
        raise _nothing(uow, path, [row.pk for row in found])
    used = {row.study_pk for row in rows}
    if path.instance is not None and len(used) > 1:
        raise _several(row.owner for row in rows)
    return [row for row in found if row.pk in used], rows


def _nothing(uow: Work, path: Path, study_pks: Sequence[int]) -> NotFound | Gone:
    """Why a path names nothing: what it names was rejected (410), or is not there."""
    hidden = select(dicom_instance.c.pk).join_from(
        dicom_instance, dicom_series, dicom_series.c.pk == dicom_instance.c.series_pk
    ).where(dicom_instance.c.study_pk.in_(study_pks), dicom_instance.c.rejected != 0)
    if path.series is not None:
        hidden = hidden.where(dicom_series.c.series_instance_uid == path.series)
    if path.instance is not None:
        hidden = hidden.where(dicom_instance.c.sop_instance_uid == path.instance)
    if uow.connection.execute(hidden.limit(1)).first() is not None:
        return Gone("The series or instance was rejected")
    return NotFound("No such study, series or instance")


class InstanceRow(NamedTuple):
    """One instance with what its study says of it: all that serving its frames needs."""

    pk: int
    study_pk: int
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    frame_count: int
    digest: str
    size_bytes: int
    series_instance_uid: str
    revision: int
    study_instance_uid: str
    owner: str
    imaging_study_id: str
    patient: str
    layout: bytes


def instance(uow: Work, visible: Visibility, path: Path) -> InstanceRow:
    """The one instance that a path names, in one prepared statement. Raises NotFound.

    What is not plain (constrained scopes, one UID of several owners, nothing found) takes the general way.
    """
    if not visible.constraints:
        key: Json = {"study": path.study, "series": path.series, "instance": path.instance}
        if path.owner is not None:
            key["owner"] = path.owner
        names = None if visible.organizations is None else sorted(visible.organizations)
        key |= {f"organization_{number}": name for number, name in enumerate(names or ())}
        found = _instance(None if names is None else len(names), path.owner is not None).all(uow.connection, key)
        if len(found) == 1 and found[0][-1] == 1:
            return InstanceRow(*found[0][:-1])
    _, rows = retrieve(uow, visible, path, layouts=True)
    row = rows[0]
    study = next(one for one in studies(uow, visible, path) if one.pk == row.study_pk)
    of_instance = [getattr(row, name) for name in InstanceRow._fields[:12]]
    return InstanceRow._make([*of_instance, study.imaging_study_id, study.patient, row.layout])


@lru_cache(maxsize=16)
def _instance(size: int | None, of_owner: bool) -> Prepared:
    """The statement for callers that are in `size` organisations; its last column says of how many owners they see a
    study of this UID, `of_owner`: among the one that is named."""
    same = dicom_study.alias("same")
    named: BindParameter[str] = bindparam("owner")
    seen = (
        select(func.count())
        .select_from(same)
        .where(same.c.study_instance_uid == bindparam("study"), *admits_prepared(same, size))
        .where(*([same.c.owner == named] if of_owner else []))
        .scalar_subquery()
    )
    item, series, study = dicom_instance.c, dicom_series.c, dicom_study.c
    statement = (
        select(
            item.pk, item.study_pk, item.sop_instance_uid, item.sop_class_uid, item.transfer_syntax_uid,
            item.frame_count, item.digest, item.size_bytes, series.series_instance_uid, series.revision,
            study.study_instance_uid, study.owner, study.imaging_study_id, study.patient, dicom_header.c.layout,
            seen,
        )
        .join_from(dicom_instance, dicom_series, series.pk == item.series_pk)
        .join(dicom_study, study.pk == item.study_pk)
        .join(dicom_header, dicom_header.c.instance_pk == item.pk)
        .where(
            item.sop_instance_uid == bindparam("instance"),
            item.rejected == 0,
            series.series_instance_uid == bindparam("series"),
            study.study_instance_uid == bindparam("study"),
            *([study.owner == named] if of_owner else []),
            *admits_prepared(dicom_study, size),
        )
    )
    return Prepared(statement)
