"""The table of policies: its defaults are values of their own form, and docs/operations.md shows it."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from resources.policies import POLICIES, TABLE, Policy, Where, resolve, where_of
from scripts import policies_page

WRONG: list[Any] = [
    None, 1.5, -1, 10**9, [], {}, "", "nonsense " * 40, ["nobody"], {"stat": 0}, {"stat": "5"}, {"gravest": 5}, True,
    [{"after": 0}], [{"after": 0, "to": []}], [{"after": 0, "to": ["nobody"]}], [{"after": -1, "to": ["owner"]}],
    [{"after": 5, "to": ["owner"]}, {"after": 5, "to": ["support"]}], [{"after": 0, "to": ["owner"]}] * 6,
]  # fmt: skip
RIGHT: dict[str, Any] = {
    "required-content": ["placer"], "duplicate-accession": "warn", "language": "en-GB", "zone": "Pacific/Noumea",
    "signing-acr": "eidas2",
}  # fmt: skip


@pytest.mark.parametrize("policy", TABLE, ids=[one.name for one in TABLE])
def test_a_default_is_a_value_and_nonsense_is_none(policy: Policy) -> None:
    """Each form says what is wrong in words; an empty text as default means "none", and is not set but withdrawn to."""
    right = RIGHT.get(policy.name, policy.default)
    assert policy.form.fault(right) == ""
    refused = [value for value in WRONG if policy.form.fault(value)]
    assert len(refused) >= len(WRONG) - 4
    assert all(not policy.form.fault(value).endswith(".") for value in refused)


def test_names_are_unique() -> None:
    assert len(POLICIES) == len(TABLE)


def test_the_page_has_the_table() -> None:
    """docs/operations.md: `python -m scripts.policies_page` writes it."""
    assert "\n".join(policies_page.rows()) in policies_page.PAGE.read_text(encoding="utf-8")


def test_the_most_specific_row_holds() -> None:
    """exam > site > partner > everywhere, whatever the order of the rows; a place that differs does not fit."""
    asked = Where("hopital-a", "site-1", "24725-4")
    places = [Where(*parts) for parts in product(("", "hopital-a"), ("", "site-1"), ("", "24725-4"))]
    ranked = sorted(places, key=lambda one: one.rank)
    for count in range(1, len(ranked) + 1):
        rows = [(where, number) for number, where in enumerate(ranked[:count])]
        for order in (rows, rows[::-1]):
            assert resolve("deadline-unread", order, asked) == count - 1
    others = [(Where("hopital-b", "", ""), 1), (Where("", "site-2", ""), 2), (Where("", "", "24627-2"), 3)]
    assert resolve("deadline-unread", others, asked) == POLICIES["deadline-unread"].default
    assert resolve("deadline-unread", others, Where("hopital-b", "site-2")) == 2


def test_a_row_of_minutes_leaves_the_others_as_they_are() -> None:
    """Only what was decided differs from the default."""
    value = resolve("deadline-read", [(Where("hopital-a"), {"stat": 12})], Where("hopital-a"))
    assert value == {"stat": 12, "asap": 30, "urgent": 60, "routine": 1440}


def test_where_an_order_stands() -> None:
    """Its owner, the place where it is made, the LOINC code before others."""
    code = {"coding": [{"system": "urn:x", "code": "SCAN"}, {"system": "http://loinc.org", "code": "24725-4"}]}
    order = {"locationReference": [{"reference": "Location/salle-2"}], "code": code}
    assert where_of(order, "hopital-a") == ("hopital-a", "salle-2", "24725-4")
    order = {"requester": {"reference": "Organization/site-nord"}, "code": {"text": "Scanner"}}
    assert where_of(order, "ght") == ("ght", "site-nord", "")
    assert where_of({"requester": {"reference": "Organization/ght"}}, "ght") == ("ght", "", "")
    assert where_of({"requester": {"reference": "Practitioner/x"}}, "ght") == ("ght", "", "")
