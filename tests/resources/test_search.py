"""A search's parameters, parsed: what is honoured, what is refused, what is reported.

FHIR R4 §3.1.1 http://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources import budgets, registry
from resources.criteria import (
    Chain,
    Composite,
    Has,
    IdValue,
    Leaf,
    Missing,
    QuantityValue,
    Query,
    RangeValue,
    ReferenceValue,
    StringValue,
    TokenValue,
    UriValue,
)
from resources.hashing import hash64
from resources.index_rows import Table
from resources.outcomes import BadRequest
from resources.search import COUNT_MAX, HARMLESS, parse
from resources.search_parameters import IDENTIFIER, OF_TYPE, TEXT, parameter
from resources.search_values import split, unescape
from resources.times import DAY


def asked(type_name: str | None, *pairs: str, **options: Any) -> Query:
    """The query of `name=value` texts as they are after percent-decoding."""
    return parse(type_name, [(name, value) for name, _, value in (pair.partition("=") for pair in pairs)], **options)


def leaf(type_name: str | None, pair: str, **options: Any) -> Leaf:
    (only,) = asked(type_name, pair, **options).criteria
    assert isinstance(only, Leaf)
    return only


def refused(type_name: str | None, *pairs: str, **options: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        asked(type_name, *pairs, **options)
    return caught.value


# Nothing is ignored in silence: §3.1.1.2, §3.1.1.3


@pytest.mark.parametrize(
    ("type_name", "pair"),
    [
        ("Patient", "nonsense=1"), ("Patient", "Name=x"), ("Patient", "_nonsense=1"), ("ImagingStudy", "accession=1"),
        ("Patient", "_filter=name eq x"), ("Patient", "_text=x"), ("Patient", "_content=x"), ("Patient", "_query=x"),
        ("Patient", "_list=1"), ("Location", "near=1|2|3|km"), ("Patient", "=x"),
        ("Patient", "_containedType=contained"),
        (None, "name=x"), ("Patient", "_sort=nonsense"), ("Patient", "_elements=nonsense"),
        ("Patient", "_include=Patient:nonsense"), ("Patient", "general-practitioner.nonsense=1"),
        ("Patient", "_has:Observation:patient:nonsense=1"), ("Patient", "_has:Observation:nonsense:code=1"),
    ],
)  # fmt: skip
def test_an_unknown_parameter_is_refused_or_reported(type_name: str | None, pair: str) -> None:
    """§3.1.1.3: strict, the default, is 400; lenient leaves it out, and says so."""
    fault = refused(type_name, pair)
    assert fault.status == 400
    assert fault.issues[0].code == "not-supported"
    assert fault.issues[0].expression
    query = asked(type_name, pair, lenient=True)
    name, _, value = pair.partition("=")
    assert query.ignored == ((name, value),)
    assert query.criteria == query.sort == query.includes == ()
    assert query.parameters() == [("_count", "50")]


@pytest.mark.parametrize(
    ("type_name", "pair"),
    [
        ("Patient", "name:nonsense=x"), ("Observation", "code:in=http://vs"), ("Observation", "code:not-in=http://vs"),
        ("Observation", "code:above=1"), ("Observation", "code:below=1"), ("Patient", "name:not=x"),
        ("Patient", "birthdate:exact=2024"), ("Observation", "value-quantity:not=5"), ("Patient", "gender:exact=male"),
        ("Observation", "subject:Practitioner=1"), ("Observation", "subject:Nonsense=1"), ("Patient", "_id:exact=1"),
        ("Observation", "subject:above=1"), ("Patient", "_lastUpdated:missing=true"), ("Patient", "_count:exact=1"),
        ("Observation", "code-value-quantity:not=a$1"), ("ServiceRequest", "instantiates-canonical:below=http://a"),
        ("Patient", "_include:recurse=Patient:organization"), ("Patient", "name:=x"), ("Patient", "_sort:asc=name"),
    ],
)  # fmt: skip
def test_an_unsupported_modifier_is_refused_even_when_lenient(type_name: str, pair: str) -> None:
    """§3.1.1.4.5: "Servers SHALL reject any search request that contains a search parameter with a modifier that
    the server does not support for that parameter"."""
    assert refused(type_name, pair, lenient=True).status == 400


