"""The FHIR edge's HTTP, straight on WSGI (PEP 3333): the environment as a `Request`, an `Answer` as a response.

The edge is one view behind one path with a router of its own (`routes`), so Flask's URL map, contexts and proxies would
do nothing for it but take a third of the time of a read; Flask serves everything else (`app`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from werkzeug.wsgi import get_input_stream

from auth.guard import RECORDING, raw_request
from fhir_server.edge.exchange import Answer
from resources.budgets import PARAMETERS
from resources.outcomes import Malformed, TooLarge, UnsupportedMediaType
from store.access import Recording

Environ = dict[str, Any]

ROUTE_KIND = "vigie.route_kind"
"""Key of the WSGI environment under which whoever routes a request says which of the known kinds it is: for the log
and the metrics, hence a name out of a table, never a part of the path."""
_NO_CONTENT = frozenset({204, 304})
_STATUS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class Headers(Mapping[str, str]):
    """The request's headers by lower-case name, looked up where they are (PEP 3333), not copied."""

    __slots__ = ("_environ",)

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        return self._environ[_key(name)]

    def get(self, name: str, default: Any = None) -> Any:
        """The header by its lower-case name, or `default`."""
        return self._environ.get(_KEYS.get(name) or _key(name), default)

    def __iter__(self) -> Iterator[str]:
        return (key[5:].lower().replace("_", "-") for key in self._environ if key.startswith("HTTP_"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _key(name: str) -> str:
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


_KEYS = {
    name: _key(name)
    for name in ("accept", "prefer", "if-match", "if-none-match", "if-modified-since", "if-none-exist", "content-type")
}


class Request:
    """What was asked, as the server handed it over."""

    __slots__ = ("environ", "headers", "method", "path", "query")

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        path: str = environ["PATH_INFO"]
        self.path = path if path.isascii() else path.encode("latin-1").decode("utf-8", "replace")
        """Percent-decoded."""
        self.query: str = environ.get("QUERY_STRING", "")
        """As it was sent, percent-encoded."""
        self.headers = Headers(environ)

    @property
    def base(self) -> str:
        """The public base that the client used (`threshold` has seen to it that it is one of ours)."""
        return f"{self.environ['wsgi.url_scheme']}://{self.environ['HTTP_HOST']}"

    @property
    def recording(self) -> Recording:
        """Where the record of this request is kept until it is settled; its own where nobody settles it."""
        found: Recording | None = self.environ.get(RECORDING)
        if found is None:
            found = self.environ[RECORDING] = Recording(raw_request(self.environ))
        return found

    def parameters(self) -> tuple[tuple[str, str], ...]:
        """The query, decoded."""
        return pairs(self.query.encode("latin-1", "replace")) if self.query else ()

    def body(self, limit: int) -> bytes:
        """The request body; TooLarge (413) beyond `limit` bytes, whatever Content-Length says."""
        if self.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise UnsupportedMediaType.coding("Content-Encoding is not supported on requests")
        length = self.environ.get("CONTENT_LENGTH") or "0"
        if length.isascii() and length.isdigit() and int(length) > limit:
            raise TooLarge(f"A body holds at most {limit} bytes here")
        body = get_input_stream(self.environ).read(limit + 1)
        if len(body) > limit:
            raise TooLarge(f"A body holds at most {limit} bytes here")
        return body


def pairs(text: bytes) -> tuple[tuple[str, str], ...]:
    """The name, value pairs of a query or a form. BadRequest for too many, Malformed for what is no text."""
    PARAMETERS.check(text.count(b"&") + 1)
    try:
        return tuple(parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict"))
    except (UnicodeDecodeError, ValueError):
        raise Malformed("The parameters are not percent-encoded UTF-8") from None


def send(answer: Answer, method: str, start_response: Callable[..., object]) -> Iterable[bytes]:
    """Hand the answer to the server, in one piece."""
    status, body = answer.status, answer.body
    headers = list(answer.headers)
    if not any(name == "Cache-Control" for name, _ in headers):
        headers.append(("Cache-Control", "private" if status == 304 else "no-store"))
    if status not in _NO_CONTENT:  # no content, so no words about it (RFC 9110 §15.3.5, §15.4.5)
        headers += (("Content-Type", answer.content_type), ("Content-Length", str(len(body))))
    start_response(_STATUS[status], headers)
    return [b"" if method == "HEAD" else body]
