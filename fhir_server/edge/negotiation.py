"""Request headers and general parameters as values: text in, values out, no Flask.

FHIR R4 §3.1.0.1.10 content types, §3.1.0.1.5 `_format`, §3.1.0.5 concurrency, §3.1.0.1.7 Prefer.
http://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

from resources import media_types
from resources.media_types import MediaType, accepted
from resources.outcomes import BadRequest, NotAcceptable, UnsupportedMediaType

FHIR_JSON = "application/fhir+json"
_JSON = {"application/fhir+json", "application/json", "text/json", "application/json+fhir", "json"}
_WILD = {"*/*", "application/*"}
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ETAG = re.compile(r'^(?:W/)?"?([0-9]{1,18})"?$')


@dataclass(frozen=True, slots=True)
class Preference:
    """What `Prefer` asks: ``returns`` is minimal, representation or OperationOutcome; ``lenient`` is handling."""

    returns: str = "representation"
    lenient: bool = False


def accepted_format(accept: str | None, format_parameter: str | None) -> str:
    """The media type of the answer: JSON, or NotAcceptable (406). `_format` overrides Accept."""
    if format_parameter:
        wanted = format_parameter.strip().replace(" ", "+")
        if _is_json(media_types.parse(wanted)):
            return FHIR_JSON
        raise NotAcceptable("_format: this server answers in application/fhir+json")
    if not accept or _takes_json(accept):
        return FHIR_JSON
    raise NotAcceptable("Accept: this server answers in application/fhir+json (fhirVersion 4.0)")


@lru_cache(maxsize=256)
def _takes_json(accept: str) -> bool:
    if not accept.strip():
        return True
    return any(_is_json(wanted) or (wanted.type in _WILD and _version_fits(wanted)) for wanted in accepted(accept))


def accepts(accept: str | None, media_type: str) -> bool:
    """Whether Accept (or `_format`) has a range that takes this media type (RFC 9110 §12.5.1)."""
    wanted = media_types.parse(media_type).type
    return not (accept or "").strip() or any(
        one.type in (wanted, wanted.partition("/")[0] + "/*", "*/*") for one in accepted(accept)
    )


def holds(if_none_match: str | None, tag: str) -> bool:
    """Whether If-None-Match names this entity tag, compared weakly (RFC 9110 §13.1.2)."""
    tags = [one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")]
    return "*" in tags or tag.removeprefix("W/") in tags


def is_fhir_json(content_type: str | None) -> bool:
    """Whether a body of this media type is FHIR JSON (of R4)."""
    return _is_json(media_types.parse(content_type))


def names_fhir_json(accept: str) -> bool:
    """Whether a field Accept names FHIR JSON, and not by a wildcard alone."""
    return any(_is_json(wanted) for wanted in accepted(accept))


def require_fhir_json(content_type: str | None) -> None:
    """UnsupportedMediaType (415) unless the body says that it is FHIR JSON of R4."""
    if not is_fhir_json(content_type):
        raise UnsupportedMediaType("Content-Type must be application/fhir+json (fhirVersion 4.0)")
    charset = media_types.parse(content_type).parameters.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType("FHIR JSON is UTF-8")


def preference(prefer: str | None) -> Preference:
    """Parse `Prefer` (RFC 7240); what is unknown is ignored, as the RFC asks."""
    returns, lenient = "representation", False
    for item in re.split(r"[,;]", prefer or ""):
        name, _, value = item.strip().partition("=")
        value = value.strip().strip('"')
        if name.strip().lower() == "return" and value in ("minimal", "representation", "OperationOutcome"):
            returns = value
        elif name.strip().lower() == "handling":
            lenient = value.lower() == "lenient"
    return Preference(returns, lenient)


def if_match(header: str | None) -> int | None:
    """The version that If-Match names; BadRequest (400) where it is not an ETag of ours. `*`: None."""
    if header is None or header.strip() == "*":
        return None
    found = _ETAG.match(header.strip())
    if not found:
        raise BadRequest('If-Match must be a version ETag such as W/"3"')
    return int(found[1])


@dataclass(frozen=True, slots=True)
class Precondition:
    """What must hold before a write (RFC 9110 §13.1)."""

    if_match: int | None = None
    """The version that must be current."""
    only_existing: bool = False
    """If-Match: `*`: there must be a current representation. A deleted resource has none."""
    only_new: bool = False
    """If-None-Match: `*`: there must be none."""


NO_CONDITION = Precondition()


def precondition(match: str | None, none_match: str | None) -> Precondition:
    """The headers If-Match and If-None-Match of a write. BadRequest (400) where If-Match is no ETag of ours."""
    if match is None and none_match is None:
        return NO_CONDITION
    only_existing = match is not None and match.strip() == "*"
    only_new = none_match is not None and none_match.strip() == "*"
    return Precondition(if_match(match), only_existing, only_new)


def not_modified(
    version: int, last_updated: datetime, if_none_match: str | None, if_modified_since: str | None
) -> bool:
    """Whether a conditional read answers 304 (R4 §3.1.0.1.5; If-None-Match wins, RFC 9110 §13.2.2)."""
    if if_none_match is not None:
        tags = [tag.strip() for tag in if_none_match.split(",")]
        return any(tag == "*" or ((m := _ETAG.match(tag)) is not None and int(m[1]) == version) for tag in tags)
    if if_modified_since:
        try:
            since = parsedate_to_datetime(if_modified_since)
        except ValueError:
            return False
        if since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        return last_updated.replace(microsecond=0) <= since
    return False


def etag(version: int) -> str:
    """The weak ETag of a version (R4 §3.1.0.1)."""
    return f'W/"{version}"'


def http_date(instant: datetime) -> str:
    """An aware UTC time as IMF-fixdate (RFC 9110 §5.6.7)."""
    day, month = _DAYS[instant.weekday()], _MONTHS[instant.month - 1]
    time = f"{instant.hour:02}:{instant.minute:02}:{instant.second:02}"
    return f"{day}, {instant.day:02} {month} {instant.year:04} {time} GMT"


def _is_json(kind: MediaType) -> bool:
    return kind.type in _JSON and _version_fits(kind)


def _version_fits(kind: MediaType) -> bool:
    version = kind.parameters.get("fhirversion")
    return version is None or version == "4.0" or version.startswith("4.0.")
