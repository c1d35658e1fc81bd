"""What a search asks, as values: the tree that `search.parse` makes, `matching` evaluates and the store compiles.

Everything a database needs is already computed here (effective parameter ids, hashes, normalised texts, bounds), so
that SQL and memory cannot differ in meaning: a leaf holds when **some row** of `table` with `param_id` satisfies
**one of** `values` (or, `negated`, when none does). Criteria of a Query are joined by AND.

FHIR R4 §3.1.1 http://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resources.index_rows import Table
from resources.search_parameters import SearchParameter


@dataclass(frozen=True, slots=True)
class Bound:
    """`column operator value`, on the low or high column of a date, number or quantity row."""

    column: Literal["low", "high"]
    operator: Literal["<", "<=", ">", ">="]
    value: int | float


@dataclass(frozen=True, slots=True)
class TokenValue:
    """`code`, `system|code`, `|code`, `system|`; also of :of-type and :identifier."""

    system_id: int | None
    """None: any system. 0: no system."""
    code: str | None
    """None: any code of the system. Otherwise folded and bounded as TokenRow.code is."""


@dataclass(frozen=True, slots=True)
class StringValue:
    """A text to compare: `prefix` and `contains` with StringRow.norm, `exact` with StringRow.exact."""

    operator: Literal["prefix", "exact", "contains"]
    text: str


@dataclass(frozen=True, slots=True)
class RangeValue:
    """A date, number (or `_lastUpdated`) with its prefix: holds when all bounds of **one** alternative hold."""

    prefix: str
    alternatives: tuple[tuple[Bound, ...], ...]
    of_days: bool | None = None
    """Of a date without zone: whether it is for stored calendar days, or for what is no such (None: for either)."""


@dataclass(frozen=True, slots=True)
class QuantityValue:
    """As RangeValue, and a unit. `code` None: any unit; `system_id` None: any system (a human unit fits too)."""

    prefix: str
    alternatives: tuple[tuple[Bound, ...], ...]
    system_id: int | None
    code: str | None


@dataclass(frozen=True, slots=True)
class ReferenceValue:
    """A local target (`id` set) or a `url`.

    Local: target_id == id and (types empty or target_type_id in types) and (version None or target_version == version).
    URL: url == row.url and (version None or target_version == version).
    """

    type_ids: tuple[int, ...]
    id: str | None
    version: str | None
    url: str | None


@dataclass(frozen=True, slots=True)
class UriValue:
    """row.uri in `uris`, or (`below`) row.uri starts with `prefix`, case-sensitively and without wildcards."""

    uris: tuple[str, ...]
    prefix: str | None = None


@dataclass(frozen=True, slots=True)
class IdValue:
    """A logical id, case-sensitive."""

    id: str


Value = TokenValue | StringValue | RangeValue | QuantityValue | ReferenceValue | UriValue | IdValue


@dataclass(frozen=True, slots=True)
class Leaf:
    """`name=values`: some row (table, param_id) satisfies one of `values`; `negated` (:not): no row does."""

    name: str
    """As sent, with its modifier."""
    parameter: SearchParameter
    modifier: str
    """'' or without colon; a type name for `subject:Patient`."""
    table: Table
    param_id: int
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a composite value: a row of `table` with `param_id` that satisfies `value`."""

    table: Table
    param_id: int
    value: Value


@dataclass(frozen=True, slots=True)
class Composite:
    """`name=a$b,…`: for one of `values`, every component has a row, **all with the same group_no**."""

    name: str
    parameter: SearchParameter
    values: tuple[tuple[Component, ...], ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """`name:missing=true|false`: no row of (table, param_id) exists, or one does."""

    name: str
    parameter: SearchParameter
    table: Table
    param_id: int
    missing: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """`subject:Patient.name=x`: a reference row of `param_id` with a local target, of one of `types`, for which `inner`
    holds. `alternatives` has one (type, inner) for each possible target type; OR between them."""

    name: str
    parameter: SearchParameter
    param_id: int
    alternatives: tuple[tuple[str, Criterion], ...]


@dataclass(frozen=True, slots=True)
class Has:
    """`_has:Observation:patient:code=x`: some `type` resource refers here by `param_id`, and `inner` holds for it."""

    name: str
    type: str
    parameter: SearchParameter
    param_id: int
    inner: Criterion


Criterion = Leaf | Composite | Missing | Chain | Has


@dataclass(frozen=True, slots=True)
class SortKey:
    """One key of `_sort`. Ascending uses the smallest value of a resource (low, norm, code, id), descending the
    greatest (high, …); resources without a value come last, either way; ties are broken by the resource's id."""

    code: str
    parameter: SearchParameter
    table: Table
    param_id: int
    descending: bool


@dataclass(frozen=True, slots=True)
class Include:
    """`_include=source:parameter:target` or, `reverse`, `_revinclude`."""

    text: str
    """As sent: the value of the parameter."""
    reverse: bool
    iterate: bool
    source: str | None
    """Type that holds the reference; None: any (`*`)."""
    param_ids: tuple[int, ...]
    """Reference parameters to follow; empty: all of them (wildcard)."""
    target: str | None
    """Only targets of this type; None: any."""


@dataclass(frozen=True, slots=True)
class Query:
    """A search as understood. `type` None: a search of the whole system, then `types` narrows it (empty: all)."""

    type: str | None
    criteria: tuple[Criterion, ...] = ()
    sort: tuple[SortKey, ...] = ()
    count: int = 50
    """Matches a page; 0: only the number of matches is asked (as `summary` "count")."""
    total: str | None = None
    """none, estimate, accurate; None: not said."""
    includes: tuple[Include, ...] = ()
    revincludes: tuple[Include, ...] = ()
    elements: tuple[str, ...] = ()
    summary: str | None = None
    """true, text, data, count; None: not said or false."""
    types: tuple[str, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    """Parameters not understood and left out under `handling=lenient`."""
    processed: tuple[tuple[str, str], ...] = ()

    def parameters(self) -> list[tuple[str, str]]:
        """What was processed, as (name, value) in the order sent, `_count` included: for the `self` link."""
        return list(self.processed)
