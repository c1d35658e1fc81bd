"""The keys of a deployment: in the database, sealed under the deployment secret; made once, on an empty store.

A key that is absent is not a first use. The database remembers the digest of every key it was served with, so a row
that is missing, or in which another key stands, is refused by name, before anything is signed or sealed anew. Reading
never makes a key: only `provide` does, where nothing was ever stored, recorded or registered.

Of before this there are data folders with a file for each key; `provide` moves those in, once.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from sqlalchemy import Connection, delete, select

from audit.checkpoint import BadKey, Checkpoint, Signer, Verifier
from audit.tables import audit_inbox, audit_log
from auth.tables import oauth_client
from fhir_server.server.settings import Settings
from resources.times import microseconds, utc_now
from store.engine import keyring
from store.engine.database import Database
from store.engine.files import write_private
from store.engine.keyring import KeyFault, KeyRing, Safe
from store.engine.locks import lock
from store.search import pages
from store.versions.tables import resource_version, store_setting
from subscriptions import signature
from workflow import seal

SECRETS = (pages.KEY, signature.SIGNING, signature.SEALING)
"""Keys of 32 random bytes: page tokens; webhook signatures; channel headers."""
SIGNING = "audit-checkpoint"
"""The key that signs the checkpoints of the audit log."""
NAMES = (SIGNING, *SECRETS, seal.KEY)
SECRET_BYTES = 32
SECRET = "secret"  # noqa: S105 - the name of the file
"""The deployment secret, in the folder `keys`, unless `VIGIE_SECRET_FILE` names another file."""
_SHORTEST = 32
"""Characters of a deployment secret, at least."""
CHECKPOINTS = "checkpoints.txt"
"""File of the data folder that the signed checkpoints are published to, beside the database."""
SPOOL = "audit-spool"
"""Folder of the data folder in which disclosures are recorded until they are sequenced (SQLite)."""
_ROW = "key:"
"""Begin of the name of a key's row in store_setting; the value is the digest in hexadecimal digits."""
_MOVED = {SIGNING: (SIGNING,), pages.KEY: (pages.KEY,), signature.SIGNING: (signature.SIGNING, signature.SEALING)}
"""File of before → keys that it becomes: channel headers were sealed by `webhooks`."""
_NONE = "this deployment has no keys yet: ./vigie platform init"


def ring(settings: Settings, database: Database) -> KeyRing:
    """The keys of this deployment, opened when they are first needed."""
    return KeyRing(database, lambda: safe(settings))


def safe(settings: Settings) -> Safe:
    """What opens the keys. Raises KeyFault where the deployment secret is missing or cannot be used."""
    return Safe(_secrets(settings))


class RingSigner:
    """Signs with the key of the ring that is in use (`audit.checkpoint.Signing`)."""

    def __init__(self, keys: KeyRing, settings: Settings) -> None:
        self._keys = keys
        self._origin = _origin(settings)
        self._parsed: tuple[bytes, Signer] | None = None

    @property
    def name(self) -> str:
        """Of the log."""
        return self._origin

    @property
    def verifier(self) -> Verifier:
        """The public half. Raises KeyFault."""
        return self._signer.verifier

    def sign(self, checkpoint: Checkpoint) -> str:
        """The signed note. Raises KeyFault."""
        return self._signer.sign(checkpoint)

    @property
    def verifiers(self) -> list[Verifier]:
        """The public halves of all that there were, the first one first. Raises KeyFault."""
        return [_signer(key.secret, self._origin).verifier for key in reversed(self._keys.of(SIGNING))]

    def follow(self, connection: Connection) -> None:
        """As `Signing` says. Raises KeyFault."""
        self._keys.follow(connection, SIGNING)

    def derived(self, purpose: bytes, *, again: bool = False) -> Sequence[bytes]:
        """As `Signing` says. Raises KeyFault."""
        if again:
            self._keys.look_again()
        found = self._keys.of(SIGNING)
        return [secret for key in found for secret in _signer(key.secret, self._origin).derived(purpose)]

    @property
    def _signer(self) -> Signer:
        text = self._keys.of(SIGNING)[0].secret
        if self._parsed is None or self._parsed[0] != text:
            self._parsed = text, _signer(text, self._origin)
        return self._parsed[1]


def check(settings: Settings, database: Database) -> None:
    """Raise KeyFault unless the deployment secret opens every key that this database is served with."""
    with database.read() as connection:
        _check(settings, connection)


