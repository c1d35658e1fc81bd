"""Hypothesis strategies: small valid resources and searches whose values collide often, for `oracle` and the index.

The words are few on purpose: a property that compares two matchers says nothing where neither ever finds.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from resources.json import Json

TYPES = ("Patient", "Observation", "ServiceRequest", "ValueSet")
SYSTEMS = ("http://loinc.org", "http://snomed.info/sct", "urn:oid:1.2.3")
CODES = ("a", "B", "b", "a,b", "x|y", "ab$c", "back\\slash", "é")
WORDS = ("Müller", "Muller", "MULLER", "Émile", "Emile Zola", "Zola", "d'Arc", "Anne  Marie", "a,b", "Ab")
IDS = ("1", "2", "p-1")
UNITS = ("mg", "kg", "mm[Hg]")
URLS = ("http://a.org/fhir/ValueSet/1", "http://a.org/fhir", "http://a.org/fhir/ValueSet/1/x", "urn:oid:1.2.3")
DATES = (
    "2023", "2024", "2024-01", "2024-02", "2024-01-31", "2024-02-01", "2024-02-29", "2023-12-31",
    "2024-01-31T23:59:59Z", "2024-02-01T00:00:00Z", "2024-02-01T00:00:00.000Z", "2024-02-01T00:30:00+01:00",
    "2024-01-31T22:00:00-02:00", "2024-02-01T00:00:00.500Z",
)  # fmt: skip
MINUTES = ("2024-02-01T00:00Z", "2024-01-31T23:59Z")
NUMBERS = ("1", "5", "5.0", "5.4", "5.40", "5.35", "5.45", "100", "99.5", "-3", "0")


def some(values: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.sampled_from(values)


def element(required: dict[str, Any] | None = None, **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    """A JSON object that has every required key and any of the optional ones, never empty."""
    if required:
        return st.fixed_dictionaries(required, optional=optional)
    return st.sampled_from(sorted(optional)).flatmap(lambda key: st.fixed_dictionaries({key: optional[key]}, optional={
        other: strategy for other, strategy in optional.items() if other != key
    }))


def many(one: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(one, min_size=1, max_size=2)


coding = element({"code": some(CODES)}, system=some(SYSTEMS), display=some(WORDS))
concept = element(coding=many(coding), text=some(WORDS))
identifier = element(
    {"value": some(CODES)},
    system=some(SYSTEMS),
    type=element({"coding": many(element({"code": some(("MR", "SS")), "system": some(SYSTEMS)}))}),
)
period = element(start=some(("2023-12-31", "2024-01-31")), end=some(("2024-01-31", "2024-02", "2024-02-29")))
quantity = element(
    {"value": some(NUMBERS).map(lambda text: float(text) if "." in text else int(text))},
    code=some(UNITS), system=st.just("http://unitsofmeasure.org"), unit=some((*UNITS, "milligram")),
    comparator=some(("<", "<=", ">", ">=")),
)  # fmt: skip
name = element(family=some(WORDS), given=many(some(WORDS)), text=some(WORDS))


def reference(*types: str) -> st.SearchStrategy[Json]:
    literal = st.builds("{}/{}{}".format, some(types), some(IDS), some(("", "", "/_history/2")))
    return element(reference=literal, identifier=identifier)


meta = element(tag=many(coding), profile=many(st.builds("{}{}".format, some(URLS[:3]), some(("", "|1.0")))))

patients = element(
    {"resourceType": st.just("Patient"), "id": some(IDS)},
    active=st.booleans(), address=many(element(city=some(WORDS))), birthDate=some(DATES[:8]), meta=meta,
    gender=some(("male", "female")), generalPractitioner=many(reference("Practitioner", "Organization")),
    identifier=many(identifier), managingOrganization=reference("Organization"), name=many(name),
)  # fmt: skip
observations = element(
    {"resourceType": st.just("Observation"), "id": some(IDS), "code": concept, "status": some(("final", "amended"))},
    category=many(concept), component=many(element({"code": concept}, valueQuantity=quantity)),
    effectiveDateTime=some(DATES), subject=reference("Patient", "Group"), valueQuantity=quantity, meta=meta,
) | element(
    {"resourceType": st.just("Observation"), "id": some(IDS), "code": concept, "status": some(("final", "amended"))},
    effectivePeriod=period, valueCodeableConcept=concept, subject=reference("Patient"),
)  # fmt: skip
service_requests = element(
    {"resourceType": st.just("ServiceRequest"), "id": some(IDS), "status": some(("active", "draft")),
     "intent": some(("order", "plan"))},
    authoredOn=some(DATES), basedOn=many(reference("ServiceRequest")), code=concept, identifier=many(identifier),
    priority=some(("stat", "routine")), subject=reference("Patient", "Group"), occurrenceDateTime=some(DATES),
)  # fmt: skip
value_sets = element(
    {"resourceType": st.just("ValueSet"), "id": some(IDS), "status": st.just("active")},
    url=some(URLS), name=some(WORDS), meta=meta,
)  # fmt: skip
resources = patients | observations | service_requests | value_sets


def escaped(text: str) -> str:
    for character in "\\,$|":
        text = text.replace(character, "\\" + character)
    return text


token_value = st.one_of(
    some(CODES).map(escaped),
    st.builds("{}|{}".format, some((*SYSTEMS, "")), some(CODES).map(escaped)),
    some(SYSTEMS).map("{}|".format),
)
code_value = some(("male", "FEMALE", "final", "active", "order", "stat", "|final", "true", "false"))
prefix = some(("", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb"))
date_value = st.builds("{}{}".format, prefix, some((*DATES, *MINUTES)))
quantity_value = st.builds(
    "{}{}{}".format, prefix, some(NUMBERS), some(("", "||mg", "||milligram", "|http://unitsofmeasure.org|kg"))
)
string_value = some(("mu", "MÜ", "emile", "Zola", "Emile Zola", "anne m", "ll", "a\\,b", "d'", "é"))
plain = some(("", ":not", ":missing"))


def _pair(names: tuple[str, ...], value: st.SearchStrategy[str], *modifiers: str) -> st.SearchStrategy[tuple[str, str]]:
    """A parameter with one value or two, or `:missing`."""
    alternatives = st.lists(value, min_size=1, max_size=2).map(",".join)
    compared = st.tuples(st.builds("{}{}".format, some(names), some(("", *modifiers))), alternatives)
    missing = st.tuples(some(names).map("{}:missing".format), some(("true", "false")))
    return compared | compared | compared | missing


reference_value = st.one_of(
    some(IDS),
    st.builds("{}/{}{}".format, some(("Patient", "Organization", "Group")), some(IDS), some(("", "", "/_history/2"))),
)
common_pairs = st.one_of(
    st.tuples(st.just("_id"), st.lists(some(IDS), min_size=1, max_size=2).map(",".join)),
    _pair(("_tag",), token_value, ":not", ":text"),
    _pair(("_profile",), some((*URLS[:3], URLS[0] + "|1.0")), ":below"),
)
text_pairs = some(("mu", "zola", "Emile"))
of_type_value = st.builds("{}|{}|{}".format, some(SYSTEMS), some(("MR", "SS")), some(CODES).map(escaped))

pairs: dict[str, st.SearchStrategy[tuple[str, str]]] = {
    "Patient": st.one_of(
        common_pairs,
        _pair(("identifier",), token_value, ":not"),
        st.tuples(st.just("identifier:of-type"), of_type_value),
        _pair(("gender", "active"), code_value, ":not"),
        _pair(("name", "family", "given", "address-city"), string_value, ":contains"),
        st.tuples(some(("name:exact", "family:exact")), some(WORDS).map(escaped)),
        _pair(("birthdate",), date_value),
        _pair(("organization", "general-practitioner"), reference_value),
        st.tuples(st.just("organization:identifier"), token_value),
        st.tuples(st.just("general-practitioner:Organization"), some(IDS)),
    ),
    "Observation": st.one_of(
        common_pairs,
        _pair(("code", "category", "component-code", "value-concept"), token_value, ":not"),
        st.tuples(some(("code:text", "value-concept:text")), text_pairs),
        _pair(("status",), code_value, ":not"),
        _pair(("date",), date_value),
        _pair(("value-quantity",), quantity_value),
        _pair(("subject", "patient"), reference_value),
        st.tuples(
            some(("code-value-quantity", "component-code-value-quantity")),
            st.builds("{}${}".format, token_value, quantity_value),
        ),
    ),
    "ServiceRequest": st.one_of(
        _pair(("code", "identifier"), token_value, ":not"),
        _pair(("status", "intent", "priority"), code_value, ":not"),
        _pair(("authored", "occurrence"), date_value),
        _pair(("subject", "patient", "based-on"), reference_value),
    ),
    "ValueSet": st.one_of(
        common_pairs,
        _pair(("url",), some(URLS)),
        st.tuples(st.just("url:below"), some(URLS[:3])),
        _pair(("name",), string_value, ":contains"),
    ),
}


dated = st.one_of(
    st.builds(
        lambda when: {"resourceType": "Observation", "id": "1", "effectiveDateTime": when}, some(DATES)
    ),
    st.builds(lambda when: {"resourceType": "Observation", "id": "1", "effectivePeriod": when}, period),
)
"""Only a date, for properties of prefixes: a resource with everything seldom meets the one asked."""
measured = st.builds(
    lambda own, parts: {"resourceType": "Observation", "id": "1", "component": parts} | own,
    element({"code": concept, "valueQuantity": quantity}),
    st.lists(element({"code": concept, "valueQuantity": quantity}), min_size=2, max_size=3),
)
"""Quantities, its own and those of its components."""
date_pairs = st.lists(st.tuples(st.just("date"), date_value), min_size=1, max_size=2)
quantity_pairs = st.one_of(
    st.tuples(st.just("value-quantity"), quantity_value),
    st.tuples(
        some(("code-value-quantity", "component-code-value-quantity")),
        st.builds("{}${}".format, some(CODES).map(escaped), st.builds("{}{}".format, prefix, some(NUMBERS))),
    ),
).map(lambda pair: [pair])


def queries(type_name: str) -> st.SearchStrategy[list[tuple[str, str]]]:
    """One or two parameters of a type."""
    return st.lists(pairs[type_name], min_size=1, max_size=2)
