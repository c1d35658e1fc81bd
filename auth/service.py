"""Authority: everything about who may, assembled on one database.

`fhir_server.server.services` makes one per process; what the other packages need of it are its attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from flask import Blueprint
from sqlalchemy import Connection

from auth import grants, metadata, queries
from auth.admission import Admission
from auth.audience import Widening
from auth.clients import Client, Clients, Clock
from auth.endpoints import Endpoints
from auth.guard import Guard
from auth.keys import PRIVATE_MEMBERS
from auth.policy import Policy
from auth.refusals import Refusals
from auth.server import Server
from auth.throttle import Throttle
from auth.tokens import MAX_LIFETIME_S, Tokens
from resources.json import Json
from resources.times import microseconds, utc_now
from store.access import Access, Caller, Loop, Observer, Permit, Trail
from store.engine.database import Database

PURGE_INTERVAL_S = 60.0


class Authority:
    """Guard, permit, clients and the authorization server.

    `origins` are the public origins of the server (``https://host``), the first being the issuer; `signing_keys` are
    the public JWKs by which the server itself signs, for /oauth/jwks.
    """

    def __init__(
        self,
        database: Database,
        *,
        trail: Trail,
        platform: str,
        origins: Sequence[str],
        clock: Clock = utc_now,
        token_lifetime_s: int = MAX_LIFETIME_S,
        trusted_proxies: int = 0,
        signing_keys: Sequence[Json] = (),
        throttle: Throttle | None = None,
        admission: Admission | None = None,
    ) -> None:
        if not origins:
            raise ValueError("The authority needs at least one origin")
        if any(PRIVATE_MEMBERS & key.keys() for key in signing_keys):
            raise ValueError("signing_keys are published: give the public halves")
        origins = tuple(origin.rstrip("/") for origin in origins)
        policy = Policy(platform)
        self.permit: Permit = policy
        self.observers: tuple[Observer, ...] = (Widening(policy.audiences),)
        """For the store: what a signed report's audience brings along."""
        self.clients = Clients(database, trail=trail, clock=clock, platform=platform)
        self._tokens = Tokens(database, clock=clock, lifetime_s=token_lifetime_s)
        self.refusals = Refusals(throttle or Throttle(), trail=trail, clock=clock)
        self.guard = Guard(
            self._tokens, clock=clock, refusals=self.refusals, admission=admission, trusted_proxies=trusted_proxies
        )
        server = Server(
            database,
            clients=self.clients,
            tokens=self._tokens,
            trail=trail,
            clock=clock,
            issuer=origins[0],
            audiences=frozenset(origin + metadata.TOKEN for origin in origins),
            platform=platform,
        )
        self._endpoints = partial(
            Endpoints,
            server,
            guard=self.guard,
            clients=self.clients,
            trail=trail,
            clock=clock,
            refusals=self.refusals,
            origins=origins,
            public_keys=signing_keys,
        )
        self._origins = origins
        self._clock = clock
        self.loops: tuple[Loop, ...] = (Loop("expired tokens", self._tokens.purge, PURGE_INTERVAL_S),)

    def blueprint(self) -> Blueprint:
        """/oauth/* and /.well-known/oauth-authorization-server."""
        return self._endpoints().blueprint()

    def smart_configuration(self, origin: str | None = None) -> Json:
        """The SMART document for the origin that the client used, out of the configured ones."""
        return metadata.smart_configuration(origin if origin in self._origins and origin else self._origins[0])

    def caller_of(self, client_id: str) -> Caller | None:
        """The Caller that a client is now, with all its scopes: for deliveries. None if it is gone or inactive."""
        client: Client | None = self.clients.known(client_id)
        if client is None or not client.active:
            return None
        return client.caller(scope=client.scope, now_us=microseconds(self._clock()))

    def holders(self, connection: Connection, members: frozenset[str]) -> frozenset[str]:
        """Organisations of which some client may see, by a grant, what is shown to these audience members.

        More than those that really do: whoever asks judges each client by its own rights then.
        """
        found = grants.holders(connection, members, microseconds(self._clock()))
        return queries.organizations_of(connection, found) if found else frozenset()

    def stranger(self, environ: dict[str, Any]) -> Caller:
        """Who asks where no token was looked at."""
        return self.guard.nobody(environ)

    def refused(self, caller: Caller, access: Access) -> None:
        """Record what a stranger was refused, or count it in a flood. Raises Unavailable."""
        self.refusals.note(caller, access)

    def counted(self, caller: Caller, access: Access) -> None:
        """Count a refusal that cannot wait for its record; it is on record a few seconds later."""
        self.refusals.count(caller, access)

    def close(self) -> None:
        """Put on record what was only counted until now."""
        self.refusals.close()
