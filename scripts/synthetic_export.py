"""Write an export of an audit log with as many synthetic records as asked for, to measure its verification.

    python scripts/synthetic_export.py RECORDS FILE

Reads, searches, writes and images in the mix of a morning, a checkpoint after each 4,000 records, as `audit export`
writes them. Prints the key that it is verified with, which is made for it:

    python scripts/synthetic_export.py 1000000 log.gz > key
    /usr/bin/time -v python audit/offline.py log.gz --key key
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from audit import entry, form2, forms
from audit.checkpoint import Checkpoint, Signer
from audit.forms import Part, Row
from audit.merkle import Frontier
from audit.offline import FORMAT
from resources.times import microseconds
from store.access import Access, Caller, Interaction

PERSON = Caller("console", "platform", frozenset(), "radiologist", "Practitioner/rad-3", "6f1d", "2001:db8::7", "r-2",
                "TREAT")
MACHINE = Caller("ehr", "hopital-a", frozenset(), "hospital", None, "0d6b", "198.51.100.25", "r-1", "TREAT")
BEGAN = datetime(2026, 2, 14, 1, 0, tzinfo=UTC)
BATCH = 4000


def access(number: int) -> tuple[Caller, Access]:
    """Of each ten: six reads, two searches of a few patients, a write, a retrieval."""
    patients = tuple(f"Patient/p-{(number * 7 + one) % 5000}" for one in range(1 + number % 3))
    kind = number % 10
    if kind < 6:
        return PERSON, Access(Interaction.READ, "ServiceRequest", f"o-{number % 9000}", 3, patients[:1], "hopital-a")
    if kind < 8:
        query = f"GET /fhir/ServiceRequest?patient=p-{number % 5000}&status=active&_count=20"
        return MACHINE, Access(Interaction.SEARCH_TYPE, "ServiceRequest", patients=patients, query=query)
    if kind == 8:
        return MACHINE, Access(Interaction.UPDATE, "Task", f"t-{number % 9000}", 2, patients[:1], "hopital-a",
                               digest="0" * 64)
    detail = (("StudyInstanceUID", f"1.2.826.{number}"), ("instances", "120"))
    return PERSON, Access(Interaction.DICOM_RETRIEVE, "ImagingStudy", f"s-{number % 9000}", None, patients[:1],
                          "hopital-a", detail=detail)


def lines(count: int, signer: Signer) -> Iterator[dict[str, Any]]:
    """The lines of the export."""
    digest, site = forms.site_content("Device/vigie", "https://vigie.example/fhir", "platform")
    yield {"format": FORMAT, "origin": signer.name, "key": signer.verifier.text(), "exported": ""}
    yield {"site": digest, "content": site}
    frontier, through = Frontier.empty(), 0
    for number in range(count):
        at = BEGAN + timedelta(milliseconds=2 * number)
        caller, what = access(number)
        record = entry.split(entry.written(caller, what, at))
        parts = [Part(patient, "hopital-a", os.urandom(form2.SALT_BYTES)) for patient in record.patients]
        through += max(1, len(parts))
        row = Row(
            number + 1, f"0190-{number:012x}", forms.FORM_2, b"", os.urandom(2 * form2.SALT_BYTES), microseconds(at),
            microseconds(at), through, orjson.dumps({"site": digest, **record.head}).decode(),
            orjson.dumps(record.particulars).decode() if record.particulars else "", forms.parts_text(parts),
        )
        leaf = forms.leaf_of(row) or b""
        frontier.append(leaf)
        head, particulars = forms.texts_of(row)
        events = [forms.project(row, one, head, particulars, forms.site_of(site)) for one in forms.events_of(row)]
        yield {
            "seq": row.seq, "id": row.event_id, "form": row.form, "leaf": leaf.hex(), "salt": row.salt.hex(),
            "recorded": row.recorded, "logged": row.logged, "head": row.head, "particulars": row.particulars,
            "parts": row.parts, "events": events,
        }  # fmt: skip
        if frontier.size % BATCH == 0 or frontier.size == count:
            note = signer.sign(Checkpoint(signer.name, frontier.size, frontier.root()))
            yield {"checkpoint": note, "size": frontier.size}
    yield {"end": count}


def write(count: int, file: Path, signer: Signer) -> None:
    """The export of `count` records."""
    with gzip.open(file, "wb", compresslevel=3) as out:
        for line in lines(count, signer):
            out.write(orjson.dumps(line) + b"\n")


if __name__ == "__main__":
    made = Signer.generate("vigie/platform")
    write(int(sys.argv[1]), Path(sys.argv[2]), made)
    sys.stdout.write(made.verifier.text() + "\n")
