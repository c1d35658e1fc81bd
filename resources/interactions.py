"""One table of interactions: what can be asked of this server, and what follows from it.

A row says how an interaction is asked for at the FHIR edge (its forms: method, path, parameters, body, conditional
headers), which scope letter it needs, how it is recorded and where the CapabilityStatement names it. Everything that
depends on the set of interactions derives from here: the router and its dispatch (`fhir_server.edge`), the methods in
Bundles, the scope letters (`auth.policy`), the audit patterns (`audit.patterns`), the methods in history
(`store.repository`), the interactions of a resource type (`resources.registry`) and the CapabilityStatement.

To add an interaction: a member of `Interaction`, a row here, a handler in `fhir_server.edge.rest.HANDLERS`.

FHIR R4 §3.1.0.1.2 http://hl7.org/fhir/R4/http.html#summary
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Interaction(StrEnum):
    """Codes of http://hl7.org/fhir/R4/valueset-restful-interaction.html, and the names of what else is done here.

    The values are stored in audit records: none is ever renamed.
    """

    __hash__ = str.__hash__  # Enum's own is a Python function, and each request looks into several tables

    READ = "read"
    VREAD = "vread"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    SEARCH_TYPE = "search-type"
    SEARCH_SYSTEM = "search-system"
    HISTORY_INSTANCE = "history-instance"
    HISTORY_TYPE = "history-type"
    HISTORY_SYSTEM = "history-system"
    TRANSACTION = "transaction"
    BATCH = "batch"
    OPERATION = "operation"
    CAPABILITIES = "capabilities"
    SMART = "smart-configuration"
    DICOM_QUERY = "dicom-query"
    DICOM_RETRIEVE = "dicom-retrieve"
    DICOM_STORE = "dicom-store"
    DICOM_BEGIN = "dicom-begin"
    NOTIFY = "notify"
    TOKEN = "token"  # noqa: S105 - the name of an interaction
    REVOKE = "revoke"
    INTROSPECT = "introspect"
    ADMIN = "admin"


class Level(StrEnum):
    """What a path names: the base, a type or one resource."""

    SYSTEM = "system"
    TYPE = "type"
    INSTANCE = "instance"


class Body(StrEnum):
    """What the request carries."""

    NONE = "none"
    RESOURCE = "resource"
    """One resource of the type; for Binary, the bytes that it holds as well."""
    BUNDLE = "bundle"
    FORM = "form"
    """Parameters, as application/x-www-form-urlencoded."""
    OPERATION = "operation"
    """Whatever the operation declares: nothing, a Parameters resource, a resource."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A declared parameter of a route: of the URL, of a form or of a Parameters resource."""

    name: str
    type: str = "string"
    """An R4 data type; ``Resource`` comes in a body alone."""
    values: tuple[str, ...] = ()
    """What it may say; empty: anything of its type."""
    min: int = 0
    repeats: bool = False
    """Otherwise it is given once."""


FORMAT = Parameter("_format", "code")
PRETTY = Parameter("_pretty", "boolean", ("true", "false"))
SUMMARY = Parameter("_summary", "code", ("true", "text", "data", "count", "false"))
SUMMARY_OF_ONE = Parameter("_summary", "code", ("true", "text", "data", "false"))
"""`count` is for what answers with a Bundle."""
ELEMENTS = Parameter("_elements", "string", repeats=True)
PAGE = Parameter("_page", "string")
"""The parameter of a paging link that carries the signed token."""
_COUNT = Parameter("_count", "integer")

RENDERING = (FORMAT, PRETTY)
"""How an answer is written, whatever it holds."""
GENERAL = (*RENDERING, SUMMARY_OF_ONE, ELEMENTS)
"""The general parameters of R4 http.html#parameters: every interaction that answers with a resource."""
GENERAL_OF_MANY = (*RENDERING, SUMMARY, ELEMENTS)
"""The same where the answer is a Bundle of resources."""
_HISTORY = (*GENERAL_OF_MANY, Parameter("_since", "instant"), Parameter("_at", "dateTime"), _COUNT, PAGE)


