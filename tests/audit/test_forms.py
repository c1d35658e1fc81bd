"""Every released form is shown as it always was: golden files, one for a form.

Where one of these fails, the form was altered after its release: make a new form instead. DESIGN §7
"""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import entry, form2, forms, merkle, offline
from audit.patterns import PATTERNS
from resources import validation
from resources.json import Json
from resources.times import microseconds
from store.access import Access, Caller, Interaction, Outcome
from tests.audit.logbook import root_of

GOLDEN = Path(__file__).parent / "golden"
AT = datetime(2026, 2, 14, 1, 41, 7, 120999, tzinfo=UTC)
SITE = {"observer": "Device/vigie", "base_url": "https://vigie.example/fhir", "platform": "platform"}
MACHINE = Caller("ehr", "hopital-a", role="hospital", token_ref="0d6b", address="198.51.100.25", request_id="r-1",
                 purpose="TREAT")
PERSON = Caller("console", "platform", role="radiologist", practitioner="Practitioner/rad-3", token_ref="6f1d",
                address="2001:db8::7", request_id="r-2", purpose="TREAT")


WHO = ((MACHINE, False), (PERSON, True), (Caller.system("platform"), False), (Caller("", ""), False))


def records() -> list[forms.Row]:
    """Each interaction by a machine, by a person, by the server; as a success and as each failure."""
    made = []
    cases = [
        (who, Access(
            interaction, "ServiceRequest", "o-1", 3, ("Patient/p-1", "Patient/p-2"), "hopital-a",
            "GET /fhir/Patient?name=Zoé&access_token=x", (("StudyInstanceUID", "1.2.3"), ("endpoint", "https://a/b")),
            outcome, None if outcome is Outcome.SUCCESS else f"{outcome} not-found", derived, ("Task/t/_history/1",)))
        for interaction in map(Interaction, PATTERNS)
        for who, derived in WHO
        for outcome in ((Outcome.SUCCESS, *Outcome) if who is MACHINE else (Outcome.SUCCESS,))
    ]  # fmt: skip
    cases += [(MACHINE, Access(Interaction.OPERATION)), (MACHINE, Access(Interaction.NOTIFY)),
              (MACHINE, Access(Interaction.SEARCH_TYPE, "Patient"))]
    texts = [entry.written(who, access, AT) for who, access in cases] + ["{"]
    for number, text in enumerate(texts):
        record = entry.split(text)
        parts = [
            forms.Part(patient, "hopital-a", bytes([number % 256, place]) * 8)
            for place, patient in enumerate(record.patients)
        ]
        recorded = microseconds(AT) + number
        head = json.dumps({"site": "0" * 32, **record.head}, ensure_ascii=False, separators=(",", ":"))
        particulars = json.dumps(record.particulars, ensure_ascii=False) if record.particulars else ""
        row = forms.Row(
            number + 1, f"record-{number}", forms.FORM_2, b"", bytes(range(32)), recorded, recorded + 5000, number,
            head, particulars, forms.parts_text(parts))
        made.append(row._replace(leaf=forms.leaf_of(row) or b""))
    return made


def shown(row: forms.Row) -> list[Json]:
    head, particulars = forms.texts_of(row)
    return [forms.project(row, event, head, particulars, SITE) for event in forms.events_of(row)]


def test_a_record_is_shown_as_its_golden_file() -> None:
    """Form 2: every leaf, every id and every AuditEvent."""
    made = [{"leaf": row.leaf.hex(), "events": shown(row)} for row in records()]
    lines = gzip.decompress((GOLDEN / "form2.jsonl.gz").read_bytes()).splitlines()
    assert [json.loads(line) for line in lines] == json.loads(json.dumps(made))


def test_every_event_is_an_audit_event_of_r4() -> None:
    """Whatever was recorded, also what nobody can read; http://hl7.org/fhir/R4/auditevent.html."""
    for row in records():
        for event in shown(row):
            found = validation.validate(event)
            assert [issue for issue in found if issue.severity in ("error", "fatal")] == [], event


def test_the_offline_verifier_hashes_as_the_log_does() -> None:
    """It repeats the hashing on purpose; here the two are held together."""
    for row in records():
        made = offline.leaf_of(
            row.form, row.seq, row.event_id, row.salt, row.recorded, row.logged, row.head or "", row.particulars,
            row.parts,
        )  # fmt: skip
        assert made == row.leaf


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=1, max_size=9)), max_size=9))
def test_the_root_of_the_parts_is_that_of_rfc_6962(parts: list[tuple[bytes, bytes]]) -> None:
    """And each part's path leads to it."""
    leaves = [merkle.leaf_hash(one) for one in sorted(form2.commitment(*part) for part in parts)]
    root = form2.parts_root(parts)
    assert root == (root_of(leaves) if leaves else form2.NOTHING)
    for number, part in enumerate(parts):
        node = merkle.leaf_hash(form2.commitment(*part))
        for side, other in form2.part_path(parts, number):
            node = merkle.node_hash(other, node) if side == "left" else merkle.node_hash(node, other)
        assert node == root


@pytest.mark.parametrize("number", range(3))
def test_the_leaf_says_every_field(number: int) -> None:
    """No field can be another without another leaf: what no leaf says, nothing proves."""
    row = records()[number]
    for field, other in (
        ("seq", 99), ("event_id", "other"), ("salt", bytes(32)), ("recorded", 1), ("logged", 1), ("head", "{}"),
        ("particulars", "{}"), ("parts", ""), ("parts", row.parts.replace("p-1", "p-3")),
        ("parts", row.parts.replace("hopital-a", "hopital-b", 1)),
    ):  # fmt: skip
        assert forms.leaf_of(row._replace(**{field: other})) != row.leaf, field
