"""What may be registered of a client: names, references, scopes, web origins. Pure.

RFC 7591 has the vocabulary, SMART 2.2 §Registering a Client the demands
https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from auth import scopes
from auth.queries import ClientRecord
from resources.outcomes import BadRequest

CLIENT_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)
MAX_ORIGINS = 16
"""Web origins of one client."""
_LOGICAL_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_PRACTITIONER = re.compile(r"Practitioner/[A-Za-z0-9\-.]{1,64}", re.ASCII)
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*|\[[0-9a-f:.]+\]", re.ASCII)
_DEFAULT_PORT = {"http": 80, "https": 443}


def check(record: ClientRecord) -> None:
    """Raise BadRequest, naming the member, for a record that cannot be registered."""
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


def system_scopes(text: str) -> str:
    """Scopes of a machine in their canonical text. Raises BadRequest."""
    try:
        parsed = scopes.parse_all(text)
    except scopes.MalformedScope as error:
        raise BadRequest(str(error), expression="scope") from error
    if not parsed or any(scope.level != "system" for scope in parsed):
        raise BadRequest("A machine has system scopes, at least one, and no other", expression="scope")
    return scopes.text_of(parsed)


def origins(texts: Iterable[str]) -> tuple[str, ...]:
    """Web origins as browsers send them (RFC 6454 §6.2), each once, in order. Raises BadRequest."""
    found = tuple(dict.fromkeys(_origin(text) for text in texts))
    if len(found) > MAX_ORIGINS:
        raise BadRequest(f"A client has at most {MAX_ORIGINS} origins", expression="origins")
    return found


def slug(name: str) -> str:
    """A name as the begin of a client_id."""
    kept = "".join(character if character.isascii() and character.isalnum() else "-" for character in name.lower())
    return "-".join(part for part in kept.split("-") if part)[:40] or "client"


def _origin(text: str) -> str:
    wrong = BadRequest(
        "An origin is scheme://host or scheme://host:port and nothing else: https, or http on this machine",
        expression="origins",
    )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise wrong from error
    scheme, host = parts.scheme, (parts.hostname or "").lower()
    shown = f"[{host}]" if ":" in host else host
    exact = f"{scheme}://{shown}" + ("" if port in (None, _DEFAULT_PORT.get(scheme)) else f":{port}")
    written = f"{scheme}://{shown}" + ("" if port is None else f":{port}")
    if scheme not in _DEFAULT_PORT or not _HOST.fullmatch(shown) or text.lower() != written:
        raise wrong
    if scheme == "http" and not _is_loopback(host):
        raise wrong
    return exact


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
