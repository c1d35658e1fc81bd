"""Keys of a deployment: in the database, sealed; absent is not first use (none is silently made anew)."""

from __future__ import annotations

import base64
import shutil
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import delete, select, update
from standardwebhooks import Webhook, WebhookVerificationError

from audit.checkpoint import Signer
from fhir_server.commands.main import main
from fhir_server.duties import backup as backups
from fhir_server.duties import deployment
from fhir_server.duties import keys as duties
from fhir_server.server import keys
from fhir_server.server.app import create_app
from fhir_server.server.keys import KeyFault
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources.outcomes import BadRequest
from resources.times import microseconds, utc_now
from store import migrations
from store.access import Caller
from store.engine import keyring
from store.engine.database import open_engine
from store.engine.keyring import Key, deployment_key
from store.search.pages import LEEWAY, LIFETIME, Page, PageSeal
from store.versions.snapshots import Snapshot
from store.versions.tables import store_setting
from subscriptions import signature
from subscriptions.signature import OVERLAP
from subscriptions.signature import Keyring as Webhooks
from tests.launcher.commands import ROWS, Place
from workflow import seal

CALLER = Caller("ehr", "hospital-a")


@pytest.fixture
def deployed(empty: Settings) -> Settings:
    """A deployment that was made and is not served yet."""
    deployment.init(empty)
    return empty


def rows(settings: Settings) -> list[Any]:
    """What the database has of the keys."""
    database = open_engine(settings.database_url)
    with database.read() as connection:
        found = [
            *connection.execute(select(deployment_key).order_by(deployment_key.c.name, deployment_key.c.number)),
            *connection.execute(
                select(store_setting).where(store_setting.c.name.startswith("key:")).order_by(store_setting.c.name)
            ),
        ]
    database.dispose()
    return [tuple(row) for row in found]


def content(settings: Settings) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (settings.data / "keys").iterdir()}


def opened(settings: Settings) -> dict[str, tuple[Key, ...]]:
    database = open_engine(settings.database_url)
    with database.read() as connection:
        found = keyring.opened(connection, keys.safe(settings))
    database.dispose()
    return found


def executed(settings: Settings, statement: Any) -> None:
    database = open_engine(settings.database_url)
    with database.write() as connection:
        connection.execute(statement)
    database.dispose()


def arguments(settings: Settings) -> list[str]:
    given = ["--data", str(settings.data)]
    return [*given, "--database", settings.database] if settings.database else given


def test_a_new_deployment_has_its_keys_once_and_none_lies_in_clear(deployed: Settings) -> None:
    """Sealed in the database; the secret alone is a file, for its owner."""
    first = rows(deployed)
    assert content(deployed).keys() == {keys.SECRET, f"{keys.SIGNING}.pub"}
    assert stat.S_IMODE((deployed.data / "keys" / keys.SECRET).stat().st_mode) == 0o600
    found = opened(deployed)
    assert found.keys() == set(keys.NAMES)
    secrets = [key.secret for name in keys.NAMES for key in found[name]]
    assert len(set(secrets)) == len(keys.NAMES)
    stored = b"".join(value for row in first for value in row if isinstance(value, bytes))
    assert not any(secret in stored for secret in secrets)
    deployment.upgrade(deployed)
    deployment.init(deployed)
    assert rows(deployed) == first


def test_nobody_but_a_start_of_its_own_makes_a_deployment_on_postgresql(empty: Settings, tmp_path: Path) -> None:
    """A node that finds an empty database where the others' should be makes nothing (§4, §5: never by surprise)."""
    if not empty.database:
        deployment.begin(empty)  # SQLite: one node, which is made by being started
        assert rows(empty)
        return
    for command in (["serve", "--dimse-port", "0", "--port", "0"], ["db", "upgrade"], ["client", "list"]):
        done = CliRunner().invoke(main, [*command, *arguments(empty)])
        assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1), (command, done.output)
        assert "platform init" in done.stderr
        assert migrations.state(empty.database_url)[0] is None
    done = CliRunner().invoke(main, ["platform", "init", *arguments(empty)])
    assert done.exit_code == 0, done.output
    deployment.begin(empty)


def lost_secret(settings: Settings) -> None:
    (settings.data / "keys" / keys.SECRET).unlink()


def empty_secret(settings: Settings) -> None:
    (settings.data / "keys" / keys.SECRET).write_bytes(b"")


