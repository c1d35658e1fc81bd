"""Write docs/settings.md from the declarations of the settings."""

from __future__ import annotations

from pathlib import Path

from fhir_server.server.settings import DECLARED

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"


def rows() -> list[str]:
    """One table row per setting."""
    shown = []
    for one in DECLARED.values():
        default = "" if one.default in ("", False, ()) else f"`{one.text(one.default)}`"
        flag = f"`--{one.name.replace('_', '-')}`" if one.flag else ""
        shown.append(f"| `{one.variable}` | {flag} | {default} | {one.doc} |")
    return shown


def main() -> None:
    head = PAGE.read_text(encoding="utf-8").partition("|---|---|---|---|\n")
    PAGE.write_text(f"{head[0]}{head[1]}" + "\n".join(rows()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
