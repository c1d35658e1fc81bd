"""What people decided about images: rows that outlast every later instance, publication and change of an order.

A decision is never altered; the newest one about a study holds. Some teach a link: this number of this issuer is that
patient of the hospital.

docs/decisions/0023-reconciliation.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from dicomweb.matching import Number
from dicomweb.tables import Row, image_decision, image_link
from resources.json import Json

CONFIRM, ATTACH, DETACH, SPLIT, RESTORE, REJECT = "confirm", "attach", "detach", "split", "restore", "reject"
JOINING = (CONFIRM, ATTACH, DETACH)
"""Decisions that say whose a study is, in place of its traits."""


def of_study(connection: Connection, study_pk: int) -> Row | None:
    """The decision that holds on whose a study is; None: nobody decided."""
    table = image_decision.c
    return connection.execute(
        select(image_decision)
        .where(table.study_pk == study_pk, table.action.in_(JOINING))
        .order_by(table.pk.desc())
        .limit(1)
    ).first()


def covered(decision: Row) -> frozenset[int]:
    """The numbers of the sayings (`dicom_identity`) that the person who decided could see."""
    return frozenset(map(int, decision.identities.split()))


def record(connection: Connection, study: Row, values: Json) -> int:
    """A new decision about a study; its pk."""
    row = {"owner_id": study.owner_id, "study_pk": study.pk, **values}
    return int(connection.execute(insert(image_decision).values(**row).returning(image_decision.c.pk)).scalar_one())


def links(connection: Connection, owner_id: int, numbers: Sequence[Number]) -> list[tuple[Number, str]]:
    """Of some numbers, those that people have said to be a patient's, with ``Patient/id``."""
    table = image_link.c
    values = sorted({one.value for one in numbers})
    if not values:
        return []
    rows = connection.execute(select(image_link).where(table.owner_id == owner_id, table.value.in_(values)))
    return [(Number(row.value, frozenset({row.issuer} if row.issuer else ())), row.patient) for row in rows]


def teach(connection: Connection, owner_id: int, numbers: Iterable[Number], patient: str, decision: int) -> None:
    """Numbers are this patient's from now on, whatever was said before."""
    for number in numbers:
        for issuer in sorted(number.authorities) or [""]:
            _forget(connection, owner_id, issuer, number.value)
            connection.execute(
                insert(image_link).values(
                    owner_id=owner_id, issuer=issuer, value=number.value, patient=patient, decision_pk=decision
                )
            )


def unteach(connection: Connection, owner_id: int, numbers: Iterable[Number], patient: str) -> None:
    """Numbers are not this patient's after all."""
    table: Any = image_link.c
    for number in numbers:
        for issuer in sorted(number.authorities) or [""]:
            connection.execute(
                delete(image_link).where(
                    table.owner_id == owner_id, table.issuer == issuer, table.value == number.value,
                    table.patient == patient,
                )
            )


def _forget(connection: Connection, owner_id: int, issuer: str, value: str) -> None:
    table = image_link.c
    connection.execute(
        delete(image_link).where(table.owner_id == owner_id, table.issuer == issuer, table.value == value)
    )
