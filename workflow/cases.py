"""A case: an imaging order with its Tasks, as one reads and moves them.

There is one root Task per order and at most one unfinished Task of each other part: images after the signature, a
retake or a withdrawn report make a further one, and the earlier stays finished. `Case.load` finds them by Task.focus.
Every write here is the server's own and goes on from the version that was read, so a race is lost, never overwritten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from resources import task as tasks
from resources.codes import DISPLAYS, STATUS_REASON, TaskKind, concept
from resources.diagnostic_report import based_on
from resources.identifiers import is_accession
from resources.json import Json
from resources.lifecycle import FINISHED_TASK, IN_ERROR
from resources.outcomes import Forbidden
from resources.policies import where_of
from resources.times import instant_text
from store import policies
from store.access import Version, Work
from workflow import context, worklist
from workflow.context import Context, look_up
from workflow.deadlines import deadline


@dataclass(slots=True)
class Case:
    """One order and its Tasks, inside one unit of work."""

    uow: Work
    context: Context
    order: Version
    tasks: dict[TaskKind, Version]
    """Of each part the Task that counts now: the unfinished one, else the last."""
    ended: dict[TaskKind, list[Version]] = field(default_factory=dict)
    """The earlier Tasks of a part, oldest first."""

    @classmethod
    def load(cls, uow: Work, context: Context, order_ref: str | None) -> Case | None:
        """The case of an order; None where that order is not in the workflow (it has no root Task)."""
        if not order_ref or not order_ref.startswith("ServiceRequest/"):
            return None
        found: dict[TaskKind, list[Version]] = {}
        for version in sorted(uow.system.each("Task", [("focus", order_ref)]), key=rank):
            kind = tasks.kind_of(version.json())
            if kind is not None and version.owner == context.platform:
                found.setdefault(kind, []).append(version)
        if TaskKind.ORDER not in found:
            return None
        order = look_up(uow, order_ref)
        if order is None:
            return None
        ended = {kind: versions[:-1] for kind, versions in found.items()}
        return cls(uow, context, order, {kind: versions[-1] for kind, versions in found.items()}, ended)

    @classmethod
    def of(cls, uow: Work, context: Context, resource: Json) -> Case | None:
        """The case that a caller's report, protocol or study is based on: the first of its orders that is in the
        workflow and that the caller may see. Another organisation's order is as if it were not there."""
        return next(iter(cls._each_of(uow, context, resource)), None)

    @classmethod
    def all_of(cls, uow: Work, context: Context, resource: Json) -> list[Case]:
        """The cases of every order that a report, protocol or study is based on, in that order, each once; as `of`."""
        return list(cls._each_of(uow, context, resource))

    @classmethod
    def _each_of(cls, uow: Work, context: Context, resource: Json) -> Iterator[Case]:
        for reference in dict.fromkeys(based_on(resource)):
            case = cls.load(uow, context, reference) if _is_visible(uow, reference) else None
            if case is not None:
                yield case

    @property
    def order_json(self) -> Json:
        """The order as JSON."""
        return self.order.json()

    @property
    def priority(self) -> str:
        """request-priority; routine where the order gives none."""
        return str(self.order_json.get("priority", "routine"))

    def policy(self, name: str) -> Any:
        """The value of a policy for this order: its hospital, its site, its exam."""
        return policies.value(self.uow, name, where_of(self.order_json, self.order.owner))

    @property
    def is_open(self) -> bool:
        """Whether work on this order goes on."""
        ended = self.status(TaskKind.ORDER) in FINISHED_TASK
        return self.order_json.get("status") in ("active", "on-hold") and not ended

    def task(self, kind: TaskKind) -> Json | None:
        """The Task of that part; None where it is not there yet."""
        version = self.tasks.get(kind)
        return version.json() if version else None

    def status(self, kind: TaskKind) -> str | None:
        """Task.status of that part; None where it is not there yet."""
        task = self.task(kind)
        return task.get("status") if task else None

    @property
    def is_reported(self) -> bool:
        """Whether the order has its signed report: what comes now is an addendum to it."""
        return self.status(TaskKind.ORDER) == "completed"

    @property
    def is_acquired(self) -> bool:
        """Whether its images were once complete, also where some are to be taken again."""
        made = [*self.ended.get(TaskKind.ACQUIRE, []), *filter(None, [self.tasks.get(TaskKind.ACQUIRE)])]
        return any(version.json().get("status") == "completed" for version in made)

    @property
    def is_retake(self) -> bool:
        """Whether the acquisition is one of images that were not good enough."""
        ended = self.ended.get(TaskKind.ACQUIRE, [])
        return any(version.json().get("status") != "cancelled" for version in ended)  # cancelled: another exam

    def is_under_way(self, kind: TaskKind) -> bool:
        """Whether there is an unfinished Task of that part."""
        return kind in self.tasks and self.status(kind) not in FINISHED_TASK

    def restriction(self, kind: TaskKind) -> Json:
        """Task.restriction of a Task of that part that is made now: its deadline."""
        end = deadline(self.uow, kind, self.order, self.uow.now)
        return {"period": {"end": instant_text(end)}}

    def studies(self) -> list[Version]:
        """The order's studies that count: not withdrawn, and of the hospital or the platform, of no third party."""
        owners = (self.order.owner, self.context.platform)
        return [
            study
            for study in self.uow.system.each("ImagingStudy", [("basedon", self.order.reference)])
            if study.owner in owners and study.json().get("status") not in ("cancelled", IN_ERROR)
        ]

    def open(self, kind: TaskKind, **elements: Any) -> Version:
        """Make the Task of that part, once: a deadline by priority, the case's order as focus."""
        return self.tasks[kind] if kind in self.tasks else self._make(kind, elements)

    def open_again(self, kind: TaskKind, **elements: Any) -> Version:
        """A further Task of that part once the last is finished; one that is open only gets these elements."""
        last = self.task(kind)
        if last is None or last.get("status") not in FINISHED_TASK:
            self.open(kind, **elements)
            self.move(kind, **elements)
            return self.tasks[kind]
        self.ended.setdefault(kind, []).append(self.tasks[kind])
        return self._make(kind, elements)

    def _make(self, kind: TaskKind, elements: Json) -> Version:
        body = new_task(self.uow, self.context, kind, self.order, platform=True)
        body["partOf"] = [{"reference": self.tasks[TaskKind.ORDER].reference}]
        body.update(elements)
        worklist.complete(self.uow, self.order, body)
        self.tasks[kind] = context.create(self.uow, "Task", body)
        return self.tasks[kind]

    def resume(self, business: str, reason: Json) -> None:
        """Take the ended order up again: what ended it is undone. The one way back from a last status."""
        if self.order_json.get("status") == "completed":
            self.order = context.update(self.uow, self.order, status="active")
        self.tasks[TaskKind.ORDER] = context.update(
            self.uow,
            self.tasks[TaskKind.ORDER],
            status="in-progress",
            businessStatus=tasks.business_status(business),
            statusReason=reason,
            lastModified=instant_text(self.uow.now),
        )

    def move(self, kind: TaskKind, status: str | None = None, *, business: str | None = None, **elements: Any) -> None:
        """Move that Task to `status` (None: stays) unless it is finished; `business` ``""`` clears businessStatus."""
        version = self.tasks.get(kind)
        if version is None:
            return
        task = version.json()
        if status is not None and task.get("status") in FINISHED_TASK - {"failed"}:
            return
        changes: dict[str, Any] = dict(elements)
        if status is not None:
            changes["status"] = status
        if business is not None:
            changes["businessStatus"] = tasks.business_status(business) if business else None
        changes |= worklist.facts(self.uow, self.order, {**task, **changes})
        if all(task.get(name) == value for name, value in changes.items()):
            return
        changes["lastModified"] = instant_text(self.uow.now)
        self.tasks[kind] = context.update(self.uow, version, **changes)

    def settle_order(self, status: str) -> None:
        """Give the order its last status."""
        if self.order_json.get("status") != status:
            self.order = context.update(self.uow, self.order, status=status)

    def cancel_open_tasks(self, reason: Json) -> None:
        """End every task that is not finished yet, an acquisition that failed included."""
        for kind in list(self.tasks):
            self.move(kind, "cancelled", statusReason=reason)

    def hold(self) -> None:
        """Have whoever else looks at what is here and moves it wait for this transaction; see `hold`."""
        hold(self.uow, self.order.reference)


