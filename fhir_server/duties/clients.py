"""The registry of clients as an operator's duty: each act a function, recorded, the same again and again.

A partner's private key is its own: where a new pair is made, its private half is given out once and kept nowhere,
unless the operator asks to keep it for use on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from auth import purposes
from auth.clients import Actor, Client, Clients
from fhir_server.duties import acts, deployment
from fhir_server.server import private
from fhir_server.server.faults import CannotRun
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources.json import Json
from resources.outcomes import BadRequest
from resources.times import instant_text, of_microseconds

ROLES = frozenset(
    {"", "hospital", "platform", "modality", "regulator", "radiologist", "ai-vendor", "viewer", *purposes.OF_ROLE}
)
"""What a client can be in the workflow. Empty: no role."""
_PERSONAL = frozenset({"regulator", "radiologist"})
"""Roles of a person: the client acts for a Practitioner."""


def add(
    settings: Settings,
    name: str,
    organization: str,
    scope: str,
    *,
    role: str = "",
    practitioner: str | None = None,
    jwks: Json | None = None,
    origins: Iterable[str] = (),
    keep_key: bool = False,
) -> dict[str, Any]:
    """Register a client; its description, with `private_key` where a new pair was made.

    Organisation and practitioner must exist, but for the platform's own Organization: the first client is registered
    before anything is stored, and with it the platform is made. Raises BadRequest.
    """
    detail = (("organization", organization),)
    with deployment.opened(settings) as services, acts.attempted(services, "client-add", *detail):
        if role not in ROLES:
            raise BadRequest(f"role is one of {', '.join(sorted(ROLES - {''}))}", expression="role")
        if role in _PERSONAL and practitioner is None:
            raise BadRequest(f"a {role} is a person: name the Practitioner", expression="practitioner")
        if organization != settings.platform:
            _require(services, f"Organization/{organization}", "organization")
        if practitioner is not None:
            _require(services, practitioner, "practitioner")
        made, private_key = services.authority.clients.add(
            name, organization, scope, role, practitioner, jwks, origins=origins, by=acts.actor(settings)
        )
        described = {**_described(made)}
        if private_key is not None:
            described["private_key"] = private_key
            if keep_key:
                private.write_json(settings.data / "clients" / f"{made.client_id}.json", described)
    return described


def read_key_set(file: Path) -> Json:
    """The JWK Set of a file. Raises CannotRun where it is no JSON object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CannotRun(f"{file.name} is no JSON") from error
    if not isinstance(found, dict):
        raise CannotRun(f"{file.name} is no JWK Set")
    return found if "keys" in found else {"keys": [found]}


def listed(settings: Settings) -> list[dict[str, Any]]:
    """All clients, the oldest first."""
    with deployment.opened(settings) as services, acts.recorded(services, "client-list"):
        return [_described(one) for one in services.authority.clients.list()]


def shown(settings: Settings, client_id: str) -> dict[str, Any]:
    """One client. Raises CannotRun where there is none."""
    detail = ("client_id", client_id)
    with deployment.opened(settings) as services, acts.recorded(services, "client-show", detail):
        found = services.authority.clients.find(client_id)
        if found is None:
            raise CannotRun("there is no such client: `vigie client list` shows them")
        return _described(found)


def disable(settings: Settings, client_id: str) -> dict[str, Any]:
    """The kill switch: no token of it gives access, nothing is delivered to it, everywhere within 5 seconds."""
    return _alter(settings, "client-disable", client_id, lambda clients, by: clients.disable(client_id, by))


def enable(settings: Settings, client_id: str) -> dict[str, Any]:
    """End of `disable`; the tokens of before stay refused."""
    return _alter(settings, "client-enable", client_id, lambda clients, by: clients.enable(client_id, by))


def set_scope(settings: Settings, client_id: str, scope: str) -> dict[str, Any]:
    """Set what a client may ask for; its tokens are revoked where that changes anything."""
    return _alter(settings, "client-scope", client_id, lambda clients, by: clients.set_scope(client_id, scope, by))


def set_origins(settings: Settings, client_id: str, origins: Iterable[str]) -> dict[str, Any]:
    """Set the web origins whose pages may use a client."""
    wanted = tuple(origins)
    return _alter(
        settings, "client-origins", client_id, lambda clients, by: clients.set_origins(client_id, wanted, by)
    )


def revoke_tokens(settings: Settings, client_id: str) -> dict[str, Any]:
    """Revoke all tokens of a client; `revoked` says how many gave access until now."""
    with _registry(settings, "client-revoke-tokens", client_id) as clients:
        count = clients.revoke_tokens(client_id, acts.actor(settings))
    return {"client_id": client_id, "revoked": count}


def _alter(
    settings: Settings, operation: str, client_id: str, act: Callable[[Clients, Actor], Client]
) -> dict[str, Any]:
    with _registry(settings, operation, client_id) as clients:
        return _described(act(clients, acts.actor(settings)))


@contextmanager
def _registry(settings: Settings, operation: str, client_id: str) -> Iterator[Clients]:
    with (
        deployment.opened(settings) as services,
        acts.attempted(services, operation, ("client_id", client_id)),
    ):
        yield services.authority.clients


def _require(services: Services, reference: str, member: str) -> None:
    type_name, _, logical_id = reference.partition("/")
    known = type_name in ("Organization", "Practitioner") and services.store.look(
        acts.operator(services.settings), lambda uow: uow.system.exists(type_name, logical_id)
    )
    if not known:
        raise BadRequest(f"{member} does not exist here: store it first", expression=member)


def _described(client: Client) -> dict[str, Any]:
    record = client.record
    return {
        "client_id": client.client_id,
        "name": record.name,
        "organization": client.organization,
        "scope": client.scope,
        "role": client.role,
        "practitioner": client.practitioner,
        "origins": list(client.origins),
        "active": client.active,
        "keys": [str(key["kid"]) for key in record.jwks["keys"]],
        "created": _instant(record.created),
        "disabled": _instant(record.disabled_at),
        "disabled_by": record.disabled_by,
        "last_token": _instant(record.last_token),
    }


def _instant(seconds: int | None) -> str | None:
    return None if seconds is None else instant_text(of_microseconds(seconds * 1_000_000))
