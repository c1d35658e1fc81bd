"""The key of the log is rotated inside the log: a record that the former key signs names the next one.

security-subscriptions.md §4.5, C2SP signed-note, C2SP tlog-checkpoint; docs/audit.md, The key of the log
"""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as drawn
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from audit import offline, proofs, queries, verify
from audit.chain import chain
from audit.checkpoint import Checkpoint, Signer
from audit.offline import Report
from audit.sequencer import InconsistentLog, Sequencer
from audit.service import Ledger
from audit.tables import audit_checkpoint, audit_key, audit_log
from fhir_server.commands.main import main
from fhir_server.duties import acts, deployment
from fhir_server.duties import keys as duties
from fhir_server.server import keys
from fhir_server.server.faults import CannotRun
from fhir_server.server.settings import Settings
from store.engine.database import Database, open_engine
from store.engine.keyring import KeyFault, KeyRing
from tests.audit.logbook import cut, event_ids, fill, logged
from tests.audit.test_every_byte import flipped, restore, write
from tests.support import BASE_URL


class World:
    """A log whose key is kept as a deployment keeps it."""

    def __init__(self, database: Database, database_url: str, data: Path) -> None:
        self.settings = Settings.load({"data": data, "database": database_url}, environ={})
        self.database, self.data = database, data
        data.mkdir(exist_ok=True)
        keys.provide(self.settings, database)
        self.made: list[Ledger] = []
        self.ledger = self.node()
        self.keys = [self.current]

    def node(self, **parts: Any) -> Ledger:
        """Another process of the deployment."""
        chosen: dict[str, Any] = {"published": self.published, "checkpoint_interval_s": 0, **parts}
        signer = keys.RingSigner(self.ring(), self.settings)
        self.made.append(Ledger(
            self.database, signer, observer="Device/platform", base_url=BASE_URL, platform=self.settings.platform,
            **chosen,
        ))  # fmt: skip
        return self.made[-1]

    def ring(self) -> KeyRing:
        return keys.ring(self.settings, self.database)

    @property
    def signer(self) -> keys.RingSigner:
        return keys.RingSigner(self.ring(), self.settings)

    @property
    def current(self) -> str:
        return self.signer.verifier.text()

    @property
    def published(self) -> Path:
        return self.data / "checkpoints.txt"

    def secret(self, number: int) -> Signer:
        """The private key of this number, from 0."""
        found = self.ring().of(keys.SIGNING)
        return Signer.parse(found[-1 - number].secret.decode())

    def rotate(self, ledger: Ledger | None = None) -> int:
        ledger, made = ledger or self.ledger, keys.new_signer(self.settings)
        seq = ledger.hand_over(
            acts.operator(self.settings),
            lambda former: acts.access(offline.ROTATION, ("former", former.text()), ("key", made.verifier.text())),
            made,
            lambda connection: keys.rotate_signing(self.settings, connection, made) and None,
        )  # fmt: skip
        self.keys.append(made.verifier.text())
        return seq

    def online(self, *, trusted: str | None = None) -> Report:
        signer = self.signer
        return verify.verify(
            self.database, signer.verifier, platform=self.settings.platform, published_to=self.published,
            elsewhere=offline.notes_of(self.published), keys=signer.verifiers, trusted=trusted,
        )  # fmt: skip

    def export(self) -> Path:
        file = self.data / "log.gz"
        verify.export(self.database, file, self.signer.verifier)
        return file

    def offline(self, key: str | None = None, *, trusted: str | None = None, elsewhere: bool = True) -> Report:
        notes = offline.notes_of(self.published) if elsewhere else ()
        return offline.verify_export(self.export(), key or self.keys[0], notes, trusted=trusted)

    def notes(self) -> dict[int, str]:
        with self.database.read() as connection:
            return {size: note for size, note, _ in queries.checkpoints(connection)}


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(database, database_url, tmp_path / "data")
    yield made
    for ledger in made.made:
        ledger.close()


@pytest.fixture
def rotated(world: World) -> World:
    """4 records, the key followed at 5; 4 more, and at 10; 3 more: 13."""
    fill(world.ledger, 4, 2)
    assert world.rotate() == 5
    fill(world.ledger, 4, 2)
    assert world.rotate() == 10
    fill(world.ledger, 3, 2)
    world.ledger.sequencer.step()
    return world