@pytest.mark.parametrize(
    ("type_name", "pair"),
    [
        ("Patient", "name="), ("Patient", "name=a,"), ("Patient", "name=,a"), ("Patient", "name=a,,b"),
        ("Patient", "name:missing=yes"), ("Patient", "birthdate=yesterday"), ("Patient", "birthdate=2024-02-30"),
        ("Patient", "birthdate=xx2024"), ("Patient", "birthdate=ge"),
        ("Patient", "birthdate=2024-01-01T00:00:00 01:00"),
        ("Patient", "birthdate=2024-01-01T00:00:00.1234567890Z"), ("Patient", "identifier=|"),
        ("Patient", "identifier=a|b|c"), ("Patient", "identifier:of-type=a|b"), ("Patient", "identifier:of-type=a||c"),
        ("Patient", "name=\u0301"), ("Observation", "value-quantity=x"), ("Observation", "value-quantity=5|mg"),
        ("Observation", "value-quantity=||mg"), ("Observation", "value-quantity=5|a|b|c"),
        ("Observation", "value-quantity=NaN"), ("Observation", "value-quantity=1e9999"),
        ("ChargeItem", "factor-override=1|a|b"), ("Observation", "subject=a b"), ("Observation", "subject=Patient/a_b"),
        ("Observation", "subject:Patient=Group/1"), ("Patient", "_id=a b"), ("Patient", "_id=Patient/1"),
        ("Observation", "code-value-quantity=a"), ("Observation", "code-value-quantity=a$1$2"),
        ("Observation", "code-value-quantity=a$"), ("Observation", "code-value-quantity=a$x"),
        ("Observation", "code.text=x"), ("Observation", "focus.status=x"), ("Patient", "_has:Observation:patient=1"),
        ("Patient", "_has:Observation:code:code=1"), ("Patient", "_has:Nonsense:patient:code=1"),
        ("Patient", "_has:Task:nonsense=1"), ("Practitioner", "_has:Observation:patient:code=1"),
        ("Patient", "_count=-1"), ("Patient", "_count=ten"), ("Patient", "_count=1.5"), ("Patient", "_count="),
        ("Patient", "_total=yes"), ("Patient", "_summary=all"), ("Patient", "_contained=true"),
        ("Patient", "_sort=_text"), ("Observation", "_sort=code-value-quantity"), ("Patient", "_include=organization"),
        ("Patient", "_include=Patient:organization:Practitioner"), ("Patient", "_include=Nonsense:x"),
        ("Patient", "_include=Patient:organization:Organization:x"), ("Patient", "_include=Observation:subject"),
        ("Patient", "_revinclude=Observation:device"), ("Patient", "_elements=name.family"),
        ("Patient", "_type=Observation"), ("ValueSet", "url:below=urn:oid:1.2"), (None, "_type=Nonsense"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_read_is_refused(type_name: str | None, pair: str) -> None:
    """§3.1.1.3: an invalid value is an error, whatever `handling` says; the message has no part of the value."""
    fault = refused(type_name, pair)
    assert fault.status == 400
    value = pair.partition("=")[2]
    assert len(value) < 4 or value not in fault.diagnostics


def test_a_control_given_twice_is_refused() -> None:
    assert refused("Patient", "_count=1", "_count=2").status == 400


@pytest.mark.parametrize(
    ("type_name", "pair"),
    [
        ("Patient", "name=" + ",".join("abcdefghijk" * 10)),
        ("Patient", "name=" + "x" * 20_000),
        ("Patient", "organization.partof.partof.partof.name=x"),
        ("Patient", "_has:Observation:patient:_has:Provenance:target:agent.practitioner.organization.name=x"),
        ("Patient", "_sort=name,family,given,gender,birthdate,active"),
    ],
)
def test_a_search_that_costs_too_much_is_refused(type_name: str, pair: str) -> None:
    assert refused(type_name, pair).status == 400


def test_more_than_ten_includes_are_refused() -> None:
    names = [f"_revinclude={name}:patient" for name in sorted(registry.TYPES) if (p := parameter(name, "patient"))
             and "Patient" in p.targets][:11]  # fmt: skip
    assert len(names) == 11
    assert refused("Patient", *names).issues[0].code == "too-costly"


@pytest.mark.parametrize(
    ("budget", "sent"),
    [
        (budgets.PARAMETERS, lambda amount: [("_elements", "id")] * amount),
        (budgets.SORT_KEYS, lambda amount: [("_sort", ",".join(["name"] * amount))]),
        (budgets.SORT_KEYS, lambda amount: [("_sort", "name")] * amount),
    ],
    ids=["parameters", "keys of one _sort", "keys of several _sort"],
)
def test_a_search_has_its_limits_wherever_it_comes_from(
    budget: budgets.Budget, sent: Callable[[int], list[tuple[str, str]]]
) -> None:
    """A condition, or the criteria of a Subscription, did not come as a query of its own: it is counted here."""
    assert parse("Patient", sent(budget.value)).type == "Patient"
    with pytest.raises(BadRequest) as refused:
        parse("Patient", sent(budget.value + 1))
    assert (refused.value.issues[0].code, refused.value.diagnostics) == ("too-costly", budget.text)



def test_controls_that_alter_no_result_are_tolerated() -> None:
    """fhirpy's count() sends `_totalMethod`; `_format` and `_pretty` are the edge's."""
    query = asked("Patient", "_totalMethod=count", "_format=json", "_pretty=true", "_count=0")
    assert query.ignored == ()
    assert query.parameters() == [("_count", "0")]


def test_the_name_of_an_unreadable_parameter_is_not_repeated() -> None:
    assert "DUPONT" not in refused("Patient", "né DUPONT=1").diagnostics


# Escapes: §3.1.1.4.7


def test_commas_bars_dollars_and_backslashes_can_be_escaped() -> None:
    assert leaf("Patient", r"family:exact=a\,b,c\\").values == (
        StringValue("exact", "a,b"), StringValue("exact", "c\\"))  # fmt: skip
    assert leaf("Patient", r"identifier=s|a\|b").values == (TokenValue(hash64("s"), "a|b"),)
    (composite,) = asked("Observation", r"code-value-string=a\$b$x\,y").criteria
    assert isinstance(composite, Composite)
    assert [one.value for one in composite.values[0]] == [TokenValue(None, "a$b"), StringValue("prefix", "x,y")]


@given(st.lists(st.text(alphabet="ab,|$\\é ", min_size=1), min_size=1, max_size=4))
def test_escaped_parts_come_back_as_they_were(parts: list[str]) -> None:
    def escape(text: str) -> str:
        return "".join("\\" + c if c in ",|$\\" else c for c in text)

    assert [unescape(part) for part in split(",".join(map(escape, parts)), ",")] == parts


# Values by kind: §3.1.1.5


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("code=A", TokenValue(None, "a")),
        ("code=http://loinc.org|A", TokenValue(hash64("http://loinc.org"), "a")),
        ("code=|A", TokenValue(0, "a")),
        ("code=http://loinc.org|", TokenValue(hash64("http://loinc.org"), None)),
        ("status=final", TokenValue(None, "final")),
        ("status=http://hl7.org/fhir/observation-status|final", TokenValue(0, "final")),
        ("status=http://other|final", TokenValue(hash64("http://other"), "final")),
    ],
)
def test_a_token_may_have_a_system(pair: str, value: TokenValue) -> None:
    """§3.1.1.5.11; a code element has the system of its binding, which is not written in the resource."""
    assert leaf("Observation", pair).values == (value,)


@pytest.mark.parametrize(
    ("name", "table", "offset"),
    [("identifier:of-type=s|t|V", Table.TOKEN, OF_TYPE), ("identifier:text=Médical", Table.STRING, TEXT),
     ("organization:identifier=s|V", Table.TOKEN, IDENTIFIER)],
)  # fmt: skip
def test_some_modifiers_look_at_rows_of_their_own(name: str, table: Table, offset: int) -> None:
    """§3.1.1.4.5"""
    found = leaf("Patient", name)
    assert (found.table, found.param_id) == (table, found.parameter.id + offset)


def test_not_is_a_denial_of_the_whole_list() -> None:
    """§3.1.1.4.5 `:not`: also resources without the element."""
    found = leaf("Patient", "gender:not=male,female")
    assert found.negated
    assert len(found.values) == 2


def test_missing_asks_for_rows_of_any_kind() -> None:
    """§3.1.1.4.5 `:missing`"""
    (found,) = asked("Patient", "general-practitioner:missing=false").criteria
    assert isinstance(found, Missing)
    assert (found.table, found.missing) == (Table.REFERENCE, False)


@pytest.mark.parametrize(
    ("pair", "values"),
    [
        ("subject=1", [ReferenceValue(tuple(sorted(map(registry.type_id, ("Device", "Group", "Location", "Patient")))),
                                      "1", None, None)]),
        ("subject:Patient=1", [ReferenceValue((registry.type_id("Patient"),), "1", None, None)]),
        ("subject=Patient/1", [ReferenceValue((registry.type_id("Patient"),), "1", None, None)]),
        ("subject=Patient/1/_history/2", [ReferenceValue((registry.type_id("Patient"),), "1", "2", None)]),
        ("subject=https://here/fhir/Patient/1", [ReferenceValue((registry.type_id("Patient"),), "1", None, None)]),
        ("instantiates-canonical=https://here/fhir/PlanDefinition/1",
         [ReferenceValue((registry.type_id("PlanDefinition"),), "1", None, None),
          ReferenceValue((), None, None, "https://here/fhir/PlanDefinition/1")]),
        ("subject=https://there/fhir/Patient/1",
         [ReferenceValue((), None, None, "https://there/fhir/Patient/1")]),
        ("instantiates-canonical=http://a.org/p", [ReferenceValue((), None, None, "http://a.org/p")]),
        ("instantiates-canonical=http://a.org/p|1.0", [ReferenceValue((), None, "1.0", "http://a.org/p")]),
    ],
)  # fmt: skip
def test_a_reference_is_an_id_a_relative_or_an_absolute_url(pair: str, values: list[ReferenceValue]) -> None:
    """§3.1.1.5.14; a version asked must be the version stored, none asked matches any."""
    assert list(leaf("ServiceRequest", pair, base_urls=("https://here/fhir/",)).values) == values


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("100", 99.5, 100.5), ("100.00", 99.995, 100.005), ("1e2", 95.0, 105.0), ("5.40e-3", 0.005395, 0.005405),
     ("-3", -3.5, -2.5), ("0", -0.5, 0.5), ("+7", 6.5, 7.5)],
)  # fmt: skip
def test_a_number_has_the_precision_with_which_it_is_written(text: str, low: float, high: float) -> None:
    """§3.1.1.5.4, its own examples."""
    (value,) = leaf("ChargeItem", f"factor-override={text}").values
    assert isinstance(value, RangeValue)
    (bounds,) = value.alternatives
    assert [(b.column, b.operator, b.value) for b in bounds] == [("low", ">=", low), ("high", "<", high)]


