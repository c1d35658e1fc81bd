"""Bundles that the server makes: searchset, history, batch and transaction responses. Pure.

Entries hold the stored JSON text itself (`Raw`), so that what is served is byte for byte what was stored.
http://hl7.org/fhir/R4/bundle.html
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from resources.json import Json

Link = tuple[str, str]
"""A Bundle.link: relation, URL."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One Bundle.entry. `content` is the resource as stored JSON text, `parts` whatever else the entry says."""

    full_url: str | None = None
    content: bytes | None = None
    parts: Json = field(default_factory=dict)


def bundle(
    kind: str,
    entries: Sequence[Entry],
    *,
    dump: Any,
    identifier: str,
    instant: str,
    total: int | None = None,
    links: Iterable[Link] = (),
) -> bytes:
    """A Bundle of type `kind` as JSON text. `dump` renders JSON values (resources.jsontext.dump)."""
    head: Json = {
        "resourceType": "Bundle",
        "id": identifier,
        "meta": {"lastUpdated": instant},
        "type": kind,
        "timestamp": instant,
    }
    if total is not None:
        head["total"] = total
    shown = [{"relation": relation, "url": url} for relation, url in links]
    if shown:
        head["link"] = shown
    text: bytes = dump(head)
    if not entries:
        return text
    return text[:-1] + b',"entry":[' + b",".join(_entry(entry, dump) for entry in entries) + b"]}"


def _entry(entry: Entry, dump: Any) -> bytes:
    pieces = []
    if entry.full_url:
        pieces.append(b'"fullUrl":' + dump(entry.full_url))
    if entry.content:
        pieces.append(b'"resource":' + entry.content)
    if entry.parts:
        pieces.append(dump(entry.parts)[1:-1])
    return b"{" + b",".join(pieces) + b"}"
