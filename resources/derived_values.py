"""Search values that are derived: a rank from a code, a modality from an exam.

A parameter of our own names a row of `DERIVED` (`own_parameters.OwnParameter.via`); otherwise a value is indexed as its
data type says (`resources.indexed_values`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resources import exams
from resources.codes import DCM, SNOMED
from resources.hashing import bounded, hash64
from resources.index_rows import NumberRow, TokenRow
from resources.indexed_values import Context, Writer
from resources.strings import folded

PRIORITY_RANK: Mapping[str, int] = {"stat": 0, "asap": 1, "urgent": 2, "routine": 3}
"""request-priority, the gravest first (R4 valueset-request-priority)."""


def _priority_rank(value: Any, param_id: int, group_no: int, context: Context) -> None:
    rank = PRIORITY_RANK.get(value) if isinstance(value, str) else None
    if rank is not None:
        context.rows.numbers.append(NumberRow(param_id, float(rank), float(rank), group_no))


def _modality(value: Any, param_id: int, group_no: int, context: Context) -> None:
    for code in exams.modalities(value):
        context.rows.tokens.append(TokenRow(param_id, hash64(DCM), bounded(folded(code)), group_no))


def _region(value: Any, param_id: int, group_no: int, context: Context) -> None:
    for code in exams.regions(value):
        context.rows.tokens.append(TokenRow(param_id, hash64(SNOMED), bounded(folded(code)), group_no))


DERIVED: Mapping[str, Mapping[str, Writer]] = {
    "priority-rank": {"code": _priority_rank},
    "modality": {"CodeableConcept": _modality},
    "region": {"CodeableConcept": _region},
}
"""Name → data type → what writes the rows."""
