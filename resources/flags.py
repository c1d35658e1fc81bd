"""The flag of an escalation on a Task: a tag that the server sets, and that makes no other version for a claim.

FHIR R4 Meta.tag http://hl7.org/fhir/R4/resource.html#Meta; weak validators RFC 9110 §8.8.1, R4 §3.1.0.5 managing
contention
"""

from __future__ import annotations

from resources.codes import ESCALATION, coding
from resources.json import Json


def level_of(task: Json) -> int:
    """The level that a Task is flagged with; 0: it is not."""
    codes = [str(tag.get("code", "")) for tag in _tags(task) if tag.get("system") == ESCALATION]
    levels = [int(code.removeprefix("level-")) for code in codes if code.removeprefix("level-").isdigit()]
    return max(levels, default=0)


def with_level(task: Json, level: int) -> Json:
    """Task.meta with this flag in the place of any before; level 0: without."""
    tags = [tag for tag in _tags(task) if tag.get("system") != ESCALATION]
    if level:
        tags.append(coding(ESCALATION, f"level-{level}"))
    meta = {name: value for name, value in task.get("meta", {}).items() if name != "tag"}
    return {**meta, "tag": tags} if tags else meta


def keep(before: Json, after: Json) -> None:
    """The flag is the server's: a client's update leaves it as it is."""
    if level_of(before) != level_of(after):
        after["meta"] = with_level(after, level_of(before))


def differs_only_in_flag(older: Json, newer: Json) -> bool:
    """Whether a version was made by nothing but an escalation, so that who read the older one knows the newer."""
    return _content(older) == _content(newer)


def _content(task: Json) -> Json:
    found = {name: value for name, value in task.items() if name not in ("meta", "lastModified")}
    tags = [tag for tag in _tags(task) if tag.get("system") != ESCALATION]
    meta = {name: value for name, value in task.get("meta", {}).items() if name in ("profile", "security", "source")}
    return {**found, "meta": {**meta, "tag": tags}}


def _tags(task: Json) -> list[Json]:
    found: list[Json] = task.get("meta", {}).get("tag", [])
    return found