@pytest.mark.parametrize("prefix", ["gt", "lt", "ge", "le", "sa", "eb"])
def test_other_prefixes_take_a_number_as_exact(prefix: str) -> None:
    """§3.1.1.4.4: "the implicit precision of the number is ignored"."""
    (value,) = leaf("ChargeItem", f"factor-override={prefix}100").values
    assert isinstance(value, RangeValue)
    assert [bound.value for bounds in value.alternatives for bound in bounds] == [100.0]


def test_approximately_is_a_tenth() -> None:
    """§3.1.1.4.4 `ap`: "the recommended value is 10% of the stated value (or for a date, 10% of the gap between now
    and the date)"."""
    (value,) = leaf("ChargeItem", "factor-override=ap100").values
    assert isinstance(value, RangeValue)
    assert {bound.value for bound in value.alternatives[0]} == {90.0, 110.0}
    now = datetime(2024, 1, 11, tzinfo=UTC)
    (near,) = leaf("Patient", "birthdate=ap2024-01-01", now=now).values
    assert isinstance(near, RangeValue)
    low, high = (bound.value for bound in near.alternatives[0])
    assert low - high == (1 + 2 * 0.9) * DAY


@pytest.mark.parametrize(
    ("text", "system_id", "code"),
    [("5.4", None, None), ("5.4|http://unitsofmeasure.org|mg", hash64("http://unitsofmeasure.org"), "mg"),
     ("5.4||mg", None, "mg"), ("ge5.4||mg", None, "mg")],
)  # fmt: skip
def test_a_quantity_may_have_a_unit(text: str, system_id: int | None, code: str | None) -> None:
    """§3.1.1.5.13"""
    (value,) = leaf("Observation", f"value-quantity={text}").values
    assert isinstance(value, QuantityValue)
    assert (value.system_id, value.code) == (system_id, code)


