"""What is decided by policy, as an operator's duty: each act a function, recorded.

Every process of the deployment goes by a decision within 5 seconds. What a task was given when it was made (its
deadline) stays with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from fhir_server.duties import acts, deployment
from fhir_server.server.faults import CannotRun
from fhir_server.server.settings import Settings
from resources.outcomes import BadRequest
from resources.policies import POLICIES, TABLE, Where
from resources.times import instant_text, of_microseconds
from store import policies
from store.policies import Row


def listed(settings: Settings) -> list[dict[str, Any]]:
    """Every policy with its default, and the rows that hold."""
    with (
        deployment.opened(settings) as services,
        acts.recorded(services, "policy-list"),
        services.database.read() as connection,
    ):
        rows = policies.current(connection)
    return [
        {
            "name": one.name, "default": one.default, "meaning": one.meaning,
            "rows": [_described(row) for row in rows if row.name == one.name],
        }
        for one in TABLE
    ]  # fmt: skip


def shown(settings: Settings, name: str, where: Where) -> Any:
    """The value that holds at a place. Raises CannotRun where there is no such policy."""
    with deployment.opened(settings) as services, acts.recorded(services, "policy-show", ("policy", name)):
        _require(name)
        caller = acts.operator(settings)
        return services.store.look(caller, lambda uow: policies.value(uow, name, where))


def decided(settings: Settings, name: str, text: str, where: Where, reason: str) -> dict[str, Any]:
    """Write the next version of a row; `text`: JSON, `null` withdraws. Raises BadRequest naming what is wrong."""
    detail = (("policy", name), ("organization", where.partner)) if where.partner else (("policy", name),)
    with deployment.opened(settings) as services, acts.attempted(services, "policy-set", *detail):
        by = acts.actor(settings)
        value = _read(text)
        made = services.store.transact(
            by.caller, lambda uow: policies.decide(uow, name, where, value, reason, by.detail)
        )
    return _described(made)


def history(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Every row of a policy, place by place, the oldest first. Raises CannotRun where there is no such policy."""
    with deployment.opened(settings) as services, acts.recorded(services, "policy-history", ("policy", name)):
        _require(name)
        with services.database.read() as connection:
            return [_described(row) for row in policies.history(connection, name)]


def lines(found: Iterable[dict[str, Any]]) -> list[str]:
    """Rows for people."""
    told = []
    for row in found:
        place = " ".join(f"{name}={row[name]}" for name in Where._fields if row[name]) or "everywhere"
        value = "withdrawn" if row["value"] is None else json.dumps(row["value"], ensure_ascii=False)
        told.append(f"{row['name']}  {place}  v{row['version']}  {value}  {row['since']}  {row['by']}  {row['reason']}")
    return told


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        if text and text[0] not in '{["-0123456789':
            return text  # a word needs no quotes
        raise BadRequest("the value is no JSON", expression="value") from None


def _require(name: str) -> None:
    if name not in POLICIES:
        raise CannotRun("there is no such policy: `vigie policy list` shows them")


def _described(row: Row) -> dict[str, Any]:
    return {
        "name": row.name, **row.where._asdict(), "version": row.version, "value": row.value,
        "since": instant_text(of_microseconds(row.since_us)), "by": row.by, "reason": row.reason,
    }  # fmt: skip
