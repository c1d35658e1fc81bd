"""Texts as a string search compares them.

FHIR R4 §3.1.1.5.9 http://hl7.org/fhir/R4/search.html#string
"""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.strings import composed, folded, normalise


@pytest.mark.parametrize(
    ("text", "norm"),
    [("Müller", "muller"), ("ÉMILE", "emile"), ("  Anne \t Marie ", "anne marie"), ("Straße", "strasse"),
     ("ﬁn", "fin"), ("İzmir", "izmir"), ("Ærø", "ærø"), ("", ""), ("\u0301", "")],
)  # fmt: skip
def test_case_accents_and_spaces_do_not_count(text: str, norm: str) -> None:
    assert normalise(text) == norm


@given(st.text())
def test_a_normal_form_is_its_own_normal_form(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text())
def test_the_encoding_of_an_accent_does_not_count(text: str) -> None:
    other = unicodedata.normalize("NFD", text)
    assert normalise(other) == normalise(text)
    assert composed(other) == composed(text)


@pytest.mark.parametrize(("one", "other"), [("FINAL", "final"), ("É", "é"), ("e\u0301", "É")])
def test_codes_are_compared_without_case(one: str, other: str) -> None:
    """§3.1.1.5.11: "When in doubt, servers SHOULD treat tokens in a case-insensitive manner"."""
    assert folded(one) == folded(other)
