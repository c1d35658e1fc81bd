"""The error tree, and its rendering as OperationOutcome.

Raise the domain's name for a fault where it is known; catch nothing in between. One place per protocol
(`fhir_server.edge.errors`, `dicomweb.status`) turns it into an answer. `diagnostics` names the element and the rule,
never a value that could belong to a patient.

    FhirError                        status  issue.code
    ├── Malformed                       400  structure     (cannot be parsed)
    ├── InvalidContent                  422  invariant | required | value | structure  (expression says where)
    ├── BadRequest                      400  invalid | not-supported
    ├── Unauthenticated                 401  login
    ├── Forbidden                       403  forbidden
    ├── NotFound / Gone            404, 410  not-found / deleted
    ├── NotAllowed                      405  not-supported
    ├── NotAcceptable                   406  not-supported
    ├── Conflict                        409  conflict
    ├── PreconditionFailed              412  conflict | multiple-matches
    ├── TooLarge                        413  too-long
    ├── UnsupportedMediaType            415  not-supported
    ├── ForbiddenTransition             422  business-rule
    ├── TooManyRequests                 429  throttled
    └── Unavailable                     503  transient

FHIR R4 §3.1.0.1.8 http://hl7.org/fhir/R4/http.html#Status-Codes, http://hl7.org/fhir/R4/operationoutcome.html
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from resources.json import Json


@dataclass(frozen=True, slots=True)
class Issue:
    """One OperationOutcome.issue. `code` is from the required binding issue-type."""

    severity: str
    code: str
    diagnostics: str
    expression: tuple[str, ...] = ()

    def json(self) -> Json:
        """OperationOutcome.issue."""
        body: Json = {"severity": self.severity, "code": self.code, "diagnostics": self.diagnostics}
        if self.expression:
            body["expression"] = list(self.expression)
        return body


class FhirError(Exception):
    """A fault that a caller can be told about. `status` is the HTTP status, `code` the default issue code."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "exception"

    def __init__(
        self,
        diagnostics: str,
        *,
        expression: str | tuple[str, ...] = (),
        code: str | None = None,
        issues: Iterable[Issue] = (),
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(diagnostics)
        where = (expression,) if isinstance(expression, str) else tuple(expression)
        self.issues: tuple[Issue, ...] = tuple(issues) or (Issue("error", code or self.code, diagnostics, where),)
        self.retry_after_s = retry_after_s

    @property
    def diagnostics(self) -> str:
        """All issues in one line."""
        return "; ".join(issue.diagnostics for issue in self.issues)

    def within(self, prefix: str) -> FhirError:
        """The same fault, with every expression put under `prefix` (e.g. ``Bundle.entry[3]``): one FHIRPath from the
        Bundle, ``Bundle.entry[3].resource.identifier[1].value``. What is no path of a resource becomes the prefix."""
        placed = type(self)(self.issues[0].diagnostics)
        placed.__dict__.update(self.__dict__)  # what it knows besides: whether it hides another's, which version, …
        placed.issues = tuple(
            Issue(i.severity, i.code, i.diagnostics, tuple(_placed(prefix, one) for one in i.expression) or (prefix,))
            for i in self.issues
        )
        placed.__cause__ = self
        return placed


def _placed(prefix: str, expression: str) -> str:
    head, dot, rest = expression.partition(".")
    if head == "Bundle":
        return expression
    return f"{prefix}.resource{dot}{rest}" if head[:1].isupper() else prefix


class Malformed(FhirError):
    """400: the body could not be parsed (R4 §3.1.0.1.8)."""

    status = 400
    code = "structure"


class BadRequest(FhirError):
    """400: the request cannot be understood."""

    status = 400
    code = "invalid"


class InvalidContent(FhirError):
    """422: the resource breaks rules of R4, of its profile or of the server."""

    status = 422
    code = "invalid"


class Unauthenticated(FhirError):
    """401: no access token, or none that is good (RFC 6750 §3.1)."""

    status = 401
    code = "login"


class Forbidden(FhirError):
    """403: no scope or no right (RFC 6750 §3.1)."""

    status = 403
    code = "forbidden"


class NotFound(FhirError):
    """Absent, or not the caller's to see: the answer is the same. `foreign` is for the audit record alone."""

    status = 404
    code = "not-found"

    def __init__(self, diagnostics: str = "No such resource", *, foreign: bool = False, **kwargs: Any) -> None:
        super().__init__(diagnostics, **kwargs)
        self.foreign = foreign


class Gone(FhirError):
    """410: the resource was deleted, in `version` if it is known (R4 §3.1.0.1)."""

    status = 410
    code = "deleted"

    def __init__(
        self, diagnostics: str = "The resource was deleted", *, version: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(diagnostics, **kwargs)
        self.version = version


class NotAllowed(FhirError):
    """`allowed`: the methods that are defined here, for the Allow header (RFC 9110 §15.5.6)."""

    status = 405
    code = "not-supported"
    allowed: tuple[str, ...] = ()

    @classmethod
    def but(cls, methods: Iterable[str], diagnostics: str) -> NotAllowed:
        """405 that names what is allowed; HEAD goes with GET (RFC 9110 §15.5.6)."""
        fault = cls(diagnostics)
        fault.allowed = tuple(sorted({*methods, "HEAD"} if "GET" in methods else methods))
        return fault


class NotAcceptable(FhirError):
    """406: none of the media types asked for can be given."""

    status = 406
    code = "not-supported"


class RequestTimeout(FhirError):
    """The request did not come in time (RFC 9110 §15.5.9)."""

    status = 408
    code = "timeout"


class Conflict(FhirError):
    """409: the state of the resource, or a reference, does not admit it."""

    status = 409
    code = "conflict"


class PreconditionFailed(FhirError):
    """412: If-Match, If-None-Match or criteria do not hold (R4 §3.1.0.5)."""

    status = 412
    code = "conflict"


class TooLarge(FhirError):
    """413: the body is longer than the limit."""

    status = 413
    code = "too-long"


class UnsupportedMediaType(FhirError):
    """415: the body is of a type or coding that is not read.

    `accept_encoding`: the content codings that are, where the coding is the fault (RFC 9110 §15.5.16).
    """

    status = 415
    code = "not-supported"
    accept_encoding = ""

    @classmethod
    def coding(cls, diagnostics: str) -> UnsupportedMediaType:
        """The refusal of a body with a content coding."""
        fault = cls(diagnostics)
        fault.accept_encoding = "identity"
        return fault


class ForbiddenTransition(FhirError):
    """422: the workflow does not admit this step."""

    status = 422
    code = "business-rule"


class TooManyRequests(FhirError):
    """429: come back after `retry_after_s`."""

    status = 429
    code = "throttled"


class Unavailable(FhirError):
    """503: not now; come back after `retry_after_s`."""

    status = 503
    code = "transient"


def outcome(issues: Iterable[Issue]) -> Json:
    """An OperationOutcome resource with these issues (at least one)."""
    return {"resourceType": "OperationOutcome", "issue": [issue.json() for issue in issues]}
