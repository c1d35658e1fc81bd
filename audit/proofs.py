"""Proofs that can be given away: that an AuditEvent is in the log, that one checkpoint continues another.

A proof is a JSON document that `audit/offline.py` checks with the public key alone. It opens the record's head and one
patient; of other patients and of the particulars there are hashes, and the AuditEvent is shown without them.
RFC 6962 §2.1.1 and §2.1.2
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit import form2, forms, merkle, queries
from audit.chain import chain
from audit.checkpoint import BadCheckpoint, Verifier
from audit.forms import Row
from audit.offline import PROOF_FORMATS
from resources.json import Json

if TYPE_CHECKING:
    from sqlalchemy import Connection


class NoProof(Exception):
    """There is none; the text says why."""


def inclusion(connection: Connection, event_id: str) -> Json:
    """That this AuditEvent is in the log which the newest checkpoint signs. Raises NoProof."""
    row = queries.by_id(connection, event_id.partition(".")[0])
    note, size = queries.last_checkpoint(connection), queries.last_signed(connection)
    if row is None or row.head is None or note is None or row.seq > size:
        raise NoProof("there is no such AuditEvent in the signed log")
    event = next((one for one in forms.events_of(row) if one.id == event_id), None)
    if event is None:
        raise NoProof("there is no such AuditEvent in the signed log")
    path = merkle.roots(queries.leaves_to(connection, size), merkle.inclusion_ranges(row.seq - 1, size))
    proof: Json = {
        "format": PROOF_FORMATS[0], "position": row.seq, "checkpoint": note, "path": [node.hex() for node in path],
        "opening": _opening(row, event), **_keys(connection),
    }  # fmt: skip
    if row.form == forms.FORM_1:
        return proof | {"event": forms.site_of(row.head)}
    head, _ = forms.texts_of(row)
    if "access" not in head:
        raise NoProof("what was recorded cannot be read: it is proven by the log as a whole alone")
    site = queries.site(connection, head["site"]) or "{}"
    return proof | {"site": site, "event": forms.project(row, event, head, {}, forms.site_of(site))}


def consistency(connection: Connection, verifier: Verifier, first: str, second: str | None = None) -> Json:
    """That the log which the note `second` signs (None: the newest) continues the one of `first`. Raises NoProof."""
    second = second or queries.last_checkpoint(connection) or ""
    try:
        keys = chain(connection, verifier)
        old, new = (keys.open(note) for note in (first, second))
        path = merkle.roots(queries.leaves_to(connection, new.size), merkle.consistency_ranges(old.size, new.size))
    except (BadCheckpoint, ValueError) as error:
        raise NoProof(f"no such pair of checkpoints: {error}") from error
    if not merkle.verify_consistency(old.size, old.root, new.size, new.root, path):
        raise NoProof("the log does not continue what the first checkpoint signed: ./vigie audit verify")
    proof: Json = {"format": PROOF_FORMATS[1], "first": first, "second": second, "path": [node.hex() for node in path]}
    return proof | _keys(connection)


def consistency_from(connection: Connection, size: int) -> Json:
    """That the newest checkpoint continues whatever was signed of the first `size` records. Raises NoProof.

    Who has a checkpoint of that size checks it with the proof; so it need not be sent.
    """
    note, newest = queries.last_checkpoint(connection), queries.last_signed(connection)
    if note is None or not 0 < size <= newest:
        raise NoProof(f"the signed log has {newest} records")
    path = merkle.roots(queries.leaves_to(connection, newest), merkle.consistency_ranges(size, newest))
    return {"format": PROOF_FORMATS[1], "second": note, "path": [node.hex() for node in path], **_keys(connection)}


def _keys(connection: Connection) -> Json:
    """How one key of the log leads to the next: the records that name them, open, and the checkpoints there.

    Nothing, where there never was another.
    """
    links = []
    for size, note in queries.handovers(connection, 0):
        row = queries.rows(connection, [size]).get(size)
        if row is None or row.head is None:
            raise NoProof("the keys of the log do not follow one another: ./vigie audit verify")
        path = merkle.roots(queries.leaves_to(connection, size), merkle.inclusion_ranges(size - 1, size))
        links.append({
            "position": size, "id": row.event_id, "form": row.form, "salt": row.salt.hex(), "recorded": row.recorded,
            "logged": row.logged, "head": row.head, "particulars": row.particulars, "checkpoint": note,
            "path": [node.hex() for node in path],
        })  # fmt: skip
    return {"keys": links} if links else {}


def _opening(row: Row, event: forms.Event) -> Json:
    if row.form == forms.FORM_1:
        return {"form": 1, "head": row.head, "salt": row.salt.hex()}
    parts = [part.committed for part in forms.parts_of(row)]
    opening: Json = {
        "form": 2, "record": row.event_id, "recorded": row.recorded, "logged": row.logged, "head": row.head,
        "salt": row.salt[: form2.SALT_BYTES].hex(),
        "particulars": form2.committed_particulars(row.salt, row.particulars.encode()).hex(),
    }
    if event.part is not None:
        opening |= {
            "patient": event.part.patient, "owner": event.part.owner, "part_salt": event.part.salt.hex(),
            "path": [[side, node.hex()] for side, node in form2.part_path(parts, event.number)],
        }
    return opening
