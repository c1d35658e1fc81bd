"""Routes of PS3.18 chapter 10 under /dicom-web: read the request into values, call one function, write the answer.

Every route exists twice: as the standard has it, and under ``/owners/{organization}`` for callers that see the studies
of several hospitals (docs/decisions/0006-images.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any
from urllib.parse import urlsplit

import orjson
from flask import Blueprint, Request, Response, request

from auth.guard import RECORDING, raw_request
from dicomweb import media_types, multipart, parameters, qido, query_keys, stow, uids, wado, xml
from dicomweb.attributes import Level
from dicomweb.batches import Origin
from dicomweb.disclosure import Disclosure
from dicomweb.ingest import Ingest
from dicomweb.media_types import DICOM, DICOM_JSON, DICOM_XML, OCTETS, Choice
from dicomweb.multipart import Part
from dicomweb.parameters import Asked
from dicomweb.pictures import PICTURES, blank, pick_frame, rendering_task, without_effect
from dicomweb.queries import Path
from dicomweb.status import http_status
from dicomweb.wado import Payload, Retrieval
from resources.budgets import QIDO_RESULTS
from resources.json import Json
from resources.outcomes import BadRequest, NotAcceptable, NotAllowed, NotFound, UnsupportedMediaType
from store.access import Access, Caller, Interaction, Recording

Guard = Callable[[Request], Caller]
_OWNER = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_BULK = re.compile(r"[0-9A-F]{8}(?:/\d{1,6}/[0-9A-F]{8}){0,32}")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
STORE_RETRY_AFTER_S = 5
JOINED_ROWS = 500
"""Metadata of more instances than these is streamed."""


def blueprint(
    guard: Guard, ingest: Ingest, disclosure: Disclosure, retrieval: Retrieval, *, public_bases: Sequence[str],
    max_request_bytes: int, spool: FilePath | None,
) -> Blueprint:
    """The DICOMweb service. `public_bases`: URLs of /dicom-web as clients know them."""
    views = _Views(guard, ingest, disclosure, retrieval, public_bases, max_request_bytes, spool)
    routes = Blueprint("dicomweb", __name__, url_prefix="/dicom-web")
    defined: dict[str, set[str]] = {}
    for rule, view, methods in views.table():
        for prefix in ("", "/owners/<owner>"):
            name = f"{view.__name__}{'-owner' if prefix else ''}-{rule}".replace("/", "_").replace(".", "_")
            routes.add_url_rule(prefix + rule, name, view, methods=methods, provide_automatic_options=False)
            defined.setdefault(prefix + rule, set()).update(methods)
    # A stranger hears 401 wherever he asks and by whatever method, and each refusal has its record.
    for number, (rule, known) in enumerate(defined.items()):
        others = [method for method in METHODS if method not in known and not (method == "HEAD" and "GET" in known)]
        view = views.wrong_method(known)
        routes.add_url_rule(rule, f"other-{number}", view, methods=others, provide_automatic_options=False)
    for number, rule in enumerate(("/", "/<path:rest>")):
        routes.add_url_rule(rule, f"nothing-{number}", views.nothing, methods=METHODS, provide_automatic_options=False)
    return routes


class _Views:
    def __init__(
        self, guard: Guard, ingest: Ingest, disclosure: Disclosure, retrieval: Retrieval, public_bases: Sequence[str],
        max_request_bytes: int, spool: FilePath | None,
    ) -> None:
        self._guard = guard
        self._ingest = ingest
        self._disclosure = disclosure
        self._retrieval = retrieval
        self._public_bases = public_bases
        self._max_request_bytes = max_request_bytes
        self._spool = str(spool) if spool else None

    def table(self) -> list[tuple[str, Callable[..., Response], list[str]]]:
        study = "/studies/<study>"
        series = f"{study}/series/<series>"
        instance = f"{series}/instances/<instance>"
        get = ["GET"]
        found: list[tuple[str, Callable[..., Response], list[str]]] = [
            ("/studies", self.store, ["POST"]),
            (study, self.store, ["POST"]),
            ("/studies", self.search_studies, get),
            ("/series", self.search_series, get),
            (f"{study}/series", self.search_series, get),
            ("/instances", self.search_instances, get),
            (f"{study}/instances", self.search_instances, get),
            (f"{series}/instances", self.search_instances, get),
            (f"{instance}/frames/<frames>", self.frames, get),
            (f"{instance}/frames/<frames>/rendered", self.rendered, get),
            (f"{instance}/frames/<frames>/thumbnail", self.thumbnail, get),
            (f"{instance}/bulkdata/<path:bulk>", self.bulkdata, get),
        ]
        for level in (study, series, instance):
            found += [
                (level, self.retrieve, get),
                (f"{level}/metadata", self.metadata, get),
                (f"{level}/rendered", self.rendered, get),
                (f"{level}/thumbnail", self.thumbnail, get),
            ]
        return found

    # Who asks, and for what

    def _enter(self, view: str, interaction: Interaction, what: str = "") -> tuple[Caller, Asked]:
        """The caller, and the parameters that this view declares; what the request is about is noted for its record,
        whatever becomes of it. BadRequest for a parameter that is not declared."""
        recording: Recording | None = request.environ.get(RECORDING)
        caller = self._guard(request)
        if recording is not None:
            detail = (("what", what),) if what else ()
            recording.propose(Access(interaction, "ImagingStudy", query=recording.request, detail=detail))
        return caller, parameters.read(view, request.args)

    def wrong_method(self, known: Iterable[str]) -> Callable[..., Response]:
        """The view of an address for the methods that it does not know (RFC 9110 §15.5.6)."""
        def refuse(**_: str) -> Response:
            self._guard(request)
            raise NotAllowed.but(known, "The method is not defined here")

        return refuse

    def nothing(self, rest: str = "") -> Response:
        """The view of every address that there is not."""
        self._guard(request)
        raise NotFound("No such address")

    # Store

    def store(self, study: str | None = None, owner: str | None = None) -> Response:
        """STOW-RS (§10.5)."""
        caller, asked = self._enter("store", Interaction.DICOM_STORE)
        if owner is not None and owner != caller.organization:
            raise NotFound("No such address to store to")
        if study is not None:
            uids.require(study, "StudyInstanceUID")
        form = media_types.json_or_xml(_accepted(asked)) or DICOM_JSON
        if request.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise UnsupportedMediaType.coding("A content encoding of the request is not taken")
        self._ingest.authorise(caller)
        bodies = stow.parts_of(
            _body(request), request.headers.get("Content-Type", ""), max_bytes=self._max_request_bytes,
            folder=self._spool,
        )
        origin = Origin("stow-rs", caller.client_id, caller.address)
        outcomes = stow.store(self._ingest, caller, origin, bodies, study)
        answer = stow.response(outcomes, self._base(None), study)
        body = xml.native_model(answer) if form == DICOM_XML else orjson.dumps(answer)
        response = _answer(body, form, http_status(outcomes))
        if response.status_code == 503:  # RFC 9110 §10.2.3: the same instances may be taken soon
            response.headers["Retry-After"] = str(STORE_RETRY_AFTER_S)
        return response

    # Search

    def search_studies(self, owner: str | None = None) -> Response:
        return self._search("search_studies", Level.STUDY, None, None, owner)

    def search_series(self, study: str | None = None, owner: str | None = None) -> Response:
        return self._search("search_series", Level.SERIES, study, None, owner)

    def search_instances(
        self, study: str | None = None, series: str | None = None, owner: str | None = None
    ) -> Response:
        return self._search("search_instances", Level.INSTANCE, study, series, owner)

    def _search(
        self, view: str, level: Level, study: str | None, series: str | None, owner: str | None
    ) -> Response:
        """QIDO-RS (§10.6)."""
        caller, asked = self._enter(view, Interaction.DICOM_QUERY)
        path = _path(study, series, owner=owner)
        form = media_types.json_or_xml(_accepted(asked))
        if form is None:
            raise NotAcceptable("Results are given as application/dicom+json or application/dicom+xml")
        query = query_keys.query(level, asked)
        limit = QIDO_RESULTS.value if query.limit is None else min(query.limit, QIDO_RESULTS.value)
        rows, more = self._disclosure.search(caller, query, path, limit, raw_request(request.environ))
        results = qido.results(rows, query, path, self._base(None), caller.organization)
        if not results:
            response = Response(status=204)
        elif form == DICOM_XML:
            response = _xml_parts(results)
        else:
            response = _json(orjson.dumps(results))
        return _headed(_warned(response, qido.warnings(query, more)))

    # Retrieve

    def retrieve(self, study: str, series: str | None = None, instance: str | None = None,
                 owner: str | None = None) -> Response:
        """Instances of a study or series, or one instance (§10.4)."""
        caller, asked = self._enter("retrieve", Interaction.DICOM_RETRIEVE, "instances")
        path, ranges = _path(study, series, instance, owner), _accepted(asked)
        _, rows = self._disclosure.retrieve(caller, path, "instances")
        alone = instance is not None
        chosen = [
            (row, choice) for row in rows
            if (choice := media_types.choose_instance(ranges, row.transfer_syntax_uid, alone_is_possible=alone))
        ]
        if not chosen:
            raise NotAcceptable("None of the representations asked for can be given")
        base = self._base(path.owner)
        if alone and not chosen[0][1].multipart:
            row, choice = chosen[0]
            payload = self._retrieval.instance(row, choice)
            return _single(payload, f"{DICOM}; transfer-syntax={choice.transfer_syntax}")
        kept, choices = [row for row, _ in chosen], [choice for _, choice in chosen]
        if alone:  # whether the pixels can be decoded is known before the headers are sent
            parts: Iterable[Part] = list(self._retrieval.instance_parts(kept, choices, base))
        else:
            parts = self._retrieval.instance_parts(kept, choices, base)
        size = None
        if all(choice.transfer_syntax == row.transfer_syntax_uid for row, choice in chosen):
            size = [
                Part(f"{choice.type}; transfer-syntax={choice.transfer_syntax}", (), row.size_bytes,
                     wado.address(base, row))
                for row, choice in chosen
            ]
        return _multipart(parts, DICOM, size, status=200 if len(chosen) == len(rows) else 206)

    def metadata(self, study: str, series: str | None = None, instance: str | None = None,
                 owner: str | None = None) -> Response:
        """Headers without bulk data (§10.4.1.1.2), from what was stored at ingest."""
        caller, asked = self._enter("metadata", Interaction.DICOM_RETRIEVE, "metadata")
        path = _path(study, series, instance, owner)
        form = media_types.json_or_xml(_accepted(asked))
        if form is None:
            raise NotAcceptable("Metadata is given as application/dicom+json or application/dicom+xml")
        _, rows = self._disclosure.retrieve(caller, path, "metadata", headers=True)
        base = self._base(path.owner)
        include = wado.included(asked["includefield"])
        tag = wado.etag(rows, base, f"{form} {' '.join(sorted(include or ()))}")
        if request.if_none_match.contains_weak(tag):
            response = Response(status=304)
        elif form == DICOM_XML:
            response = _xml_parts([orjson.loads(wado.header(row, base, include)) for row in rows])
        else:
            text = wado.metadata(rows, base, include)
            response = _json(b"".join(text)) if len(rows) <= JOINED_ROWS else _json_stream(text)
        response.set_etag(tag, weak=True)
        return _headed(response, "private, no-cache")

    def frames(self, study: str, series: str, instance: str, frames: str, owner: str | None = None) -> Response:
        """Frames by number, as byte ranges of the stored file (§10.4.1.1.5)."""
        caller, asked = self._enter("frames", Interaction.DICOM_RETRIEVE, "frames")
        path = _path(study, series, instance, owner)
        numbers = wado.frame_numbers(frames)
        row = self._disclosure.frames(caller, path)
        choice = media_types.choose_frames(_accepted(asked), row.transfer_syntax_uid)
        payloads = None if choice is None else self._retrieval.frames(row, numbers, choice)
        if choice is None or payloads is None:
            raise NotAcceptable("None of the representations asked for can be given")
        return _frames(payloads, choice)

    def bulkdata(self, study: str, series: str, instance: str, bulk: str, owner: str | None = None) -> Response:
        """The value that a BulkDataURI stands for (§10.4.1.1.3)."""
        caller, asked = self._enter("bulkdata", Interaction.DICOM_RETRIEVE, "frames")
        path = _path(study, series, instance, owner)
        if not _BULK.fullmatch(bulk):
            raise BadRequest("The path is not that of an attribute")
        row = self._disclosure.frames(caller, path)
        ranges = _accepted(asked)
        if wado.is_pixel_path(row, bulk):
            choice = media_types.choose_frames(ranges, row.transfer_syntax_uid)
            if choice is None:
                raise NotAcceptable("None of the representations asked for can be given")
            return _frames(self._retrieval.frames(row, list(range(1, row.frame_count + 1)), choice), choice)
        _, payload = self._retrieval.bulk(row, bulk)
        kind = "application/pdf" if bulk == "00420011" and row.sop_class_uid == ENCAPSULATED_PDF else OCTETS
        wanted = next((one for one in ranges if one.covers(kind) or one.type == OCTETS), None)
        if wanted is None:
            raise NotAcceptable("None of the representations asked for can be given")
        if wanted.multipart:
            return _multipart([Part(kind, payload.chunks, payload.size_bytes)], kind,
                              [Part(kind, (), payload.size_bytes)])
        return _single(payload, kind)

    def rendered(self, study: str, series: str | None = None, instance: str | None = None, frames: str | None = None,
                 owner: str | None = None) -> Response:
        """A picture of a frame, or of one that stands for the instance, series or study (§10.4.1.1.4)."""
        return self._picture("rendered", frames, study, series, instance, owner)

    def thumbnail(self, study: str, series: str | None = None, instance: str | None = None, frames: str | None = None,
                  owner: str | None = None) -> Response:
        """A small picture (§10.4.1.1.6). What has no pixels gets a blank one."""
        return self._picture("thumbnail", frames, study, series, instance, owner)

    def _picture(self, what: str, frames: str | None, study: str, series: str | None, instance: str | None,
                 owner: str | None) -> Response:
        caller, asked = self._enter(what, Interaction.DICOM_RETRIEVE, what)
        path, thumbnail = _path(study, series, instance, owner), what == "thumbnail"
        task = rendering_task(asked.values, thumbnail=thumbnail)
        kind, wanted = next(((k, one) for one in _accepted(asked) for k in PICTURES if one.covers(k)), ("", None))
        if wanted is None:
            raise NotAcceptable("Pictures are given as image/jpeg, image/png or image/gif")
        number = None if frames is None else wado.one_frame_number(frames)
        if path.instance is not None:
            rows: Sequence[Any] = [self._disclosure.frames(caller, path)]
        else:
            _, rows = self._disclosure.retrieve(caller, path, what)
        row, frame = pick_frame(rows, number)
        if row is None:
            if not thumbnail:
                raise NotAcceptable("There are no pixels to render")
            kind, body = "image/png", blank()
        else:
            body = self._retrieval.rendered(row, {**task, "frame": frame, "type": kind})
        part = Part(kind, [body], len(body))
        response = _multipart([part], kind, [part]) if wanted.multipart else _headed(_answer(body, kind))
        return _warned(response, without_effect(asked.values, kind))

    # The request

    def _base(self, owner: str | None) -> str:
        base = chosen_base(self._public_bases, request.host, f"{request.url_root.rstrip('/')}/dicom-web")
        return f"{base}/owners/{owner}" if owner else base


def _accepted(asked: Asked) -> tuple[media_types.Range, ...]:
    return media_types.accept(request.headers.get("Accept"), asked["accept"])


ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"


def chosen_base(bases: Sequence[str], host: str, requested: str) -> str:
    """The base that the client used, out of the configured ones; the request's own where none is configured.

    dicomweb-client for Python sends a Host header without the port, so the name alone has to do.
    """
    by_host = {urlsplit(base).netloc: base for base in reversed(bases)}
    by_name = {urlsplit(base).hostname: base for base in reversed(bases)}
    return by_host.get(host) or by_name.get(host.partition(":")[0]) or (bases[0] if bases else requested)


def _path(study: str | None, series: str | None = None, instance: str | None = None, owner: str | None = None) -> Path:
    """The UIDs of an address, each checked before any use."""
    for text, name in ((study, "StudyInstanceUID"), (series, "SeriesInstanceUID"), (instance, "SOPInstanceUID")):
        if text is not None:
            uids.require(text, name)
    return Path(study, series, instance, _owner(owner))


def _owner(owner: str | None) -> str | None:
    if owner is not None and not _OWNER.fullmatch(owner):
        raise NotFound("No such organization")
    return owner


def _body(received: Request) -> Any:
    """The body to its end: a chunked one has no Content-Length, and not every server marks it as terminated."""
    if received.content_length is None and "chunked" in received.headers.get("Transfer-Encoding", "").lower():
        return received.environ["wsgi.input"]
    return received.stream


# The answer


def _headed(response: Response, cache: str = "private, max-age=60") -> Response:
    response.headers["Cache-Control"] = cache
    response.headers["Vary"] = "Accept, Authorization"
    return response


def _answer(body: bytes, content_type: str, status: int = 200) -> Response:
    return Response(body, status=status, content_type=content_type)


def _warned(response: Response, texts: Iterable[str]) -> Response:
    """With a Warning for each of what was asked and not done (PS3.18 §8.3)."""
    for text in texts:
        response.headers.add("Warning", f'299 Vigie "{text}"')
    return response


def _json(body: bytes) -> Response:
    """application/dicom+json, spelled without charset: a client compares it letter for letter."""
    return _answer(body, DICOM_JSON)


def _json_stream(pieces: Iterator[bytes]) -> Response:
    """A long answer in constant memory."""
    return Response(pieces, content_type=DICOM_JSON)


def _xml_parts(objects: Sequence[Json]) -> Response:
    parts = []
    for one in objects:
        body = xml.native_model(one)
        parts.append(Part(DICOM_XML, [body], len(body)))
    return _multipart(parts, DICOM_XML, parts)


def _frames(payloads: list[Payload], choice: Choice) -> Response:
    kind = f"{choice.type}; transfer-syntax={choice.transfer_syntax}"
    if not choice.multipart and len(payloads) == 1:
        return _single(payloads[0], kind)
    parts = [Part(kind, payload.chunks, payload.size_bytes) for payload in payloads]
    return _multipart(parts, choice.type, parts)


def _single(payload: Payload, content_type: str) -> Response:
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
    return _headed(response)


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


def _multipart(parts: Iterable[Part], kind: str, sized: Sequence[Part] | None, *, status: int = 200) -> Response:
    boundary = multipart.new_boundary()
    response = Response(
        multipart.write(boundary, parts), status=status,
        content_type=f'multipart/related; type="{kind}"; boundary={boundary}',
    )
    size = multipart.length(boundary, sized) if sized is not None else None
    if size is not None:
        response.content_length = size
    return _headed(response)