def short_secret(settings: Settings) -> None:
    path = settings.data / "keys" / keys.SECRET
    path.write_bytes(path.read_bytes()[:16])


def no_text(settings: Settings) -> None:
    (settings.data / "keys" / keys.SECRET).write_bytes(b"\xff" * 40)


def other_secret(settings: Settings) -> None:
    (settings.data / "keys" / keys.SECRET).write_text("0" * 64 + "\n")


def readable_secret(settings: Settings) -> None:
    (settings.data / "keys" / keys.SECRET).chmod(0o640)


def lost_folder(settings: Settings) -> None:
    shutil.rmtree(settings.data / "keys")


def lost_row(settings: Settings) -> None:
    executed(settings, delete(deployment_key).where(deployment_key.c.name == keys.SIGNING))


def lost_rows(settings: Settings) -> None:
    executed(settings, delete(deployment_key))


def lost_rows_and_digests(settings: Settings) -> None:
    executed(settings, delete(deployment_key))
    executed(settings, delete(store_setting))


def retired_row(settings: Settings) -> None:
    executed(settings, update(deployment_key).where(deployment_key.c.name == "pages").values(retired=1))


def damaged_row(settings: Settings) -> None:
    executed(settings, update(deployment_key).where(deployment_key.c.name == "webhooks").values(sealed=b"x" * 60))


def swapped_rows(settings: Settings) -> None:
    """What is sealed as one key stands in the row of another."""
    database = open_engine(settings.database_url)
    with database.write() as connection:
        column = deployment_key.c
        sealed = connection.execute(select(column.sealed).where(column.name == "sealing")).scalar_one()
        connection.execute(update(deployment_key).where(column.name == "pages").values(sealed=sealed))
    database.dispose()


def foreign_row(settings: Settings) -> None:
    """A key that whoever has the secret sealed, but that the database was not served with."""
    sealed = keys.safe(settings).seal("pages", 1, b"f" * 32)
    executed(settings, update(deployment_key).where(deployment_key.c.name == "pages").values(sealed=sealed))


HARM = (
    lost_secret, empty_secret, short_secret, no_text, other_secret, readable_secret, lost_folder, lost_row, lost_rows,
    lost_rows_and_digests, retired_row, damaged_row, swapped_rows, foreign_row,
)  # fmt: skip
_MODES_PUT_RIGHT = {"serve", "platform init", "db upgrade"}


@pytest.mark.parametrize("harm", HARM)
def test_no_command_makes_a_key_anew(deployed: Settings, harm: Callable[[Settings], None], tmp_path: Path) -> None:
    """Each command that opens a deployment: one line, a status, and nothing written (reliability 7)."""
    database = open_engine(deployed.database_url)
    database.dispose()
    harm(deployed)
    before, files = rows(deployed), content(deployed) if (deployed.data / "keys").exists() else None
    place = Place(tmp_path / "place", deployed.data, "client")
    place.folder.mkdir()
    for name, row in ROWS.items():
        if not row.opens or name in ("bench", "test", "restore", "doctor"):
            continue
        if harm is readable_secret and name in _MODES_PUT_RIGHT:
            continue  # they put the mode right, and say so
        done = CliRunner().invoke(main, [*row.arguments(place), *arguments(deployed)])
        assert done.exit_code == 1, (name, done.output)
        assert len(done.stderr.splitlines()) == 1, (name, done.stderr)
        assert "key" in done.stderr or "secret" in done.stderr, (name, done.stderr)
    examined = CliRunner().invoke(main, ["doctor", *arguments(deployed)])
    assert any(line.startswith("WRONG keys: the ") for line in examined.output.splitlines()), examined.output
    assert rows(deployed) == before
    assert files == (content(deployed) if (deployed.data / "keys").exists() else None)


def test_a_node_that_does_not_belong_serves_nothing(deployed: Settings) -> None:
    """§4: a node proves that it belongs before it serves."""
    services = Services.of(deployed)
    app = create_app(services)
    assert app.test_client().get("/fhir/metadata").status_code == 200
    services.close()
    other_secret(deployed)
    services = Services.of(deployed)
    app = create_app(services)
    for path in ("/fhir/metadata", "/fhir/Patient", "/oauth/token", "/dicom-web/studies"):
        assert app.test_client().get(path).status_code == 503, path
    assert app.test_client().get("/livez").status_code == 200
    services.close()


# Data folders of before.


