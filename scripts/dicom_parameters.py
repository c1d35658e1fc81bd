"""Write the table of DICOMweb parameters into docs/dicom-conformance.md: python -m scripts.dicom_parameters."""

from __future__ import annotations

import re
from pathlib import Path

from dicomweb.parameters import table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "dicom-conformance.md"
_TABLE = re.compile(r"(?<=by `python -m scripts\.dicom_parameters`\.\n\n)(?:\|.*\n)*")


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_TABLE.sub(lambda _: table() + "\n", text), encoding="utf-8")
