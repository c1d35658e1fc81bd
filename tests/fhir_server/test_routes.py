"""Method and path → interaction. R4 §3.1.0 http://hl7.org/fhir/R4/http.html#summary"""

from __future__ import annotations

import pytest

from fhir_server.edge.routes import Route, resolve
from resources.interactions import Interaction
from resources.outcomes import BadRequest, NotAllowed, NotFound


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("GET", "metadata", Route(Interaction.CAPABILITIES)),
        ("OPTIONS", "", Route(Interaction.CAPABILITIES)),
        ("GET", ".well-known/smart-configuration", Route(Interaction.SMART)),
        ("POST", "", Route(Interaction.BATCH)),
        ("GET", "", Route(Interaction.SEARCH_SYSTEM)),
        ("POST", "_search", Route(Interaction.SEARCH_SYSTEM)),
        ("GET", "_history", Route(Interaction.HISTORY_SYSTEM)),
        ("GET", "Patient", Route(Interaction.SEARCH_TYPE, "Patient")),
        ("POST", "Patient", Route(Interaction.CREATE, "Patient")),
        ("PUT", "Patient", Route(Interaction.UPDATE, "Patient")),
        ("DELETE", "Patient", Route(Interaction.DELETE, "Patient")),
        ("POST", "Patient/_search", Route(Interaction.SEARCH_TYPE, "Patient")),
        ("GET", "Patient/_history", Route(Interaction.HISTORY_TYPE, "Patient")),
        ("GET", "Patient/a-1.b", Route(Interaction.READ, "Patient", "a-1.b")),
        ("HEAD", "Patient/1", Route(Interaction.READ, "Patient", "1")),
        ("PUT", "Patient/1", Route(Interaction.UPDATE, "Patient", "1")),
        ("DELETE", "Patient/1", Route(Interaction.DELETE, "Patient", "1")),
        ("GET", "Patient/1/_history", Route(Interaction.HISTORY_INSTANCE, "Patient", "1")),
        ("GET", "Patient/1/_history/3", Route(Interaction.VREAD, "Patient", "1", 3)),
        ("GET", "Subscription/1/$status", Route(Interaction.OPERATION, "Subscription", "1", operation="status")),
        ("POST", "Patient/$validate", Route(Interaction.OPERATION, "Patient", operation="validate")),
    ],
)
def test_each_path_of_the_summary_table_is_its_interaction(method: str, path: str, route: Route) -> None:
    """R4 §3.1.0.1.2: the summary table of interactions."""
    assert resolve(method, [part for part in path.split("/") if part]) == route


@pytest.mark.parametrize(
    ("method", "path", "fault"),
    [
        ("GET", "Patients", NotFound),
        ("GET", "patient/1", NotFound),
        ("GET", "Patient/1/what", NotFound),
        ("GET", "Patient/1/_history/x", NotFound),
        ("GET", "Patient/$validate/x", NotFound),
        ("GET", "Patient/a_b", BadRequest),
        ("GET", "Patient/" + "a" * 65, BadRequest),
        ("POST", "Patient/1", NotAllowed),
        ("DELETE", "Patient/1/_history/1", NotAllowed),
        ("PUT", "metadata", NotAllowed),
        ("TRACE", "Patient/1", NotAllowed),
    ],
)
def test_what_is_no_path_of_r4_is_refused(method: str, path: str, fault: type[Exception]) -> None:
    """R4 §3.1.0.1.8: 404 for an unknown type, 405 for a method that the path has not, 400 for a broken id."""
    with pytest.raises(fault):
        resolve(method, path.split("/"))
