"""Write docs/limits.md from the table of limits (`resources.budgets`): python -m scripts.limits_page."""

from __future__ import annotations

from pathlib import Path

from resources.budgets import BUDGETS, IMAGE_BUDGETS, Effect

PAGE = Path(__file__).resolve().parent.parent / "docs" / "limits.md"

_HEAD = """# Limits

What this server takes at most, and what it says beyond that. Made from `resources/budgets.py` by
`python -m scripts.limits_page`; each row has a test that asks for one more and sees that nothing has happened.

*refused*: nothing was stored; in a batch it is the one entry that is refused, unless the limit is the Bundle's.
*cut*: answered up to the limit, with an OperationOutcome in the Bundle that says so, or a `next` link; for images
with a Warning or a failed item.
*capped*: answered in full, only a number is left out or given as a minimum.

| limit | value | unit | beyond it | status, issue code | checked by | rule |
|---|---|---|---|---|---|---|
"""


def page() -> str:
    """The page as the table says."""
    rows = []
    for one in (*BUDGETS, *IMAGE_BUDGETS):
        status = f"{one.status}" if one.effect is Effect.CAPPED else f"{one.status} `{one.code}`"
        cells = (
            one.name, f"{one.value:,}", one.unit, f"{one.effect}: “{one.text}”", status, f"`{one.checked}`", one.clause
        )
        rows.append("| " + " | ".join(cells) + " |")
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
