"""Who gave reason to publish a study, kept in its row until the record is written (ATNA: who did it)."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime

from dicomweb import causes
from store.access import Caller, Held

WHOLE = Caller(
    "ehr", "hospital-a", frozenset({"system/ImagingStudy.c"}), "hospital", "Practitioner/p", "0d6b", "::1", "r-1",
    "TREAT", is_system=True, acr="eidas2", auth_time=datetime(2026, 6, 1, tzinfo=UTC),
    grants=(Held("1", "grant:1", "rs", "sharing"),),
)  # fmt: skip


def test_who_he_is_is_kept_and_no_right_of_his() -> None:
    """A record names the person and the client; what is done later is done by the server, for its own reasons."""
    kept = causes.caller_of(causes.kept(WHOLE), "hospital-a")
    nobody = Caller("", "")
    for one in fields(Caller):
        wanted = nobody if one.name in causes.RIGHTS else WHOLE
        assert getattr(kept, one.name) == getattr(wanted, one.name), one.name
        assert getattr(WHOLE, one.name) != getattr(nobody, one.name) or one.name == "recording", one.name


def test_where_nobody_is_kept_it_is_the_server() -> None:
    assert causes.caller_of("", "hospital-a") == Caller.system("hospital-a")