def kinds(report: Report) -> list[tuple[int, str]]:
    return [(one.position, one.kind) for one in report.findings]


def test_who_trusts_the_first_key_follows_the_log_to_the_last(rotated: World) -> None:
    """Online and offline; by any key of the log, and by no other."""
    assert kinds(rotated.online()) == []
    for key in rotated.keys:
        report = rotated.offline(key)
        assert (kinds(report), report.records) == ([], 13)
    stranger = Signer.generate(rotated.signer.name).verifier.text()
    assert kinds(rotated.offline(stranger)) == [(14, "key")]


def test_each_checkpoint_is_signed_by_the_key_in_use_and_the_last_of_each_by_both(rotated: World) -> None:
    """C2SP signed-note: a note may carry the signatures of several keys."""
    opened = [offline.Key(key) for key in rotated.keys]
    signers = {
        size: [number for number, key in enumerate(opened) if offline._is_of(key, note)]
        for size, note in rotated.notes().items()
    }
    assert signers == {2: [0], 4: [0], 5: [0, 1], 7: [1], 9: [1], 10: [1, 2], 12: [2], 13: [2]}
    published = [note.split("\n")[1] for note in offline.notes_of(rotated.published)]
    assert {"5", "10"} <= set(published), "who trusts the first key alone has to find where it is followed"


def signed_by(world: World, number: int, size: int) -> str:
    """The checkpoint of so many records, signed by another of the log's keys."""
    signer, note = world.secret(number), world.notes()[size]
    return signer.sign(Checkpoint(signer.name, size, offline._of_base64(note.split("\n")[2])))


@pytest.mark.parametrize(("number", "size"), [(0, 7), (0, 13), (1, 13), (1, 4), (2, 9)])
def test_a_checkpoint_by_a_key_outside_its_span_is_named(rotated: World, number: int, size: int) -> None:
    """By a retired key (who stole it goes on with it), or by one before its time; kept with the log or elsewhere."""
    forged = signed_by(rotated, number, size)
    with rotated.published.open("a") as file:
        file.write(forged + "\n")
    for report in (rotated.online(), rotated.offline()):
        assert kinds(report) == [(size, "key")]
        assert "not in use there" in report.findings[0].text
    rotated.published.write_text("".join(one + "\n" for one in rotated.notes().values()))
    with rotated.database.write() as connection:
        connection.execute(update(audit_checkpoint).where(audit_checkpoint.c.size == size).values(note=forged))
    for report in (rotated.online(), rotated.offline()):
        assert (size, "key") in kinds(report)


def test_a_retired_key_cannot_lengthen_the_log(rotated: World) -> None:
    """Neither in the published file, where a longer checkpoint would stop the sequencer, nor for who verifies."""
    stolen = rotated.secret(0)
    with rotated.published.open("a") as file:
        file.write(stolen.sign(Checkpoint(stolen.name, 99, bytes(32))) + "\n")
    assert kinds(rotated.online()) == [(99, "key")]
    node = rotated.node()
    fill(node, 1)
    assert max(rotated.notes()) == 14


def test_the_last_checkpoint_by_a_retired_key_is_not_built_upon(rotated: World) -> None:
    forged = signed_by(rotated, 1, 13)
    with rotated.database.write() as connection:
        connection.execute(update(audit_checkpoint).where(audit_checkpoint.c.size == 13).values(note=forged))
    with pytest.raises(InconsistentLog, match="not signed by"):
        fill(rotated.node(), 1)


def test_a_checkpoint_where_a_key_is_followed_is_never_dropped(world: World) -> None:
    """One a second is kept else."""
    world.ledger = world.node(checkpoint_interval_s=3600)
    fill(world.ledger, 3, 1)
    seq = world.rotate()
    fill(world.ledger, 3, 1)
    world.ledger.sequencer.step()
    assert seq in world.notes()
    assert len(world.notes()) < 7
    assert kinds(world.offline()) == []


def test_every_node_publishes_where_a_key_was_followed(rotated: World) -> None:
    """Also one that was away meanwhile: what came after is not published before."""
    rotated.published.write_text(rotated.notes()[2] + "\n")
    node = rotated.node()
    node.sequencer.step()
    assert [note.split("\n")[1] for note in offline.notes_of(rotated.published)] == ["2", "5", "10", "13"]


