"""The rows of the log as records, whatever their form, and the AuditEvents that they are shown as. Pure.

*Form 1*: `head` is the AuditEvent itself, as it was stored until form 2. *Form 2*: `audit.form2`. A form that was
released stays for ever; what is new is another number.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from audit import form2, merkle
from resources.json import Json
from resources.times import microseconds

FORM_1 = 1
FORM_2 = form2.FORM


class Row(NamedTuple):
    """A row of audit_log, in the order of its columns."""

    seq: int
    event_id: str
    form: int
    leaf: bytes
    salt: bytes
    recorded: int
    logged: int
    through: int
    head: str | None
    particulars: str
    parts: str


class Part(NamedTuple):
    """A patient of a record. Erased: `patient` and `owner` are empty, and `salt` is what stands for them."""

    patient: str
    """``Patient/id``."""
    owner: str
    """Organization that the patient belonged to when it was logged; empty: not known."""
    salt: bytes

    @property
    def committed(self) -> tuple[bytes, bytes]:
        """As `form2.leaf` takes it."""
        return self.salt, f"{self.owner}\n{self.patient}".encode() if self.patient else b""


@dataclass(frozen=True, slots=True)
class Event:
    """One AuditEvent of a record."""

    id: str
    number: int
    """Among those of the record; tells nobody outside anything."""
    part: Part | None


def parts_of(row: Row) -> list[Part]:
    """The patients of a record of form 2."""
    if not row.parts:
        return []
    return [Part(patient, owner, bytes.fromhex(salt)) for patient, owner, salt in orjson.loads(row.parts)]


def parts_text(parts: Sequence[Part]) -> str:
    """As the column `parts` holds them."""
    return orjson.dumps([(part.patient, part.owner, part.salt.hex()) for part in parts]).decode() if parts else ""


def leaf_of(row: Row) -> bytes | None:
    """The leaf hash of a row by what stands in it; None where it is gone or cannot be read."""
    if row.head is None:
        return None
    try:
        if row.form == FORM_1:
            is_bare = not (row.particulars or row.parts)
            return merkle.leaf_hash(merkle.commitment(row.seq, row.head.encode(), row.salt)) if is_bare else None
        if row.form != FORM_2:
            return None
        listed = parts_of(row)
        if parts_text(listed) != row.parts:
            return None  # it says the same in other letters
        return form2.leaf(
            row.seq, row.event_id, row.recorded, row.logged, row.salt, row.head.encode(), row.particulars.encode(),
            [part.committed for part in listed],
        )  # fmt: skip
    except (ValueError, TypeError, OverflowError):
        return None


def is_dated(row: Row, logged_before: int) -> bool:
    """Whether the two instants of a row of form 1 are what the AuditEvent says: its leaf does not cover them.

    `logged_before`: when the record before it was logged, in µs: a log never steps back.
    """
    try:
        event = orjson.loads(row.head or "")
        logged = max(logged_before, microseconds(datetime.fromisoformat(event["meta"]["lastUpdated"])))
        recorded = microseconds(datetime.fromisoformat(event["recorded"]))
    except (ValueError, KeyError, TypeError):
        return row.head is None  # that is found otherwise
    return row.logged == logged and row.recorded // 1000 * 1000 == recorded


def events_of(row: Row) -> list[Event]:
    """The AuditEvents of a record: one per patient that was not erased; one where it never had any."""
    if row.form == FORM_1 or not row.parts:
        return [Event(row.event_id, 0, None)]
    return [
        Event(form2.event_id(row.event_id, part.salt, part.patient), number, part)
        for number, part in enumerate(parts_of(row))
        if part.patient
    ]


def count_of(row: Row) -> int | None:
    """How many AuditEvents it has or had: `through` counts them. None where that cannot be read."""
    if row.form == FORM_1 or not row.parts:
        return 1
    try:
        return len(orjson.loads(row.parts))
    except (ValueError, TypeError):
        return None


def texts_of(row: Row) -> tuple[Json, Json]:
    """Head and particulars of a record of form 2, parsed."""
    return orjson.loads(row.head or "{}"), orjson.loads(row.particulars) if row.particulars else {}


def project(row: Row, event: Event, head: Json, particulars: Json, site: Mapping[str, str]) -> Json:
    """The AuditEvent, of a record of form 2."""
    patient = event.part.patient if event.part else None
    try:
        return form2.event(event.id, head, particulars, patient, site, row.recorded, row.logged)
    except (KeyError, TypeError, ValueError):
        # What an event cannot be made of is refused when it is sequenced; this is the log of another version.
        as_it_stands = {"unread": f"{row.head}{row.particulars}"}
        return form2.event(event.id, {}, as_it_stands, patient, site, row.recorded, row.logged)


@lru_cache(maxsize=64)
def site_content(observer: str, base_url: str, platform: str) -> tuple[str, str]:
    """(digest, JSON) of what the server says of itself in its events."""
    site = {"base_url": base_url, "observer": observer, "platform": platform}
    content = orjson.dumps(site, option=orjson.OPT_SORT_KEYS)
    return sha256(content).hexdigest()[:32], content.decode()


def is_site(digest: str, content: str) -> bool:
    """Whether a row of audit_site is what its name says."""
    return hmac.compare_digest(sha256(content.encode()).hexdigest()[:32], digest)


def site_of(content: str) -> dict[str, Any]:
    """The parsed content."""
    parsed: dict[str, Any] = orjson.loads(content)
    return parsed