def test_a_date_of_the_query_is_read_in_the_declared_zone() -> None:
    """§3.1.1.5.5"""
    zones = (UTC, ZoneInfo("Europe/Paris"))
    utc, paris = (leaf("Patient", "birthdate=2024-07-14", zone=zone).values[0] for zone in zones)
    assert isinstance(utc, RangeValue)
    assert isinstance(paris, RangeValue)
    assert utc.alternatives[0][0].value - paris.alternatives[0][0].value == 2 * 3600 * 10**7


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("url=http://a.org/b", UriValue(("http://a.org/b",))),
        ("url:below=http://a.org/b", UriValue(("http://a.org/b",), "http://a.org/b/")),
        ("url:below=http://a.org/b/", UriValue(("http://a.org/b/",), "http://a.org/b/")),
        ("url:above=http://a.org/b", UriValue(("http://a.org/b", "http://a.org/b/", "http://a.org", "http://a.org/"))),
    ],
)
def test_below_and_above_go_by_the_path_of_a_url(pair: str, value: UriValue) -> None:
    """§3.1.1.4.5: http://a.org/bc is not below http://a.org/b."""
    assert leaf("ValueSet", pair).values == (value,)


def test_id_and_last_updated_are_columns() -> None:
    """§3.1.1.1.1"""
    assert leaf("Patient", "_id=a,B").values == (IdValue("a"), IdValue("B"))
    assert leaf("Patient", "_id=a").table is Table.ID
    assert leaf("Patient", "_lastUpdated=gt2024").table is Table.LAST_UPDATED


