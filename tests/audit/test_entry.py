"""What is written down at the moment of an access says all that its AuditEvent needs, and no credential."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select

from audit import entry, events, queries
from audit.patterns import PATTERNS
from audit.service import Ledger
from resources.times import microseconds
from store.access import Access, Caller, Interaction, Outcome
from store.engine.database import Database
from tests.audit import logbook

AT = datetime(2026, 6, 1, 3, 0, 0, 123456, tzinfo=UTC)
SITE = {"observer": "Device/vigie", "base_url": "http://x/fhir", "platform": "platform"}

texts = st.text(st.characters(codec="utf-8"), max_size=20)
maybe = st.none() | texts
callers = st.builds(
    Caller,
    client_id=texts,
    organization=texts,
    role=texts,
    practitioner=maybe,
    token_ref=maybe,
    address=texts,
    request_id=texts,
    purpose=texts,
    is_system=st.booleans(),
)
accesses = st.builds(
    Access,
    interaction=st.sampled_from(list(PATTERNS)),
    type=maybe,
    id=maybe,
    version=st.none() | st.integers(0, 2**31),
    patients=st.lists(texts.filter(bool), max_size=3).map(tuple),
    owner=maybe,
    detail=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    outcome=st.sampled_from(Outcome),
    reason=maybe,
    derived=st.booleans(),
    context=st.lists(texts.filter(bool), max_size=2).map(tuple),
)


@given(callers, accesses, st.datetimes(datetime(1971, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_record_says_all_that_the_access_was(caller: Caller, access: Access, at: datetime) -> None:
    """And leaves out only what is empty."""
    record = entry.split(entry.written(caller, access, at))
    assert "unread" not in record.particulars
    said = {"practitioner": None, "token_ref": None, "is_system": False, **record.head["caller"]}
    assert {name: said.get(name, "") for name in entry._CALLER} == {
        name: getattr(caller, name) or said.get(name, "") for name in entry._CALLER}
    what = {"outcome": "0", "derived": False, **record.head["access"]}
    for name in ("interaction", "type", "id", "version", "owner", "outcome", "derived"):
        assert what.get(name) == getattr(access, name)
    assert [tuple(pair) for pair in record.particulars.get("detail", ())] == list(access.detail)
    assert tuple(record.particulars.get("context", ())) == access.context
    assert (record.particulars.get("reason") or None) == (access.reason or None)
    assert record.patients == tuple(dict.fromkeys(access.patients))
    assert record.head["at"] == microseconds(at)
    assert len(events.build(caller, access, at, **SITE)) == max(1, len(record.patients))


@pytest.mark.parametrize(
    ("interaction", "query", "secret"),
    [
        (Interaction.TOKEN, "POST /oauth/token\ngrant_type=client_credentials&client_assertion=geheim-1", "geheim-1"),
        (Interaction.TOKEN, "POST /oauth/token?code=geheim-2", "geheim-2"),
        (Interaction.SEARCH_TYPE, "GET /fhir/Patient?access_token=geheim-3&name=X", "geheim-3"),
        (Interaction.OPERATION, "GET /fhir/x?Token=geheim-4", "geheim-4"),
        (Interaction.OPERATION, "POST /fhir\nAuthorization: Bearer geheim-5", "geheim-5"),
    ],
)
def test_an_entry_holds_no_credential(interaction: Interaction, query: str, secret: str) -> None:
    """reference/security-subscriptions.md §5.1: not even for the moment until it is sequenced."""
    written = entry.written(Caller("c", "o"), Access(interaction, query=query), AT)
    assert secret not in written
    assert "***" in written


def test_what_a_newer_server_wrote_is_read_as_far_as_it_is_known() -> None:
    written = entry.written(Caller("c", "o"), Access(Interaction.READ, "Patient", "p"), AT)
    content = json.loads(written)
    content["access"]["colour"] = content["caller"]["mood"] = content["more"] = "blue"
    assert entry.split(json.dumps(content)) == entry.split(written)


def test_an_entry_that_cannot_be_read_is_logged_as_it_stands(ledger: Ledger, database: Database) -> None:
    """It neither stops the log nor is lost: DESIGN §7."""
    ledger.disclose(Caller("before", "o"), [Access(Interaction.READ, "Patient", "p")], AT)
    with database.write() as connection:
        for number, text in enumerate(("{", "[]", '{"at":1,"caller":{},"access":{"interaction":"sing"}}')):
            connection.execute(
                insert(queries.audit_inbox).values(event_id=f"bad-{number}", recorded=1, tx_id=0, entry=text)
            )
    ledger.disclose(Caller("after", "o"), [Access(Interaction.READ, "Patient", "p")], AT + timedelta(seconds=1))
    assert ledger.catch_up()
    with database.read() as connection:
        assert connection.execute(select(queries.audit_inbox.c.pk)).all() == []
    logged = {event["id"]: event for event in logbook.events(ledger, database)}
    assert len(logged) == 5
    assert logged["bad-0"]["outcome"] == "12"
    assert logged["bad-0"]["entity"][0]["detail"] == [{"type": "entry", "valueString": "{"}]
