"""Every limit of this server that a caller can meet: one table.

A limit is checked **before the first effect**: a request that is refused has stored nothing, and what was not read is
not recorded as read. What is cut instead of refused (an answer, its includes) is told in the answer. Being over a limit
is the caller's excess, so no row answers 5xx.

`docs/limits.md` is made from this table (`python -m scripts.limits_page`); `tests/fhir_server/test_budgets.py` has a
case for each row: the limit + 1, and nothing happened.

RFC 9110 §15.5.14 (413), http://hl7.org/fhir/R4/valueset-issue-type.html (too-costly, too-long)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from resources.outcomes import BadRequest, FhirError, InvalidContent, TooLarge


class Effect(StrEnum):
    """What becomes of a request beyond a limit."""

    REFUSED = "refused"
    """The whole request, or the one entry of a batch: nothing happened."""
    CUT = "cut"
    """Answered up to the limit, and the answer says so."""
    CAPPED = "capped"
    """Answered in full; only a number that was not asked for is left out or said to be a minimum."""


_FAULTS: dict[int, type[FhirError]] = {400: BadRequest, 413: TooLarge, 422: InvalidContent}


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit."""

    name: str
    value: int
    unit: str
    told: str
    """What the caller is told; `{limit}` is the value."""
    checked: str
    """The function that checks it."""
    clause: str
    effect: Effect = Effect.REFUSED
    status: int = 400
    """HTTP status of a refusal; 200 of an answer that is cut or capped."""
    code: str = "too-costly"
    """OperationOutcome.issue.code."""

    @property
    def text(self) -> str:
        """What the caller is told."""
        return self.told.format(limit=self.value)

    def check(self, amount: int, expression: str | tuple[str, ...] = ()) -> None:
        """Raise the refusal where `amount` is more than the limit."""
        if amount > self.value:
            raise self.fault(expression)

    def fault(self, expression: str | tuple[str, ...] = ()) -> FhirError:
        """The refusal, to be raised."""
        return _FAULTS[self.status](self.text, code=self.code, expression=expression)


_JSON = "RFC 8259 §9, http://hl7.org/fhir/R4/json.html"
_TRANSACTION = "http://hl7.org/fhir/R4/http.html#transaction"
_SEARCH = "http://hl7.org/fhir/R4/search.html"

# What is sent

BODY_BYTES = Budget(
    "BODY_BYTES", 16 * 1024 * 1024, "bytes", "A body holds at most {limit} bytes here",
    "resources.jsontext.parse", "RFC 9110 §15.5.14", status=413, code="too-long",
)
JSON_DEPTH = Budget(
    "JSON_DEPTH", 50, "objects and arrays inside one another",
    "Objects and arrays are nested more than {limit} deep", "resources.jsontext.parse", _JSON,
)
NUMBER_DIGITS = Budget(
    # R4 asks for 18 digits of a decimal; longer ones are kept, endless ones are an attack.
    "NUMBER_DIGITS", 400, "characters of a number", "A number has more than {limit} digits",
    "resources.jsontext.parse", "http://hl7.org/fhir/R4/datatypes.html#decimal", code="value",
)
NUMBER_EXPONENT = Budget(
    # So that every number that is stored can be indexed as a double.
    "NUMBER_EXPONENT", 300, "power of ten", "A number is outside the range of 1E-{limit} to 1E+{limit}",
    "resources.jsontext.parse", "http://hl7.org/fhir/R4/datatypes.html#decimal", code="value",
)
PARAMETERS = Budget(
    "PARAMETERS", 200, "parameters of a query and a form", "A request has at most {limit} parameters here",
    "fhir_server.edge.wire.pairs", _SEARCH,
)
BUNDLE_ENTRIES = Budget(
    "BUNDLE_ENTRIES", 1000, "entries of a batch or transaction", "A Bundle holds at most {limit} entries here",
    "fhir_server.edge.batch.check_size", _TRANSACTION, status=413,
)
BUNDLE_ELEMENTS = Budget(
    "BUNDLE_ELEMENTS", 200_000, "JSON values of a batch or transaction",
    "A Bundle holds at most {limit} JSON values here", "fhir_server.edge.batch.check_size", _TRANSACTION, status=413,
)
RESOURCE_ELEMENTS = Budget(
    "RESOURCE_ELEMENTS", 50_000, "JSON values of a resource", "A resource holds at most {limit} JSON values here",
    "resources.sizes.check", "http://hl7.org/fhir/R4/http.html#create", status=422,
)
RESOURCE_INDEX_ROWS = Budget(
    "RESOURCE_INDEX_ROWS", 10_000, "values of a resource by which it is found",
    "A resource may hold at most {limit} values that search parameters find it by",
    "resources.sizes.check", "http://hl7.org/fhir/R4/http.html#create", status=422,
)
TRANSACTION_INDEX_ROWS = Budget(
    "TRANSACTION_INDEX_ROWS", 25_000, "values of all resources of a transaction by which they are found",
    "The resources of a transaction may hold at most {limit} values together that search parameters find them by",
    "fhir_server.edge.batch.check_rows", _TRANSACTION, status=422,
)

BUDGETS: tuple[Budget, ...] = tuple(one for one in list(globals().values()) if isinstance(one, Budget))
"""The table."""
