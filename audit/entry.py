"""An access as it is written down when it happens: caller and access as they are, and when.

The AuditEvent is built from it by the sequencer. Its text is three times as long and takes longer to make, and whoever
asks waits until his record is durable. Credentials are left out here already: an entry lies on a disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

import orjson

from audit import events
from audit.patterns import PATTERNS, Shape
from resources.times import microseconds, of_microseconds
from store.access import Access, Caller, Interaction, Outcome

_CALLER = frozenset(field.name for field in fields(Caller)) - {"scopes", "recording"}
_ACCESS = frozenset(field.name for field in fields(Access)) - {"patients"}


def entries(caller: Caller, access: Access, at: datetime) -> Iterator[str]:
    """One for each patient concerned, else one: of each becomes one AuditEvent."""
    who = {
        "client_id": caller.client_id,
        "organization": caller.organization,
        "role": caller.role,
        "practitioner": caller.practitioner,
        "token_ref": caller.token_ref,
        "address": caller.address,
        "request_id": caller.request_id,
        "purpose": caller.purpose,
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
    if access.query:
        of_token = PATTERNS[access.interaction].shape is Shape.TOKEN
        what["query"] = events.without_credentials(access.query, form_of_token=of_token)
    at_us = microseconds(at)
    for patient in access.patients or (None,):
        content = {"at": at_us, "caller": who, "access": what}
        if patient is not None:
            content["patient"] = patient
        yield orjson.dumps(content).decode()


def parse(entry: str) -> tuple[Caller, Access, datetime]:
    """What `entries` wrote. Raises ValueError, KeyError, TypeError where it is no entry."""
    content = orjson.loads(entry)
    caller = Caller(**_known(content["caller"], _CALLER))
    what = _known(content["access"], _ACCESS)
    what["interaction"] = Interaction(what["interaction"])
    what["outcome"] = Outcome(what.get("outcome", Outcome.SUCCESS))
    what["detail"] = tuple((name, value) for name, value in what.get("detail", ()))
    what["context"] = tuple(what.get("context", ()))
    patient = content.get("patient")
    return caller, Access(**what, patients=() if patient is None else (patient,)), of_microseconds(content["at"])


def _known(given: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """An entry may be older or newer than this server: what it does not know is left out."""
    return {name: value for name, value in given.items() if name in names}
