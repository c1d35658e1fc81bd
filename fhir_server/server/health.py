"""/livez and /readyz: is the process alive, and does what it promises work.

`/livez` touches nothing. `/readyz` tries everything at once, each check in a thread of its own and never longer than
its limit, so that a database which says nothing is told as 503 within seconds; what it found is kept for a second.

    ready      200   everything works
    degraded   200   it serves, but something is missing or behind: `reason` says what
    not ready  503   a check failed, or gave no answer in time
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass

from flask import Blueprint, Response

from fhir_server.server import checks
from fhir_server.server.checks import Check, Finding, Status
from fhir_server.server.services import Services
from fhir_server.server.timed import Timed
from resources import jsontext
from resources.times import microseconds

LIMIT_S = 2.0
KEEP_S = 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, by check."""

    findings: Mapping[str, Finding]

    @property
    def status(self) -> str:
        """ready, degraded or not ready."""
        found = {finding.status for finding in self.findings.values()}
        if Status.FAILED in found:
            return "not ready"
        return "degraded" if Status.DEGRADED in found else "ready"

    @property
    def reason(self) -> str:
        """What keeps it from being ready, by name."""
        return "; ".join(finding.reason for finding in self.findings.values() if finding.status is not Status.OK)


class Examination:
    """All checks, asked at once."""

    def __init__(self, examined: Mapping[str, Check], *, limit_s: float = LIMIT_S, keep_s: float = KEEP_S) -> None:
        self._asked = {
            name: Timed(f"check-{name}", check, limit_s=limit_s, keep_s=keep_s) for name, check in examined.items()
        }

    def report(self) -> Report:
        """The newest report, at most a second old."""
        for asked in self._asked.values():
            asked.begin()
        return Report({name: _finding(name, asked) for name, asked in self._asked.items()})


def _finding(name: str, asked: Timed[Finding]) -> Finding:
    try:
        return asked.answer()
    except NoAnswer:
        return Finding(Status.FAILED, f"{name}: no answer in time")
    except Exception as error:  # noqa: BLE001 - whatever is wrong, the answer is "not ready"
        return Finding(Status.FAILED, f"{name}: {type(error).__name__}")


def checks_of(services: Services) -> Mapping[str, Check]:
    """What is examined on a server: name → check."""
    settings = services.settings

    def audit() -> Finding:
        services.ledger.check_writable()
        return checks.OK

    def queues() -> Finding:
        with services.database.read() as connection:
            found = services.queues(connection)
        return checks.lag(found, microseconds(services.clock()))

    return {
        "database": lambda: checks.database_writes(services.database),
        "schema": lambda: checks.schema(services.database),
        "objects": lambda: checks.object_put(services.objects),
        "audit": audit,
        "disk": lambda: checks.disk(settings.data, settings.objects_folder),
        "clock": lambda: checks.clock(services.leap_s),
        "queues": queues,
        "worker": lambda: checks.worker(settings.data),
        "dimse": lambda: checks.dimse(settings.data, settings.dimse_port or settings.dimse_tls_port),
    }


def blueprint(services: Services) -> Blueprint:
    """/livez, /readyz and /metrics, as a Flask blueprint."""
    views = Blueprint("health", __name__)
    examination = Examination(checks_of(services))

    @views.get("/livez")
    def livez() -> Response:
        return Response(b'{"status":"alive"}', content_type="application/json")

    @views.get("/readyz")
    def readyz() -> Response:
        report = examination.report()
        body = {
            "status": report.status,
            **({"reason": report.reason} if report.reason else {}),
            "checks": {
                name: {"status": finding.status, **({"reason": finding.reason} if finding.reason else {})}
                for name, finding in report.findings.items()
            },
        }
        status = 503 if report.status == "not ready" else 200
        return Response(jsontext.dump(body), status, content_type="application/json")

    return views
