"""What the bench serves: the whole application, and beside it on the same server a bare Flask route.

The bare route returns the bytes that it was told to (`PUT /bare`), through nothing but Flask: the yardstick of an
audited read that returns the same bytes.
"""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, Response
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from wsgi import app as vigie

_CONTENT = Path(os.environ["VIGIE_DATA"]) / "bench-bare.json"

bare = Flask("bare", static_folder=None)


@bare.get("/read")
def read() -> Response:
    return Response(_body(), content_type="application/fhir+json")


_kept: list[bytes] = []


def _body() -> bytes:
    if not _kept:
        _kept.append(_CONTENT.read_bytes())
    return _kept[0]


vigie.wsgi_app = DispatcherMiddleware(vigie.wsgi_app, {"/bare": bare.wsgi_app})  # type: ignore[method-assign]
app = vigie
