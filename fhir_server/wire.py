"""A request of Flask as plain values, and an `Answer` as a response of Flask: what only the HTTP edge touches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from flask import Response, request

from fhir_server.exchange import Answer
from resources.outcomes import Malformed, TooLarge, UnsupportedMediaType

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

RAW_LENGTH = 8000
"""Characters of a request line that the audit record keeps."""


def read_body(limit: int) -> bytes:
    """The request body; TooLarge (413) beyond `limit` bytes, whatever Content-Length says."""
    if request.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise UnsupportedMediaType("Content-Encoding is not supported on requests")
    if (request.content_length or 0) > limit:
        raise TooLarge(f"A body holds at most {limit} bytes here")
    body = request.stream.read(limit + 1)
    if len(body) > limit:
        raise TooLarge(f"A body holds at most {limit} bytes here")
    return body


def respond(answer: Answer) -> Response:
    headers = [*answer.headers, ("Cache-Control", "private" if answer.status == 304 else "no-store")]
    response = WholeResponse(answer.body, answer.status, headers, content_type=answer.content_type)
    if answer.status in (204, 304):  # no content, so no words about it (RFC 9110 §15.3.5, §15.4.5)
        del response.headers["Content-Type"], response.headers["Content-Length"]
    return response


class WholeResponse(Response):
    """A response whose body is all there: handed to the server in one piece, not iterated over."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(self.status, self.headers.to_wsgi_list())
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else self.get_data()]


class Headers(Mapping[str, str]):
    """The request's headers by lower-case name, looked up where they are (PEP 3333), not copied."""

    __slots__ = ("_environ",)

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        key = name.upper().replace("-", "_")
        return self._environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key]

    def __iter__(self) -> Iterator[str]:
        return (key[5:].lower().replace("_", "-") for key in self._environ if key.startswith("HTTP_"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def pairs(text: bytes) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=500))
    except (UnicodeDecodeError, ValueError):
        raise Malformed("The parameters are not percent-encoded UTF-8") from None


def raw() -> str:
    """The request line as received, for the audit record."""
    query = request.query_string.decode("ascii", "replace")
    text = f"{request.method} {request.path}?{query}" if query else f"{request.method} {request.path}"
    return text[:RAW_LENGTH]
