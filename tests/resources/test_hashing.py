"""Stable names for systems and organisations."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resources.hashing import CODE_LIMIT, NO_SYSTEM, bounded, hash64


def test_a_system_has_the_same_number_for_ever() -> None:
    """The numbers are stored: another value here makes every index on disk wrong."""
    assert hash64("http://loinc.org") == 2140978446050177415
    assert hash64("urn:oid:1.2.250.1.213.1.4.8") == 4129639135646074805


def test_no_system_is_zero() -> None:
    """R4 §3.1.1.5.11: `|code` asks for a coding without system."""
    assert hash64("") == NO_SYSTEM == 0


@given(st.text(min_size=1))
def test_a_number_fits_a_signed_column_and_is_never_no_system(text: str) -> None:
    assert 0 < hash64(text) < 2**63


@given(st.text(min_size=CODE_LIMIT + 1, max_size=CODE_LIMIT + 40))
def test_a_long_code_is_kept_apart_from_others_in_a_bounded_space(code: str) -> None:
    assert len(bounded(code)) <= CODE_LIMIT
    assert bounded(code) != bounded(code + "x")


@given(st.text(max_size=CODE_LIMIT))
def test_a_short_code_is_itself(code: str) -> None:
    assert bounded(code) == code
