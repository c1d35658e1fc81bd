"""How an answer is written: media types, ranges, multipart bodies, warnings and what caches may keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flask import Response, request

from dicomweb import multipart, xml
from dicomweb.media_types import DICOM_JSON, DICOM_XML, Choice
from dicomweb.multipart import Part
from dicomweb.wado import Payload
from resources.json import Json


def headed(response: Response, cache: str = "private, max-age=60") -> Response:
    """With what caches may do, and on what the answer depends."""
    response.headers["Cache-Control"] = cache
    response.headers["Vary"] = "Accept, Authorization"
    return response


def answer(body: bytes, content_type: str, status: int = 200) -> Response:
    """A body in one piece."""
    return Response(body, status=status, content_type=content_type)


def warned(response: Response, texts: Iterable[str]) -> Response:
    """With a Warning for each of what was asked and not done (PS3.18 §8.3)."""
    for text in texts:
        response.headers.add("Warning", f'299 Vigie "{text}"')
    return response


def dicom_json(body: bytes) -> Response:
    """application/dicom+json, spelled without charset: a client compares it letter for letter."""
    return answer(body, DICOM_JSON)


def dicom_json_stream(pieces: Iterator[bytes]) -> Response:
    """A long answer in constant memory."""
    return Response(pieces, content_type=DICOM_JSON)


def xml_parts(objects: Sequence[Json]) -> Response:
    """Each object in the native model (PS3.19 §A.1), as parts."""
    parts = []
    for one in objects:
        body = xml.native_model(one)
        parts.append(Part(DICOM_XML, [body], len(body)))
    return parts_of(parts, DICOM_XML, parts)


def frames_of(payloads: list[Payload], choice: Choice) -> Response:
    """Frames: one alone where the client asks for no multipart, else as parts (PS3.18 §8.7.3)."""
    kind = f"{choice.type}; transfer-syntax={choice.transfer_syntax}"
    if not choice.multipart and len(payloads) == 1:
        return single(payloads[0], kind)
    parts = [Part(kind, payload.chunks, payload.size_bytes) for payload in payloads]
    return parts_of(parts, choice.type, parts)


def single(payload: Payload, content_type: str) -> Response:
    """One part alone, or the range of its bytes that is asked for (RFC 9110 §14)."""
    size = payload.size_bytes
    asked = _asked_range(size)
    first, end = asked or (0, size)
    if asked is not None and first >= end:
        return Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    response = Response(payload.bytes_of(first, end), content_type=content_type)
    response.content_length = end - first
    response.headers["Accept-Ranges"] = "bytes"
    if asked is not None:
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    response.headers["Content-Disposition"] = "attachment"
    return headed(response)


def _asked_range(size: int) -> tuple[int, int] | None:
    """First byte, and the one after the last; an empty range where what is asked lies beyond the end.

    None: the whole. Several ranges, units that are not bytes and a condition (these answers have no validator) count
    as no range.
    """
    asked = request.range
    if request.method != "GET" or asked is None or "If-Range" in request.headers:
        return None
    if asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    return asked.range_for_length(size) or (size, size)


def parts_of(parts: Iterable[Part], kind: str, sized: Sequence[Part] | None, *, status: int = 200) -> Response:
    """multipart/related (RFC 2387); its length where that of all parts is known (`sized`)."""
    boundary = multipart.new_boundary()
    response = Response(
        multipart.write(boundary, parts), status=status,
        content_type=f'multipart/related; type="{kind}"; boundary={boundary}',
    )
    size = multipart.length(boundary, sized) if sized is not None else None
    if size is not None:
        response.content_length = size
    return headed(response)
