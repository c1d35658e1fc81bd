"""The table of interactions and all that derives from it: no gap, nothing extra.

R4 §3.1.0.1.2 http://hl7.org/fhir/R4/http.html#summary, §3.1.0.11.2 (order of a transaction); BALP 3:5.7; SMART 2.2.
"""

from __future__ import annotations

import pytest

from audit.patterns import PATTERNS, PROFILES
from auth.policy import LETTERS
from fhir_server.edge import bundle, rest
from fhir_server.edge.routes import Route, resolve
from resources import registry
from resources.interactions import ROWS, TABLE, Body, Form, Interaction, Level, forms
from resources.json import Json
from resources.outcomes import FhirError, NotAllowed, NotFound
from store.repository import METHODS
from tests.fhir_server.conftest import Api

METHODS_OF_HTTP = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")
PATHS = {
    Level.SYSTEM: (
        "", "metadata", "_search", "_history", "_history/[vid]", ".well-known/smart-configuration", "$[name]",
    ),
    Level.TYPE: ("", "_search", "_history", "$[name]", "*"),
    Level.INSTANCE: ("", "_history", "_history/[vid]", "$[name]", "_search", "*", "Observation"),
}  # fmt: skip
"""Every path of R4's summary table, and some that are none of it."""
ALL_FORMS = list(forms())


def _segments(level: Level, path: str) -> list[str]:
    above = {Level.SYSTEM: [], Level.TYPE: ["Patient"], Level.INSTANCE: ["Patient", "p-1"]}[level]
    filled = path.replace("[vid]", "3").replace("$[name]", "$validate")
    return [*above, *(part for part in filled.split("/") if part)]


def _resolved(method: str, level: Level, path: str) -> Route | None:
    try:
        return resolve(method, _segments(level, path))
    except FhirError:
        return None


def test_each_interaction_has_one_row() -> None:
    assert [row.interaction for row in TABLE] == list(dict.fromkeys(row.interaction for row in TABLE))
    assert set(ROWS) == set(Interaction)


@pytest.mark.parametrize(("row", "form"), ALL_FORMS, ids=lambda one: getattr(one, "interaction", ""))
def test_each_form_is_routed_to_its_interaction(row: object, form: Form) -> None:
    route = _resolved(form.method, form.level, form.path)
    assert route is not None
    assert (ROWS[route.interaction], route.form) == (row, form)
    if form.method == "GET":
        assert _resolved("HEAD", form.level, form.path) == route


def test_nothing_is_routed_that_is_no_form() -> None:
    """Compartments, PATCH and any other method: refused, not half done."""
    with pytest.raises(NotFound):
        resolve("GET", ["Patient", "p-1", "_history/[vid]"])
    known = {(form.method, form.level, form.path) for _, form in ALL_FORMS}
    known |= {("HEAD", level, path) for method, level, path in known if method == "GET"}
    routed = {
        (method, level, path)
        for level, paths in PATHS.items()
        for path in paths
        for method in METHODS_OF_HTTP
        if _resolved(method, level, path)
    }
    assert routed == known


def test_each_interaction_with_a_path_has_a_handler() -> None:
    assert set(rest.HANDLERS) == {row.interaction for row in TABLE if row.forms}


def test_each_entry_of_a_bundle_has_a_handler() -> None:
    """R4 §3.1.0.11: DELETE, POST, PUT and GET, in this order; neither an operation nor a Bundle."""
    assert set(bundle.ENTRIES) == {row.interaction for row, form in ALL_FORMS if form.entry}
    writes = [(row.interaction, form.level, form.entry) for row, form in ALL_FORMS if row.writes and form.entry]
    assert writes == [
        (Interaction.CREATE, Level.TYPE, "POST"),
        (Interaction.UPDATE, Level.INSTANCE, "PUT"),
        (Interaction.UPDATE, Level.TYPE, "PUT"),
        (Interaction.DELETE, Level.INSTANCE, "DELETE"),
        (Interaction.DELETE, Level.TYPE, "DELETE"),
    ]
    assert {form.entry for row, form in ALL_FORMS if not row.writes} == {"GET", None}
    for row, form in ALL_FORMS:
        assert form.entry is None or (form.entry == "GET") is not row.writes
        assert form.entry is None or (form.body is Body.RESOURCE) is (form.entry in ("POST", "PUT"))


