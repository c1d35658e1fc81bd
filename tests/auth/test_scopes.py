"""SMART v2 scopes: the grammar read fail-closed, and an algebra that never widens.

SMART 2.2 https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html
"""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth import scopes
from auth.scopes import MalformedScope, Scope, covers, granting, narrow, parse, parse_all, text_of


@pytest.mark.parametrize(
    ("text", "level", "type_name", "letters", "constraint"),
    [
        ("system/Patient.r", "system", "Patient", "r", ()),
        ("user/*.cruds", "user", "*", "cruds", ()),
        ("patient/Observation.rs", "patient", "Observation", "rs", ()),
        ("system/Patient.read", "system", "Patient", "rs", ()),
        ("system/Patient.write", "system", "Patient", "cud", ()),
        ("system/*.*", "system", "*", "cruds", ()),
        ("system/ServiceRequest.rs?status=active", "system", "ServiceRequest", "rs", (("status", "active"),)),
        (
            "system/ServiceRequest.rs?status=active,on-hold&priority=stat",
            "system", "ServiceRequest", "rs", (("status", "active,on-hold"), ("priority", "stat")),
        ),
        (
            "patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|laboratory",
            "patient", "Observation", "rs",
            (("category", "http://terminology.hl7.org/CodeSystem/observation-category|laboratory"),),
        ),
        ("system/Patient.rs?name=L%C3%A9a", "system", "Patient", "rs", (("name", "Léa"),)),
        ("system/Task.u?_tag=a", "system", "Task", "u", (("_tag", "a"),)),
    ],
)  # fmt: skip
def test_a_scope_is_read(
    text: str, level: str, type_name: str, letters: str, constraint: tuple[tuple[str, str], ...]
) -> None:
    """SMART 2.2 §Scopes for requesting FHIR Resources, with the v1 forms."""
    assert parse(text) == Scope(level, type_name, letters, constraint)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "system",
        "system/",
        "system/Patient",
        "system/Patient.",
        "system/Patient.x",
        "system/Patient.sr",
        "system/Patient.rrs",
        "system/Patient.rsXYZ",
        "system/Patient.RS",
        "system/Patient.rs ",
        " system/Patient.rs",
        "system/Patient.rs\n",
        "system/Patient.rs\0",
        "patient/Observation.read-only",
        "patient/Observation.reads",
        "system/Patient.read?status=active",
        "system/Patient.*?x",
        "system/.rs",
        "system/patient.rs",
        "system/Nonsense.rs",
        "system/Resource.rs",
        "system/DomainResource.rs",
        "system/**.rs",
        "admin/Patient.rs",
        "System/Patient.rs",
        "system//Patient.rs",
        "system/Patient/1.rs",
        "system/Pátient.rs",
        "system/Patient.rѕ",
        "ѕystem/Patient.rs",
        "system/*.rs?_id=1",
        "system/ServiceRequest.rs?",
        "system/ServiceRequest.rs?status",
        "system/ServiceRequest.rs?status=",
        "system/ServiceRequest.rs?=active",
        "system/ServiceRequest.rs?status=active&",
        "system/ServiceRequest.rs?&status=active",
        "system/ServiceRequest.rs?status=a=b",
        "system/ServiceRequest.rs?status=active?priority=stat",
        "system/ServiceRequest.?status=active",
        "system/ServiceRequest?status=active",
        "system/ServiceRequest.rs?status:not=active",
        "system/ServiceRequest.rs?subject.name=x",
        "system/ServiceRequest.rs?subject:Patient.name=x",
        "system/ServiceRequest.rs?status:missing=true",
        "system/Patient.rs?_has:Observation:patient:code=x",
        "system/ServiceRequest.rs?_include=ServiceRequest:subject",
        "system/ServiceRequest.rs?_revinclude=*",
        "system/ServiceRequest.rs?_sort=status",
        "system/ServiceRequest.rs?_count=1",
        "system/ServiceRequest.rs?_elements=id",
        "system/ServiceRequest.rs?_summary=count",
        "system/ServiceRequest.rs?_filter=x",
        "system/ServiceRequest.rs?_format=json",
        "system/ServiceRequest.rs?_pretty=true",
        "system/ServiceRequest.rs?unknown=1",
        "system/ServiceRequest.rs?status=active&status",
        "system/ServiceRequest.rs?status=%FF",
        "system/ServiceRequest.rs?status=%00",
        "system/ServiceRequest.rs?status=a%0Ab",
        "system/ServiceRequest.rs?status=a+b",
        "system/ServiceRequest.rs?status=active,",
        "system/ServiceRequest.rs?status=%20active",
        "system/ServiceRequest.rs?status=active%5C",
        "system/ServiceRequest.rs?authored=yesterday",
        'system/ServiceRequest.rs?status="active"',
        "system/ServiceRequest.rs?" + "&".join(["status=active"] * 20),
        "system/ServiceRequest.rs?status=" + "x" * 2000,
        "system/" + "A" * 100_000 + ".rs",
        "system/Patient." + "c" * 100_000,
    ],
)
def test_whatever_is_not_understood_is_refused_whole(text: str) -> None:
    """Leak L11: nothing is cut off, ignored or dropped; a constraint that is dropped is a door left open."""
    with pytest.raises(MalformedScope):
        parse(text)