def hold(uow: Work, order_ref: str | None) -> None:
    """One at a time for a case: claims and signatures look at its images, images look at its reading.

    Ask before the case is loaded and before anything of it is written, so that whoever waits sees what was committed.
    """
    if order_ref:
        uow.lock(f"case:{order_ref}")


def rank(task: Version) -> tuple[bool, str, int]:
    """The Task that counts comes last."""
    body = task.json()
    return body.get("status") not in FINISHED_TASK, str(body.get("authoredOn", "")), task.pk


def _is_visible(uow: Work, reference: str) -> bool:
    try:
        return uow.resources.exists(*reference.split("/", 1))
    except Forbidden:
        return False


def new_task(uow: Work, context: Context, kind: TaskKind, version: Version, *, platform: bool) -> Json:
    """The Task of one part of an order's work."""
    order, order_ref, now = version.json(), version.reference, uow.now
    priority = str(order.get("priority", "routine"))
    body: Json = {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "priority": priority,
        "code": tasks.code(kind),
        "basedOn": [{"reference": order_ref}],
        "focus": {"reference": order_ref},
        "for": order.get("subject"),
        "authoredOn": instant_text(now),
        "lastModified": instant_text(now),
        "restriction": {"period": {"end": instant_text(deadline(uow, kind, version, now))}},
    }
    accession = next((one for one in order.get("identifier", []) if is_accession(one) and one.get("value")), None)
    if accession:
        body["groupIdentifier"] = {name: accession[name] for name in ("system", "value") if name in accession}
    encounter = order.get("encounter", {}).get("reference", "")
    if encounter.startswith("Encounter/"):
        body["encounter"] = {"reference": encounter}
    if platform:
        body["requester"] = {"reference": context.platform_reference}
    return body


def reason(code: str, text: str | None = None) -> Json:
    """A statusReason of the local code system."""
    return concept(STATUS_REASON, code, text=text or DISPLAYS[STATUS_REASON].get(code))
