"""Every command of `./vigie`, and how the tests run it. A new command without a row here fails them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import click

from fhir_server.commands.main import main


@dataclass(frozen=True)
class Place:
    """Where the commands of a test work."""

    folder: Path
    data: Path
    client_id: str
    """A registered client."""
    ae_title: str = "MODALITY"
    """A registered AE title."""


@dataclass(frozen=True)
class Row:
    """How to run a command, and what it leaves in the log."""

    arguments: Callable[[Place], list[str]]
    operation: str | None
    """Name of the operation of its event; None: it leaves none, and `why` says why."""
    why: str = ""
    failing: Callable[[Place], list[str]] | None = None
    """Arguments with which it fails, leaving an event that says so."""
    opens: bool = True
    """Whether it opens the deployment's database."""


def _client(name: str, *more: str) -> Row:
    return Row(
        lambda place: ["client", name, place.client_id, *more],
        f"client-{name}",
        failing=lambda place: ["client", name, "nobody", *more],
    )


def _ae(name: str) -> Row:
    return Row(lambda place: ["ae", name, place.ae_title], f"ae-{name}", failing=lambda place: ["ae", name, "NOBODY"])


def _event(place: Place) -> str:
    """The id of a record of the log, of an access to nobody's data; of a log without any, one that there is not."""
    return _first(place, "SELECT event_id FROM audit_log WHERE parts = '' LIMIT 1") or "nothing"


def _checkpoints(place: Place) -> Path:
    """A file with the first checkpoint of the log; of a log without any, with one that nobody signed."""
    file = place.folder / "first.txt"
    note = _first(place, "SELECT note FROM audit_checkpoint ORDER BY size LIMIT 1") or _UNSIGNED
    file.write_text(f"{note}\n", encoding="utf-8")
    return file


def leap(data: Path, seconds: int) -> None:
    """Have the clock of this host leap, as far as the processes of this folder see it; none where nothing is shared."""
    file = data / "clock"
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**kept, "offset_ns": kept["offset_ns"] - seconds * 10**9}), encoding="utf-8")


def _confirm(place: Place) -> list[str]:
    leap(place.data, 3600)
    return ["clock", "confirm", "--json"]


_UNSIGNED = "vigie/test\n1\nAAAA\n\n\u2014 vigie/test AAAA\n"


def _first(place: Place, statement: str) -> str:
    """What a statement finds in the place's SQLite file; empty: nothing, or there is no such file or table."""
    if not (place.data / "vigie.db").is_file():
        return ""
    with closing(sqlite3.connect(place.data / "vigie.db")) as connection, suppress(sqlite3.DatabaseError):
        row = connection.execute(statement).fetchone()
        return "" if row is None else str(row[0])
    return ""


_UNTIL = ("--until", "2099-01-01T00:00:00Z", "--reason", "agreement 7")