# Several: §3.1.1.4.9, chains §3.1.1.4.6, §3.1.1.4.8


def test_a_comma_is_or_and_a_repetition_is_and() -> None:
    query = asked("Patient", "given=a,b", "given=c")
    assert [len(one.values) for one in query.criteria if isinstance(one, Leaf)] == [2, 1]


def test_a_chain_names_the_targets_that_have_the_parameter() -> None:
    (chain,) = asked("ServiceRequest", "subject.name:exact=X").criteria
    assert isinstance(chain, Chain)
    assert [name for name, _ in chain.alternatives] == ["Location", "Patient"]
    (typed,) = asked("ServiceRequest", "subject:Patient.name=X").criteria
    assert isinstance(typed, Chain)
    assert [name for name, _ in typed.alternatives] == ["Patient"]


def test_a_chain_may_have_three_references_and_a_has() -> None:
    name = "subject:Patient.general-practitioner:PractitionerRole.organization.name"
    (chain,) = asked("ServiceRequest", f"{name}=X").criteria
    depth, inner = 0, chain
    while isinstance(inner, Chain):
        depth, inner = depth + 1, inner.alternatives[0][1]
    assert depth == 3
    assert isinstance(inner, Leaf)
    (mixed,) = asked("ServiceRequest", "patient._has:Observation:patient:code=X").criteria
    assert isinstance(mixed, Chain)
    assert isinstance(mixed.alternatives[0][1], Has)


def test_a_reverse_chain_asks_for_a_resource_that_refers_here() -> None:
    (has,) = asked("Patient", "_has:Observation:patient:_has:AuditEvent:entity:agent=Practitioner/1").criteria
    assert isinstance(has, Has)
    assert (has.type, has.parameter.code) == ("Observation", "patient")
    assert isinstance(has.inner, Has)
    assert has.inner.type == "AuditEvent"


def test_a_composite_has_a_value_for_each_component() -> None:
    """§3.1.1.5.15"""
    (found,) = asked("Observation", "code-value-quantity=http://loinc.org|1$gt5||mg,2$6").criteria
    assert isinstance(found, Composite)
    assert [[one.table for one in group] for group in found.values] == [[Table.TOKEN, Table.QUANTITY]] * 2


# Results: §3.1.1.5 (managing returned resources)


def test_the_query_says_what_was_processed() -> None:
    """§3.1.1.3.1: the self link, defaults included."""
    query = asked("Patient", "name=a", "nonsense=1", "_sort=-birthdate", "_total=accurate", lenient=True)
    assert query.parameters() == [("name", "a"), ("_sort", "-birthdate"), ("_total", "accurate"), ("_count", "50")]
    assert query.ignored == (("nonsense", "1"),)


