"""Rules of the standard's text that no invariant expresses: Bundle entries, and attachments.

http://hl7.org/fhir/R4/bundle.html, http://hl7.org/fhir/R4/http.html#transaction, http://hl7.org/fhir/R4/datatypes.html#Attachment
"""

from __future__ import annotations

from collections.abc import Mapping

from resources.elements import has, items, number, text
from resources.invariants import Rule, Scope
from resources.outcomes import Json
from resources.primitives import base64_size


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


RULES: Mapping[tuple[str, str], Rule] = {
    ("Attachment", "size"): _attachment_size,
    ("Bundle", "entry-resource"): _entry_resources,
    ("Bundle", "full-url"): _full_url_ids,
}

WORDS: Mapping[tuple[str, str], str] = {
    ("Attachment", "size"): "The size is not that of the data",
    ("Bundle", "entry-resource"): "A request that writes has no resource",
    ("Bundle", "full-url"): "The fullUrl does not agree with the id of the resource",
}