@dataclass(frozen=True, slots=True)
class Form:
    """One way to ask for an interaction: a method on a path. GET answers HEAD as well."""

    method: str
    level: Level
    path: str = ""
    """Below the level: ``_history``, ``_history/[vid]``, ``$[name]``."""
    body: Body = Body.NONE
    parameters: tuple[Parameter, ...] = RENDERING
    """All that the URL may say; besides, where `criteria`, the search parameters of the type."""
    criteria: bool = False
    """Whether the other parameters are a search's, or the condition of a conditional interaction."""
    heeds: frozenset[str] = frozenset()
    """Conditional headers that have a meaning here, in lower case (R4 §3.1.0.5)."""
    entry: str | None = None
    """The method under which R4 §3.1.0.11.2 orders it as an entry of a Bundle; None: it cannot stand in one."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """How BALP records a RESTful interaction; `audit.patterns` makes the pattern of it."""

    action: str
    """C, R, U, D or E (http://hl7.org/fhir/R4/valueset-audit-event-action.html)."""
    entity: str
    """``data`` (the resource) or ``query`` (the request's text)."""
    profile: str | None = None
    """Last part of the BALP profile's name; None where BALP has none."""


@dataclass(frozen=True, slots=True)
class Row:
    """Everything about an interaction."""

    interaction: Interaction
    forms: tuple[Form, ...] = ()
    """Empty: it has no path of its own at the FHIR edge."""
    writes: bool = False
    letters: str = ""
    """SMART scope letters, of which one is enough on a type. Empty: it is never allowed on a type as a whole."""
    recorded: Recorded | None = None
    """None: not a RESTful interaction (`audit.patterns` has its own pattern), or `public`."""
    declared: Level | None = None
    """Where the CapabilityStatement names it: TYPE (rest.resource.interaction), SYSTEM (rest.interaction)."""
    public: bool = False
    """Answered without a token, and not recorded: it tells nothing of anybody."""


_IF_NONE_MATCH, _IF_MATCH = "if-none-match", "if-match"
_READ_HEADERS = frozenset({_IF_NONE_MATCH, "if-modified-since"})
_SYSTEM, _TYPE, _INSTANCE = Level.SYSTEM, Level.TYPE, Level.INSTANCE


def _search(level: Level) -> tuple[Form, ...]:
    return (
        Form("GET", level, parameters=(*GENERAL_OF_MANY, PAGE), criteria=True, entry="GET"),
        Form("POST", level, "_search", Body.FORM, (*GENERAL_OF_MANY, PAGE), criteria=True, entry="GET"),
    )


def _history(level: Level) -> tuple[Form, ...]:
    return (Form("GET", level, "_history", parameters=_HISTORY, entry="GET"),)


def _operation(level: Level) -> tuple[Form, ...]:
    return (
        Form("GET", level, "$[name]", parameters=RENDERING),
        Form("POST", level, "$[name]", Body.OPERATION, RENDERING),
    )


TABLE: tuple[Row, ...] = (
    Row(
        Interaction.READ,
        (Form("GET", _INSTANCE, parameters=GENERAL, heeds=_READ_HEADERS, entry="GET"),),
        letters="r",
        recorded=Recorded("R", "data", "Read"),
        declared=_TYPE,
    ),
    Row(
        Interaction.VREAD,
        (Form("GET", _INSTANCE, "_history/[vid]", parameters=GENERAL, heeds=_READ_HEADERS, entry="GET"),),
        letters="r",
        recorded=Recorded("R", "data", "Read"),
        declared=_TYPE,
    ),
    Row(
        Interaction.CREATE,
        # The criteria in the URL are what fhirpy's get_or_create sends: a condition, as If-None-Exist is.
        (
            Form(
                "POST", _TYPE, body=Body.RESOURCE, parameters=GENERAL, criteria=True,
                heeds=frozenset({"if-none-exist"}), entry="POST",
            ),
        ),
        writes=True,
        letters="c",
        recorded=Recorded("C", "data", "Create"),
        declared=_TYPE,
    ),
    Row(
        Interaction.UPDATE,
        (
            Form(
                "PUT", _INSTANCE, body=Body.RESOURCE, parameters=GENERAL,
                heeds=frozenset({_IF_MATCH, _IF_NONE_MATCH}), entry="PUT",
            ),
            Form(
                "PUT", _TYPE, body=Body.RESOURCE, parameters=GENERAL, criteria=True,
                heeds=frozenset({_IF_MATCH, _IF_NONE_MATCH}), entry="PUT",
            ),
        ),
        writes=True,
        letters="u",
        recorded=Recorded("U", "data", "Update"),
        declared=_TYPE,
    ),
    Row(
        Interaction.DELETE,
        (
            Form("DELETE", _INSTANCE, heeds=frozenset({_IF_MATCH}), entry="DELETE"),
            Form("DELETE", _TYPE, criteria=True, heeds=frozenset({_IF_MATCH}), entry="DELETE"),
        ),
        writes=True,
        letters="d",
        recorded=Recorded("D", "data", "Delete"),
        declared=_TYPE,
    ),
    # BALP has no profile of a history: the codes are FHIR's own, no profile is claimed.
    Row(
        Interaction.HISTORY_INSTANCE,
        _history(_INSTANCE),
        letters="r",
        recorded=Recorded("R", "data"),
        declared=_TYPE,
    ),
    Row(
        Interaction.HISTORY_TYPE,
        _history(_TYPE),
        letters="s",
        recorded=Recorded("E", "query"),
        declared=_TYPE,
    ),
    Row(
        Interaction.SEARCH_TYPE,
        _search(_TYPE),
        letters="s",
        recorded=Recorded("E", "query", "Query"),
        declared=_TYPE,
    ),
    Row(
        Interaction.TRANSACTION,  # a batch by its path: Bundle.type tells them apart
        writes=True,
        recorded=Recorded("E", "query"),
        declared=_SYSTEM,
    ),
    Row(
        Interaction.BATCH,
        (Form("POST", _SYSTEM, body=Body.BUNDLE),),
        writes=True,
        recorded=Recorded("E", "query"),
        declared=_SYSTEM,
    ),
    Row(
        Interaction.SEARCH_SYSTEM,
        _search(_SYSTEM),
        letters="s",
        recorded=Recorded("E", "query", "Query"),
        declared=_SYSTEM,
    ),
    Row(
        Interaction.HISTORY_SYSTEM,
        _history(_SYSTEM),
        letters="s",
        recorded=Recorded("E", "query"),
        declared=_SYSTEM,
    ),
    # What an operation takes and does, its own row says (`fhir_server.edge.operations`).
    Row(
        Interaction.OPERATION,
        (*_operation(_SYSTEM), *_operation(_TYPE), *_operation(_INSTANCE)),
        letters="r",
        recorded=Recorded("E", "query"),
    ),
    Row(
        Interaction.CAPABILITIES,
        (
            Form(
                "GET", _SYSTEM, "metadata", heeds=frozenset({_IF_NONE_MATCH}),
                # R4 §3.1.0.10: a server may answer every mode with the CapabilityStatement.
                parameters=(*GENERAL, Parameter("mode", "code", ("full", "normative", "terminology"))),
            ),
            Form("OPTIONS", _SYSTEM, parameters=GENERAL),
        ),
        public=True,
    ),
    Row(
        Interaction.SMART,
        (Form("GET", _SYSTEM, ".well-known/smart-configuration", parameters=()),),
        public=True,
    ),
    # What comes through the other doors: permitted and recorded by the same names.
    Row(Interaction.DICOM_QUERY, letters="s"),
    Row(Interaction.DICOM_RETRIEVE, letters="r"),
    # An instance stored into a study is a create or an update as one looks at it: either letter admits it.
    Row(Interaction.DICOM_STORE, letters="cu", writes=True),
    Row(Interaction.DICOM_BEGIN, writes=True),
    Row(Interaction.NOTIFY, letters="r"),
    Row(Interaction.TOKEN, writes=True),
    Row(Interaction.REVOKE, writes=True),
    Row(Interaction.INTROSPECT),
    Row(Interaction.ADMIN, writes=True),
)  # fmt: skip

ROWS: Mapping[Interaction, Row] = MappingProxyType({row.interaction: row for row in TABLE})


def forms() -> Iterator[tuple[Row, Form]]:
    """Every way to ask for something at the FHIR edge."""
    for row in TABLE:
        for form in row.forms:
            yield row, form


def of_type(*, writes: bool) -> frozenset[Interaction]:
    """Codes of the interactions that a resource type may have (rest.resource.interaction), those that write or not."""
    return frozenset(row.interaction for row in TABLE if row.declared is Level.TYPE and row.writes is writes)
