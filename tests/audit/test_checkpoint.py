"""Signed checkpoints: https://c2sp.org/tlog-checkpoint in https://c2sp.org/signed-note."""

from __future__ import annotations

import stat
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.checkpoint import BadCheckpoint, BadKey, Checkpoint, Signer, Verifier, create

ORIGIN = "vigie.example/audit"
SIGNER = Signer.generate(ORIGIN)
CHECKPOINT = Checkpoint(ORIGIN, 42, bytes(range(32)))


def test_a_signed_note_has_the_form_of_c2sp():
    """signed-note: text, blank line, em dash, name, base64 of key id and signature."""
    note = SIGNER.sign(CHECKPOINT)
    lines = note.split("\n")
    assert lines[:4] == [ORIGIN, "42", b64encode(bytes(range(32))).decode(), ""]
    assert lines[4].startswith(f"— {ORIGIN} ")
    assert lines[5:] == [""]
    blob = b64decode(lines[4].rpartition(" ")[2])
    assert len(blob) == 4 + 64
    assert blob[:4] == SIGNER.verifier.key_id


def test_the_go_example_key_of_signed_note_is_understood():
    """golang.org/x/mod/sumdb/note: the example verifier key and note of its documentation."""
    verifier = Verifier.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    assert verifier.key_id.hex() == "c74f20a3"


def test_what_was_signed_is_read_back():
    assert SIGNER.verifier.open(SIGNER.sign(CHECKPOINT)) == CHECKPOINT
    assert Verifier.parse(SIGNER.verifier.text()) == SIGNER.verifier
    assert Signer.parse(SIGNER.text()).verifier == SIGNER.verifier


@settings(deadline=None)
@given(st.data())
def test_a_note_with_any_character_altered_is_refused(data: st.DataObject):
    """signed-note: the signature is over the whole text."""
    note = SIGNER.sign(CHECKPOINT)
    body = note.index("\n\n")
    at = data.draw(st.integers(0, body - 1))
    forged = note[:at] + chr((ord(note[at]) + 1) % 128 or 65) + note[at + 1:]
    with pytest.raises(BadCheckpoint):
        SIGNER.verifier.open(forged)


@pytest.mark.parametrize("note", ["", "x", "\n\n", f"{ORIGIN}\n1\nAA==\n\n— {ORIGIN} !!\n", f"{ORIGIN}\n1\n\n"])
def test_what_is_no_signed_note_is_refused(note: str):
    with pytest.raises(BadCheckpoint):
        SIGNER.verifier.open(note)


def test_another_log_or_another_key_is_refused():
    """tlog-checkpoint: the origin is the name of the log."""
    with pytest.raises(BadCheckpoint):
        SIGNER.sign(Checkpoint("another.example/log", 1, bytes(32)))
    with pytest.raises(BadCheckpoint):
        SIGNER.verifier.open(Signer.generate(ORIGIN).sign(CHECKPOINT))


def test_the_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path):
    """No secret has a default."""
    path = tmp_path / "audit" / "key"
    made = create(path, ORIGIN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert create(path, ORIGIN).verifier == made.verifier
    assert path.with_suffix(".pub").read_text().strip() == made.verifier.text()
    assert made.verifier != create(tmp_path / "other", ORIGIN).verifier
    assert [p.name for p in sorted((tmp_path / "audit").iterdir())] == ["key", "key.pub"]


def test_a_key_that_others_can_read_or_of_another_log_is_refused(tmp_path: Path):
    path = tmp_path / "key"
    create(path, ORIGIN)
    with pytest.raises(BadKey, match="belongs to"):
        create(path, "another.example/log")
    path.chmod(0o644)
    with pytest.raises(BadKey, match="chmod 600"):
        create(path, ORIGIN)