ROWS: dict[str, Row] = {
    "client add": Row(
        lambda place: ["client", "add", "EHR", "--organization", "platform", "--scope", "system/Patient.rs"],
        "client-add",
        failing=lambda place: ["client", "add", "EHR", "--organization", "nobody", "--scope", "system/Patient.rs"],
    ),
    "client list": Row(lambda place: ["client", "list"], "client-list"),
    "client show": _client("show"),
    "client scope": _client("scope", "system/Patient.r"),
    "client origins": _client("origins", "https://viewer.example"),
    "client revoke-tokens": _client("revoke-tokens"),
    "client disable": _client("disable"),
    "client enable": _client("enable"),
    "ae add": Row(
        lambda place: ["ae", "add", "SCANNER", "--organization", "hospital", "--address", "10.0.0.1"],
        "ae-add",
        failing=lambda place: ["ae", "add", "SCANNER", "--organization", "nobody", "--address", "10.0.0.1"],
    ),
    "ae list": Row(lambda place: ["ae", "list"], "ae-list"),
    "ae disable": _ae("disable"),
    "ae enable": _ae("enable"),
    "policy list": Row(lambda place: ["policy", "list"], "policy-list"),
    "policy show": Row(
        lambda place: ["policy", "show", "zone", "--partner", "hospital"],
        "policy-show",
        failing=lambda place: ["policy", "show", "nothing"],
    ),
    "policy set": Row(
        lambda place: ["policy", "set", "zone", "Indian/Reunion", "--partner", "hospital", "--reason", "its place"],
        "policy-set",
        failing=lambda place: ["policy", "set", "zone", "Indian/Reunion", "--partner", "nobody", "--reason", "x"],
    ),
    "policy history": Row(
        lambda place: ["policy", "history", "zone"],
        "policy-history",
        failing=lambda place: ["policy", "history", "nothing"],
    ),
    "grant add": Row(
        lambda place: ["grant", "add", f"Client/{place.client_id}", "Organization/hospital", *_UNTIL],
        "grant-add",
        failing=lambda place: ["grant", "add", f"Client/{place.client_id}", "Organization/nobody", *_UNTIL],
    ),
    "grant list": Row(lambda place: ["grant", "list"], "grant-list"),
    "grant revoke": Row(
        lambda place: ["grant", "revoke", _first(place, "SELECT id FROM access_grant LIMIT 1") or "nothing"],
        "grant-revoke",
        failing=lambda place: ["grant", "revoke", "nothing"],
    ),
    "audit verify": Row(lambda place: ["audit", "verify"], "audit-verify"),
    "audit export": Row(
        lambda place: ["audit", "export", str(place.folder / "log.gz")],
        "audit-export",
        failing=lambda place: ["audit", "export", str(place.folder / "nowhere" / "log.gz")],
    ),
    "audit prove": Row(
        lambda place: ["audit", "prove", _event(place)],
        "audit-prove",
        failing=lambda place: ["audit", "prove", "nothing"],
    ),
    "audit consistency": Row(
        lambda place: ["audit", "consistency", str(_checkpoints(place))],
        "audit-consistency",
    ),
    "audit check-proof": Row(
        lambda place: ["audit", "check-proof", "--help"], None, "it opens no deployment", opens=False
    ),
    "platform init": Row(lambda place: ["platform", "init"], "platform-init"),
    "platform keys": Row(lambda place: ["platform", "keys"], "platform-keys"),
    "platform rotate": Row(lambda place: ["platform", "rotate", "pages"], "platform-rotate"),
    "audit rotate-key": Row(
        lambda place: ["audit", "rotate-key", "--json"], "audit-rotate-key"
    ),
    "audit publish": Row(lambda place: ["audit", "publish"], "audit-publish"),
    "audit access-report": Row(
        lambda place: ["audit", "access-report", "Patient/nobody"],
        "audit-access-report",
        failing=lambda place: ["audit", "access-report", "Patient/nobody", "--from", "yesterday"],
    ),
    "audit hold": Row(
        lambda place: ["audit", "hold", "Patient/p-1", "--reason", "case 1"],
        "audit-hold",
        failing=lambda place: ["audit", "hold", "Martin", "--reason", "case 1"],
    ),
    "audit release": Row(
        lambda place: ["audit", "release", "Patient/p-1"],
        "audit-release",
        failing=lambda place: ["audit", "release", "Martin"],
    ),
    "audit holds": Row(lambda place: ["audit", "holds"], "audit-holds"),
    "audit purge": Row(
        lambda place: ["audit", "purge", "security"],
        "audit-purge",
        failing=lambda place: ["audit", "purge", "everything"],
    ),
    "audit spool-known": Row(lambda place: ["audit", "spool-known"], "audit-spool-known"),
    "clock confirm": Row(_confirm, "clock-confirm", failing=lambda place: ["clock", "confirm"]),
    "db upgrade": Row(lambda place: ["db", "upgrade"], "db-upgrade"),
    "reindex": Row(
        lambda place: ["reindex", "Patient"],
        "reindex",
        failing=None,
    ),
    "subscription retry": Row(
        lambda place: ["subscription", "retry", "--json"], "subscription-retry",
        failing=lambda place: ["subscription", "retry", "nothing"],
    ),
    "objects collect": Row(lambda place: ["objects", "collect"], "objects-collect"),
    "backup": Row(
        lambda place: ["backup", str(place.folder / "backup")],
        "backup",
        failing=lambda place: ["backup", str(place.data)],
    ),
    "restore": Row(
        lambda place: ["restore", str(place.folder / "backup"), "--data", str(place.folder / "restored")],
        "restore",
        failing=lambda place: ["restore", str(place.folder / "backup")],
    ),
    "doctor": Row(lambda place: ["doctor"], "doctor"),
    "serve": Row(lambda place: ["serve", "--port", "0", "--dimse-port", "0"], "serve"),
    "token": Row(
        lambda place: ["token", place.client_id], None, "the server records the token that it issues", opens=False
    ),
    "demo": Row(lambda place: ["demo"], None, "it is a client: the server records its accesses", opens=False),
    "bench": Row(lambda place: ["bench", "--help"], None, "it measures a deployment of its own", opens=False),
    "test": Row(lambda place: ["test", "--version"], None, "it touches no deployment", opens=False),
}


def paths(command: click.Command = main, above: tuple[str, ...] = ()) -> Iterator[str]:
    """``client add``, ``serve``…: the commands that do something."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from paths(inner, (*above, name))
    else:
        yield " ".join(above)
