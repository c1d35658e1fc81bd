"""Binary: the one resource that is also served and taken as the bytes that it holds.

FHIR R4 http://hl7.org/fhir/R4/binary.html#rest
"""

from __future__ import annotations

import base64
import re

from fhir_server.edge.exchange import Answer, version_headers
from fhir_server.edge.negotiation import accepts, names_fhir_json
from resources import media_types
from resources.json import Json
from resources.outcomes import NotAcceptable, UnsupportedMediaType
from store.access import Version

_MEDIA_TYPE = re.compile(r"^[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}$")

# A stranger's bytes are never run by a browser under our origin (stored XSS): they are saved, not shown.
_GUARDS = (
    ("Content-Disposition", "attachment"),
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
)


def wants_bytes(accept: str | None, format_parameter: str | None) -> bool:
    """Whether the client asks for the content itself rather than for the FHIR resource. `_format` overrides Accept."""
    return not names_fhir_json(format_parameter or accept or "*/*")


def as_bytes(version: Version, accept: str | None) -> Answer:
    """The content of a Binary under its own media type. NotAcceptable (406) where the client does not take that."""
    resource = version.json()
    media_type = _media_type(resource.get("contentType", ""))
    if not accepts(accept, media_type):
        raise NotAcceptable("The content is of another media type than is accepted")
    content = base64.b64decode(resource.get("data", ""))
    return Answer(200, content, (*version_headers(version), *_GUARDS), media_type)


def _media_type(code: str) -> str:
    """What a stored `contentType` says in a header: octets where it is no media type."""
    good = code.isascii() and code.isprintable() and _MEDIA_TYPE.match(media_types.parse(code).type)
    return code if good else "application/octet-stream"


def of_bytes(content: bytes, content_type: str | None, security_context: str | None) -> Json:
    """The Binary that a body of any other media type makes."""
    if not _MEDIA_TYPE.match(media_types.parse(content_type).type):
        raise UnsupportedMediaType("Content-Type must name the media type of the content")
    resource: Json = {"resourceType": "Binary", "contentType": content_type}
    if security_context:
        resource["securityContext"] = {"reference": security_context}
    resource["data"] = base64.b64encode(content).decode("ascii")
    return resource
