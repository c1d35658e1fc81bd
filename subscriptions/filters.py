"""Search criteria on one version: the filters of a topic's subscription, and R4's own `Type?search`. Pure.

Both are evaluated by `resources.matching` over one version, so nothing that needs another resource is accepted.

R4 §2.46.7 http://hl7.org/fhir/R4/subscription.html: "Search strings that have the same interpretation as if they were
appended to the base URL"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from resources import registry, search
from resources.criteria import Chain, Criterion, Has
from resources.outcomes import FhirError, InvalidContent
from resources.search_parameters import parameter
from subscriptions import topics
from subscriptions.topics import Topic

_TYPED_FILTER = re.compile(r"([A-Z][A-Za-z]+)[?.](.*)", re.DOTALL)
_R4_CRITERIA = re.compile(r"([A-Z][A-Za-z]+)(?:\?(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Filter:
    """One backport-filter-criteria: criteria by the resource type that they apply to."""

    criteria: dict[str, tuple[Criterion, ...]]

    def of(self, type_name: str) -> tuple[Criterion, ...]:
        """Criteria for a focus of this type; none: the filter is about another type and lets it pass."""
        return self.criteria.get(type_name, ())


def read_filter(text: str, topic: Topic, *, base_urls: Sequence[str] = ()) -> Filter:
    """Parse one filter in any of its notations: ``Type?param=value``, ``Type.param=value``, ``param=value``. Raises
    InvalidContent.

    The IG's text, its examples and the certification kit each use another notation, so all three are read.
    """
    typed = _TYPED_FILTER.fullmatch(text)
    query = typed.group(2) if typed else text
    if typed and typed.group(1) not in topic.trigger:
        raise InvalidContent(f"The topic has no resource type {typed.group(1)}; it has {', '.join(topic.types)}")
    types = (typed.group(1),) if typed else topic.types
    pairs = parse_qsl(query, keep_blank_values=True)
    if not pairs or not all(name and value for name, value in pairs):
        raise InvalidContent("The filter is not of the form [Type?]parameter=value")
    found: dict[str, tuple[Criterion, ...]] = {}
    for type_name in types:
        for name, _ in pairs:
            code = name.partition(":")[0]
            if code not in topic.filters[type_name]:
                allowed = ", ".join(sorted(topic.filters[type_name]))
                raise InvalidContent(
                    f"The topic does not filter {type_name} by this parameter; it filters by {allowed}",
                    code="not-supported",
                )
        try:
            criteria = search.parse(type_name, pairs, base_urls=base_urls).criteria
        except FhirError as error:
            raise InvalidContent(f"The filter is not a valid search of {type_name}: {error.diagnostics}") from error
        if any(isinstance(criterion, Chain | Has) for criterion in criteria):
            raise InvalidContent("A filter may not be chained", code="not-supported")
        found[type_name] = criteria
    return Filter(found)


def criteria_type(text: object) -> str | None:
    """The resource type that R4 criteria are about; None: the text is of another form."""
    found = _R4_CRITERIA.fullmatch(text) if isinstance(text, str) else None
    return found.group(1) if found else None


def read_criteria(text: str, *, base_urls: Sequence[str] = ()) -> Filter:
    """Parse R4 criteria, `Type` or `Type?search`. Raises InvalidContent with the place."""
    found = _R4_CRITERIA.fullmatch(text)
    if found is None:
        raise _refused("criteria must be of the form Type?search", code="value")
    type_name, query = found.group(1), found.group(2) or ""
    if type_name not in registry.TYPES:
        raise _refused(f"criteria must begin with a resource type of R4; {type_name} is none", code="value")
    if topics.every(type_name) is None:
        raise _refused(f"Changes of {type_name} are not told")
    pairs = parse_qsl(query, keep_blank_values=True)
    for name, _ in pairs:
        code = re.split("[:.]", name, maxsplit=1)[0]
        if code != "_has" and parameter(type_name, code) is None:
            raise _refused(f"criteria have a parameter that {type_name} cannot be judged by")
    try:
        criteria = search.parse(type_name, pairs, base_urls=base_urls).criteria
    except FhirError as error:
        raise _refused(f"criteria are not a valid search of {type_name}: {error.diagnostics}", code="value") from error
    if any(isinstance(criterion, Chain | Has) for criterion in criteria):
        raise _refused("criteria may not be chained: each version is judged by itself")
    return Filter({type_name: criteria})


def _refused(diagnostics: str, *, code: str = "not-supported") -> InvalidContent:
    return InvalidContent(diagnostics, expression="Subscription.criteria", code=code)
