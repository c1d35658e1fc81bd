"""`./vigie reindex`: index rows made anew, told window by window."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from fhir_server.duties import acts, deployment
from fhir_server.server.faults import CannotRun
from fhir_server.server.settings import Settings
from resources.registry import TYPES
from store.reindex import Progress, Reindex
from store.versions import standing

_TELL_EVERY_S = 2.0


def reindex(settings: Settings, types: Sequence[str], *, rate: int) -> Progress | None:
    """Make the rows of `types` anew, or of those whose rules have changed; None: there was nothing to do."""
    unknown = [name for name in types if name not in TYPES or name == "AuditEvent"]
    if unknown:
        raise CannotRun(f"{unknown[0]} is no type whose resources are indexed")
    with deployment.opened(settings) as services:
        with services.database.read() as connection:
            chosen = list(types) or sorted(standing.stale(connection))
        if not chosen:
            click.echo("every index is of today's rules")
            return None
        pass_ = Reindex(services.database, chosen, base_urls=services.fhir_bases, rate=rate)
        with acts.recorded(services, "reindex", ("types", " ".join(chosen)[:1000])):
            done = pass_.run(_Teller())
    click.echo(f"{done.versions} versions looked at, {done.altered} indexed anew: {', '.join(chosen)}")
    return done


class _Teller:
    """A line every two seconds."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self._told_at = time.monotonic()
            share = 100 * progress.through // max(1, progress.last)
            click.echo(f"{share} %: {progress.versions} versions looked at, {progress.altered} indexed anew")
