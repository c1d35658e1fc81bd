"""Headers as values. R4 §3.1.0.1 http://hl7.org/fhir/R4/http.html"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fhir_server.edge import binary, negotiation
from fhir_server.edge.negotiation import Preference
from resources.outcomes import BadRequest, NotAcceptable, UnsupportedMediaType

NOW = datetime(2026, 2, 14, 2, 14, 20, 123000, tzinfo=UTC)


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "",
        "*/*",
        "application/fhir+json",
        "application/json",
        "text/html, application/xml;q=0.9, */*;q=0.8",
        "application/fhir+json; fhirVersion=4.0",
        "application/fhir+xml, application/fhir+json;q=0.1",
    ],
)
def test_json_is_answered_to_whoever_takes_it(accept: str | None) -> None:
    """R4 §3.1.0.1.10."""
    assert negotiation.accepted_format(accept, None) == "application/fhir+json"


@pytest.mark.parametrize(
    ("accept", "parameter"),
    [
        ("application/fhir+xml", None),
        ("application/fhir+json; fhirVersion=5.0", None),
        ("application/json;q=0", None),
        ("application/fhir+json", "xml"),
        (None, "text/turtle"),
    ],
)
def test_what_the_server_does_not_speak_is_406(accept: str | None, parameter: str | None) -> None:
    """R4 §3.1.0.1.10: 406; `_format` overrides Accept (§3.1.0.1.11)."""
    with pytest.raises(NotAcceptable):
        negotiation.accepted_format(accept, parameter)


def test_format_with_an_unescaped_plus_is_understood() -> None:
    """A client that forgets to escape the plus sends a space (R4 §3.1.0.1.11)."""
    assert negotiation.accepted_format("application/xml", "application/fhir json") == "application/fhir+json"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/xml",
        "text/plain",
        None,
        "application/fhir+json; fhirVersion=3.0",
        "application/fhir+json; charset=latin-1",
    ],
)
def test_a_body_that_is_not_fhir_json_is_415(content_type: str | None) -> None:
    """R4 §3.1.0.1.8."""
    with pytest.raises(UnsupportedMediaType):
        negotiation.require_fhir_json(content_type)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("return=minimal", Preference("minimal", False)),
        ("handling=lenient", Preference("representation", True)),
        ("return=OperationOutcome; handling=strict", Preference("OperationOutcome", False)),
        ("respond-async, return=representation", Preference()),
        ("return=nonsense", Preference()),
        (None, Preference()),
    ],
)
def test_prefer_is_read_as_rfc_7240_says(header: str | None, expected: Preference) -> None:
    """R4 §3.1.0.1.7; what is unknown is ignored."""
    assert negotiation.preference(header) == expected


@pytest.mark.parametrize(("header", "version"), [('W/"3"', 3), ('"3"', 3), ("3", 3), ("*", None), (None, None)])
def test_if_match_names_a_version(header: str | None, version: int | None) -> None:
    """R4 §3.1.0.5."""
    assert negotiation.if_match(header) == version


@pytest.mark.parametrize("header", ['W/"x"', 'W/"1", W/"2"', "W/", '"-1"', "9" * 30])
def test_a_malformed_if_match_is_400(header: str) -> None:
    """R4 §3.1.0.5: a version that cannot be must not pass for one."""
    with pytest.raises(BadRequest):
        negotiation.if_match(header)


@pytest.mark.parametrize(
    ("none_match", "since", "fresh"),
    [
        ('W/"2"', None, True),
        ('W/"1"', None, False),
        ('W/"1", W/"2"', None, True),
        ("*", None, True),
        (None, "Sat, 14 Feb 2026 02:14:20 GMT", True),
        (None, "Sat, 14 Feb 2026 02:14:19 GMT", False),
        ('W/"1"', "Sat, 14 Feb 2027 02:14:20 GMT", False),
        (None, "nonsense", False),
    ],
)
def test_a_conditional_read_compares_whole_seconds(none_match: str | None, since: str | None, fresh: bool) -> None:
    """R4 §3.1.0.1.5, RFC 9110 §13.2.2: If-None-Match wins over If-Modified-Since."""
    assert negotiation.not_modified(2, NOW, none_match, since) is fresh


@pytest.mark.parametrize(
    ("code", "sent"),
    [
        ("application/pdf", "application/pdf"),
        ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("text/plain; a=\n1", "application/octet-stream"),
        ("text/plain; é=1", "application/octet-stream"),
        ("a b", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_a_stored_media_type_that_is_none_is_sent_as_octets(code: str, sent: str) -> None:
    """RFC 9110 §5.5: no control character in a field."""
    assert binary._media_type(code) == sent
