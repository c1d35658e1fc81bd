"""An access as it is written down when it happens, and the record that the log keeps of it.

The entry is written while somebody waits: caller and access as they are, one for all patients. Credentials are left
out here already: an entry lies on a disk. The sequencer splits it into what a record of form 2 consists of
(`audit.form2`): head, particulars, patients; the AuditEvents are made when somebody reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from audit import form2
from audit.patterns import PATTERNS, Shape
from resources.json import Json
from resources.times import microseconds
from store.access import Access, Caller, Outcome

_CALLER = frozenset(field.name for field in fields(Caller)) - {"scopes", "recording", "grants"}
_HEAD = frozenset({"interaction", "type", "id", "version", "owner", "outcome", "derived", "digest"})
_PARTICULARS = ("query", "detail", "context", "reason", "digests")
_OUTCOMES = frozenset(Outcome)
_TEXT = {str}
_TEXTS = {str, bool}
_BREAK_GLASS = ("grant-source", "break-glass")
BREAK_THE_GLASS = "BTG"
"""v3-ActReason: the purpose of what is done under such a grant, whatever the token says."""
_SUCCESS = Outcome.SUCCESS.value
_LAST_AT = 253_402_300_800_000_000
"""µs of the year 10000: no instant of FHIR lies behind it."""


def written(caller: Caller, access: Access, at: datetime) -> str:
    """The entry of one access."""
    who = {
        "client_id": caller.client_id,
        "organization": caller.organization,
        "role": caller.role,
        "practitioner": caller.practitioner,
        "token_ref": caller.token_ref,
        "address": caller.address,
        "request_id": caller.request_id,
        "purpose": BREAK_THE_GLASS if access.detail and _BREAK_GLASS in access.detail else caller.purpose,
        "is_system": caller.is_system,
    }
    what: dict[str, Any] = {
        "interaction": access.interaction,
        "type": access.type,
        "id": access.id,
        "version": access.version,
        "owner": access.owner,
        "detail": access.detail,
        "outcome": access.outcome,
        "reason": access.reason,
        "derived": access.derived,
    }
    if access.context:
        what["context"] = access.context
    if access.digest is not None:
        what["digest"] = access.digest
    if access.digests:
        what["digests"] = access.digests
    if access.query:
        of_token = PATTERNS[access.interaction].shape is Shape.TOKEN
        what["query"] = form2.without_credentials(access.query, form_of_token=of_token)
    content = {"at": microseconds(at), "caller": who, "access": what}
    if access.patients:
        content["patients"] = access.patients
    return orjson.dumps(content).decode()


class Record(NamedTuple):
    """What the log keeps of an access: head and particulars without what is empty, and ``Patient/id`` of each part."""

    head: Json
    particulars: Json
    patients: tuple[str, ...]


def split(entry: str) -> Record:
    """The record of an entry. One that cannot be read is kept as it stands: neither is the log stopped nor it lost."""
    try:
        return _record(orjson.loads(entry))
    except (ValueError, KeyError, TypeError, AttributeError):
        return unread(entry)


def unread(entry: str) -> Record:
    """The record of an entry of which no event can be made: as it stands."""
    return Record({}, {"unread": entry}, ())


def _record(content: Json) -> Record:
    """Raises ValueError, KeyError, TypeError, AttributeError for what no event can be made of.

    An entry may be older or newer than this server: what it does not know is left out.
    """
    given, what = content["caller"], content["access"]
    caller = {name: value for name, value in given.items() if value and name in _CALLER}
    access = {name: value for name, value in what.items() if value is not None and value is not False and name in _HEAD}
    if access.get("outcome") == _SUCCESS:
        del access["outcome"]
    particulars = {name: what[name] for name in _PARTICULARS if what.get(name)}
    # Until form 2 an entry was of one patient.
    patients = tuple(content.get("patients", ())) or ((content["patient"],) if "patient" in content else ())
    _check(content["at"], caller, access, particulars, patients)
    head = {"at": content["at"], "caller": caller, "access": access}
    return Record(head, particulars, tuple(dict.fromkeys(patients)))


def _check(
    at: object, caller: Mapping[str, Any], access: Mapping[str, Any], particulars: Mapping[str, Any],
    patients: tuple[Any, ...],
) -> None:
    """Raise ValueError where a value is not of its kind: a projection must never fail when it is read."""
    good = (
        type(at) is int
        and 0 <= at < _LAST_AT
        and access["interaction"] in PATTERNS
        and access.get("outcome", _SUCCESS) in _OUTCOMES
        and type(access.get("version", 0)) is int
        and type(access.get("digest", "")) is str
        and {*map(type, caller.values())} <= _TEXTS
        and {type(access.get("type", "")), type(access.get("id", "")), type(access.get("owner", ""))} == _TEXT
    )
    if good and patients:
        good = all(patients) and {*map(type, patients)} == _TEXT
    if good and particulars:
        context = particulars.get("context", ())
        pairs = [*particulars.get("detail", ()), *particulars.get("digests", ())]
        good = (
            {type(particulars.get("query", "")), type(particulars.get("reason", ""))} == _TEXT
            and all(type(one) is str and one for one in context)
            and all(len(pair) == 2 and type(pair[0]) is str and type(pair[1]) is str for pair in pairs)
        )
    if not good:
        raise ValueError("no entry of an access")
