"""Modes of the data folder: what others could read is found, and put right.

The folders shield what lies in them, so they and the files beside the database are looked at, not each of millions of
objects.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import make_url

from fhir_server.server.faults import CannotRun
from fhir_server.server.settings import Settings

OTHERS = 0o077
_INNER = ("keys", "clients", "demo")
"""Folders of the data folder whose files hold private keys: each file is looked at."""


def loose(settings: Settings) -> list[Path]:
    """What of this deployment accounts other than its own may read, write or enter; empty: nothing."""
    return [path for path in _ours(settings) if stat.S_IMODE(path.lstat().st_mode) & OTHERS]


def repair(settings: Settings) -> list[Path]:
    """Take the rights of others away; what had them. Raises CannotRun where that is not possible."""
    found = loose(settings)
    for path in found:
        try:
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~OTHERS)
        except OSError as error:
            raise CannotRun(
                f"{path} can be read by other accounts and its mode cannot be changed: "
                "give it to the account that runs vigie, then chmod go= it"
            ) from error
    return found


def _ours(settings: Settings) -> Iterator[Path]:
    data = settings.data
    if data.is_dir():
        yield data
        for path in sorted(data.iterdir()):
            if path.is_symlink():
                continue
            yield path
            if path.name in _INNER and path.is_dir():
                yield from (inner for inner in sorted(path.iterdir()) if inner.suffix != ".pub")
    objects = settings.objects_folder
    if objects.is_dir() and objects.resolve().parent != data.resolve():
        yield objects
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        file = Path(url.database or "")
        if file.parent.resolve() != data.resolve() and file.parent.is_dir():
            yield from (path for path in sorted(file.parent.glob(f"{file.name}*")) if path.is_file())