def test_one_malformed_scope_spoils_the_request() -> None:
    """Microsoft's reader granted what matched and dropped the rest (fail-open)."""
    good = "system/Patient.rs"
    for text in (f"{good} nonsense", f"{good}  {good}", f"{good}\t{good}", f"{good} ", f" {good}"):
        with pytest.raises(MalformedScope):
            parse_all(text)


def test_long_lists_are_refused() -> None:
    """SMART 2.2 warns of the size of granular scopes; 100 kB is an attack."""
    for text in ("system/Patient.rs " * 10_000, " ".join(f"system/Task.rs?status=s{n}" for n in range(100))):
        with pytest.raises(MalformedScope):
            parse_all(text)


def test_scopes_of_launches_are_no_mistake_and_no_right() -> None:
    """SMART 2.2 §Scopes: they belong to people's launches."""
    assert parse_all("openid fhirUser launch/patient system/Patient.rs offline_access") == (parse("system/Patient.rs"),)


def test_the_grammar_is_linear() -> None:
    """No backtracking: a hundred thousand characters cost little more than ten thousand."""

    def cost(size: int) -> float:
        text = "system/Patient." + "cruds" * size
        best = 1.0
        for _ in range(5):
            began = time.perf_counter()
            assert scopes._SCOPE.fullmatch(text) is None
            best = min(best, time.perf_counter() - began)
        return best

    assert cost(20_000) < 100 * cost(2_000) + 0.01


@pytest.mark.parametrize(
    ("granted", "requested", "covered"),
    [
        ("system/*.cruds", "system/Patient.r", True),
        ("system/Patient.r", "system/Patient.rs", False),
        ("system/Patient.r system/Patient.s", "system/Patient.rs", True),
        ("system/Patient.rs", "system/*.rs", False),
        ("user/Patient.rs", "system/Patient.rs", False),
        ("system/Patient.read", "system/Patient.rs", True),
        ("system/Task.rs?status=requested", "system/Task.rs", False),
        ("system/Task.rs", "system/Task.rs?status=requested", True),
        ("system/Task.rs?status=requested", "system/Task.rs?status=requested&priority=stat", True),
        ("system/Task.rs?status=requested,accepted", "system/Task.rs?status=requested", True),
        ("system/Task.rs?status=requested", "system/Task.rs?status=requested,accepted", False),
        ("system/Task.rs?status=requested", "system/Task.rs?priority=stat", False),
        ("", "system/Task.rs", False),
    ],
)
def test_what_covers_what(granted: str, requested: str, covered: bool) -> None:
    """SMART 2.2: several scopes are a union, the parameters of one an intersection."""
    assert covers(tuple(map(parse, granted.split())), parse(requested)) is covered


@pytest.mark.parametrize(
    ("requested", "allowed", "granted"),
    [
        ("system/*.rs", "system/Patient.cruds system/Task.r", "system/Patient.rs system/Task.r"),
        ("system/Task.rs?priority=stat", "system/Task.rs?status=requested",
         "system/Task.rs?priority=stat&status=requested"),
        ("system/Task.rs?status=requested", "system/Task.rs?status=requested,accepted",
         "system/Task.rs?status=requested"),
        ("system/Task.cruds", "system/Task.rs system/Task.c?status=requested",
         "system/Task.rs system/Task.c?status=requested"),
        ("system/Patient.r system/Patient.s", "system/*.rs", "system/Patient.rs"),
        ("system/Patient.rs system/*.rs", "system/*.rs", "system/*.rs"),
        ("user/Patient.rs", "system/*.rs", ""),
    ],
)  # fmt: skip
def test_narrowing(requested: str, allowed: str, granted: str) -> None:
    """RFC 6749 §3.3: the server may grant less than was asked; SMART's scopes are compared by what they mean."""
    assert text_of(narrow(parse_all(requested), parse_all(allowed))) == granted


