"""Registered clients: machines of an organisation, their scopes and their public keys.

Registration is an act of the operator and goes on record with the row itself. A client belongs to exactly one
organisation and can never have more than its registered system scopes.

RFC 7591 has the vocabulary, SMART 2.2 §Registering a Client the demands
https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from auth import keys, purposes, queries, scopes
from auth.queries import ClientRecord
from resources.json import Json
from resources.outcomes import BadRequest, Conflict
from store.access import Access, Caller, Interaction, Trail
from store.engine.database import Database

Clock = Callable[[], datetime]

AUTH_METHOD = "private_key_jwt"
GRANT_TYPE = "client_credentials"
KNOWN_FOR_S = 5.0
"""How long a process may go by what it knew of a client: a deactivation takes effect within this."""

MAX_KNOWN = 10_000

CLIENT_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)
_LOGICAL_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_PRACTITIONER = re.compile(r"Practitioner/[A-Za-z0-9\-.]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Client:
    """A registered client, as Authlib asks of one (its `ClientMixin`, without its exact-string scopes)."""

    record: ClientRecord
    scopes: tuple[scopes.Scope, ...]

    @property
    def client_id(self) -> str:
        return self.record.client_id

    @property
    def active(self) -> bool:
        return self.record.active

    @property
    def organization(self) -> str:
        return self.record.organization

    @property
    def role(self) -> str:
        return self.record.role

    @property
    def practitioner(self) -> str | None:
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

    def caller(
        self, *, scope: str, token_ref: str | None = None, address: str = "", request_id: str = ""
    ) -> Caller:
        """The Caller that this client is, with these granted scopes."""
        return Caller(
            client_id=self.record.client_id,
            organization=self.record.organization,
            scopes=frozenset(scope.split()),
            role=self.record.role,
            practitioner=self.record.practitioner,
            token_ref=token_ref,
            address=address,
            request_id=request_id,
            purpose=purposes.of_role(self.record.role),
        )


class Clients:
    """The registered clients: add, find, list, deactivate."""

    def __init__(self, database: Database, *, trail: Trail, clock: Clock, platform: str) -> None:
        self._database = database
        self._trail = trail
        self._clock = clock
        self._platform = platform
        self._known: dict[str, tuple[float, Client | None]] = {}

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
    ) -> tuple[Client, Json | None]:
        """Register a client. Without `jwks` a new ES384 pair is made; its private half is returned and kept nowhere.

        Raises BadRequest for what cannot be registered, Conflict where `client_id` is taken.
        """
        private: Json | None = None
        if jwks is None:
            private, public = keys.new_key()
            jwks = {"keys": [public]}
        now = self._clock()
        record = ClientRecord(
            client_id=client_id or f"{_slug(name)}-{secrets.token_hex(6)}",
            name=name,
            organization=organization,
            scope=scopes.text_of(_system_scopes(scope)),
            role=role,
            practitioner=practitioner,
            jwks=keys.checked_key_set(jwks),
            jwks_uri=jwks_uri,
            active=True,
            created=int(now.timestamp()),
        )
        _check(record)
        with self._database.write() as connection:
            if queries.find_client(connection, record.client_id) is not None:
                raise Conflict("A client with this client_id exists", expression="client_id")
            queries.insert_client(connection, record)
            access = self._access("client-add", record.client_id, (("organization", organization), ("role", role)))
            self._trail.append(connection, Caller.system(self._platform), [access], now)
        self._known.pop(record.client_id, None)
        return client_of(record), private

    def find(self, client_id: str) -> Client | None:
        """The client as the database has it now, active or not."""
        if not CLIENT_ID.fullmatch(client_id):
            return None
        with self._database.read() as connection:
            record = queries.find_client(connection, client_id)
        return None if record is None else client_of(record)

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

    def list(self) -> list[Client]:
        with self._database.read() as connection:
            return [client_of(record) for record in queries.list_clients(connection)]

    def deactivate(self, client_id: str) -> bool:
        """Take all rights from a client, its issued tokens included; False if there is no such active client."""
        if not CLIENT_ID.fullmatch(client_id):
            return False
        with self._database.write() as connection:
            changed = queries.deactivate_client(connection, client_id)
            if changed:
                access = self._access("client-deactivate", client_id)
                self._trail.append(connection, Caller.system(self._platform), [access], self._clock())
        self._known.pop(client_id, None)
        return changed

    def _access(self, operation: str, client_id: str, detail: tuple[tuple[str, str], ...] = ()) -> Access:
        return Access(Interaction.ADMIN, detail=(("operation", operation), ("client_id", client_id), *detail))


def client_of(record: ClientRecord) -> Client:
    return Client(record, scopes.parse_all(record.scope))


def _system_scopes(text: str) -> tuple[scopes.Scope, ...]:
    try:
        parsed = scopes.parse_all(text)
    except scopes.MalformedScope as error:
        raise BadRequest(str(error), expression="scope") from error
    if not parsed or any(scope.level != "system" for scope in parsed):
        raise BadRequest("A machine has system scopes, at least one, and no other", expression="scope")
    return parsed


def _check(record: ClientRecord) -> None:
    if not CLIENT_ID.fullmatch(record.client_id):
        raise BadRequest("client_id is 1 to 128 of A-Z a-z 0-9 . _ ~ -", expression="client_id")
    if not 1 <= len(record.name) <= 200 or not record.name.isprintable():
        raise BadRequest("name is 1 to 200 printable characters", expression="name")
    if not _LOGICAL_ID.fullmatch(record.organization):
        raise BadRequest("organization is the logical id of an Organization", expression="organization")
    if len(record.role) > 100 or not record.role.isprintable():
        raise BadRequest("role is at most 100 printable characters", expression="role")
    if record.practitioner is not None and not _PRACTITIONER.fullmatch(record.practitioner):
        raise BadRequest("practitioner is a reference Practitioner/id", expression="practitioner")
    if record.jwks_uri is not None and urlsplit(record.jwks_uri).scheme != "https":
        raise BadRequest("jwks_uri is an https URL", expression="jwks_uri")


def _slug(name: str) -> str:
    kept = "".join(character if character.isascii() and character.isalnum() else "-" for character in name.lower())
    return "-".join(part for part in kept.split("-") if part)[:40] or "client"
