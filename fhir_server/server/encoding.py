"""Content codings of JSON answers: br or gzip where the client asks and it is worth it.

One mechanism for all facades, at the threshold, so that every server gives the same. An ETag
becomes (or stays) weak, since the bytes are others; a Range counts bytes of what is stored, so nothing is encoded then.

RFC 9110 §8.4, §12.5.3 (Accept-Encoding), §12.5.5 (Vary)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Protocol

import brotli
from werkzeug.http import parse_list_header, parse_options_header

Environ = dict[str, Any]
Headers = list[tuple[str, str]]

FROM_BYTES = 1024
"""Shorter answers gain nothing."""
_JSON = frozenset({"application/fhir+json", "application/dicom+json", "application/json"})
_LEVEL = 1
"""Of either: nearly as small as the next three levels on FHIR and DICOM JSON, in half the time."""


def encoded(environ: Environ, status: str, headers: Headers, result: Iterable[bytes]) -> Iterable[bytes]:
    """The answer in the coding that the request asks for; `headers` say so afterwards, and on what that depends."""
    if not _is_json(headers):
        return result
    _vary(headers)
    accepted = environ.get("HTTP_ACCEPT_ENCODING")
    coding = None if accepted is None or "HTTP_RANGE" in environ else chosen(accepted)
    if coding is None or not _is_worth_it(status, headers):
        return result
    length = None
    if environ["REQUEST_METHOD"] != "HEAD":
        result, length = _encoded(result, coding)
    _describe(headers, coding, length)
    return result


@lru_cache(maxsize=256)
def chosen(accepted: str) -> str | None:
    """The coding for this Accept-Encoding: br, gzip, or None for none of them. What is malformed asks for nothing."""
    weights: dict[str, float] = {}
    for item in parse_list_header(accepted):
        name, parameters = parse_options_header(item)
        try:
            weights[name.lower()] = float(parameters.get("q", "1"))
        except ValueError:
            return None
    rest = weights.get("*", 0.0)
    identity = weights.get("identity", weights.get("*", 1e-9))
    best = max(("br", "gzip"), key=lambda coding: weights.get(coding, rest))
    weight = weights.get(best, rest)
    return best if weight > 0 and weight >= identity else None


def _is_json(headers: Headers) -> bool:
    for name, value in headers:
        if name in ("Content-Type", "content-type"):
            return value in _JSON or value.partition(";")[0].strip().lower() in _JSON
    return False


def _is_worth_it(status: str, headers: Headers) -> bool:
    if status.startswith("206"):
        return False
    found = {name.lower(): value for name, value in headers}
    return "content-encoding" not in found and int(found.get("content-length", FROM_BYTES)) >= FROM_BYTES


def _vary(headers: Headers) -> None:
    """Say that the answer depends on Accept-Encoding (RFC 9110 §12.5.5)."""
    for index, (name, value) in enumerate(headers):
        if name.lower() == "vary":
            if "accept-encoding" not in value.lower():
                headers[index] = (name, f"{value}, Accept-Encoding")
            return
    headers.append(("Vary", "Accept-Encoding"))


def _describe(headers: Headers, coding: str, length: int | None) -> None:
    kept = []
    for name, value in headers:
        lower = name.lower()
        if lower == "etag" and not value.startswith("W/"):
            kept.append((name, f"W/{value}"))
        elif lower != "content-length":
            kept.append((name, value))
    kept.append(("Content-Encoding", coding))
    if length is not None:
        kept.append(("Content-Length", str(length)))
    headers[:] = kept


class _Packer(Protocol):
    def process(self, data: bytes, /) -> bytes: ...

    def finish(self) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        self.process, self._flush = packer.compress, packer.flush

    def finish(self) -> bytes:
        return self._flush()


def _packer(coding: str) -> _Packer:
    if coding == "gzip":
        return _Gzip()
    packer: _Packer = brotli.Compressor(quality=_LEVEL)
    return packer


def packed(body: bytes, coding: str) -> bytes:
    """The whole of an answer, encoded."""
    packer = _packer(coding)
    return packer.process(body) + packer.finish()


def _encoded(result: Iterable[bytes], coding: str) -> tuple[Iterable[bytes], int | None]:
    """The encoded answer, and its length where it is in one piece."""
    if type(result) is list:
        body = packed(b"".join(result), coding)
        return [body], len(body)
    return _Stream(result, _packer(coding)), None


class _Stream:
    """Encodes a long answer piece by piece, in constant memory."""

    def __init__(self, result: Iterable[bytes], packer: _Packer) -> None:
        self._result, self._packer = result, packer

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._result:
            if packed := self._packer.process(piece):
                yield packed
        yield self._packer.finish()

    def close(self) -> None:
        getattr(self._result, "close", lambda: None)()

