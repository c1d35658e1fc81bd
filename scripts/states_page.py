"""Write the state table of docs/workflow.md from `resources.lifecycle`: ``python -m scripts.states_page``."""

from __future__ import annotations

from pathlib import Path

from resources.lifecycle import STEPS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "workflow.md"
_BEGIN = "| Task | step | from | to | by | asks |\n|---|---|---|---|---|---|\n"


def rows() -> list[str]:
    """One table row for each step; the statuses from which it is the same together."""
    together: dict[tuple[str, ...], list[str]] = {}
    for step in STEPS:
        by = ", ".join(sorted(step.by))
        key = (f"`{step.kind}`", step.name, f"`{step.after}`", by, step.asks)
        together.setdefault(key, []).append(f"`{step.before}`")
    return [
        f"| {kind} | {name} | {' '.join(before)} | {after} | {by} | {asks} |"
        for (kind, name, after, by, asks), before in together.items()
    ]


def main() -> None:
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest[rest.index("\n\n") :]
    PAGE.write_text(f"{before}{begin}" + "\n".join(rows()) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
