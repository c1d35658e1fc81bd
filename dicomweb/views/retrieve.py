"""WADO-RS: instances, headers, frames, bulk data and pictures (PS3.18 §10.4)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from flask import Response, request

from dicomweb import media_types, wado
from dicomweb.disclosure import Disclosure
from dicomweb.media_types import DICOM, DICOM_XML, OCTETS
from dicomweb.multipart import Part
from dicomweb.pictures import PICTURES, blank, pick_frame, rendering_task, without_effect
from dicomweb.views import answers, entrance
from dicomweb.views.entrance import Entrance
from dicomweb.wado import Retrieval
from resources.outcomes import BadRequest, NotAcceptable
from store.access import Interaction

JOINED_ROWS = 500
"""Metadata of more instances than these is streamed."""
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
_BULK = re.compile(r"[0-9A-F]{8}(?:/\d{1,6}/[0-9A-F]{8}){0,32}")


class Retrieve:
    """A view for each representation."""

    def __init__(self, entrance: Entrance, disclosure: Disclosure, retrieval: Retrieval) -> None:
        self._entrance = entrance
        self._disclosure = disclosure
        self._retrieval = retrieval

    def retrieve(self, study: str, series: str | None = None, instance: str | None = None,
                 owner: str | None = None) -> Response:
        """Instances of a study or series, or one instance (§10.4)."""
        caller, asked = self._entrance.enter("retrieve", Interaction.DICOM_RETRIEVE, "instances")
        path, ranges = entrance.path_of(study, series, instance, owner), entrance.accepted(asked)
        _, rows = self._disclosure.retrieve(caller, path, "instances")
        alone = instance is not None
        chosen = [
            (row, choice) for row in rows
            if (choice := media_types.choose_instance(ranges, row.transfer_syntax_uid, alone_is_possible=alone))
        ]
        if not chosen:
            raise NotAcceptable("None of the representations asked for can be given")
        base = self._entrance.base(None)
        if alone and not chosen[0][1].multipart:
            row, choice = chosen[0]
            payload = self._retrieval.instance(row, choice)
            return answers.single(payload, f"{DICOM}; transfer-syntax={choice.transfer_syntax}")
        kept, choices = [row for row, _ in chosen], [choice for _, choice in chosen]
        if alone:  # whether the pixels can be decoded is known before the headers are sent
            parts: Iterable[Part] = list(self._retrieval.instance_parts(kept, choices, base))
        else:
            parts = self._retrieval.instance_parts(kept, choices, base)
        size = None
        if all(choice.transfer_syntax == row.transfer_syntax_uid and row.corrected is None for row, choice in chosen):
            size = [
                Part(f"{choice.type}; transfer-syntax={choice.transfer_syntax}", (), row.size_bytes,
                     wado.address(base, row))
                for row, choice in chosen
            ]
        return answers.parts_of(parts, DICOM, size, status=200 if len(chosen) == len(rows) else 206)

    def metadata(self, study: str, series: str | None = None, instance: str | None = None,
                 owner: str | None = None) -> Response:
        """Headers without bulk data (§10.4.1.1.2), from what was stored at ingest."""
        caller, asked = self._entrance.enter("metadata", Interaction.DICOM_RETRIEVE, "metadata")
        path = entrance.path_of(study, series, instance, owner)
        form = media_types.json_or_xml(entrance.accepted(asked))
        if form is None:
            raise NotAcceptable("Metadata is given as application/dicom+json or application/dicom+xml")
        _, rows = self._disclosure.retrieve(caller, path, "metadata", headers=True)
        base = self._entrance.base(None)
        include = wado.included(asked["includefield"])
        tag = wado.etag(rows, base, f"{form} {' '.join(sorted(include or ()))}")
        if request.if_none_match.contains_weak(tag):
            response = Response(status=304)
        elif form == DICOM_XML:
            response = answers.xml_parts([orjson.loads(wado.header(row, base, include)) for row in rows])
        else:
            text = wado.metadata(rows, base, include)
            few = len(rows) <= JOINED_ROWS
            response = answers.dicom_json(b"".join(text)) if few else answers.dicom_json_stream(text)
        response.set_etag(tag, weak=True)
        return answers.headed(response, "private, no-cache")

    def frames(self, study: str, series: str, instance: str, frames: str, owner: str | None = None) -> Response:
        """Frames by number, as byte ranges of the stored file (§10.4.1.1.5)."""
        caller, asked = self._entrance.enter("frames", Interaction.DICOM_RETRIEVE, "frames")
        path = entrance.path_of(study, series, instance, owner)
        numbers = wado.frame_numbers(frames)
        row = self._disclosure.frames(caller, path)
        choice = media_types.choose_frames(entrance.accepted(asked), row.transfer_syntax_uid)
        payloads = None if choice is None else self._retrieval.frames(row, numbers, choice)
        if choice is None or payloads is None:
            raise NotAcceptable("None of the representations asked for can be given")
        return answers.frames_of(payloads, choice)

    def bulkdata(self, study: str, series: str, instance: str, bulk: str, owner: str | None = None) -> Response:
        """The value that a BulkDataURI stands for (§10.4.1.1.3)."""
        caller, asked = self._entrance.enter("bulkdata", Interaction.DICOM_RETRIEVE, "frames")
        path = entrance.path_of(study, series, instance, owner)
        if not _BULK.fullmatch(bulk):
            raise BadRequest("The path is not that of an attribute")
        row = self._disclosure.frames(caller, path)
        ranges = entrance.accepted(asked)
        if wado.is_pixel_path(row, bulk):
            choice = media_types.choose_frames(ranges, row.transfer_syntax_uid)
            if choice is None:
                raise NotAcceptable("None of the representations asked for can be given")
            return answers.frames_of(self._retrieval.frames(row, list(range(1, row.frame_count + 1)), choice), choice)
        _, payload = self._retrieval.bulk(row, bulk)
        kind = "application/pdf" if bulk == "00420011" and row.sop_class_uid == ENCAPSULATED_PDF else OCTETS
        wanted = next((one for one in ranges if one.covers(kind) or one.type == OCTETS), None)
        if wanted is None:
            raise NotAcceptable("None of the representations asked for can be given")
        if wanted.multipart:
            return answers.parts_of([Part(kind, payload.chunks, payload.size_bytes)], kind,
                              [Part(kind, (), payload.size_bytes)])
        return answers.single(payload, kind)

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
        caller, asked = self._entrance.enter(what, Interaction.DICOM_RETRIEVE, what)
        path, thumbnail = entrance.path_of(study, series, instance, owner), what == "thumbnail"
        task = rendering_task(asked.values, thumbnail=thumbnail)
        ranges = entrance.accepted(asked)
        kind, wanted = next(((k, one) for one in ranges for k in PICTURES if one.covers(k)), ("", None))
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
        if wanted.multipart:
            response = answers.parts_of([part], kind, [part])
        else:
            response = answers.headed(answers.answer(body, kind))
        return answers.warned(response, without_effect(asked.values, kind))