def test_only_system_scopes_grant_to_a_machine() -> None:
    """SMART 2.2: system scopes are those of backend services."""
    held = frozenset({"user/*.cruds", "patient/*.cruds", "system/Task.r"})
    assert granting(held, "Task", "r") == (parse("system/Task.r"),)
    assert granting(held, "Task", "s") == ()
    assert granting(held, "Patient", "r") == ()


# — properties —

TYPES = ("*", "Task", "Patient", "ServiceRequest")
STATUSES = ("draft", "active", "on-hold")
PRIORITIES = ("stat", "routine")


@st.composite
def scope_texts(draw: st.DrawFn) -> str:
    letters = draw(st.sampled_from(["r", "s", "rs", "cud", "cruds", "u", "cs", "read", "write", "*"]))
    type_name = draw(st.sampled_from(TYPES))
    text = f"{draw(st.sampled_from(['system', 'system', 'user']))}/{type_name}.{letters}"
    if type_name == "ServiceRequest" and letters not in ("read", "write", "*") and draw(st.booleans()):
        pairs = []
        if draw(st.booleans()):
            pairs.append("status=" + ",".join(draw(st.lists(st.sampled_from(STATUSES), min_size=1, max_size=3))))
        if draw(st.booleans()) or not pairs:
            pairs.append("priority=" + draw(st.sampled_from(PRIORITIES)))
        text += "?" + "&".join(pairs)
    return text


lists = st.lists(scope_texts(), min_size=1, max_size=5).map(" ".join)


def admits(held: tuple[Scope, ...], level: str, type_name: str, letter: str, facts: dict[str, str]) -> bool:
    """A naive reader of scopes: may this letter be used on a resource with these facts?"""
    return any(
        scope.level == level
        and scope.type in ("*", type_name)
        and letter in scope.letters
        and all(facts[name] in value.split(",") for name, value in scope.constraint)
        for scope in held
    )


@given(lists, lists)
def test_narrowing_is_exactly_the_intersection(requested: str, allowed: str) -> None:
    """Never more than was asked, never more than is allowed, and nothing lost."""
    wishes, limits = parse_all(requested), parse_all(allowed)
    granted = parse_all(text_of(narrow(wishes, limits))) if narrow(wishes, limits) else ()
    for level in ("system", "user"):
        for type_name in TYPES[1:]:
            for letter in scopes.LETTERS:
                for status in STATUSES:
                    for priority in PRIORITIES:
                        facts = {"status": status, "priority": priority}
                        asked = (level, type_name, letter, facts)
                        assert admits(granted, *asked) == (admits(wishes, *asked) and admits(limits, *asked))


@given(lists, scope_texts())
def test_covering_is_never_claimed_falsely(held: str, wanted: str) -> None:
    """What `covers` says yes to is admitted in every case."""
    granted, requested = parse_all(held), parse(wanted)
    if covers(granted, requested):
        for type_name in TYPES[1:]:
            for letter in scopes.LETTERS:
                for status in STATUSES:
                    for priority in PRIORITIES:
                        asked = (requested.level, type_name, letter, {"status": status, "priority": priority})
                        assert admits(granted, *asked) or not admits((requested,), *asked)


@given(scope_texts())
def test_a_scope_is_written_as_it_is_read(text: str) -> None:
    """Stored and answered scopes mean what was granted."""
    assert parse(str(parse(text))) == parse(text)


@given(st.text(max_size=60) | st.text("systempaientur/.*?=&,:|cruds%\\ ", max_size=40).map("system/Task.r".__add__))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing else is raised, and what is read has only letters of cruds in order."""
    try:
        scope = parse(text)
    except MalformedScope:
        return
    assert scope.letters == "".join(letter for letter in scopes.LETTERS if letter in scope.letters)
    assert scope.letters
    assert parse(str(scope)) == scope