def as_before(settings: Settings) -> dict[str, bytes]:
    """Turn a deployment back into one of before: a file for each key, their digests in the database."""
    found = opened(settings)
    folder = settings.data / "keys"
    (folder / keys.SECRET).unlink()
    files = {name: found[name][0].secret for name in (keys.SIGNING, "pages", "webhooks")}
    for name, key in files.items():
        (folder / name).write_bytes(key)
        (folder / name).chmod(0o600)
    executed(settings, delete(deployment_key))
    executed(settings, delete(store_setting).where(store_setting.c.name == "key:sealing"))
    return files


def test_the_keys_of_a_data_folder_are_moved_in_once(deployed: Settings) -> None:
    """What was signed, sealed and given out before holds; the files go once their keys are in the database."""
    files = as_before(deployed)
    with pytest.raises(KeyFault, match="db upgrade"):
        deployment.check_keys(deployed)
    deployment.upgrade(deployed)
    found = opened(deployed)
    assert {name: found[name][0].secret for name in files} == files
    assert found["sealing"][0].secret == files["webhooks"]  # it sealed the channel headers until then
    assert content(deployed).keys() == {keys.SECRET, f"{keys.SIGNING}.pub"}
    moved = rows(deployed)
    deployment.upgrade(deployed)
    assert rows(deployed) == moved
    second = Settings.load({"data": deployed.data.parent / "two", "database": deployed.database_url}, environ={})
    (second.data / "keys").mkdir(parents=True)
    (second.data / "keys" / "pages").write_bytes(files["pages"])
    with pytest.raises(KeyFault, match="secret is missing"):
        deployment.upgrade(second)
    shutil.copy2(deployed.data / "keys" / keys.SECRET, second.data / "keys")
    deployment.upgrade(second)
    assert content(second).keys() == {keys.SECRET, f"{keys.SIGNING}.pub"}  # its own copies are removed by itself
    assert rows(deployed) == moved


def lost(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:16])


def replaced(path: Path) -> None:
    other = Signer.generate("vigie/platform").text() + "\n" if path.name == keys.SIGNING else "s" * 32
    path.write_text(other)


def readable(path: Path) -> None:
    path.chmod(0o640)


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "without a note"])
@pytest.mark.parametrize("harm", [lost, cut, replaced, readable])
@pytest.mark.parametrize("name", [keys.SIGNING, "pages", "webhooks"])
def test_a_folder_of_before_that_is_not_right_is_not_moved_in(
    deployed: Settings, name: str, harm: Callable[[Path], None], noted: bool
) -> None:
    """By name, and nothing is made. Without a note (older still) a key that was replaced cannot be told."""
    as_before(deployed)
    if not noted:
        executed(deployed, delete(store_setting).where(store_setting.c.name.startswith("key:")))
    harm(deployed.data / "keys" / name)
    before = rows(deployed)
    if harm is replaced and not noted:
        return
    with pytest.raises(KeyFault, match=f"the key {name}"):
        deployment.upgrade(deployed)
    assert rows(deployed) == before
    assert not (deployed.data / "keys" / keys.SECRET).exists()


def test_a_second_data_folder_must_have_the_secret(deployed: Settings) -> None:
    """Two nodes with keys of their own gave every second notification a wrong signature."""
    second = Settings.load({"data": deployed.data.parent / "two", "database": deployed.database_url}, environ={})
    with pytest.raises(KeyFault, match="secret is missing"):
        deployment.begin(second)
    mounted = deployed.data.parent / "mounted"
    shutil.copy2(deployed.data / "keys" / keys.SECRET, mounted)
    mounted.chmod(0o440)  # as an orchestrator mounts it
    third = Settings.load(
        {"data": second.data, "database": deployed.database_url, "secret_file": str(mounted)}, environ={}
    )
    deployment.begin(third)
    mounted.chmod(0o444)
    with pytest.raises(KeyFault, match="read by others"):
        deployment.begin(third)


def test_a_secret_that_is_mounted_is_never_made(empty: Settings) -> None:
    """It is the operator's: a mount that failed must not become a new deployment."""
    settings = Settings.load(
        {"data": empty.data, "database": empty.database, "secret_file": str(empty.data / "nowhere")}, environ={}
    )
    with pytest.raises(KeyFault, match="secret is missing"):
        deployment.upgrade(settings)
    assert rows(settings) == []
    assert not (empty.data / "nowhere").exists()


