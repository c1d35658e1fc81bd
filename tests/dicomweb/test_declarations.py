"""What is declared of DICOMweb, without a server: the conformance statement, ranges of streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomweb import parameters
from dicomweb.wado import Payload

ROOT = Path(__file__).resolve().parents[2]


def test_the_conformance_statement_has_the_table() -> None:
    """docs/dicom-conformance.md §3.4, made by ``python -m scripts.dicom_parameters``."""
    assert parameters.table() in (ROOT / "docs" / "dicom-conformance.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [1, 3, 7])
def test_any_range_of_a_stream_is_cut_out_of_it(size: int) -> None:
    """For what has no place in the stored file: decoded frames, say."""
    data = bytes(range(20))
    pieces = [data[at : at + size] for at in range(0, 20, size)]
    for first in range(20):
        for end in range(first + 1, 21):
            assert b"".join(Payload(pieces, 20).bytes_of(first, end)) == data[first:end]
