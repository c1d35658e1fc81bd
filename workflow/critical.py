"""Critical results: a loop that is closed only by what was said, to whom, and heard (S8c, S12).

A `communicate-critical` Task closes with a Communication in its output that `resources.critical` accepts. A call that
reached nobody is a Communication with status `not-done` and a reason: it is put into the Task's output, and the next
level is told at once. The hospital learns of a critical result by a Communication of the clock's own, addressed to it
when the finding is flagged, also before the signature (topic `critical-result`).

ACR Practice Parameter for Communication of Diagnostic Imaging Findings
"""

from __future__ import annotations

from dataclasses import dataclass

from resources import critical
from resources import task as tasks
from resources.codes import ESCALATION, TELERADIOLOGY_TASK, TaskKind, concept, has_coding
from resources.diagnostic_report import based_on
from resources.json import Json
from resources.lifecycle import FINISHED_TASK
from resources.outcomes import ForbiddenTransition, Issue
from store.access import Change, Version, Work
from workflow import context, notices
from workflow.context import before_of, look_up
from workflow.escalation import Escalations

WARNING = "A critical result of this report is not communicated yet: close its communicate-critical Task"


@dataclass(frozen=True, slots=True)
class Critical:
    """Sequel of Task and Communication."""

    platform: str
    escalations: Escalations

    def changed(self, uow: Work, change: Change) -> None:
        """A critical result is announced, a call has failed."""
        after = change.after
        if after.deleted:
            return
        if after.type == "Communication" and not change.derived:
            self._attempted(uow, change)
        elif after.owner == self.platform and tasks.kind_of(after.json()) is TaskKind.COMMUNICATE_CRITICAL:
            self._task(uow, change)

    def _task(self, uow: Work, change: Change) -> None:
        """The hospital is told that there is a critical result, and that it is settled."""
        task = change.after.json()
        if change.before is None:
            self._announce(uow, change.after)
        elif task.get("status") in FINISHED_TASK and change.before.json().get("status") not in FINISHED_TASK:
            status = "completed" if task.get("status") == "completed" else "stopped"
            for said in uow.system.each("Communication", [("based-on", task.get("focus", {}).get("reference", ""))]):
                mine = has_coding(said.json().get("category", []), [(ESCALATION, "critical-result")])
                if mine and said.json().get("status") == "in-progress":
                    context.update(uow, said, status=status)

    def _attempted(self, uow: Work, change: Change) -> None:
        """A call that reached nobody is kept with the Task, and the next level is told."""
        said = change.after.json()
        before = before_of(change) or {}
        if said.get("status") != "not-done" or before.get("status") == "not-done":
            return
        about = {one.get("reference", "") for one in said.get("about", [])}
        for order in based_on(said) or self._orders(uow, about):
            asked = [("focus", order), ("code", f"{TELERADIOLOGY_TASK}|{TaskKind.COMMUNICATE_CRITICAL}")]
            for task in list(uow.system.each("Task", asked)):
                content = task.json()
                concerns = {task.reference, *critical.reports_of(content)}
                if content.get("status") in FINISHED_TASK or concerns.isdisjoint(about):
                    continue
                if not said.get("statusReason"):
                    raise ForbiddenTransition(
                        "A call that reached nobody says why", expression="Communication.statusReason"
                    )
                known = content.get("output", [])
                if change.after.reference not in tasks.references(known, "Communication"):
                    part = tasks.part("communication", change.after.reference)
                    context.update(uow, task, output=[*known, part])
                self.escalations.raise_now(uow, TaskKind.COMMUNICATE_CRITICAL.value, task.reference, least=2)

    def _orders(self, uow: Work, about: set[str]) -> list[str]:
        found = []
        for reference in sorted(about):
            version = look_up(uow, reference)
            if version is not None and version.type == "DiagnosticReport":
                found += based_on(version.json())
            elif version is not None and version.type == "Task":
                found.append(version.json().get("focus", {}).get("reference", ""))
        return [order for order in dict.fromkeys(found) if order]

    def _announce(self, uow: Work, task: Version) -> None:
        """Tell the hospital that there is one: that somebody will call, not what was found."""
        content = task.json()
        order = look_up(uow, content.get("focus", {}).get("reference"))
        if order is None or look_up(uow, f"Organization/{order.owner}") is None or order.owner == self.platform:
            return
        notices.write(
            uow, [concept(ESCALATION, "critical-result")],
            "Résultat critique : le radiologue cherche à joindre le demandeur.", [f"Organization/{order.owner}"],
            [order.reference], priority="stat", subject=content.get("for"),
        )


def check_closed(uow: Work, task: Json) -> None:
    """Raise ForbiddenTransition unless a Communication in a completed Task's output closes it; names what lacks."""
    if task.get("status") != "completed":
        return
    nearest: list[Issue] = []
    for reference in tasks.references(task.get("output", []), "Communication"):
        version = look_up(uow, reference)
        if version is None or version.json().get("status") == "not-done":
            continue
        issues = critical.closing_issues(version.json(), task, uow.now)
        if not issues:
            return
        if not nearest or len(issues) < len(nearest):
            nearest = issues
    text = "A critical result is closed by a completed Communication about its report, in Task.output"
    head = Issue("error", "business-rule", text, ("Task.output",))
    raise ForbiddenTransition(text, issues=[head, *nearest])

