"""The header reader against pydicom, an independent reading of the same files; and its budgets."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb import frames, part10
from dicomweb.reader import Unreadable, read, swapped
from tests.dicomweb.conftest import PYDICOM_FILES

Json = Any


def comparable(value: Json) -> Json:
    """What both say: group lengths and padding are no content, trailing spaces do not count, empty is empty."""
    if isinstance(value, dict):
        if "vr" in value:
            inner = [comparable(one) for one in value.get("Value", [])]
            while inner and inner[-1] in (None, {}, ""):
                inner.pop()
            return {"vr": value["vr"], "Value": inner}
        kept = {k: v for k, v in value.items() if k == "vr" or not (k.endswith("0000") or k in SKIPPED)}
        return {k: comparable(v) for k, v in kept.items()}
    if isinstance(value, list):
        return [comparable(one) for one in value]
    if isinstance(value, str):
        return value.strip() or None
    return round(value, 6) if isinstance(value, float) else value


SKIPPED = {"FFFCFFFC", "7FE00010"}


def both(file: Path) -> tuple[Json, Json]:
    part = part10.parse(file.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(file)
        theirs = dataset.to_json_dict(bulk_data_threshold=1024, bulk_data_element_handler=lambda element: "bulk")
    return comparable(part.dataset().json), comparable(json.loads(json.dumps(theirs)))


READABLE = sorted(
    file for file in PYDICOM_FILES.rglob("*.dcm")
    if file.name not in {"badVR.dcm", "MR_truncated.dcm", "rtplan_truncated.dcm", "meta_missing_tsyntax.dcm"}
    and file.read_bytes()[128:132] == b"DICM"
)


@pytest.mark.parametrize("file", READABLE, ids=lambda file: file.name)
def test_the_reader_says_what_pydicom_says(file: Path) -> None:
    """PS3.18 Annex F, over implicit, explicit, big-endian and deflated data sets, private, UN and nested elements."""
    ours, theirs = both(file)

    assert ours == theirs


@given(st.binary(max_size=400), st.booleans(), st.booleans())
def test_no_bytes_do_anything_but_read_or_be_refused(data: bytes, explicit: bool, little: bool) -> None:
    """Fuzzing: Unreadable is the only way out."""
    with suppress(Unreadable):
        read(data, explicit=explicit, little=little)


@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    """Any byte altered, any part cut out."""
    file = data.draw(st.sampled_from([PYDICOM_FILES / name for name in ("CT_small.dcm", "test-SR.dcm", "rtplan.dcm")]))
    raw = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    damaged = bytes(raw[:cut]) + bytes(raw[cut + data.draw(st.integers(0, 50)) :])
    with suppress(Unreadable):
        dataset = part10.parse(damaged).dataset()
        frames.index(dataset, lambda offset, size: damaged[offset : offset + size])


@given(st.binary(max_size=64).filter(lambda data: len(data) % 8 == 0), st.sampled_from(["OW", "OF", "OD"]))
def test_swapping_twice_changes_nothing(data: bytes, vr: str) -> None:
    """Bulk data is served little endian."""
    assert swapped(swapped(data, vr), vr) == data
