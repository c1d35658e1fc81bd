"""Who gave reason to publish a study, kept in its row: the record of what the worker does names him.

Of a caller what his record says of him, and no right: nothing is asked of the permit when a study is published.
"""

from __future__ import annotations

from dataclasses import fields

import orjson

from store.access import Caller

RIGHTS = frozenset({"scopes", "grants", "acr", "auth_time", "recording"})
"""What a caller is let do, and by what he showed himself: not kept."""
_KEPT = frozenset(field.name for field in fields(Caller)) - RIGHTS


def kept(caller: Caller) -> str:
    """A caller as JSON text."""
    return orjson.dumps({name: value for name in sorted(_KEPT) if (value := getattr(caller, name))}).decode()


def caller_of(cause: str, owner: str) -> Caller:
    """The caller who is kept; the server itself, for `owner`, where nobody is."""
    if not cause:
        return Caller.system(owner)
    known = {name: value for name, value in orjson.loads(cause).items() if name in _KEPT}
    return Caller(**{"client_id": "", "organization": owner, **known})
