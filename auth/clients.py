"""Registered clients: machines of an organisation, their scopes and their public keys.

Registration is an act of the operator and goes on record with the row itself. A client belongs to exactly one
organisation and can never have more than its registered system scopes.

RFC 7591 has the vocabulary, SMART 2.2 §Registering a Client the demands
https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from auth import keys, purposes, queries, registration, scopes
from auth.grants import Grant, holding, of_holder
from auth.queries import ClientRecord
from auth.registration import CLIENT_ID
from resources.json import Json
from resources.outcomes import Conflict, NotFound
from resources.times import microseconds
from store.access import Access, Caller, Interaction, Trail
from store.engine.database import Database

Clock = Callable[[], datetime]

AUTH_METHOD = "private_key_jwt"
GRANT_TYPE = "client_credentials"
KNOWN_FOR_S = 5.0
"""How long a process may go by what it knew of a client: a deactivation takes effect within this."""

MAX_KNOWN = 10_000
MAX_WITH_ORIGINS = 2_000
"""Clients with web origins that are looked at: what a process remembers of them is bounded."""


@dataclass(frozen=True, slots=True)
class Client:
    """A registered client, as Authlib asks of one (its `ClientMixin`, without its exact-string scopes)."""

    record: ClientRecord
    scopes: tuple[scopes.Scope, ...]
    grants: tuple[Grant, ...] = ()
    """Its grants, its organisation's and its person's: those that hold, and those that are to begin."""

    @property
    def client_id(self) -> str:
        """The identifier that it authenticates with."""
        return self.record.client_id

    @property
    def active(self) -> bool:
        """Whether it may do anything at all."""
        return self.record.active

    @property
    def organization(self) -> str:
        """Logical id of its Organization."""
        return self.record.organization

    @property
    def role(self) -> str:
        """What it is to the workflow, e.g. ``radiologist``."""
        return self.record.role

    @property
    def practitioner(self) -> str | None:
        """``Practitioner/id`` of the person behind it, if there is one."""
        return self.record.practitioner

    @property
    def scope(self) -> str:
        """All that it may ask for."""
        return self.record.scope

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        """Every endpoint asks for a signed assertion."""
        return method == AUTH_METHOD

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == GRANT_TYPE

    def get_allowed_scope(self, scope: str | None) -> str | None:
        """What of the asked scope this client may have; nothing asked: all of it (RFC 6749 §3.3). None: nothing."""
        granted = scopes.narrow(scopes.parse_all(scope), self.scopes) if scope else self.scopes
        return scopes.text_of(granted) or None

    @property
    def origins(self) -> tuple[str, ...]:
        """Web origins whose pages may use it."""
        return self.record.origins

    def caller(
        self, *, scope: str, purpose: str | None = None, token_ref: str | None = None, address: str = "",
        request_id: str = "", now_us: int = 0,
    ) -> Caller:
        """The Caller that this client is, with these granted scopes; `purpose`: None is that of its role.

        `now_us`: when, in µs since 1970; what grants then hold is his.
        """
        return Caller(
            client_id=self.record.client_id,
            organization=self.record.organization,
            scopes=frozenset(scope.split()),
            role=self.record.role,
            practitioner=self.record.practitioner,
            token_ref=token_ref,
            address=address,
            request_id=request_id,
            purpose=purpose or purposes.of_role(self.record.role),
            grants=holding(self.grants, now_us) if self.grants else (),
        )


@dataclass(frozen=True, slots=True)
class Actor:
    """Who administers clients, and what else is recorded of it (an account's number)."""

    caller: Caller
    detail: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """For the registry: agent and account, no name of a person."""
        return " ".join((self.caller.client_id, *(f"{name} {value}" for name, value in self.detail)))


class Clients:
    """The registered clients: add, find, list, and what an operator does with them.

    Each act is on record in the transaction that carries it out, and in force everywhere within `KNOWN_FOR_S`.
    """

    def __init__(self, database: Database, *, trail: Trail, clock: Clock, platform: str) -> None:
        self._database = database
        self._trail = trail
        self._clock = clock
        self._system = Actor(Caller.system(platform))
        self._known: dict[str, tuple[float, Client | None]] = {}
        self._origins: tuple[float, frozenset[str]] = (float("-inf"), frozenset())

    def add(
        self,
        name: str,
        organization: str,
        scope: str,
        role: str,
        practitioner: str | None = None,
        jwks: Json | None = None,
        *,
        jwks_uri: str | None = None,
        client_id: str | None = None,
        origins: Iterable[str] = (),
        by: Actor | None = None,
    ) -> tuple[Client, Json | None]:
        """Register a client. Without `jwks` a new ES384 pair is made; its private half is returned and kept nowhere.

        Raises BadRequest for what cannot be registered, Conflict where `client_id` is taken.
        """
        private: Json | None = None
        if jwks is None:
            private, public = keys.new_key()
            jwks = {"keys": [public]}
        record = ClientRecord(
            client_id=client_id or f"{registration.slug(name)}-{secrets.token_hex(6)}",
            name=name,
            organization=organization,
            scope=registration.system_scopes(scope),
            role=role,
            practitioner=practitioner,
            jwks=keys.checked_key_set(jwks),
            jwks_uri=jwks_uri,
            active=True,
            created=int(self._clock().timestamp()),
            origins=registration.origins(origins),
        )
        registration.check(record)
        with self._database.write() as connection:
            if queries.find_client(connection, record.client_id) is not None:
                raise Conflict("A client with this client_id exists", expression="client_id")
            queries.insert_client(connection, record)
            detail = (
                ("organization", organization), ("role", role), ("scope", record.scope),
                _row(connection, record.client_id),
            )  # fmt: skip
            self._record(connection, by, "client-add", record.client_id, *detail)
        self.forget(record.client_id)
        return client_of(record), private

    def find(self, client_id: str) -> Client | None:
        """The client as the database has it now, active or not."""
        if not CLIENT_ID.fullmatch(client_id):
            return None
        with self._database.read() as connection:
            record = queries.find_client(connection, client_id)
            return None if record is None else with_grants(connection, record, microseconds(self._clock()))

    def known(self, client_id: str) -> Client | None:
        """The same, at most `KNOWN_FOR_S` old."""
        now_s = self._clock().timestamp()
        at_s, client = self._known.get(client_id, (now_s + 1, None))
        if not 0 <= now_s - at_s < KNOWN_FOR_S:
            client = self.find(client_id)
            if len(self._known) >= MAX_KNOWN:  # names that nobody has are remembered too
                self._known.clear()
            self._known[client_id] = (now_s, client)
        return client

    def origins(self) -> frozenset[str]:
        """The web origins of all active clients, at most `KNOWN_FOR_S` old."""
        now_s = self._clock().timestamp()
        at_s, found = self._origins
        if not 0 <= now_s - at_s < KNOWN_FOR_S:
            with self._database.read() as connection:
                found = frozenset(queries.active_origins(connection, MAX_WITH_ORIGINS))
            self._origins = (now_s, found)
        return found

    def remembered_origins(self) -> frozenset[str]:
        """The same as last looked up, however long ago: nothing is asked of the database."""
        return self._origins[1]

    def list(self) -> list[Client]:
        """Every client, the oldest first."""
        with self._database.read() as connection:
            return [client_of(record) for record in queries.list_clients(connection)]

    def disable(self, client_id: str, by: Actor | None = None) -> Client:
        """Take all rights from a client, its issued tokens included. Again: nothing changes. Raises NotFound."""
        actor, now_s = by or self._system, int(self._clock().timestamp())
        return self._alter(
            client_id, by, "client-disable",
            lambda old: {} if not old.active else
            {"active": False, "disabled_at": now_s, "disabled_by": actor.name},
            revoke=True,
        )  # fmt: skip

    def enable(self, client_id: str, by: Actor | None = None) -> Client:
        """Give a client its rights again; the tokens of before stay revoked. Raises NotFound."""
        return self._alter(
            client_id, by, "client-enable",
            lambda old: {} if old.active else {"active": True, "disabled_at": None, "disabled_by": None},
        )  # fmt: skip

    def set_scope(self, client_id: str, scope: str, by: Actor | None = None) -> Client:
        """Set what a client may ask for; tokens with its former scopes are revoked. Raises BadRequest, NotFound."""
        wanted = registration.system_scopes(scope)
        return self._alter(
            client_id, by, "client-scope",
            lambda old: {} if old.scope == wanted else {"scope": wanted},
            ("scope", wanted), revoke=True,
        )  # fmt: skip

    def set_origins(self, client_id: str, origins: Iterable[str], by: Actor | None = None) -> Client:
        """Set the web origins of a client. Raises BadRequest, NotFound."""
        wanted = registration.origins(origins)
        text = " ".join(wanted)
        return self._alter(
            client_id, by, "client-origins",
            lambda old: {} if old.origins == wanted else {"origins": text},
            ("origins", text),
        )  # fmt: skip

    def revoke_tokens(self, client_id: str, by: Actor | None = None) -> int:
        """Revoke all tokens of a client, which may fetch new ones; how many there were. Raises NotFound."""
        with self._database.write() as connection:
            self._required(connection, client_id)
            count = queries.revoke_tokens_of(connection, client_id, int(self._clock().timestamp()))
            self._record(connection, by, "client-revoke-tokens", client_id, ("count", str(count)))
        return count

    def forget(self, client_id: str) -> None:
        """Ask the database about this client, and about all origins, next time."""
        self._known.pop(client_id, None)
        self._origins = (float("-inf"), self._origins[1])

    def _alter(
        self,
        client_id: str,
        by: Actor | None,
        operation: str,
        change: Callable[[ClientRecord], dict[str, Any]],
        *detail: tuple[str, str],
        revoke: bool = False,
    ) -> Client:
        """Set the columns that `change` gives, and revoke the client's tokens where something changed and `revoke`."""
        with self._database.write() as connection:
            values = change(self._required(connection, client_id))
            if values:
                queries.update_client(connection, client_id, **values)
                if revoke:
                    queries.revoke_tokens_of(connection, client_id, int(self._clock().timestamp()))
            # Of a row that was not changed, and so is not held, another may be about to say something else.
            told = (("changed", "yes"), _row(connection, client_id)) if values else (("changed", "no"),)
            self._record(connection, by, operation, client_id, *detail, *told)
            altered = self._required(connection, client_id)
        self.forget(client_id)
        return client_of(altered)

    def _required(self, connection: Connection, client_id: str) -> ClientRecord:
        record = queries.find_client(connection, client_id) if CLIENT_ID.fullmatch(client_id) else None
        if record is None:
            raise NotFound("No such client")
        return record

    def _record(
        self, connection: Connection, by: Actor | None, operation: str, client_id: str, *detail: tuple[str, str]
    ) -> None:
        actor = by or self._system
        access = Access(
            Interaction.ADMIN, detail=(("operation", operation), ("client_id", client_id), *actor.detail, *detail)
        )
        self._trail.append(connection, actor.caller, [access], self._clock())


def _row(connection: Connection, client_id: str) -> tuple[str, str]:
    """What the record of a change says of the client's row."""
    return "row", next(digest for _, digest in queries.client_rows(connection, client_id))


def client_of(record: ClientRecord) -> Client:
    """The client of a row. Raises ValueError where its scopes are damaged."""
    return Client(record, scopes.parse_all(record.scope))


def with_grants(connection: Connection, record: ClientRecord, now_us: int) -> Client:
    """The client of a row, with what was granted to it."""
    held = of_holder(connection, record.client_id, record.organization, record.practitioner, now_us)
    return replace(client_of(record), grants=held) if held else client_of(record)
