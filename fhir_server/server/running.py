"""The server that runs on a data folder: `serve.json` says where it answers, a lock says whether it lives.

`serve` writes the file before its children start and removes it at its end. Whoever is killed leaves it behind; the
kernel's lock, which ends with its holder, tells a running server from a stale file.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import make_url

from fhir_server.server.private import write_json
from fhir_server.server.settings import DECLARED, Settings

FILE = "serve.json"
LOCK = "serve.lock"
_LOCK_TRIES = 20
"""A command that looks whether somebody serves holds the lock for a moment: the server tries again."""
_LOCK_WAIT_S = 0.05


@dataclass(frozen=True, slots=True)
class Running:
    """What a running server says of itself: where it answers, and which settings its commands need."""

    pid: int
    started: int
    """Seconds since 1970-01-01T00:00Z."""
    host: str
    port: int
    dimse_port: int
    base_urls: tuple[str, ...]
    platform: str
    objects: str
    checkpoints: str
    """The file of published checkpoints."""
    secret_file: str
    """Where the deployment secret is mounted; empty: in the data folder."""
    database: str
    """The URL; empty where it holds a password, which stands in no file of ours."""

    @staticmethod
    def of(settings: Settings) -> Running:
        """What this process serves."""
        url = make_url(settings.database_url)
        return Running(
            pid=os.getpid(),
            started=int(time.time()),
            host=settings.host,
            port=settings.port,
            dimse_port=settings.dimse_port,
            base_urls=settings.base_urls,
            platform=settings.platform,
            objects=str(settings.objects_folder.resolve()),
            checkpoints=str(settings.checkpoints_file.resolve()),
            secret_file=str(Path(settings.secret_file).resolve()) if settings.secret_file else "",
            database="" if url.password else settings.database_url,
        )

    def overrides(self) -> Mapping[str, Any]:
        """The settings that commands take over from it."""
        return {name: value for name, value in asdict(self).items() if name in DECLARED and value not in ("", ())}


def hold(data: Path) -> IO[str] | None:
    """The lock on the data folder, until it is closed or this process ends; None while another process has it."""
    for attempt in range(_LOCK_TRIES):
        if attempt:
            time.sleep(_LOCK_WAIT_S)
        file = (data / LOCK).open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
        else:
            return file
    return None


def announce(settings: Settings) -> None:
    """Write `serve.json`; to be called with the lock held."""
    write_json(settings.data / FILE, asdict(Running.of(settings)))


def withdraw(data: Path) -> None:
    """Remove `serve.json`."""
    with suppress(FileNotFoundError):
        (data / FILE).unlink()


def find(data: Path) -> Running | None:
    """The server that runs on this folder now; None where none does."""
    try:
        with (data / LOCK).open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return None
        said = json.loads((data / FILE).read_text(encoding="utf-8"))
        return Running(**{**said, "base_urls": tuple(said["base_urls"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
