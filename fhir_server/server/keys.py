"""The keys of a deployment: files of `<data>/keys`, made once, and never again for a database that is in use.

A key that is absent is not a first use. The database remembers the digest of every key it was served with, so a folder
that lacks one, or brings another deployment's, is refused by name, before anything is signed or sealed anew. Reading
never makes a key: only `provide` does, on a database that has never been used.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from sqlalchemy import Connection, select

from audit import checkpoint
from audit.checkpoint import BadKey, Signer
from audit.tables import audit_inbox, audit_log
from auth.tables import oauth_client
from fhir_server.server.settings import Settings, SettingsError
from store.engine.database import Database
from store.engine.locks import lock
from store.versions.tables import resource_version, store_setting

SECRETS = ("pages", "webhooks")
"""Keys of 32 random bytes: page tokens; channel headers and webhook signatures."""
SIGNING = "audit-checkpoint"
"""The key that signs the checkpoints of the audit log."""
NAMES = (SIGNING, *SECRETS)
SECRET_BYTES = 32
_ROW = "key:"
"""Begin of the name of a key's row in store_setting; the value is the digest in hexadecimal digits."""


class KeyFault(SettingsError):
    """A key is missing, damaged, readable by others or another deployment's; the text names it."""


def secret(settings: Settings, name: str) -> bytes:
    """The 32-byte secret `name`. Raises KeyFault; makes nothing."""
    key = _read(settings, name)
    if len(key) != SECRET_BYTES:
        raise KeyFault(f"the key {name} in the data folder is damaged: restore it from a backup")
    return key


def signer(settings: Settings) -> Signer:
    """The signer of the audit log's checkpoints. Raises KeyFault; makes nothing."""
    _read(settings, SIGNING)
    try:
        return checkpoint.load(_folder(settings) / SIGNING, _origin(settings))
    except BadKey as error:
        raise KeyFault(f"the key {SIGNING} in the data folder is damaged: {error}") from error


def check(settings: Settings, database: Database) -> None:
    """Raise KeyFault unless the data folder holds the keys that this database is served with."""
    with database.read() as connection:
        _compare(settings, connection)


def provide(settings: Settings, database: Database) -> None:
    """Make the keys of a database that has never been used; check them where it has. Raises KeyFault."""
    with database.read() as connection:
        if _remembered(connection).keys() >= set(NAMES):
            _compare(settings, connection)
            return
    with database.write() as connection:
        lock(connection, "deployment keys")
        _compare(settings, connection)
        known = _remembered(connection)
        for name in NAMES:
            if name not in known:
                if not (_folder(settings) / name).exists():
                    _make(settings, name)
                connection.execute(store_setting.insert().values(name=_ROW + name, value=_digest(settings, name)))


def _remembered(connection: Connection) -> dict[str, str]:
    """Name → digest of each key that this database was served with."""
    rows = connection.execute(select(store_setting).where(store_setting.c.name.startswith(_ROW, autoescape=True)))
    return {row.name.removeprefix(_ROW): row.value for row in rows}


def _is_used(connection: Connection) -> bool:
    """Whether anything was ever stored, recorded or registered here."""
    columns = (resource_version.c.pk, audit_log.c.seq, audit_inbox.c.pk, oauth_client.c.client_id)
    return any(connection.execute(select(column).limit(1)).first() is not None for column in columns)


def _compare(settings: Settings, connection: Connection) -> None:
    known = _remembered(connection)
    # A database of before this table has no row: then all the keys must be there if it has been used.
    expected = known or (dict.fromkeys(NAMES, "") if _is_used(connection) else {})
    for name in NAMES:
        if name in expected and _digest(settings, name) != (expected[name] or _digest(settings, name)):
            raise KeyFault(
                f"the key {name} in the data folder is not the one that this database was served with: "
                "restore it from a backup, or copy it from the server that has it"
            )


def _digest(settings: Settings, name: str) -> str:
    """How the database knows a key: it says nothing of the key, which is random."""
    if name == SIGNING:
        signer(settings)
    else:
        secret(settings, name)
    return sha256(b"vigie key\n" + _read(settings, name)).hexdigest()


def _read(settings: Settings, name: str) -> bytes:
    path = _folder(settings) / name
    try:
        if path.stat().st_mode & 0o077:
            raise KeyFault(f"the key {name} in the data folder can be read by others: chmod 600 it")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise KeyFault(
            f"the key {name} is missing from the data folder: restore it from a backup, or copy it from the server "
            "that has it (a new deployment makes its keys by `vigie serve` or `vigie db upgrade`)"
        ) from error


def _make(settings: Settings, name: str) -> None:
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / name
    if name == SIGNING:
        checkpoint.create(path, _origin(settings))
        return
    # Written aside, then linked: a process that is killed here leaves no half key, and the first one wins.
    draft = folder / f".{name}.{secrets.token_hex(8)}"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _folder(settings: Settings) -> Path:
    return settings.data / "keys"


def _origin(settings: Settings) -> str:
    return f"vigie/{settings.platform}"
