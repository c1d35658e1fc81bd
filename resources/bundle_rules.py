"""Bundle: its invariants, as a table like those of `resources.invariants`, and what only the standard's text says.

With the one other rule that is in the text alone: the size of an attachment.

http://hl7.org/fhir/R4/bundle.html, http://hl7.org/fhir/R4/http.html#transaction, http://hl7.org/fhir/R4/datatypes.html#Attachment
"""

from __future__ import annotations

from collections.abc import Mapping

from resources.elements import has, inner, items, number, text
from resources.invariants import Rule, Scope, one_of
from resources.json import Json
from resources.primitives import base64_size

# Invariants


def _first_is(kind: str, resource_type: str) -> Rule:
    def rule(node: Json, _scope: Scope) -> bool | list[str]:
        if text(node, "type") != kind:
            return True
        entries = items(node, "entry")
        first = entries[0].get("resource") if entries else None
        return isinstance(first, dict) and first.get("resourceType") == resource_type

    return rule


def _each_has(name: str, kinds: frozenset[str]) -> Rule:
    def rule(node: Json, _scope: Scope) -> list[str]:
        wanted = text(node, "type") in kinds
        return [f"entry[{i}]" for i, entry in enumerate(items(node, "entry")) if has(entry, name) != wanted]

    return rule


def _only_in_searches(node: Json, _scope: Scope) -> list[str]:
    if text(node, "type") == "searchset":
        return []
    return [f"entry[{i}].search" for i, entry in enumerate(items(node, "entry")) if has(entry, "search")]


def _unique_full_urls(node: Json, _scope: Scope) -> list[str]:
    if text(node, "type") == "history":
        return []
    seen: set[tuple[str, str | None]] = set()
    twice = []
    for index, entry in enumerate(items(node, "entry")):
        url = text(entry, "fullUrl")
        if url is None:
            continue
        key = (url, text(inner(inner(entry, "resource"), "meta"), "versionId"))
        if key in seen:
            twice.append(f"entry[{index}].fullUrl")
        seen.add(key)
    return twice


def _document_identifier(node: Json, _scope: Scope) -> bool:
    identifier = node.get("identifier")
    return text(node, "type") != "document" or (
        isinstance(identifier, dict) and has(identifier, "system") and has(identifier, "value")
    )


BUNDLE: Mapping[tuple[str, str], Rule] = {
    ("Bundle", "bdl-1"): lambda node, _: not has(node, "total") or text(node, "type") in ("searchset", "history"),
    ("Bundle", "bdl-2"): _only_in_searches,
    ("Bundle", "bdl-3"): _each_has("request", frozenset({"batch", "transaction", "history"})),
    ("Bundle", "bdl-4"): _each_has("response", frozenset({"batch-response", "transaction-response", "history"})),
    ("Bundle", "bdl-7"): _unique_full_urls,
    ("Bundle", "bdl-9"): _document_identifier,
    ("Bundle", "bdl-10"): lambda node, _: text(node, "type") != "document" or text(node, "timestamp") is not None,
    ("Bundle", "bdl-11"): _first_is("document", "Composition"),
    ("Bundle", "bdl-12"): _first_is("message", "MessageHeader"),
    ("Bundle.entry", "bdl-5"): one_of("resource", "request", "response"),
    ("Bundle.entry", "bdl-8"): lambda node, _: "/_history/" not in (text(node, "fullUrl") or ""),
}


# The text alone


def _entry_resources(node: Json, _scope: Scope) -> list[str]:
    """POST and PUT carry a resource, unless the URL is of an operation or a search."""
    if text(node, "type") not in ("batch", "transaction"):
        return []
    return [f"entry[{index}].resource" for index, entry in enumerate(items(node, "entry")) if _lacks_resource(entry)]


def _lacks_resource(entry: Json) -> bool:
    request = entry.get("request")
    if not isinstance(request, dict) or has(entry, "resource"):
        return False
    url = text(request, "url") or ""
    method = text(request, "method")
    return method == "PUT" or (method == "POST" and "$" not in url and "_search" not in url)


def _full_url_ids(node: Json, _scope: Scope) -> list[str]:
    """A RESTful fullUrl ends with the type and id of its resource.

    Asked only where the fullUrl decides what references mean; the standard's own message example does not keep to it.
    """
    if text(node, "type") not in ("batch", "transaction"):
        return []
    return [f"entry[{index}].fullUrl" for index, entry in enumerate(items(node, "entry")) if _disagrees(entry)]


def _disagrees(entry: Json) -> bool:
    url, resource = text(entry, "fullUrl"), entry.get("resource")
    if url is None or not url.startswith(("http://", "https://")) or not isinstance(resource, dict):
        return False
    kind, identifier = text(resource, "resourceType"), text(resource, "id")
    if identifier is None or kind is None or f"/{kind}/" not in url:
        return False
    return not url.endswith(f"/{kind}/{identifier}")


def _attachment_size(node: Json, _scope: Scope) -> bool:
    size, data = number(node, "size"), text(node, "data")
    return size is None or data is None or base64_size(data) in (None, size)


IN_TEXT: Mapping[tuple[str, str], Rule] = {
    ("Attachment", "size"): _attachment_size,
    ("Bundle", "entry-resource"): _entry_resources,
    ("Bundle", "full-url"): _full_url_ids,
}

WORDS: Mapping[tuple[str, str], str] = {
    ("Attachment", "size"): "The size is not that of the data",
    ("Bundle", "entry-resource"): "A request that writes has no resource",
    ("Bundle", "full-url"): "The fullUrl does not agree with the id of the resource",
}
