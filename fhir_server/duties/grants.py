"""Grants as an operator's duty: who may see, or act on, what is another's; each act a function, recorded.

What is given or revoked holds in the running server within 5 seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fhir_server.duties import acts, deployment
from fhir_server.server.settings import Settings
from resources.outcomes import BadRequest
from resources.times import microseconds, parse_instant
from workflow.granting import Wish, described


def add(
    settings: Settings,
    subject: str,
    object_: str,
    *,
    until: str,
    reason: str,
    source: str = "delegation",
    since: str | None = None,
    interactions: str = "rs",
    alone: bool = False,
) -> dict[str, Any]:
    """Give a grant; its description. Raises BadRequest, NotFound."""
    detail = (("subject", subject), ("object", object_))
    with deployment.opened(settings) as services, acts.attempted(services, "grant-add", *detail):
        if subject.startswith("Client/") and services.authority.clients.find(subject.partition("/")[2]) is None:
            raise BadRequest("there is no such client: `vigie client list` shows them", expression="subject")
        wish = Wish(
            subject, object_, _instant(until, "until"), reason, source,
            None if since is None else _instant(since, "since"), interactions, alone,
        )  # fmt: skip
        by = acts.actor(settings)
        made = services.granting.add(services.store, by.caller, wish, by=by.detail)
        return described(made, microseconds(services.clock()))


def revoke(settings: Settings, grant: str) -> dict[str, Any]:
    """Take a grant back. Raises NotFound."""
    with deployment.opened(settings) as services, acts.attempted(services, "grant-revoke", ("grant", grant)):
        by = acts.actor(settings)
        ended = services.granting.revoke(services.store, by.caller, grant, by=by.detail)
        return described(ended, microseconds(services.clock()))


def listed(settings: Settings, object_: str | None = None) -> list[dict[str, Any]]:
    """The newest thousand grants, of one object or of all."""
    with deployment.opened(settings) as services, acts.recorded(services, "grant-list"):
        found = services.store.look(
            acts.operator(settings), lambda uow: services.granting.listed(uow, object_=object_)
        )
        now_us = microseconds(services.clock())
    return [described(one, now_us) for one in found]


def _instant(text: str, member: str) -> datetime:
    found = parse_instant(text)
    if found is None:
        raise BadRequest("give an instant with its offset, e.g. 2026-10-25T02:30:00+01:00", expression=member)
    return found
