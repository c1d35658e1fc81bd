"""docs/audit.md says what the code does: its tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from audit.patterns import PATTERNS, PROFILES, Pattern
from auth import purposes
from fhir_server.server.recorder import PUBLIC
from store.access import Caller, Interaction

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")


def row(interaction: Interaction, pattern: Pattern) -> str:
    profiles = [
        name.removeprefix(PROFILES).removeprefix("IHE.BasicAudit.")
        for name in dict.fromkeys((pattern.profile, pattern.patient_profile))
        if name
    ]
    kinds = [one["code"] if one["code"] == "rest" else f"{one['code']} {one.get('display', '')}".strip()
             for one in (pattern.type, pattern.subtype)]
    if pattern.subtype["code"] == pattern.subtype.get("display"):
        kinds[1] = pattern.subtype["code"]
    return f"| `{interaction}` | {kinds[0]} | {kinds[1]} | {pattern.action} | {', '.join(profiles) or 'none'} |"


def test_what_is_recorded_is_the_table_of_patterns() -> None:
    """One row per interaction; to be pasted from the message."""
    wanted = [row(interaction, pattern) for interaction, pattern in PATTERNS.items()]
    found = [line for line in PAGE.splitlines() if line.startswith("| `") and line.count("|") == 6]
    assert found == wanted, "\n".join(wanted)


def test_the_purposes_are_those_of_the_roles() -> None:
    lines = [line.split("|") for line in PAGE.splitlines() if line.strip().startswith("|") and line.count("|") == 4]
    for role, code in purposes.OF_ROLE.items():
        (cells,) = [cells for cells in lines if f"`{role}`" in cells[1]]
        assert code in cells[2], role
        assert set(re.findall("[A-Z]{3,}", cells[3])) == purposes.FURTHER[role], role
    (cells,) = [cells for cells in lines if "every other" in cells[1]]
    assert {purposes.TREATMENT, *re.findall("[A-Z]{3,}", cells[3])} == purposes.allowed("")
    for code in (purposes.TREATMENT, Caller.system("platform").purpose, PATTERNS[Interaction.ADMIN].purpose):
        assert code in PAGE


def test_the_public_documents_are_named() -> None:
    for path in PUBLIC:
        assert f"`{path}`" in PAGE, path
