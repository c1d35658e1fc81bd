"""The index rows of one resource: what the store's sp_* tables hold, without the version they belong to.

Field order is column order. `group_no` numbers the element that a composite's component values were taken from, so
that `code-value-quantity` holds within one component; it is 0 elsewhere (FHIR R4 §3.1.1.5.15).

`param_id` is a `SearchParameter.id`, or one of the pseudo parameters of `search_parameters`: TEXT (`:text` of a
token, in sp_string), OF_TYPE (`:of-type`, in sp_token), IDENTIFIER (`:identifier` of a reference, in sp_token), and
COMPONENT (composites; each component in the table of its own kind).

Presence: a parameter whose element is there but gives no value of its kind (a concept with text alone, a reference
with only a display) has a row with empty values, so that `:missing` is answered by "is there any row".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

MIN_TICKS = -(2**63)
"""`low` of a period without start."""
MAX_TICKS = 2**63 - 1
"""`high` of a period without end."""


class Table(StrEnum):
    """Where the rows of a leaf are: an sp_* table, or a column of resource_version itself."""

    TOKEN = "token"  # noqa: S105 - a table's name
    STRING = "string"
    DATE = "date"
    NUMBER = "number"
    QUANTITY = "quantity"
    REFERENCE = "reference"
    URI = "uri"
    ID = "id"
    """`_id`: resource_version.resource_id; values are IdValue."""
    LAST_UPDATED = "last_updated"
    """`_lastUpdated`: one tick wide, [t, t + 1), t in ticks of `times`; values are RangeValue."""


class TokenRow(NamedTuple):
    """sp_token. `code` is casefolded; at most `hashing.CODE_LIMIT` code points, longer ones are digests."""

    param_id: int
    system_id: int
    """`hash64(system)`; 0: no system. Of an OF_TYPE row: hash64("type system|type code")."""
    code: str
    group_no: int = 0


class StringRow(NamedTuple):
    """sp_string. Both texts may be long: the store indexes a prefix of `norm`."""

    param_id: int
    norm: str
    """NFKD without marks, casefolded, white space collapsed: `strings.normalise`."""
    exact: str
    """As sent, for `:exact`."""
    group_no: int = 0


class DateRow(NamedTuple):
    """sp_date. Half-open interval in ticks of 100 ns since 0001-01-01T00:00Z; open ends are MIN_TICKS, MAX_TICKS."""

    param_id: int
    low: int
    high: int
    group_no: int = 0


class NumberRow(NamedTuple):
    """sp_number. Closed interval; a plain number has low == high."""

    param_id: int
    low: float
    high: float
    group_no: int = 0


class QuantityRow(NamedTuple):
    """sp_quantity. Closed interval, as a number; `code` keeps its case (UCUM). A human unit has a row of its own."""

    param_id: int
    system_id: int
    code: str
    low: float
    high: float
    group_no: int = 0


class ReferenceRow(NamedTuple):
    """sp_reference. A local target (type, id), or a `url` (foreign, urn:, canonical without version, fragment)."""

    param_id: int
    target_type_id: int
    """`registry.type_id`, also of a foreign target where the URL or Reference.type tells; 0: unknown."""
    target_id: str
    """'' unless the target is on this server."""
    target_version: str
    """Version of a versioned reference or canonical, else ''."""
    url: str
    """'' for a local target. At most 1024 characters, longer ones are digests."""
    group_no: int = 0


class UriRow(NamedTuple):
    """sp_uri. A canonical with a version has two rows: with and without it. At most 1024 characters, else a digest."""

    param_id: int
    uri: str
    group_no: int = 0


@dataclass(slots=True)
class IndexRows:
    """All rows of one resource, without repeats."""

    tokens: list[TokenRow] = field(default_factory=list)
    strings: list[StringRow] = field(default_factory=list)
    dates: list[DateRow] = field(default_factory=list)
    numbers: list[NumberRow] = field(default_factory=list)
    quantities: list[QuantityRow] = field(default_factory=list)
    references: list[ReferenceRow] = field(default_factory=list)
    uris: list[UriRow] = field(default_factory=list)
