"""A copy of parsed JSON: objects and arrays anew, leaves shared, since they cannot be altered."""

from __future__ import annotations

from typing import Any

from resources.outcomes import Json


def copy_json(value: Json) -> Json:
    """A copy that observers may complete while the original stays as the caller gave it."""
    return {key: _copy(item) for key, item in value.items()}


def _copy(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    if type(value) is list:
        return [_copy(item) for item in value]
    return value