def provide(settings: Settings, database: Database) -> None:
    """Make the keys of a database that has never been used; check them where it has. Raises KeyFault."""
    with database.read() as connection:
        if _remembered(connection).keys() >= set(NAMES):
            _check(settings, connection)
            _tidy(settings, connection)
            return
    with database.write() as connection:
        lock(connection, "deployment keys")
        known = _remembered(connection)
        has_rows = connection.execute(select(keyring.deployment_key.c.name).limit(1)).first() is not None
        if has_rows or signature.SEALING in known:
            _check(settings, connection)
        elif known or _is_used(settings, connection):
            _move_in(settings, connection, known)
        else:
            _make_secret(settings)
        own, now_us = safe(settings), microseconds(utc_now())
        for name in NAMES:
            if name not in _remembered(connection):
                _keep(connection, own, name, _made(settings, name), now_us)
        _check(settings, connection)
    with database.read() as connection:
        _tidy(settings, connection)


def rotate(settings: Settings, connection: Connection, name: str, key: bytes | None = None) -> int:
    """Put a new key (`key`, or one that is made) into use as `name`, in this transaction; its number.

    The one before goes on to open what was made with it, as long as whoever uses the name lets it. Raises KeyFault.
    """
    if name not in NAMES:
        raise KeyFault(f"there is no key {name}")
    lock(connection, "deployment keys")
    _check(settings, connection)
    connection.execute(delete(store_setting).where(store_setting.c.name == _ROW + name))
    return _keep(connection, safe(settings), name, key or _made(settings, name), microseconds(utc_now()))


def rotate_signing(settings: Settings, connection: Connection, signer: Signer) -> int:
    """Put `signer` into use for the log, in the transaction in which its record is logged; its number."""
    return rotate(settings, connection, SIGNING, (signer.text() + "\n").encode("ascii"))


def new_signer(settings: Settings) -> Signer:
    """A new key for the log's checkpoints, which nothing keeps yet."""
    return Signer.generate(_origin(settings))


def tell(settings: Settings, database: Database) -> None:
    """Have the data folder say which key the log is verified with. Raises KeyFault."""
    with database.read() as connection:
        _tidy(settings, connection)


def rotate_secret(settings: Settings, database: Database, record: Callable[[Connection], None]) -> int:
    """Seal all keys under a new deployment secret, and `record` it in that transaction; how many. Raises KeyFault.

    In the data folder the secret is made here. A secret that is mounted is given by the operator: as the first line of
    its file, before the former one, on every node; once this is done the former line may go. Interrupted anywhere, what
    the file holds opens the keys, and it can be done again.
    """
    path = _path(settings)
    if not settings.secret_file:
        kept = path.read_text(encoding="utf-8") if path.exists() else ""
        _secrets(settings)
        write_private(path, secrets.token_hex(SECRET_BYTES) + "\n" + kept)
    elif len(_secrets(settings)) < 2:
        raise KeyFault("secret_file holds one line: put the new secret before it, on every node, then try again")
    with database.write() as connection:
        lock(connection, "deployment keys")
        _check(settings, connection)
        count = keyring.seal_again(connection, safe(settings))
        record(connection)
    if not settings.secret_file:
        write_private(path, path.read_text(encoding="utf-8").splitlines()[0] + "\n")
    return count


def public(settings: Settings, database: Database) -> str:
    """The public key of the log, as C2SP signed-note writes it. Raises KeyFault."""
    return RingSigner(ring(settings, database), settings).verifier.text()


def _remembered(connection: Connection) -> dict[str, str]:
    """Name → digest of each key that this database is served with."""
    rows = connection.execute(select(store_setting).where(store_setting.c.name.startswith(_ROW, autoescape=True)))
    return {row.name.removeprefix(_ROW): row.value for row in rows}


def _is_used(settings: Settings, connection: Connection) -> bool:
    """Whether anything was ever stored, recorded or registered here. A data folder knows of records that wait (SQLite),
    and of a log whose database is gone."""
    if settings.checkpoints_file.exists() or any((settings.data / SPOOL).glob("*.spool")):
        return True
    columns = (resource_version.c.pk, audit_log.c.seq, audit_inbox.c.pk, oauth_client.c.client_id)
    return any(connection.execute(select(column).limit(1)).first() is not None for column in columns)


def _check(settings: Settings, connection: Connection) -> None:
    known = _remembered(connection)
    has_rows = connection.execute(select(keyring.deployment_key.c.name).limit(1)).first() is not None
    if not known and not has_rows:
        if _is_used(settings, connection):
            _of_folder(settings, connection, known)
        raise KeyFault(_NONE)
    if known and not has_rows and signature.SEALING not in known:
        _of_folder(settings, connection, known)
        raise KeyFault("the keys lie in the data folder as an earlier version left them: ./vigie db upgrade")
    opened = keyring.opened(connection, safe(settings))
    for name in known.keys() | opened.keys():
        keys = opened.get(name, ())
        if not keys or keys[0].retired is not None:
            raise KeyFault(f"the key {name} is missing from the database: restore a backup")
        if known.get(name) != _digest(keys[0].secret):
            raise KeyFault(f"the key {name} is not the one that this database was served with: restore a backup")
        if name == SIGNING:
            _signer(keys[0].secret, _origin(settings))


