"""STOW-RS: instances that a client sends (PS3.18 §10.5)."""

from __future__ import annotations

from pathlib import Path

import orjson
from flask import Response, request

from dicomweb import media_types, stow, uids, xml
from dicomweb.batches import Origin
from dicomweb.ingest import Ingest
from dicomweb.media_types import DICOM_JSON, DICOM_XML
from dicomweb.status import http_status
from dicomweb.views import answers, entrance
from dicomweb.views.entrance import Entrance
from resources.outcomes import NotFound, UnsupportedMediaType
from store.access import Interaction

STORE_RETRY_AFTER_S = 5


class Store:
    """Its one view, at two addresses."""

    def __init__(self, entrance: Entrance, ingest: Ingest, max_request_bytes: int, spool: Path | None) -> None:
        """`spool`: folder of long parts on their way."""
        self._entrance = entrance
        self._ingest = ingest
        self._max_request_bytes = max_request_bytes
        self._spool = str(spool) if spool else None

    def store(self, study: str | None = None, owner: str | None = None) -> Response:
        """STOW-RS (§10.5)."""
        caller, asked = self._entrance.enter("store", Interaction.DICOM_STORE)
        if owner is not None and owner != caller.organization:
            raise NotFound("No such address to store to")
        if study is not None:
            uids.require(study, "StudyInstanceUID")
        form = media_types.json_or_xml(entrance.accepted(asked)) or DICOM_JSON
        if request.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise UnsupportedMediaType.coding("A content encoding of the request is not taken")
        self._ingest.authorise(caller)
        bodies = stow.parts_of(
            entrance.body(request), request.headers.get("Content-Type", ""), max_bytes=self._max_request_bytes,
            folder=self._spool,
        )
        origin = Origin("stow-rs", caller.client_id, caller.address)
        outcomes = stow.store(self._ingest, caller, origin, bodies, study)
        answer = stow.response(outcomes, self._entrance.base(caller.organization), study)
        body = xml.native_model(answer) if form == DICOM_XML else orjson.dumps(answer)
        response = answers.answer(body, form, http_status(outcomes))
        if response.status_code == 503:  # RFC 9110 §10.2.3: the same instances may be taken soon
            response.headers["Retry-After"] = str(STORE_RETRY_AFTER_S)
        return response
