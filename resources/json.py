"""Parsed JSON as a type, and a copy of it."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
"""A JSON object as `resources.jsontext` parses it: decimals keep their digits."""


def copy_json(value: Json) -> Json:
    """A copy of which objects and arrays are new and leaves are shared, since leaves cannot be altered."""
    return {key: _copy(item) for key, item in value.items()}


def _copy(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    if type(value) is list:
        return [_copy(item) for item in value]
    return value
