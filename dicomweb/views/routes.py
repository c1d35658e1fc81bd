"""Which view answers at which address and to which method.

Every route exists twice: as the standard has it, and under ``/owners/{organization}`` for callers that see the studies
of several hospitals (docs/decisions/0006-images.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flask import Blueprint, Response, request

from dicomweb.disclosure import Disclosure
from dicomweb.ingest import Ingest
from dicomweb.views.entrance import Entrance, Guard
from dicomweb.views.retrieve import Retrieve
from dicomweb.views.search import Search
from dicomweb.views.store import Store
from dicomweb.wado import Retrieval
from resources.outcomes import NotAllowed, NotFound

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
View = Callable[..., Response]


def blueprint(
    guard: Guard, ingest: Ingest, disclosure: Disclosure, retrieval: Retrieval, *, public_bases: Sequence[str],
    max_request_bytes: int, spool: Path | None,
) -> Blueprint:
    """The DICOMweb service. `public_bases`: URLs of /dicom-web as clients know them."""
    entrance = Entrance(guard, public_bases)
    store = Store(entrance, ingest, max_request_bytes, spool)
    search, retrieve = Search(entrance, disclosure), Retrieve(entrance, disclosure, retrieval)
    routes = Blueprint("dicomweb", __name__, url_prefix="/dicom-web")
    defined: dict[str, set[str]] = {}
    for rule, view, methods in _table(store, search, retrieve):
        for prefix in ("", "/owners/<owner>"):
            name = f"{view.__name__}{'-owner' if prefix else ''}-{rule}".replace("/", "_").replace(".", "_")
            routes.add_url_rule(prefix + rule, name, view, methods=methods, provide_automatic_options=False)
            defined.setdefault(prefix + rule, set()).update(methods)
    # A stranger hears 401 wherever he asks and by whatever method, and each refusal has its record.
    for number, (rule, known) in enumerate(defined.items()):
        others = [method for method in METHODS if method not in known and not (method == "HEAD" and "GET" in known)]
        view = _wrong_method(guard, known)
        routes.add_url_rule(rule, f"other-{number}", view, methods=others, provide_automatic_options=False)
    nothing = _nothing(guard)
    for number, rule in enumerate(("/", "/<path:rest>")):
        routes.add_url_rule(rule, f"nothing-{number}", nothing, methods=METHODS, provide_automatic_options=False)
    return routes


def _table(store: Store, search: Search, retrieve: Retrieve) -> list[tuple[str, View, list[str]]]:
    study = "/studies/<study>"
    series = f"{study}/series/<series>"
    instance = f"{series}/instances/<instance>"
    get = ["GET"]
    found: list[tuple[str, View, list[str]]] = [
        ("/studies", store.store, ["POST"]),
        (study, store.store, ["POST"]),
        ("/studies", search.search_studies, get),
        ("/series", search.search_series, get),
        (f"{study}/series", search.search_series, get),
        ("/instances", search.search_instances, get),
        (f"{study}/instances", search.search_instances, get),
        (f"{series}/instances", search.search_instances, get),
        (f"{instance}/frames/<frames>", retrieve.frames, get),
        (f"{instance}/frames/<frames>/rendered", retrieve.rendered, get),
        (f"{instance}/frames/<frames>/thumbnail", retrieve.thumbnail, get),
        (f"{instance}/bulkdata/<path:bulk>", retrieve.bulkdata, get),
    ]
    for level in (study, series, instance):
        found += [
            (level, retrieve.retrieve, get),
            (f"{level}/metadata", retrieve.metadata, get),
            (f"{level}/rendered", retrieve.rendered, get),
            (f"{level}/thumbnail", retrieve.thumbnail, get),
        ]
    return found


def _wrong_method(guard: Guard, known: Iterable[str]) -> View:
    """The view of an address for the methods that it does not know (RFC 9110 §15.5.6)."""
    def refuse(**_: str) -> Response:
        guard(request)
        raise NotAllowed.but(known, "The method is not defined here")

    return refuse


def _nothing(guard: Guard) -> View:
    """The view of every address that there is not."""
    def refuse(rest: str = "") -> Response:
        guard(request)
        raise NotFound("No such address")

    return refuse