def test_a_log_that_was_cut_behind_a_key_is_named_to_who_trusts_the_first(rotated: World) -> None:
    """The published checkpoint at which it was followed is signed by the first as well."""
    cut(rotated.database, 4)
    with rotated.database.write() as connection:
        connection.execute(delete(audit_key))
    assert "truncated" in [kind for _, kind in kinds(rotated.offline())]
    assert "truncated" in [kind for _, kind in kinds(rotated.online())]


def test_verification_behind_a_trusted_checkpoint_follows_the_keys(rotated: World) -> None:
    """Of any age; what a key outside its span signed is trusted by nobody."""
    for size in (2, 5, 7, 10, 12):
        trusted = rotated.notes()[size]
        assert kinds(rotated.online(trusted=trusted)) == []
        for key in rotated.keys:
            assert kinds(rotated.offline(key, trusted=trusted)) == []
    forged = signed_by(rotated, 0, 7)
    assert kinds(rotated.online(trusted=forged))[0] == (7, "key")
    assert kinds(rotated.offline(trusted=forged))[0] == (7, "key")


# --- what is done to it


def altered(file: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    change(found)
    other = file.with_name("altered.gz")
    with gzip.open(other, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in found)
    return other


def test_a_flipped_bit_in_a_record_a_checkpoint_or_a_key_is_named(rotated: World) -> None:
    """Of every rotation, in every column, on the server and in the export."""
    places = [(table, table.c[key], (5, 10)) for table, key in (
        (audit_log, "seq"), (audit_checkpoint, "size"), (audit_key, "seq"))]  # fmt: skip
    kept = {}
    with rotated.database.read() as connection:
        for table, key, seqs in places:
            everything = [dict(row._mapping) for row in connection.execute(select(table))]
            kept[table.name] = everything, [row for row in everything if row[key.name] in seqs]

    @drawn(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        table, _, _ = data.draw(st.sampled_from(places))
        everything, rows = kept[table.name]
        row = data.draw(st.sampled_from(rows))
        column = data.draw(st.sampled_from([one for one in table.c if row[one.name] not in (None, "", b"")]))
        at = data.draw(st.integers(0, 8 * 400))
        value = flipped(row[column.name], column, at, rotated.database.is_sqlite)
        if value is None or value == row[column.name] or not write(rotated.database, table, row, column, value):
            return
        try:
            assert rotated.online().findings, (table.name, column.name, row[column.name], value)
            if table is not audit_key and column.name not in ("through", "signed"):  # not of the export
                assert rotated.offline(elsewhere=False).findings, (table.name, column.name, value)
        finally:
            restore(rotated.database, table, everything)

    check()
    assert kinds(rotated.online()) == []


@pytest.mark.parametrize("key", [0, 1, 2])
@pytest.mark.parametrize("seq", [5, 10])
def test_a_rotation_that_is_taken_out_is_named(rotated: World, seq: int, key: int) -> None:
    """Record, checkpoint, both; with those behind it moved up."""
    file, text = rotated.export(), rotated.keys[key]

    def report(change: Callable[[list[dict[str, Any]]], None]) -> Report:
        return offline.verify_export(altered(file, change), text)

    def record(lines: list[dict[str, Any]]) -> None:
        lines[:] = [line for line in lines if line.get("seq") != seq]

    def checkpoint(lines: list[dict[str, Any]]) -> None:
        lines[:] = [line for line in lines if "checkpoint" not in line or line["size"] != seq]

    def both(lines: list[dict[str, Any]]) -> None:
        record(lines)
        checkpoint(lines)

    def moved(lines: list[dict[str, Any]]) -> None:
        both(lines)
        for line in lines:
            if line.get("seq", 0) > seq:
                line["seq"] -= 1

    assert (seq, "missing") in kinds(report(record))
    assert (seq, "key") in kinds(report(checkpoint))
    assert (seq, "missing") in kinds(report(both))
    assert not report(moved).ok


def test_a_rotation_that_is_put_in_is_named(rotated: World) -> None:
    """By who has the database and a key of its own; the checkpoints behind it are signed by that."""
    mine = Signer.generate(rotated.signer.name)
    last = rotated.secret(2).verifier.text()
    sequencer = Sequencer(
        rotated.database, mine, observer="Device/platform", base_url=BASE_URL, platform=rotated.settings.platform
    )
    done = acts.access(offline.ROTATION, ("former", last), ("key", mine.verifier.text()))
    with rotated.database.write() as connection:
        rotated.ledger.append(connection, acts.operator(rotated.settings), [done], rotated.ledger._now())
    sequencer._frontier = queries.tree  # type: ignore[method-assign, assignment]
    assert not sequencer.step()
    with rotated.database.write() as connection:
        connection.execute(insert(audit_key).values(seq=14, former=last, key=mine.verifier.text()))
    assert (14, "key") in kinds(rotated.online())
    for key in (*rotated.keys, mine.verifier.text()):
        report = rotated.offline(key, elsewhere=False)
        assert (14, "key") in kinds(report)
    with pytest.raises(InconsistentLog):
        fill(rotated.node(), 1)


def test_a_key_that_was_retired_does_not_come_back(rotated: World) -> None:
    """A record that names it, signed by the key in use and by it, is followed by nobody: it may be a thief's."""
    old, now = rotated.secret(0), rotated.secret(2)
    done = acts.access(offline.ROTATION, ("former", now.verifier.text()), ("key", old.verifier.text()))
    rotated.ledger.hand_over(acts.operator(rotated.settings), lambda _: done, old, lambda _: None)
    assert (14, "key") in kinds(rotated.offline())


def test_the_table_of_the_keys_says_what_the_records_say(rotated: World) -> None:
    with rotated.database.write() as connection:
        connection.execute(delete(audit_key).where(audit_key.c.seq == 5))
    assert kinds(rotated.online()) == [(5, "key")]
    with rotated.database.write() as connection:
        connection.execute(delete(audit_key))
    assert kinds(rotated.online()) == [(5, "key"), (10, "key")]


@pytest.mark.parametrize("seq", [3, 5, 99])
def test_a_key_that_is_kept_and_that_no_record_names_is_named(rotated: World, seq: int) -> None:
    """Beside those that are: at a record that names none, instead of the one that is named, behind the log."""
    former, mine = rotated.keys[0], Signer.generate(rotated.signer.name).verifier.text()
    with rotated.database.write() as connection:
        connection.execute(delete(audit_key).where(audit_key.c.seq == seq))
        connection.execute(insert(audit_key).values(seq=seq, former=former, key=mine))
    texts = [one.text for one in rotated.online().findings if (one.position, one.kind) == (seq, "key")]
    assert f"a key is kept at record {seq}, and no record that was followed names it" in texts
    assert len(texts) == 1 + (seq == 5)


@pytest.mark.parametrize("by", ["the former alone", "the former and a stranger"])
def test_a_handover_that_the_new_key_did_not_sign_is_not_followed(rotated: World, by: str) -> None:
    """Who has the former key names a key that is not its own: nobody shows that he has that one."""
    former, size = rotated.secret(0), 5
    note = signed_by(rotated, 0, size)
    if by == "the former and a stranger":
        checkpoint = Checkpoint(former.name, size, offline._of_base64(note.split("\n")[2]))
        note += Signer.generate(former.name).sign(checkpoint).split("\n\n")[1]
    with rotated.database.write() as connection:
        connection.execute(update(audit_checkpoint).where(audit_checkpoint.c.size == size).values(note=note))
    for report in (rotated.online(), rotated.offline(elsewhere=False)):
        assert kinds(report)[0] == (size, "key")
        assert "names a key that does not follow the one in use" in report.findings[0].text


# --- proofs


def test_proofs_lead_from_any_key_to_the_checkpoint(rotated: World) -> None:
    """Inclusion and consistency; what is altered in the chain proves nothing."""
    with rotated.database.read() as connection:
        for seq in (1, 5, 8, 13):
            id = next(iter(_events_of(rotated, seq)))
            proof = proofs.inclusion(connection, id)
            for key in rotated.keys:
                assert f"AuditEvent/{id} is record {seq}" in offline.check_proof(proof, key)
        consistency = proofs.consistency(connection, rotated.signer.verifier, rotated.notes()[4])
    for key in rotated.keys:
        assert offline.check_proof(consistency, key) == "the log of 13 records continues that of 4"
    stranger = Signer.generate(rotated.signer.name).verifier.text()
    for change, key in (
        (lambda p: None, stranger),
        (lambda p: p.pop("keys"), rotated.keys[0]),
        (lambda p: p["keys"].pop(0), rotated.keys[0]),
        (lambda p: p["keys"].pop(), rotated.keys[0]),
        (lambda p: p["keys"].reverse(), rotated.keys[0]),
        (lambda p: p["keys"][0].update(position=4), rotated.keys[0]),
        (lambda p: p["keys"][0]["path"].pop(), rotated.keys[0]),
        (lambda p: p["keys"][1].update(particulars=p["keys"][0]["particulars"]), rotated.keys[0]),
        (lambda p: p["keys"][1].update(checkpoint=rotated.notes()[9]), rotated.keys[0]),
        (lambda p: p["keys"][1].update(salt="00" * 32), rotated.keys[0]),
        (lambda p: p.update(checkpoint=signed_by(rotated, 1, 13)), rotated.keys[0]),
        (lambda p: p.update(checkpoint=signed_by(rotated, 0, 13)), rotated.keys[0]),
    ):
        forged = json.loads(json.dumps(proof))
        change(forged)  # type: ignore[no-untyped-call]
        with pytest.raises(ValueError, match=r"."):
            offline.check_proof(forged, key)


def _events_of(world: World, seq: int) -> list[str]:
    from audit import forms

    return [one.id for one in forms.events_of(logged(world.database)[seq - 1])]


# --- several processes


def test_a_node_takes_up_the_key_with_its_next_batch(world: World) -> None:
    """Without a restart, and without waiting until it looks again; two that rotate come one after another."""
    first, second = world.node(), world.node()
    fill(first, 2)
    fill(second, 2)
    world.rotate(first)
    fill(second, 2)
    world.rotate(second)
    fill(first, 1)
    world.ledger.sequencer.step()
    assert kinds(world.online()) == []
    assert kinds(world.offline()) == []


def test_rotations_between_the_checkpoints_of_a_log_that_is_written(world: World) -> None:
    """Another node sequences all the time; nothing is signed by a key that was retired, and nothing is lost."""
    fill(world.ledger, 1)
    busy, stopped, failed = world.node(), threading.Event(), []

    def sequence() -> None:
        try:
            while not stopped.is_set():
                busy.sequencer.step()
        except Exception as error:  # noqa: BLE001 - told by the assertion
            failed.append(error)

    def disclose() -> None:
        while not stopped.is_set():
            fill_inbox(busy)

    def fill_inbox(ledger: Ledger) -> None:
        done = acts.access("client-list")
        ledger.disclose(acts.operator(world.settings), [done], ledger._now())
        count.append(1)

    count: list[int] = []
    threads = [threading.Thread(target=sequence), threading.Thread(target=disclose)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            before = len(count)
            world.rotate()
            while len(count) < before + 5 and not failed:
                stopped.wait(0.01)
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert world.ledger.catch_up(30)
    world.ledger.sequencer.step()
    assert kinds(world.online()) == []
    report = world.offline()
    assert (kinds(report), report.records) == ([], 1 + len(count) + 4)
    with world.database.read() as connection:
        keys_of = chain(connection, world.signer.verifier)
    assert len(keys_of.spans) == 5
    for size, note in world.notes().items():
        assert keys_of.open(note).size == size


# --- the command


def arguments(settings: Settings) -> list[str]:
    given = ["--data", str(settings.data)]
    return [*given, "--database", settings.database] if settings.database else given


def run(settings: Settings, *command: str) -> Any:
    return CliRunner().invoke(main, [*command, *arguments(settings)])


def told_key(settings: Settings) -> str:
    return (settings.data / "keys" / f"{keys.SIGNING}.pub").read_text().strip()


def test_the_command_rotates_and_says_so(empty: Settings, tmp_path: Path) -> None:
    """What is told, listed and written into the folder is one key; the log verifies by both."""
    deployment.init(empty)
    first = told_key(empty)
    done = run(empty, "audit", "rotate-key", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["former"], told["number"]) == (first, 2)
    assert told_key(empty) == told["key"] != first
    assert run(empty, "audit", "rotate-key").exit_code == 0
    listed = run(empty, "platform", "keys").stdout.splitlines()
    assert [line.split()[-1] for line in listed[:3]] == [first, told["key"], told_key(empty)]
    assert all("+" not in line for line in listed[3:])
    assert run(empty, "audit", "verify").exit_code == 0
    assert "ok    checkpoints" in run(empty, "doctor").stdout
    assert run(empty, "audit", "export", str(tmp_path / "log.gz")).exit_code == 0
    checkpoints = offline.notes_of(empty.checkpoints_file)
    assert offline.verify_export(tmp_path / "log.gz", first, checkpoints).findings == []


def test_a_rotation_outside_the_log_is_refused(empty: Settings) -> None:
    deployment.init(empty)
    with pytest.raises(CannotRun, match="audit rotate-key"):
        duties.rotate(empty, keys.SIGNING)


STEPS = {
    "before": ("fhir_server.server.keys", "new_signer"),
    "appended": ("audit.queries", "add_checkpoint"),
    "signed": ("audit.queries", "add_key"),
    "kept": ("store.engine.keyring", "add"),
    "committed": ("audit.published", "append"),
    "published": ("fhir_server.server.keys", "tell"),
}
"""Moment of the kill → what is about to be called then."""


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_can_be_done_again(empty: Settings, step: str) -> None:
    """SIGKILL: the key is the former one or the next, the log verifies, and another rotation follows."""
    deployment.init(empty)
    first = told_key(empty)
    module, name = STEPS[step]
    script = (
        f"import os, {module} as m\n"
        "from fhir_server.commands.main import main\n"
        f"m.{name} = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        f"main({['audit', 'rotate-key', *arguments(empty)]!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    deployment.begin(empty)
    is_done = step in ("committed", "published")
    assert (told_key(empty) != first) == is_done
    assert run(empty, "audit", "verify").exit_code == 0
    again = json.loads(run(empty, "audit", "rotate-key", "--json").stdout)
    assert again["number"] == 2 + is_done
    assert again["former"] == told_key_before(empty, again["number"] - 1)
    assert run(empty, "audit", "verify").exit_code == 0
    file = empty.data / "log.gz"
    assert run(empty, "audit", "export", str(file)).exit_code == 0
    assert offline.verify_export(file, first, offline.notes_of(empty.checkpoints_file)).findings == []


def told_key_before(settings: Settings, number: int) -> str:
    database = open_engine(settings.database_url)
    try:
        return keys.RingSigner(keys.ring(settings, database), settings).verifiers[number - 1].text()
    finally:
        database.dispose()


def test_a_rotation_that_cannot_be_kept_leaves_the_log_as_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record, the checkpoint and the key are one commit."""
    fill(world.ledger, 2)

    def refuse(*_: Any, **__: Any) -> int:
        raise KeyFault("no")

    with monkeypatch.context() as patched:
        patched.setattr("store.engine.keyring.add", refuse)
        with suppress(KeyFault):
            world.rotate()
    assert (len(event_ids(world.database)), max(world.notes())) == (2, 2)
    fill(world.ledger, 1)
    world.rotate()
    world.ledger.sequencer.step()
    assert kinds(world.online()) == []


def test_the_spool_of_a_former_key_is_read_and_not_gone_on_with(world: World) -> None:
    """Its MAC key comes of the key of the log: each writer begins a new file, and every reader opens both."""
    if not world.database.is_sqlite:
        return  # no spool there
    folder = world.data / keys.SPOOL
    writer, reader = world.node(spooled=folder), world.node(spooled=folder)

    def disclose() -> None:
        writer.disclose(acts.operator(world.settings), [acts.access("client-list")], writer._now())

    reader.sequencer.step()
    disclose()
    before = {path.name for path in folder.glob("*.spool")}
    world.rotate()
    for ledger in (writer,):  # five seconds later
        ledger._signer._keys._read_at -= 10  # type: ignore[attr-defined]
        ledger._writer._key._asked_at -= 10  # type: ignore[attr-defined]
    disclose()
    assert len({path.name for path in folder.glob("*.spool")} - before) == 1
    reader._signer._keys._read_at -= 2  # type: ignore[attr-defined]  # it has not looked for two seconds
    assert reader.spool_findings() == []
    assert reader.catch_up()
    assert len(event_ids(world.database)) == 3
    assert kinds(world.online()) == []