def test_each_interaction_on_a_type_has_its_letter() -> None:
    """SMART 2.2: what is asked of a type or an instance needs a letter of a scope."""
    assert {name: row.letters for name, row in ROWS.items() if row.letters} == dict(LETTERS)
    for row, form in ALL_FORMS:
        assert bool(row.letters) or row.public or form.body is Body.BUNDLE, row.interaction
    assert all(set(letters) <= set("cruds") for letters in LETTERS.values())
    assert {row.letters for row in TABLE if row.writes and row.forms if row.letters} == {"c", "u", "d"}


def test_each_interaction_that_is_not_public_has_its_audit_pattern() -> None:
    assert set(PATTERNS) == {row.interaction for row in TABLE if not row.public}
    for row in TABLE:
        if row.recorded is not None:
            pattern = PATTERNS[row.interaction]
            assert (pattern.subtype["code"], pattern.action) == (row.interaction, row.recorded.action)
            profile = row.recorded.profile
            assert pattern.shape == row.recorded.entity
            assert pattern.profile == (profile and f"{PROFILES}IHE.BasicAudit.{profile}")
            assert pattern.patient_profile == (profile and f"{PROFILES}IHE.BasicAudit.Patient{profile}")


def test_each_form_that_writes_a_version_has_its_method() -> None:
    """R4 bundle.html: history's request.method."""
    assert METHODS == {Interaction.CREATE: "POST", Interaction.UPDATE: "PUT", Interaction.DELETE: "DELETE"}


def test_the_capability_statement_names_what_is_routed_and_nothing_else(api: Api) -> None:
    """R4 capabilitystatement.html: rest.interaction, rest.resource.interaction."""
    statement = api.app.test_client().get("/fhir/metadata").get_json()["rest"][0]
    assert _codes(statement) == [row.interaction for row in TABLE if row.declared is Level.SYSTEM]
    for resource in statement["resource"]:
        has = registry.TYPES[resource["type"]].interactions
        assert _codes(resource) == [i for i, row in ROWS.items() if row.declared is Level.TYPE and i in has]
    for name in ("Patient", "AuditEvent"):
        declared = next(row for row in statement["resource"] if row["type"] == name)
        for row, form in ALL_FORMS:
            if row.declared is Level.TYPE and form.level is not Level.SYSTEM:
                assert (row.interaction in _codes(declared)) is _answers(name, form), (name, row.interaction)


def _answers(type_name: str, form: Form) -> bool:
    try:
        resolve(form.method, [type_name, *_segments(form.level, form.path)[1:]])
    except NotAllowed:
        return False
    return True


def _codes(part: Json) -> list[str]:
    return [one["code"] for one in part["interaction"]]


def test_what_is_declared_as_conditional_heeds_its_header() -> None:
    """R4 §3.1.0.5 and conditional interactions: the headers stand in one place."""
    heeded = {(row.interaction, form.level): form.heeds for row, form in ALL_FORMS if form.heeds}
    assert heeded == {
        (Interaction.READ, Level.INSTANCE): {"if-none-match", "if-modified-since"},
        (Interaction.VREAD, Level.INSTANCE): {"if-none-match", "if-modified-since"},
        (Interaction.CREATE, Level.TYPE): {"if-none-exist"},
        (Interaction.UPDATE, Level.INSTANCE): {"if-match", "if-none-match"},
        (Interaction.UPDATE, Level.TYPE): {"if-match", "if-none-match"},
        (Interaction.DELETE, Level.INSTANCE): {"if-match"},
        (Interaction.DELETE, Level.TYPE): {"if-match"},
        (Interaction.CAPABILITIES, Level.SYSTEM): {"if-none-match"},
    }