# Rotation.


def page(now: datetime) -> Page:
    return Page(Snapshot(1, ()), 1, now)


def test_page_tokens_of_the_key_before_live_on_for_their_hour(deployed: Settings) -> None:
    """And a node that has not heard of the new key looks when it meets it."""
    database = open_engine(deployed.database_url)
    ring = keys.ring(deployed, database)
    before, now = PageSeal(ring), utc_now()
    token = before.seal(page(now), CALLER, "q")
    assert duties.rotate(deployed, "pages") == "pages 2 is in use"
    after = PageSeal(keys.ring(deployed, database))
    assert after.open(token, CALLER, "q", now) == page(now)
    newer = after.seal(page(now), CALLER, "q")
    ring._read_at -= 2
    assert before.open(newer, CALLER, "q", now) == page(now)
    first = opened(deployed)["pages"][1]
    assert first.retired is not None
    late = utc_now() + LIFETIME + LEEWAY + timedelta(seconds=5)
    with pytest.raises(BadRequest):  # not Gone: the key serves no more
        after.open(token, CALLER, "q", late)
    with pytest.raises(BadRequest):
        after.open(token, Caller("other", "hospital-a"), "q", now)
    database.dispose()


def test_webhooks_are_signed_by_both_secrets_for_a_time(deployed: Settings) -> None:
    """Standard Webhooks: several signatures, by spaces; a receiver has either secret, then the new one."""
    database = open_engine(deployed.database_url)
    old = Webhooks(keys.ring(deployed, database)).secret("s", "c")
    duties.rotate(deployed, "webhooks")
    webhooks, now = Webhooks(keys.ring(deployed, database)), utc_now()
    new = webhooks.secret("s", "c")
    assert new != old
    both = dict(signature.webhook_headers(webhooks.secrets("s", "c", now), "id", now, b"{}"))
    for secret in (old, new):
        Webhook(secret).verify(b"{}", both)
    later = webhooks.secrets("s", "c", now + OVERLAP + timedelta(seconds=5))
    alone = dict(signature.webhook_headers(later, "id", now, b"{}"))
    Webhook(new).verify(b"{}", alone)
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(b"{}", alone)
    database.dispose()


def test_channel_headers_open_after_any_number_of_rotations(deployed: Settings) -> None:
    """They lie in versions that are kept."""
    database = open_engine(deployed.database_url)
    sealed = Webhooks(keys.ring(deployed, database)).seal("Bearer x", "s", "c")
    for _ in range(3):
        duties.rotate(deployed, "sealing")
    keyring_now = Webhooks(keys.ring(deployed, database))
    assert keyring_now.open(sealed, "s", "c") == "Bearer x"
    assert keyring_now.open(sealed, "s", "d") is None
    assert base64.b64decode(keyring_now.seal("Bearer x", "s", "c").removeprefix(signature.SEALED_PREFIX))
    database.dispose()


def test_all_keys_are_sealed_under_a_new_secret(deployed: Settings) -> None:
    """The former secret opens nothing any more; the keys are the same; whoever runs goes on."""
    database = open_engine(deployed.database_url)
    ring = keys.ring(deployed, database)
    ring.prove()
    before, former = opened(deployed), (deployed.data / "keys" / keys.SECRET).read_text()
    assert duties.rotate(deployed, "secret") == f"{len(keys.NAMES)} keys are sealed under the new secret"
    assert opened(deployed) == before
    assert former.strip() not in (deployed.data / "keys" / keys.SECRET).read_text()
    ring._read_at -= keyring.LOOK_AGAIN_S + 1
    assert ring.of("pages")[0] == before["pages"][0]
    (deployed.data / "keys" / keys.SECRET).write_text(former)
    with pytest.raises(KeyFault, match="does not open"):
        deployment.check_keys(deployed)
    database.dispose()


