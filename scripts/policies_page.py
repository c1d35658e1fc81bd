"""Write the table of policies of docs/operations.md from `resources.policies`."""

from __future__ import annotations

import json
from pathlib import Path

from resources.policies import TABLE

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
_BEGIN = "| policy | value | default | what it decides | clause |\n|---|---|---|---|---|\n"


def rows() -> list[str]:
    """One table row per policy."""
    return [
        f"| `{one.name}` | {one.form.words} | `{json.dumps(one.default, ensure_ascii=False)}` | {one.meaning} "
        f"| {one.clause} |"
        for one in TABLE
    ]


def main() -> None:
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest[rest.index("\n\n") :]
    PAGE.write_text(f"{before}{begin}" + "\n".join(rows()) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
