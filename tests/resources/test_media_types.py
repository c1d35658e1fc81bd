"""Content-Type and Accept, as senders and viewers really write them (RFC 9110 §8.3.1, §12.5.1)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.media_types import MAX_LENGTH, MAX_RANGES, accepted, parse


@pytest.mark.parametrize(
    ("text", "kind", "parameters"),
    [
        (None, "", {}),
        ("", "", {}),
        ("application/fhir+json", "application/fhir+json", {}),
        ("Application/FHIR+JSON; FHIRVersion=4.0", "application/fhir+json", {"fhirversion": "4.0"}),
        ('Multipart/Related ; TYPE = "a/b" ;boundary="x\\"y;z"', "multipart/related",
         {"type": "a/b", "boundary": 'x"y;z'}),
        # OHIF leaves out the quotes; Java's mail writes boundaries that want some.
        ("multipart/related; type=application/octet-stream; transfer-syntax=*", "multipart/related",
         {"type": "application/octet-stream", "transfer-syntax": "*"}),
        ("multipart/related;boundary=----=_Part_1:2/3", "multipart/related", {"boundary": "----=_Part_1:2/3"}),
        ("a/b; flag; ; c=d; c=e;", "a/b", {"flag": "", "c": "d"}),
        ("a/b; name*=utf-8''%c3%a9", "a/b", {"name": "é"}),
        ("a/b; c=" + "x" * MAX_LENGTH, "", {}),
    ],
)  # fmt: skip
def test_a_media_type_is_read(text: str | None, kind: str, parameters: dict[str, str]) -> None:
    found = parse(text)
    assert (found.type, dict(found.parameters)) == (kind, parameters)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (None, []),
        ("application/dicom+json, application/json", ["application/dicom+json", "application/json"]),
        ("a/a;q=0.5,b/b , c/c;q=0.9,,d/d", ["b/b", "d/d", "c/c", "a/a"]),
        ("a/a;q=0, b/b;q=0.000, c/c;q=2, d/d;q=-1, e/e;q=nan, f/f;q=1e-1, g/g;q=.5, h/h;q=1.0", ["h/h"]),
        ('multipart/related; type="a,b", c/d', ["multipart/related", "c/d"]),
        ('multipart/related; type="a\\",b", c/d', ["multipart/related", "c/d"]),
        ("a/a," * (MAX_RANGES + 50), ["a/a"] * MAX_RANGES),
    ],
)
def test_ranges_come_best_first(text: str | None, kinds: list[str]) -> None:
    assert [one.type for one in accepted(text)] == kinds


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=255), max_size=80) | st.text('a/b;,="\\ *q0.1\'%', max_size=80))
def test_no_text_is_a_fault(text: str) -> None:
    for one in (parse(text), *accepted(text)):
        assert one.type == one.type.lower()
        assert 0 <= one.quality <= 1
        assert "q" not in one.parameters


@pytest.mark.parametrize("seed", ['"' + ";" * 63, ";" * 64, "a/b;" * 16, '"\\' * 32, "," * 64, '",' * 32, "*=" * 32])
def test_the_work_is_linear_in_the_length(seed: str) -> None:
    """A header field may have 64 KiB. Eight times the text is about eight times the work; squared: 64."""

    def cost(count: int) -> float:
        times = []
        for turn in range(3):
            text = f"{turn}" + seed * count  # a text that is not kept from the turn before
            began = time.thread_time()
            parse(text)
            accepted(text)
            times.append(time.thread_time() - began)
        return min(times)

    assert cost(1024) < 30 * cost(128) + 0.02
