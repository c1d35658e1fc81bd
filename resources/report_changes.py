"""What a report's new version says otherwise than the one that it replaces: pure.

A change is an element of what a reader of the report takes from it, with the text before and after. A new status, a
reason or a stamp of the server is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from resources import jsontext
from resources.json import Json

ELEMENTS = (
    "conclusion", "conclusionCode", "text", "result", "code", "effectiveDateTime", "effectivePeriod", "imagingStudy",
    "media", "category", "encounter", "specimen", "performer", "resultsInterpreter", "presentedForm", "extension",
)  # fmt: skip
"""What a version says. `subject` and `basedOn` stay as they are."""
LINES_MAX = 400
"""More lines than this are not compared one by one: the comparison takes their product."""


@dataclass(frozen=True, slots=True)
class Changed:
    """One element that differs. For a text the lines that went and those that came."""

    element: str
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def changes(
    before: Json, after: Json, *, ignored: Callable[[str, Json], bool], text_of: Callable[[str], str]
) -> list[Changed]:
    """What `after` says otherwise than `before`, in the order of `ELEMENTS`.

    `ignored` says which entry of a list (element, entry) is no content: the server's own PDF, the reason of a status.
    `text_of` gives the plain text of a narrative.
    """
    found = []
    for element in ELEMENTS:
        old, new = (_said(element, one.get(element), ignored) for one in (before, after))
        if old == new:
            continue
        if element == "text":
            old_text, new_text = (text_of(str((one or {}).get("div", ""))) for one in (old, new))
            if old_text == new_text:
                continue
            found.append(Changed(element, *_lines(old_text, new_text)))
        elif element == "conclusion":
            found.append(Changed(element, *_lines(str(old or ""), str(new or ""))))
        else:
            found.append(Changed(element, *_entries(old, new)))
    return found


def _said(element: str, value: Any, ignored: Callable[[str, Json], bool]) -> Any:
    if isinstance(value, list):
        return [one for one in value if not (isinstance(one, dict) and ignored(element, one))] or None
    return value


def _lines(before: str, after: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    old, new = (tuple(line.strip() for line in text.split("\n") if line.strip()) for text in (before, after))
    if len(old) > LINES_MAX or len(new) > LINES_MAX:
        return (), new
    removed: list[str] = []
    added: list[str] = []
    for tag, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            removed += old[i:j]
            added += new[k:m]
    return tuple(removed), tuple(added)


def _entries(before: Any, after: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What went and what came of a list or a value, in words where it has any."""
    old, new = (list(_each(one)) for one in (before, after))
    kept = {_key(one) for one in old} & {_key(one) for one in new}
    removed = [_words(one) for one in old if _key(one) not in kept]
    added = [_words(one) for one in new if _key(one) not in kept]
    return tuple(filter(None, removed)), tuple(filter(None, added))


def _each(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
    elif value is not None:
        yield value


def _key(value: Any) -> bytes:
    return jsontext.dump({"": value})


def _words(value: Any) -> str:
    """A value as a person reads it: the text of a concept, the display of a reference; empty where it has neither."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return ""
    codings = [one for one in value.get("coding", []) if isinstance(one, dict)]
    named = (value.get("text"), *(one.get("display") for one in codings), value.get("display"), value.get("title"))
    return str(next((one for one in named if isinstance(one, str)), ""))
