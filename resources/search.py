"""A search's parameters, parsed to a Query.

FHIR R4 §3.1.1 http://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, tzinfo

from resources.criteria import Query

__all__ = ["Query", "parse"]


def parse(
    type_name: str | None,
    parameters: Sequence[tuple[str, str]],
    *,
    lenient: bool = False,
    types: Collection[str] | None = None,
    base_urls: Sequence[str] = (),
    zone: tzinfo = UTC,
    now: datetime | None = None,
) -> Query:
    """What `parameters` (decoded name, value pairs in the order sent) ask of `type_name` (None: of the system)."""
    raise NotImplementedError
