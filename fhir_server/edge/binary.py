"""Binary: the one resource that is also served and taken as the bytes that it holds.

FHIR R4 http://hl7.org/fhir/R4/binary.html#rest
"""

from __future__ import annotations

import base64
import re

from fhir_server.edge.exchange import Answer, version_headers
from fhir_server.edge.negotiation import names_fhir_json
from resources import media_types
from resources.json import Json
from resources.outcomes import UnsupportedMediaType
from store.access import Version

_MEDIA_TYPE = re.compile(r"^[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}$")

# A stranger's bytes are never run by a browser under our origin (stored XSS): they are saved, not shown.
_GUARDS = (
    ("Content-Disposition", "attachment"),
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
)


def wants_bytes(accept: str | None, format_parameter: str | None) -> bool:
    """Whether the client asks for the content itself rather than for the FHIR resource."""
    if format_parameter:
        return False
    return not names_fhir_json(accept or "*/*")


def as_bytes(version: Version) -> Answer:
    """The content of a Binary under its own media type."""
    resource = version.json()
    content = base64.b64decode(resource.get("data", ""))
    media_type = resource.get("contentType", "application/octet-stream")
    return Answer(200, content, (*version_headers(version), *_GUARDS), media_type)


def of_bytes(content: bytes, content_type: str | None, security_context: str | None) -> Json:
    """The Binary that a body of any other media type makes."""
    if not _MEDIA_TYPE.match(media_types.parse(content_type).type):
        raise UnsupportedMediaType("Content-Type must name the media type of the content")
    resource: Json = {"resourceType": "Binary", "contentType": content_type}
    if security_context:
        resource["securityContext"] = {"reference": security_context}
    resource["data"] = base64.b64encode(content).decode("ascii")
    return resource