@pytest.mark.parametrize("moment", ["before the commit", "after it"])
def test_a_rotation_of_the_secret_that_is_killed_can_be_done_again(
    deployed: Settings, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in the file opens the keys at any moment."""

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    before = opened(deployed)
    database = open_engine(deployed.database_url)
    with monkeypatch.context() as patched:
        if moment == "after it":
            real, calls = keys.write_private, []

            def second(path: Path, text: str) -> None:
                calls.append(text)
                if len(calls) == 2:
                    raise Killed
                real(path, text)

            patched.setattr(keys, "write_private", second)
        record = killed if moment == "before the commit" else lambda _: None
        with pytest.raises(Killed):
            keys.rotate_secret(deployed, database, record)
    database.dispose()
    assert opened(deployed) == before
    duties.rotate(deployed, "secret")
    assert opened(deployed) == before
    assert len((deployed.data / "keys" / keys.SECRET).read_text().split()) == 1


def test_a_mounted_secret_is_changed_line_by_line(empty: Settings) -> None:
    """Both lines on every node, then the command, then the new one alone."""
    mounted = empty.data.parent / "mounted"
    mounted.write_text("o" * 40 + "\n")
    mounted.chmod(0o400)
    settings = Settings.load({"data": empty.data, "database": empty.database, "secret_file": str(mounted)}, environ={})
    deployment.init(settings)
    with pytest.raises(KeyFault, match="one line"):
        duties.rotate(settings, "secret")
    mounted.chmod(0o600)
    mounted.write_text("n" * 40 + "\n" + "o" * 40 + "\n")
    duties.rotate(settings, "secret")
    mounted.write_text("n" * 40 + "\n")
    deployment.check_keys(settings)
    mounted.write_text("o" * 40 + "\n")
    with pytest.raises(KeyFault, match="does not open"):
        deployment.check_keys(settings)


def test_a_rotation_that_cannot_be_recorded_does_not_happen(
    deployed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The act and its record are one commit."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError

    before = rows(deployed)
    monkeypatch.setattr("audit.service.Ledger.append", refuse)
    with pytest.raises(RuntimeError):
        duties.rotate(deployed, "pages")
    assert rows(deployed) == before


def test_the_list_shows_no_key(deployed: Settings) -> None:
    duties.rotate(deployed, "pages")
    told = CliRunner().invoke(main, ["platform", "keys", *arguments(deployed)])
    assert told.exit_code == 0, told.output
    assert [line.split(" since ")[0] for line in told.stdout.splitlines()] == [
        "audit-checkpoint 1", "pages 1", "pages 2", "report-seal 1", "sealing 1", "webhooks 1",
    ]  # fmt: skip
    assert microseconds(datetime.now(UTC)) >= max(key.made for found in opened(deployed).values() for key in found)


def test_a_backup_names_the_secret_that_it_does_not_hold(deployed: Settings, tmp_path: Path) -> None:
    """With a secret of the data folder it restores alone."""
    if deployed.database:
        return  # tests/launcher restores a dump; what is tested here is the same on both
    assert backups.backup(deployed, tmp_path / "whole") == ""
    restored = Settings.load({"data": tmp_path / "restored"}, environ={})
    assert backups.restore(restored, tmp_path / "whole").ok
    mounted = tmp_path / "mounted"
    shutil.move(deployed.data / "keys" / keys.SECRET, mounted)
    apart = Settings.load({"data": deployed.data, "secret_file": str(mounted)}, environ={})
    assert "deployment secret" in backups.backup(apart, tmp_path / "apart")
    again = {"data": tmp_path / "again"}
    done = CliRunner().invoke(main, ["restore", str(tmp_path / "apart"), "--data", str(tmp_path / "again")])
    assert done.exit_code == 1
    assert "deployment secret" in done.stderr
    assert not (tmp_path / "again").exists()
    assert backups.restore(Settings.load(again | {"secret_file": str(mounted)}, environ={}), tmp_path / "apart").ok


def test_reports_are_sealed_with_the_deployment_s_own_certificate_once_it_is_given(
    deployed: Settings, tmp_path: Path
) -> None:
    """A file of key and certificates, checked before it is taken; it is for nothing else."""
    path = tmp_path / "own.pem"
    path.write_bytes(seal.new_identity("Centre de téléradiologie", datetime.now(UTC)))
    done = CliRunner().invoke(main, ["platform", "rotate", "report-seal", "--file", str(path), *arguments(deployed)])
    assert done.exit_code == 0, done.output
    with deployment.opened(deployed) as services:
        assert seal.Seal(services.keys).described.startswith("Centre de téléradiologie (")
    path.write_bytes(b"nothing")
    for name, text in (("report-seal", "private key"), ("pages", "only report-seal")):
        failed = CliRunner().invoke(main, ["platform", "rotate", name, "--file", str(path), *arguments(deployed)])
        assert failed.exit_code != 0
        assert text in failed.output
