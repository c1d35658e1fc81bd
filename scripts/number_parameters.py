"""Give a number to each search parameter of the standard's file that has none: appended, for ever.

The numbers stand in every index row on disk, so what has one keeps it, in whatever order the file comes. The first
1,706 are the positions in the sorted list of R4 4.0.1.

    python scripts/number_parameters.py
"""

from __future__ import annotations

import json
from pathlib import Path

from resources import definitions

PAGE = Path(__file__).resolve().parents[1] / "resources" / "definitions" / "parameter_numbers.json"


def numbered(known: dict[tuple[str, str], int], pairs: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """`known`, and the next numbers for what is new, in the order of (type, code)."""
    following = max(known.values(), default=0) + 1
    new = sorted(set(pairs) - known.keys())
    return known | {pair: following + n for n, pair in enumerate(new)}


def main() -> None:
    pairs = [(base, row["code"]) for row in definitions.search_parameters() for base in row["base"]]
    known = dict(definitions.parameter_numbers()) if PAGE.exists() else {}
    rows = sorted(((number, *pair) for pair, number in numbered(known, pairs).items()))
    PAGE.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
