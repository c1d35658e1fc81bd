"""How much a resource costs to keep: its JSON values and its index rows, counted before anything is locked.

On SQLite every writer waits while one resource is written (a Patient with 60,000 identifiers held them for 10 s), so
what is too much is refused before the write transaction begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from resources import indexing
from resources.budgets import RESOURCE_ELEMENTS, RESOURCE_INDEX_ROWS
from resources.index_rows import IndexRows
from resources.json import Json

ROWS_PER_ELEMENT = 5
"""No resource has more index rows than this for each of its JSON values; tests/resources/test_sizes.py looks."""


def elements(value: Any) -> int:
    """JSON values in `value`: objects, arrays, and what they hold."""
    found = 0
    pending = [value]
    while pending:
        node = pending.pop()
        found += 1
        if node.__class__ is dict:
            pending.extend(node.values())
        elif node.__class__ is list:
            pending.extend(node)
    return found


def row_count(rows: IndexRows) -> int:
    """Index rows of one resource."""
    return sum(len(getattr(rows, one.name)) for one in fields(rows))


def index_rows(type_name: str, resource: Json, base_urls: Sequence[str] = ()) -> int:
    """Index rows that a valid resource will have."""
    return row_count(indexing.extract(type_name, resource, base_urls=base_urls))


def check_elements(resource: Json) -> int:
    """The number of JSON values. InvalidContent (422 too-costly) beyond the budget: asked before validation."""
    count = elements(resource)
    RESOURCE_ELEMENTS.check(count, str(resource.get("resourceType", "Resource"))[:64])
    return count


def check(type_name: str, resource: Json, base_urls: Sequence[str] = ()) -> int:
    """An upper bound of the index rows of a valid resource. InvalidContent (422 too-costly) beyond a budget.

    The rows themselves are only extracted where there could be too many.
    """
    most = check_elements(resource) * ROWS_PER_ELEMENT
    if most <= RESOURCE_INDEX_ROWS.value:
        return most
    rows = index_rows(type_name, resource, base_urls)
    RESOURCE_INDEX_ROWS.check(rows, type_name)
    return rows
