"""Images follow the grants of their ImagingStudy: whoever may see the one by a grant may see the others.

The audience of a study's rows is its owner and the platform; the grants that stand in the audience of its ImagingStudy
are added in the same commit. What ends is left there: its name is nobody's any more.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select, update

from dicomweb.tables import dicom_study
from store.access import Caller, Change, Draft, Work
from store.versions.audiences import audience_of, members_of

_GRANT = "grant:"


class Granting:
    """An Observer of ImagingStudy."""

    def prepare(self, uow: Work, draft: Draft) -> None:
        """Nothing to complete or refuse."""

    def changed(self, uow: Work, change: Change) -> None:
        """Give the study's rows the grants of its ImagingStudy."""
        version = change.after
        if version.type != "ImagingStudy" or version.deleted:
            return
        granted = frozenset(name for name in audience_of(uow.connection, version.pk) if name.startswith(_GRANT))
        table = dicom_study.c
        row = uow.connection.execute(
            select(table.pk, table.owner, table.audience_id).where(
                table.imaging_study_id == version.id, table.owner == version.owner
            )
        ).first()
        if row is None:
            return
        audience = uow.register_audience(frozenset({row.owner, uow.platform}) | granted)
        if audience != row.audience_id:
            uow.connection.execute(update(dicom_study).where(table.pk == row.pk).values(audience_id=audience))


def under(uow: Work, caller: Caller, study_pks: Iterable[int]) -> tuple[tuple[str, str], ...]:
    """For the record: the grants without which the caller would not see these studies."""
    if not caller.grants:
        return ()
    asked = select(dicom_study.c.audience_id).where(dicom_study.c.pk.in_(sorted(set(study_pks))))
    return caller.under(members_of(uow.connection, uow.connection.execute(asked).scalars()))
