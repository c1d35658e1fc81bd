"""What a play leaves for whoever watched it: the report's PDF, a picture of the head, and the audit story, as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resources.json import Json


@dataclass(frozen=True, slots=True)
class Keepsake:
    """One file, and the address that it came from."""

    what: str
    path: Path
    url: str


def keep(folder: Path, name: str, content: bytes) -> Path:
    """Write a file that its owner alone may read; the path."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / name
    path.write_bytes(content)
    path.chmod(0o600)
    return path.resolve()


def story(events: Sequence[Json]) -> str:
    """The audit story: a line for each AuditEvent, oldest first: when, who, what, on what, with which outcome."""
    lines = [_line(event) for event in sorted(events, key=lambda event: str(event.get("recorded")))]
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _line(event: Json) -> str:
    who = next(
        (str(agent.get("who", {}).get("identifier", {}).get("value") or agent.get("who", {}).get("reference", "")
             or agent.get("name", "") or agent.get("altId", ""))
         for agent in event.get("agent", []) if agent.get("requestor")), "the server",
    )  # fmt: skip
    did = next((str(coding.get("code")) for coding in event.get("subtype", [])), event.get("type", {}).get("code", ""))
    what = ", ".join(dict.fromkeys(
        str(entity["what"]["reference"]) for entity in event.get("entity", []) if "reference" in entity.get("what", {})
    ))  # fmt: skip
    outcome = {"0": "", "4": "refused", "8": "refused (security)", "12": "failed"}.get(str(event.get("outcome")), "?")
    return f"{event.get('recorded')}  {did:16}  {who:28.28}  {what}  {outcome}".rstrip()


def ending(kept: Sequence[Keepsake], base: str) -> list[str]:
    """The last lines of a play: where to look."""
    width = max(len(one.what) for one in kept)
    lines = ["", "look at it:"]
    for one in kept:
        lines += [f"  {one.what:{width}}  {one.path}", f"  {'':{width}}  {one.url}"]
    return [*lines, f"  {'start page':{width}}  {base}/"]
