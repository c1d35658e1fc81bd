"""A resource's index rows, by the search parameters of its type."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, tzinfo

from resources.index_rows import IndexRows
from resources.outcomes import Json

__all__ = ["IndexRows", "extract"]


def extract(type_name: str, resource: Json, *, base_urls: Sequence[str] = (), zone: tzinfo = UTC) -> IndexRows:
    """The rows of every search parameter of `type_name`; absolute references under `base_urls` count as local."""
    raise NotImplementedError
