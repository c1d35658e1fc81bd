"""References: read what one says, find all in a resource, put others in their place.

What is a reference is told by the element table, not by its looks: DetectedIssue.reference is a uri.

FHIR R4 §2.3.0 http://hl7.org/fhir/R4/references.html
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resources import registry
from resources.json import Json
from resources.paths import choice_labels, json_keys

_LOCAL = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/([A-Za-z0-9\-.]{1,64}))?")
_CONDITIONAL = re.compile(r"([A-Z][A-Za-z]+)\?(.+)", re.DOTALL)
_TYPE_IN_URL = re.compile(r"/([A-Z][A-Za-z]+)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?$")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a Reference.reference says; the fields that do not apply are None."""

    type: str | None = None
    """Type of the target: of a local one always, of a foreign one where its URL has the RESTful form."""
    id: str | None = None
    """Logical id of a target on this server."""
    version: str | None = None
    """The version that a local reference names."""
    url: str | None = None
    """A target elsewhere, or a text that is no reference of this server."""
    urn: str | None = None
    """``urn:uuid:…`` or ``urn:oid:…``"""
    fragment: str | None = None
    """Id of a contained resource; '' is the container itself."""
    query: str | None = None
    """Criteria of a conditional reference (``Patient?identifier=…``), in transactions only."""

    @property
    def local(self) -> str | None:
        """``Type/id``, without version; None if the target is not on this server."""
        return f"{self.type}/{self.id}" if self.id is not None else None


@dataclass(frozen=True, slots=True)
class Found:
    """A Reference with a literal reference: `holder[key]` is the text."""

    expression: str
    """Where, as FHIRPath: ``ServiceRequest.basedOn[0]``."""
    holder: Json
    key: str = "reference"


def parse(text: str, base_urls: Sequence[str] = ()) -> Reference:
    """What a reference says. An absolute one below a base of this server is local. Never raises."""
    if text.startswith("#"):
        return Reference(fragment=text[1:])
    if text.startswith("urn:"):
        return Reference(urn=text)
    match = _LOCAL.fullmatch(below_base(text, base_urls))
    if match and registry.is_type(match[1]):
        return Reference(type=match[1], id=match[2], version=match[3])
    conditional = _CONDITIONAL.fullmatch(text)
    if conditional and registry.is_type(conditional[1]):
        return Reference(type=conditional[1], query=conditional[2])
    foreign = _TYPE_IN_URL.search(text)
    return Reference(type=foreign[1] if foreign and registry.is_type(foreign[1]) else None, url=text)


def below_base(text: str, base_urls: Sequence[str]) -> str:
    """The part of `text` below the first of `base_urls` that it is under; else `text`."""
    for base in base_urls:
        root = base.rstrip("/") + "/"
        if text.startswith(root):
            return text[len(root) :]
    return text


def walk(resource: Json) -> Iterator[Found]:
    """Every Reference with a literal `reference`: nested, in contained resources and in extensions too."""
    type_name = resource.get("resourceType")
    if registry.is_type(type_name):
        yield from _walk(resource, str(type_name), (str(type_name),))


def _walk(node: Json, owner: str, path: tuple[str | int, ...]) -> Iterator[Found]:
    if owner == "Reference" and isinstance(node.get("reference"), str):
        yield Found(_expression(path), node)
    kinds, labels = json_keys(owner), choice_labels(owner)
    for key, value in node.items():
        if value.__class__ is not dict and value.__class__ is not list:
            continue
        # The companion of a primitive (`_birthDate`) holds its extensions.
        kind, name = ("Element", key[1:]) if key[:1] == "_" else (kinds.get(key), key)
        here = (*path, labels.get(name, name))
        if value.__class__ is dict:
            inner = _owner(kind, value)
            if inner:
                yield from _walk(value, inner, here)
            continue
        for index, item in enumerate(value):
            inner = _owner(kind, item) if item.__class__ is dict else None
            if inner:
                yield from _walk(item, inner, (*here, index))


def _owner(kind: str | None, node: Json) -> str | None:
    """The type of `node` where the element table says `kind`; None for what is no element."""
    if kind != "Resource":
        return kind
    name = node.get("resourceType")
    return str(name) if registry.is_type(name) else None


def _expression(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


# Transactions: http://hl7.org/fhir/R4/http.html#trules

_REWRITTEN = frozenset({"uri", "url", "oid", "uuid"})
"""Types whose values a transaction rewrites; canonical is not among them."""
_LINK = re.compile(r"""(\b(?:href|src)\s*=\s*)("[^"]*"|'[^']*')""")


def rewrite(resource: Json, mapping: Mapping[str, str]) -> Json:
    """`resource` with every link that is a key of `mapping` replaced; unchanged parts are shared, nothing is altered.

    Links are Reference.reference (a version behind it is kept), elements of type uri, url, oid and uuid, and href and
    src in the narrative. Canonicals and texts are left as they are.
    """
    type_name = resource.get("resourceType")
    return _rewrite(resource, str(type_name), mapping) if mapping and registry.is_type(type_name) else resource


def _rewrite(node: Json, owner: str, mapping: Mapping[str, str]) -> Json:
    kinds = json_keys(owner)
    changed: Json = {}
    for key, value in node.items():
        kind = "Element" if key[:1] == "_" else kinds.get(key)
        if kind is None:
            continue
        after = _rewritten(value, owner, key, kind, mapping)
        if after is not value:
            changed[key] = after
    return {**node, **changed} if changed else node


def _rewritten(value: Any, owner: str, key: str, kind: str, mapping: Mapping[str, str]) -> Any:
    if value.__class__ is dict:
        inner = _owner(kind, value)
        return _rewrite(value, inner, mapping) if inner else value
    if value.__class__ is list:
        after = [_rewritten(item, owner, key, kind, mapping) for item in value]
        return after if any(new is not old for new, old in zip(after, value, strict=True)) else value
    if not isinstance(value, str):
        return value
    if kind in _REWRITTEN:
        return mapping.get(value, value)
    if owner == "Reference" and key == "reference":
        target, marker, version = value.partition("/_history/")
        if value in mapping:
            return mapping[value]
        return f"{mapping[target]}{marker}{version}" if marker and target in mapping else value
    if owner == "Narrative" and key == "div":
        narrative = _LINK.sub(lambda match: match[1] + _link(match[2], mapping), value)
        return narrative if narrative != value else value
    return value


def _link(quoted: str, mapping: Mapping[str, str]) -> str:
    target = mapping.get(html.unescape(quoted[1:-1]))
    return quoted if target is None else quoted[0] + html.escape(target) + quoted[0]
