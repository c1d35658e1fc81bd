"""QIDO-RS: which studies, series and instances there are (PS3.18 §10.6)."""

from __future__ import annotations

import orjson
from flask import Response, request

from auth.guard import raw_request
from dicomweb import media_types, qido, query_keys
from dicomweb.attributes import Level
from dicomweb.disclosure import Disclosure
from dicomweb.media_types import DICOM_XML
from dicomweb.views import answers, entrance
from dicomweb.views.entrance import Entrance
from resources.budgets import QIDO_RESULTS
from resources.outcomes import NotAcceptable
from store.access import Interaction


class Search:
    """A view for each level."""

    def __init__(self, entrance: Entrance, disclosure: Disclosure) -> None:
        self._entrance = entrance
        self._disclosure = disclosure

    def search_studies(self, owner: str | None = None) -> Response:
        """Studies (§10.6)."""
        return self._search("search_studies", Level.STUDY, None, None, owner)

    def search_series(self, study: str | None = None, owner: str | None = None) -> Response:
        """Series, of a study or of all (§10.6)."""
        return self._search("search_series", Level.SERIES, study, None, owner)

    def search_instances(
        self, study: str | None = None, series: str | None = None, owner: str | None = None
    ) -> Response:
        """Instances, of a study or series or of all (§10.6)."""
        return self._search("search_instances", Level.INSTANCE, study, series, owner)

    def _search(
        self, view: str, level: Level, study: str | None, series: str | None, owner: str | None
    ) -> Response:
        caller, asked = self._entrance.enter(view, Interaction.DICOM_QUERY)
        path = entrance.path_of(study, series, owner=owner)
        form = media_types.json_or_xml(entrance.accepted(asked))
        if form is None:
            raise NotAcceptable("Results are given as application/dicom+json or application/dicom+xml")
        query = query_keys.query(level, asked)
        limit = QIDO_RESULTS.value if query.limit is None else min(query.limit, QIDO_RESULTS.value)
        rows, more = self._disclosure.search(caller, query, path, limit, raw_request(request.environ))
        results = qido.results(rows, query, path, self._entrance.base(None))
        if not results:
            response = Response(status=204)
        elif form == DICOM_XML:
            response = answers.xml_parts(results)
        else:
            response = answers.dicom_json(orjson.dumps(results))
        return answers.headed(answers.warned(response, qido.warnings(query, more)))
