"""`./vigie objects`: the object store compared with the rows that name objects, and what no row names removed."""

from __future__ import annotations

from collections.abc import Callable

import click

from fhir_server.duties import acts, deployment
from fhir_server.server.faults import CannotRun
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from store.collecting import Found, Removed

LOST = "integrity: rows without objects"
"""Recorded reason of a look that found some."""
_NAMED = 20
"""Objects that are told by their digests."""


def collect(
    settings: Settings, *, dry_run: bool, older_than_h: float, however_many: bool,
    echo: Callable[[str], None] = click.echo,
) -> int:
    """Look at every object, beside the running service; remove what no row names unless it is a `dry_run`.

    1 where rows have no objects. Raises CannotRun where more objects have no row than kills leave.
    """
    detail = (("dry-run", "true"),) if dry_run else ()
    with deployment.opened(settings) as services, acts.recorded(services, "objects-collect", *detail) as act:
        found = Found()
        for folder in services.objects.folders():
            found += services.collector().look(folder, older_than_h * 3600)
        for line in _lines(found):
            echo(line)
        removed = Removed()
        if found.unnamed and not dry_run:
            removed = _remove(services, found, older_than_h * 3600, however_many=however_many)
            echo(f"{removed.count} objects removed, {removed.size} bytes")
        services.collector().remember(found, removed)
        act.conclude(LOST if found.lost else None)
    return 1 if found.lost else 0


def _remove(services: Services, found: Found, older_than_s: float, *, however_many: bool) -> Removed:
    if not found.are_few and not however_many:
        raise CannotRun(
            "more objects have no row than kills leave: is this the database of these objects, and its newest state? "
            "Nothing was removed; with --however-many they are"
        )
    return services.collector().remove(acts.operator(services.settings), found.unnamed, older_than_s=older_than_s)


def _lines(found: Found) -> list[str]:
    lines = [f"{found.objects} objects, {len(found.unnamed)} of them without a row, {found.young} that may get one yet"]
    for what, digests in (("without a row", found.unnamed), ("MISSING, though rows name it", found.lost)):
        lines += [f"{what}: {digest}" for digest in digests[:_NAMED]]
        if len(digests) > _NAMED:
            lines.append(f"{what}: {len(digests) - _NAMED} more")
    return lines