def _keep(connection: Connection, own: Safe, name: str, key: bytes, now_us: int) -> int:
    connection.execute(store_setting.insert().values(name=_ROW + name, value=_digest(key)))
    return keyring.add(connection, own, name, key, now_us)


def _made(settings: Settings, name: str) -> bytes:
    if name == SIGNING:
        return (Signer.generate(_origin(settings)).text() + "\n").encode("ascii")
    if name == seal.KEY:
        return seal.new_identity(f"Vigie {settings.platform}", utc_now())
    return secrets.token_bytes(SECRET_BYTES)


def _digest(key: bytes) -> str:
    """How the database knows a key: it says nothing of the key, which is random."""
    return sha256(b"vigie key\n" + key).hexdigest()


def _signer(key: bytes, origin: str) -> Signer:
    try:
        signer = Signer.parse(key.decode("ascii"))
    except (BadKey, UnicodeDecodeError) as error:
        raise KeyFault(f"the key {SIGNING} is damaged: restore a backup") from error
    if signer.name != origin:
        raise KeyFault(f"the key {SIGNING} belongs to the log {signer.name}, not to {origin}")
    return signer


# The deployment secret.


def _secrets(settings: Settings) -> list[bytes]:
    """The lines of the secret's file. A mounted one may be readable by a group (Kubernetes' fsGroup)."""
    path = _path(settings)
    called = "the file of secret_file" if settings.secret_file else f"the file keys/{SECRET} in the data folder"
    try:
        loose = path.stat().st_mode & (0o037 if settings.secret_file else 0o077)
        lines = path.read_text(encoding="utf-8").split()
    except FileNotFoundError as error:
        raise KeyFault(
            f"the deployment secret is missing ({called}): restore it from a backup, "
            "or copy it from a server that has it"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFault(f"the deployment secret cannot be read ({called})") from error
    if loose:
        raise KeyFault(f"the deployment secret can be read by others ({called}): chmod 600 it")
    if not lines or min(map(len, lines)) < _SHORTEST:
        raise KeyFault(f"the deployment secret is shorter than {_SHORTEST} characters ({called})")
    return [line.encode() for line in lines]


def _make_secret(settings: Settings) -> None:
    """Of a new deployment, unless it is there. One that is mounted is the operator's to make."""
    path = _path(settings)
    if settings.secret_file or path.exists():
        return
    write_private(path, secrets.token_hex(SECRET_BYTES) + "\n", replace=False)


def _path(settings: Settings) -> Path:
    return Path(settings.secret_file) if settings.secret_file else _folder(settings) / SECRET


# Data folders of before.


def _move_in(settings: Settings, connection: Connection, known: dict[str, str]) -> None:
    """Put the keys of the data folder into the database. Raises KeyFault where one is missing or not the right one."""
    files = _of_folder(settings, connection, known)
    _make_secret(settings)
    own, now_us = safe(settings), microseconds(utc_now())
    connection.execute(delete(store_setting).where(store_setting.c.name.startswith(_ROW, autoescape=True)))
    for file, content in files.items():
        for name in _MOVED[file]:
            _keep(connection, own, name, content, now_us)


def _of_folder(settings: Settings, connection: Connection, known: dict[str, str]) -> dict[str, bytes]:
    """The keys of a data folder of before, all there and those that the database was served with."""
    found = {}
    for name in _MOVED:
        path = _folder(settings) / name
        try:
            loose = path.stat().st_mode & 0o077
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise KeyFault(
                f"the key {name} is missing: restore a backup, or copy it from the server that has it"
            ) from error
        if loose:
            raise KeyFault(f"the key {name} in the data folder can be read by others: chmod 600 it")
        if name != SIGNING and len(content) != SECRET_BYTES:
            raise KeyFault(f"the key {name} in the data folder is damaged: restore it from a backup")
        if name == SIGNING:
            _signer(content, _origin(settings))
        if known.get(name, _digest(content)) != _digest(content):
            raise KeyFault(
                f"the key {name} in the data folder is not the one that this database was served with: "
                "restore it from a backup, or copy it from the server that has it"
            )
        found[name] = content
    return found


def _tidy(settings: Settings, connection: Connection) -> None:
    """The folder says what the log is verified with; a file of before goes once its key is in the database."""
    opened = keyring.opened(connection, safe(settings))
    folder = _folder(settings)
    for name in _MOVED:
        path = folder / name
        with suppress(FileNotFoundError):
            if path.read_bytes() in {key.secret for key in opened[name]}:
                path.unlink()
    text = _signer(opened[SIGNING][0].secret, _origin(settings)).verifier.text() + "\n"
    told = folder / f"{SIGNING}.pub"
    if not told.exists() or told.read_text(encoding="ascii", errors="replace") != text:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(told, text)


def _folder(settings: Settings) -> Path:
    return settings.data / "keys"


def _origin(settings: Settings) -> str:
    return f"vigie/{settings.platform}"
