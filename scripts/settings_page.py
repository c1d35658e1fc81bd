"""Write docs/settings.md from the docstrings of the settings."""

from __future__ import annotations

import ast
import dataclasses
import itertools
from pathlib import Path

from fhir_server.server import settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"


def rows() -> list[str]:
    """One table row per setting."""
    tree = ast.parse(Path(settings.__file__).read_text(encoding="utf-8"))
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Settings").body
    told = {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
    shown = []
    for field in dataclasses.fields(settings.Settings):
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        value = "" if default in ("", False) else f"`{int(default) if isinstance(default, bool) else default}`"
        shown.append(f"| `VIGIE_{field.name.upper()}` | {value} | {told[field.name].replace('``', '`')} |")
    return shown


def main() -> None:
    head = PAGE.read_text(encoding="utf-8").partition("|---|---|---|\n")
    PAGE.write_text(f"{head[0]}{head[1]}" + "\n".join(rows()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
