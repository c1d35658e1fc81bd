"""What every view asks first: who asks, for what, by which parameters and under which address."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from flask import Request, request

from auth.guard import RECORDING
from dicomweb import media_types, parameters, uids
from dicomweb.parameters import Asked
from dicomweb.queries import Path
from resources.outcomes import NotFound
from store.access import Access, Caller, Interaction, Recording

Guard = Callable[[Request], Caller]
_OWNER = re.compile(r"[A-Za-z0-9\-.]{1,64}")


class Entrance:
    """By way of the guard."""

    def __init__(self, guard: Guard, public_bases: Sequence[str]) -> None:
        """`public_bases`: URLs of /dicom-web as clients know them."""
        self._guard = guard
        self._public_bases = public_bases

    def enter(self, view: str, interaction: Interaction, what: str = "") -> tuple[Caller, Asked]:
        """The caller, and the parameters that this view declares; what the request is about is noted for its record,
        whatever becomes of it. BadRequest for a parameter that is not declared."""
        recording: Recording | None = request.environ.get(RECORDING)
        caller = self._guard(request)
        if recording is not None:
            detail = (("what", what),) if what else ()
            recording.propose(Access(interaction, "ImagingStudy", query=recording.request, detail=detail))
        return caller, parameters.read(view, request.args)

    def base(self, owner: str | None) -> str:
        """The URL of /dicom-web that the client used, or of one owner's studies there."""
        base = chosen_base(self._public_bases, request.host, f"{request.url_root.rstrip('/')}/dicom-web")
        return f"{base}/owners/{owner}" if owner else base


def accepted(asked: Asked) -> tuple[media_types.Range, ...]:
    """The media types that the request takes."""
    return media_types.accept(request.headers.get("Accept"), asked["accept"])


def chosen_base(bases: Sequence[str], host: str, requested: str) -> str:
    """The base that the client used, out of the configured ones; the request's own where none is configured.

    dicomweb-client for Python sends a Host header without the port, so the name alone has to do.
    """
    by_host = {urlsplit(base).netloc: base for base in reversed(bases)}
    by_name = {urlsplit(base).hostname: base for base in reversed(bases)}
    return by_host.get(host) or by_name.get(host.partition(":")[0]) or (bases[0] if bases else requested)


def path_of(
    study: str | None, series: str | None = None, instance: str | None = None, owner: str | None = None
) -> Path:
    """The UIDs of an address, each checked before any use."""
    for text, name in ((study, "StudyInstanceUID"), (series, "SeriesInstanceUID"), (instance, "SOPInstanceUID")):
        if text is not None:
            uids.require(text, name)
    return Path(study, series, instance, _owner(owner))


def _owner(owner: str | None) -> str | None:
    if owner is not None and not _OWNER.fullmatch(owner):
        raise NotFound("No such organization")
    return owner


def body(received: Request) -> Any:
    """The body to its end: a chunked one has no Content-Length, and not every server marks it as terminated."""
    if received.content_length is None and "chunked" in received.headers.get("Transfer-Encoding", "").lower():
        return received.environ["wsgi.input"]
    return received.stream
