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

# What is searched for

SEARCH_VALUES = Budget(
    # 100 parameters of 100 values each took 3.4 s; as many as this take some tens of ms.
    "SEARCH_VALUES", 500, "values of all parameters of a search, alternatives of chains counted each",
    "A search asks for at most {limit} values in all here", "resources.search.parse", _SEARCH,
)
PARAMETER_VALUES = Budget(
    "PARAMETER_VALUES", 100, "values between the commas of one parameter",
    "A search parameter has at most {limit} values here", "resources.search_criteria.criterion", _SEARCH,
)
VALUE_LENGTH = Budget(
    "VALUE_LENGTH", 16_384, "characters of the value of a search parameter",
    "The value of a search parameter has at most {limit} characters here", "resources.search_criteria.criterion",
    _SEARCH, code="too-long",
)
CHAIN_DEPTH = Budget(
    "CHAIN_DEPTH", 3, "references that a chain and _has follow together",
    "A search follows at most {limit} references here", "resources.search_criteria.criterion",
    "http://hl7.org/fhir/R4/search.html#chaining",
)
CHAIN_TYPES = Budget(
    "CHAIN_TYPES", 12, "target types that a chain tries where none is named",
    "A chain tries at most {limit} types here: name one, as in subject:Patient.name",
    "resources.search_criteria.criterion", "http://hl7.org/fhir/R4/search.html#chaining",
)
SORT_KEYS = Budget(
    "SORT_KEYS", 5, "keys of _sort", "A search is sorted by at most {limit} keys here", "resources.search.parse",
    "http://hl7.org/fhir/R4/search.html#sort",
)
INCLUDES = Budget(
    "INCLUDES", 10, "different _include and _revinclude", "A search has at most {limit} different includes here",
    "resources.search.parse", "http://hl7.org/fhir/R4/search.html#include",
)
SEARCH_MS = Budget(
    "SEARCH_MS", 5_000, "ms of searching, all statements of one request together",
    "The search takes more than {limit} ms: narrow it", "store.search.limits.Deadline.of", _SEARCH,
)

AUDIT_SCAN = Budget(
    "AUDIT_SCAN", 10_000, "AuditEvents that a search of the log looks at, where no index tells which match",
    "The search would look at more than {limit} AuditEvents: narrow its date", "audit.reading.Reading.some", _SEARCH,
)

RULE_MATCHES = Budget(
    "RULE_MATCHES", 1000, "resources that a search of the log leads through",
    "More than {limit} resources of this type match: the server leads no search through more",
    "store.search.execute.find", "http://hl7.org/fhir/R4/search.html#chaining", status=422,
)

# What is answered

PAGE_MATCHES = Budget(
    "PAGE_MATCHES", 1000, "matches or versions of a page", "A page holds at most {limit} entries: follow its next link",
    "resources.search.parse", "http://hl7.org/fhir/R4/search.html#count", Effect.CAPPED, 200,
)
HISTORY_TOTAL = Budget(
    # Counting them was what the first page of a history cost: minutes where there are 10⁹ AuditEvents.
    "HISTORY_TOTAL", 10_000, "versions that are looked at to say Bundle.total of a history",
    "Bundle.total is left out", "store.search.history.page", "http://hl7.org/fhir/R4/http.html#history",
    Effect.CAPPED, 200,
)
QIDO_ADDITIONAL = Budget(
    "QIDO_ADDITIONAL", 1000, "results beyond a page that QIDO-RS counts for its Warning",
    "There are more than {limit} additional results that can be requested", "dicomweb.queries.search",
    "PS3.18 §8.3.4.4", Effect.CAPPED, 200,
)
INCLUDED = Budget(
    "INCLUDED", 1000, "included resources of a page",
    "At most {limit} resources are included in a page: there are more",
    "store.search.includes.gather", "http://hl7.org/fhir/R4/search.html#include", Effect.CUT, 200,
)
INCLUDE_ROUNDS = Budget(
    "INCLUDE_ROUNDS", 3, "rounds of :iterate", "What is included is followed at most {limit} times: there is more",
    "store.search.includes.gather", "http://hl7.org/fhir/R4/search.html#include", Effect.CUT, 200,
)
ANSWER_BYTES = Budget(
    "ANSWER_BYTES", 8 * 1024 * 1024, "bytes of the resources of an answer; one resource may be larger by itself",
    "An answer holds at most {limit} bytes of resources here: there is more",
    "store.versions.queries.contents", _SEARCH, Effect.CUT, 200,
)
BATCH_ANSWER_BYTES = Budget(
    "BATCH_ANSWER_BYTES", 8 * 1024 * 1024, "bytes of the answers to the entries of a Bundle",
    "The answers to a Bundle hold at most {limit} bytes here: ask for this by itself",
    "fhir_server.edge.batch.Spent.admit", _TRANSACTION,
)

BUDGETS: tuple[Budget, ...] = tuple(one for one in list(globals().values()) if isinstance(one, Budget))
"""The table."""

# What is asked of images

STOW_PARTS = Budget(
    "STOW_PARTS", 2000, "parts of a STOW request",
    "A request holds at most {limit} parts: those after them were not read", "dicomweb.multipart.parts",
    "PS3.18 §10.5.3", Effect.CUT, 202, "too-long",
)
PART_HEADER_BYTES = Budget(
    "PART_HEADER_BYTES", 8192, "bytes of the headers of a part", "The headers of a part are longer than {limit} bytes",
    "dicomweb.multipart.parts", "RFC 2046 §5.1", status=413, code="too-long",
)
PREAMBLE_BYTES = Budget(
    "PREAMBLE_BYTES", 8192, "bytes before the first part", "The first part does not begin within {limit} bytes",
    "dicomweb.multipart.parts", "RFC 2046 §5.1.1", code="structure",
)
QIDO_RESULTS = Budget(
    # Weasis needs pages of 1,000.
    "QIDO_RESULTS", 5000, "results of a QIDO search", "There are … additional results that can be requested",
    "dicomweb.qido.warnings", "PS3.18 §8.3.4.4", Effect.CUT, 200,
)
QIDO_VALUES = Budget(
    "QIDO_VALUES", 500, "values of all query keys, and words of names that are matched fuzzily",
    "A search holds at most {limit} values here", "dicomweb.query_keys.query", "PS3.18 §8.3.4.1",
)
FRAMES_LISTED = Budget(
    "FRAMES_LISTED", 10_000, "frames of an address", "An address lists at most {limit} frames here",
    "dicomweb.wado.frame_numbers", "PS3.18 §10.4.1.1.5",
)

IMAGE_BUDGETS = (STOW_PARTS, PART_HEADER_BYTES, PREAMBLE_BYTES, QIDO_RESULTS, QIDO_VALUES, FRAMES_LISTED)
"""The table of DICOMweb, which tells in words of its own: `tests/dicomweb/test_budgets.py` has its cases."""