@pytest.mark.parametrize(
    ("pairs", "count", "summary"),
    [([], 50, None), (["_count=10"], 10, None), (["_count=999999"], COUNT_MAX, None), (["_count=0"], 0, "count"),
     (["_summary=count"], 0, "count"), (["_summary=true"], 50, "true"), (["_summary=false"], 50, None)],
)  # fmt: skip
def test_count_and_summary(pairs: list[str], count: int, summary: str | None) -> None:
    """§3.1.1.5.3: `_count=0` is `_summary=count`; the server may return fewer, never more."""
    query = asked("Patient", *pairs)
    assert (query.count, query.summary) == (count, summary)


def test_sorting_has_several_keys() -> None:
    """§3.1.1.5.2"""
    query = asked("ServiceRequest", "_sort=-authored,priority,_lastUpdated,_id")
    assert [(key.code, key.descending, key.table) for key in query.sort] == [
        ("authored", True, Table.DATE), ("priority", False, Table.NUMBER),
        ("_lastUpdated", False, Table.LAST_UPDATED), ("_id", False, Table.ID),
    ]  # fmt: skip


def test_includes_name_a_source_a_parameter_and_a_target() -> None:
    """§3.1.1.5.5"""
    query = asked("ServiceRequest", "_include=ServiceRequest:subject:Patient", "_include:iterate=Patient:organization",
                  "_include=*", "_include=ServiceRequest:*", "_revinclude=Task:focus", "_revinclude:iterate=Task:*")
    assert [(one.source, len(one.param_ids), one.target, one.iterate) for one in query.includes] == [
        ("ServiceRequest", 1, "Patient", False), ("Patient", 1, None, True), (None, 0, None, False),
        ("ServiceRequest", 0, None, False),
    ]  # fmt: skip
    assert [(one.source, one.reverse, one.iterate) for one in query.revincludes] == [
        ("Task", True, False), ("Task", True, True),
    ]  # fmt: skip


def test_elements_are_named_at_the_root() -> None:
    """§3.1.1.5.7"""
    assert asked("Observation", "_elements=status,value,Observation.code").elements == ("status", "value", "code")
    # fhirpy asks for resourceType too: no element, and always there
    assert asked("Observation", "_elements=resourceType,status").elements == ("id", "status")


def test_a_search_of_the_system_has_the_common_parameters() -> None:
    """§3.1.1.1: `GET [base]?_type=A,B`; one type alone is a search of that type."""
    query = asked(None, "_type=Patient,Task", "_lastUpdated=gt2024", "_tag=x", "_sort=-_lastUpdated")
    assert (query.type, query.types) == (None, ("Patient", "Task"))
    assert asked(None, "_type=Patient", "name=x").type == "Patient"
    assert asked(None, "_id=1").types == ()
    assert refused(None, "_type=Patient", types=("Task",)).status == 400


# Names and values that nobody foresaw


@given(st.sampled_from([None, "Patient", "Observation", "ServiceRequest"]), st.text(max_size=30), st.text(max_size=40))
def test_no_parameter_makes_anything_but_a_query_or_a_refusal(type_name: str | None, name: str, value: str) -> None:
    """Bad input is the caller's fault, never the server's."""
    with suppress(BadRequest):
        query = parse(type_name, [(name, value)])
        assert query.parameters()
        assert name in dict(query.parameters()) or name in HARMLESS


@given(
    st.sampled_from(["identifier", "name", "birthdate", "general-practitioner", "_id", "_lastUpdated", "_tag", "active",
                     "_count", "_sort", "_include", "_elements", "_type", "_profile:below", "name:exact",
                     "_has:Task:patient:code", "identifier:of-type", "organization:identifier", "gender:not",
                     "_summary", "organization.name"]),
    st.text(alphabet="aZ0-9.,:|$\\/_ \u0301é\0T", max_size=20),
)  # fmt: skip
def test_no_value_of_a_known_parameter_makes_anything_else_either(name: str, value: str) -> None:
    with suppress(BadRequest):
        assert parse("Patient", [(name, value)]).parameters()[0][0] == name
