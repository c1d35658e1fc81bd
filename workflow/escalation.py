"""The clock acts: what is past its due instant is raised to somebody, level by level, and never twice.

`KINDS` says what is watched. Rows of `workflow.alarms` are kept by `Watching`, in the commits that make, move and end
what is watched. `Escalations.raise_` takes one level: a Communication to whom the policy names, a flag on the Task, a
line of the log, the next instant; all in one commit, which holds the row. So each level is reached once, whatever is
killed and however many nodes there are. What an escalation writes makes no further one: only clients' Communications
are watched, and a flag moves no due instant.

`Clock` is the loop: it sleeps until the next instant that it knows of, and is woken by commits that bring a nearer one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from sqlalchemy import Connection

from resources import communication, flags
from resources import task as tasks
from resources.codes import (
    BUSINESS_STATUS,
    DISPLAYS,
    ESCALATION,
    TELERADIOLOGY_TASK,
    DutyFunction,
    TaskKind,
    code_of,
    concept,
)
from resources.diagnostic_report import based_on, is_revision, is_signature
from resources.json import Json
from resources.lifecycle import FINISHED_TASK, SIGNED
from resources.policies import POLICIES, Where, where_of
from resources.scheduling import MAX_DUTY
from resources.times import instant_text, microseconds, parse_instant
from store import items, policies
from store.access import Caller, Change, Loop, Version, Waiting, Work
from store.engine.queue import lead
from store.unit_of_work import Store
from store.versions.kept import keep, kept
from workflow import alarms, context, notices
from workflow.alarms import Due
from workflow.context import Context, before_of, look_up
from workflow.rota import Rota

log = structlog.get_logger("vigie.workflow")

NAME = "escalation"
INTERVAL_S = 30.0
PORTION = 50
"""Things that one turn acts on."""
AGAIN_S = 60.0
"""After this a thing that could not be acted on is tried again."""
SEEN_EVERY_S = 30.0
"""So often what is late is counted for the metrics."""
LOOK_AGAIN = timedelta(minutes=5)
"""Where nobody was on duty and everybody is told: whether somebody is now."""
_LEADER = 7_340_021
"""Advisory lock of the node that acts."""
_STANDING = "due-items"
"""Row of store_setting: what was stored before there were rows has them."""


QUEUES = ("delivery", "unmatched", "no-reader", "unread")
"""What is watched beside Tasks: signed reports that the hospital does not have, images without an order, readings for
which nobody is on duty, messages that nobody has read. `deadline-NAME` counts from when it came."""
OF_TASK: Mapping[TaskKind, str] = {kind: kind.value for kind in TaskKind if f"deadline-{kind.value}" in POLICIES}
"""The Tasks that are watched, by their own deadline. The root task's is the sum of its parts', and these are."""
KINDS: tuple[str, ...] = (*OF_TASK.values(), *QUEUES)
"""Everything that is escalated: `escalation-NAME` says to whom, and when."""


@dataclass(frozen=True, slots=True)
class Escalations:
    """Takes what is late one level up."""

    context: Context
    rota: Rota

    def raise_(self, uow: Work, row: Due) -> None:
        """Reach the next level of a held row: whoever is named is told, the Task is flagged."""
        subject = look_up(uow, row.subject)
        if subject is None or not is_open(row.kind, subject):
            alarms.settle(uow, row.kind, row.subject)
            return
        levels = self._levels(uow, row, subject)
        if row.level >= len(levels):
            alarms.climb(uow, row, row.level, None)
            return
        level = row.level + 1
        self._tell(uow, row, subject, level, levels[row.level]["to"])
        following = None
        if level < len(levels):
            # From when this level was due, which a leap may have moved; from now where it was raised at once.
            since = min(uow.now, row.next_at or uow.now)
            following = since + timedelta(minutes=levels[level]["after"] - levels[row.level]["after"])
        elif row.kind == "no-reader":
            following = uow.now + LOOK_AGAIN
        alarms.climb(uow, row, level, following)
        refresh_flag(uow, row)
        if subject.type == "Task":
            log.warning("a deadline is past", kind=row.kind, count=level, task=subject.id)
        else:
            log.warning("a deadline is past", kind=row.kind, count=level)

    def raise_now(self, uow: Work, kind: str, subject: str, *, least: int = 1) -> None:
        """Take what is watched one level up at once, to `least` as far as there are so many: something has failed."""
        row = alarms.hold(uow, kind, subject)
        version = look_up(uow, subject)
        if row is not None and version is not None:
            levels = len(self._levels(uow, row, version))
            self.raise_(uow, replace(row, level=max(row.level, min(least, levels) - 1)))

    def _levels(self, uow: Work, row: Due, subject: Version) -> list[Json]:
        found: list[Json] = policies.value(uow, f"escalation-{row.kind}", place_of(uow, row, subject))
        return found

    def _tell(self, uow: Work, row: Due, subject: Version, level: int, names: list[str]) -> None:
        """The Communication of a level, to those of `names` that there are; nobody: the platform's own."""
        content = subject.json()
        people = [one for name in names for one in self._people(uow, name, row, subject)]
        recipients = list(dict.fromkeys(people or self._people(uow, "support", row, subject)))
        order = look_up(uow, row.order) if row.order else None
        patient: Json | None = content.get("subject") if order is None else order.json().get("subject")
        if order is None and not (patient or {}).get("reference", "").startswith("Patient/"):
            patient = None
        sender = self.context.platform_reference
        notices.write(
            uow, [concept(ESCALATION, "escalation")],
            f"{display(row.kind)} : échéance {instant_text(row.due)} dépassée (niveau {level})",
            recipients, [] if order is None else [order.reference], status="completed",
            priority=(order.json() if order else content).get("priority") or "asap",
            topic=concept(ESCALATION, f"level-{level}"), reasonCode=[concept(ESCALATION, row.kind)],
            about=[{"reference": row.subject}], subject=patient,
            sender={"reference": sender} if look_up(uow, sender) is not None else None,
        )

    def _people(self, uow: Work, name: str, row: Due, subject: Version) -> list[str]:
        content = subject.json()
        if name == "owner":
            holder = tasks.owner(content) if subject.type == "Task" else None
            if holder is not None and holder.startswith("Practitioner/"):
                return [holder]
            name = "regulation" if row.kind == "regulate" else "reading"
        if name in (DutyFunction.REGULATION, DutyFunction.READING):
            return sorted({duty.practitioner for duty in self.rota.on_duty(uow, uow.now, DutyFunction(name))})
        if name == "recipient":
            return [one["reference"] for one in content.get("recipient", []) if one.get("reference")]
        organization = self.context.platform
        if name == "partner":
            order = look_up(uow, row.order) if row.order else None
            organization = (order or subject).owner
        reference = f"Organization/{organization}"
        return [reference] if look_up(uow, reference) is not None else []


def place_of(uow: Work, row: Due, subject: Version) -> Where:
    """Where the policies of a row are asked for: its order's place, else its owner's."""
    order = look_up(uow, row.order) if row.order else None
    return where_of(order.json(), order.owner) if order is not None else Where(subject.owner)


def is_open(kind: str, subject: Version) -> bool:
    """Whether what is watched still waits."""
    content = subject.json()
    status = content.get("status")
    if subject.type == "Task":
        if kind == "no-reader":
            return status == "ready" and lacks_reader(content)
        return status not in FINISHED_TASK
    if subject.type == "ImagingStudy":
        return is_unmatched(content)
    if subject.type == "Communication":
        return is_unread(content)
    return status in SIGNED or status == "entered-in-error"


def lacks_reader(task: Json) -> bool:
    """Whether a reading says that nobody is on duty for it."""
    return code_of(task.get("businessStatus", {}), BUSINESS_STATUS) == "no-reader-on-duty"


def is_unread(message: Json) -> bool:
    """Whether a message about an order is addressed to somebody who has not received it."""
    by_clock = code_of(message.get("category", []), ESCALATION) is not None
    said = communication.is_attempt(message) or communication.is_spoken(message)
    waits = bool(message.get("recipient")) and "received" not in message and bool(based_on(message))
    return waits and not by_clock and not said


def is_unmatched(study: Json) -> bool:
    """Whether a study has images and no order."""
    has_images = int(study.get("numberOfInstances", 0)) > 0 or bool(study.get("series"))
    return study.get("status") in ("registered", "available") and has_images and not based_on(study)


def refresh_flag(uow: Work, row: Due) -> None:
    """Have the Task say the highest level that is reached of what it stands for."""
    if row.kind == "delivery":
        level = max((one.level for one in alarms.of_case(uow, row.case_id, "delivery")), default=0)
        asked = [("focus", row.order), ("code", f"{TELERADIOLOGY_TASK}|{TaskKind.ORDER}")]
        for root in list(uow.system.each("Task", asked)):
            _flag(uow, root, level)
    elif row.subject.startswith("Task/"):
        found = alarms.of_subject(uow, row.subject)
        level = max((one.level for name, one in found.items() if name in KINDS), default=0)
        task = look_up(uow, row.subject)
        if task is not None:
            _flag(uow, task, level)


def _flag(uow: Work, task: Version, level: int) -> None:
    if flags.level_of(task.json()) != level:
        context.update(uow, task, meta=flags.with_level(task.json(), level))


class Watching:
    """Sequel that keeps the rows: what is made, moved and ended is watched from its commit on."""

    def __init__(self, platform: str) -> None:
        self._platform = platform

    def changed(self, uow: Work, change: Change) -> None:
        """A Task, a report or a study is other than it was."""
        after = change.after
        before = before_of(change)
        if after.type == "Task":
            self.task(uow, after)
        elif after.type == "DiagnosticReport" and not after.deleted:
            self._report(uow, before, after)
        elif after.type == "ImagingStudy":
            self._study(uow, after)
        elif after.type == "Communication":
            self._message(uow, after)

    def task(self, uow: Work, version: Version) -> None:
        """The row of a Task, by its deadline; and of a reading for which nobody is on duty."""
        task = {} if version.deleted else version.json()
        part = tasks.kind_of(task)
        kind = OF_TASK.get(part) if part is not None else None
        if kind is None or version.owner != self._platform:
            return
        focus = task.get("focus", {}).get("reference", "")
        order = focus if focus.startswith("ServiceRequest/") else next(iter(based_on(task)), "")
        due = parse_instant(task.get("restriction", {}).get("period", {}).get("end"))
        if due is None or not is_open(kind, version):
            alarms.settle(uow, kind, version.reference)
        else:
            alarms.watch(uow, kind, version.reference, due, order=order)
        if part is TaskKind.READ:
            if is_open("no-reader", version):
                _watch_queue(uow, "no-reader", version, order)
            else:
                alarms.settle(uow, "no-reader", version.reference)
        flagged = flags.level_of(task)
        if flagged:
            refresh_flag(uow, Due(kind, version.reference, "", uow.now, 0, None))

    def _report(self, uow: Work, before: Json | None, after: Version) -> None:
        """A signed version waits until the hospital has it."""
        report = after.json()
        withdrawn = (before or {}).get("status") in SIGNED and report.get("status") == "entered-in-error"
        orders = based_on(report)
        if not orders or after.owner != self._platform:
            return
        if is_signature(before, report) or is_revision(before, report) or withdrawn:
            found = [(self._delivery_minutes(uow, order), order.reference) for order in
                     (look_up(uow, one) for one in orders) if order is not None and order.owner != self._platform]
            if found:  # one delivery for all the orders that the report answers: the most urgent one's time
                minutes, reference = min(found)
                due = uow.now + timedelta(minutes=minutes)
                alarms.watch(uow, "delivery", after.reference, due, order=reference)

    def _delivery_minutes(self, uow: Work, order: Version) -> int:
        value = policies.value(uow, "deadline-delivery", where_of(order.json(), order.owner))
        return int(value.get(str(order.json().get("priority")), value["routine"]))

    def _study(self, uow: Work, after: Version) -> None:
        if not after.deleted and is_unmatched(after.json()):
            _watch_queue(uow, "unmatched", after, "")
        else:
            alarms.settle(uow, "unmatched", after.reference)

    def _message(self, uow: Work, after: Version) -> None:
        """A message of a case's thread waits until it was received; what the clock itself writes does not."""
        if not after.deleted and is_unread(after.json()):
            order = based_on(after.json())[0]
            _watch_queue(uow, "unread", after, order)
        else:
            alarms.settle(uow, "unread", after.reference)


def _watch_queue(uow: Work, kind: str, version: Version, order: str) -> None:
    """Watch from now on what waits since it came; what is watched already stays as it is."""
    row = Due(kind, version.reference, order.removeprefix("ServiceRequest/"), uow.now, 0, None)
    minutes: int = policies.value(uow, f"deadline-{kind}", place_of(uow, row, version))
    due = uow.now + timedelta(minutes=minutes)
    alarms.watch(uow, kind, version.reference, due, order=order, moves=False)


def has_reached(uow: Work, report: str) -> None:
    """The hospital has this report: accepted or opened."""
    rows = alarms.of_subject(uow, report)
    row = rows.get("delivery")
    if row is not None:
        alarms.settle(uow, "delivery", report)
        refresh_flag(uow, row)


Act = Callable[[Work, Due], None]


class Standing(Protocol):
    """Watches what was stored before there were rows. Implemented by `workflow.leases`."""

    def claim(self, uow: Work, version: Version) -> None: ...
    def garde(self, uow: Work, version: Version) -> None: ...


@dataclass(slots=True)
class Clock:
    """The loop. `acts`: what is done with a held row, by kind."""

    store: Store
    platform: str
    acts: Mapping[str, Act]
    watching: Watching
    leases: Standing
    leaps_s: Callable[[], float] = lambda: 0.0
    """How far the clock was put forward by leaps that were taken over, in all."""
    seen: Mapping[tuple[str, int], Waiting] = field(default_factory=dict)
    """What was late at the last count: (kind, level)."""
    _seen_at: float = -SEEN_EVERY_S
    _leapt_s: float | None = None
    _stands: bool = False
    _next: int | None = None
    _failed: dict[tuple[str, str], float] = field(default_factory=dict)
    _last: datetime | None = None

    def loop(self) -> Loop:
        """As the worker turns it."""
        return Loop(NAME, self.step, INTERVAL_S, wake=alarms.WAKE, sooner_s=self.due_in_s)

    def due_in_s(self) -> float:
        """In how many seconds something is due, as far as is known."""
        if self._next is None:
            return INTERVAL_S
        return max(0.01, (self._next - microseconds(self.store.now())) / 1_000_000)

    def step(self) -> bool:
        """Act on what is due. Returns whether there may be more at once."""
        if not self._stands:
            self._stand()
        self._follow_leaps()
        now = self.store.now()
        monotonic = time.monotonic()
        self._failed = {key: at for key, at in self._failed.items() if at > monotonic}
        with self.store.database.glance() as connection:
            rows = alarms.due(connection, microseconds(now), PORTION, tuple(self._failed))
            self._next = alarms.next_after(connection, microseconds(now))
            self._count(connection, now, bool(rows))
        done = False
        for row in rows:
            key = (row.kind, row.subject)
            self._failed[key] = monotonic + AGAIN_S
            with items.apart(NAME):
                caller = Caller.system(self.platform)
                done |= self.store.transact(caller, lambda uow, key=key: self._act(uow, *key))  # type: ignore[misc]
                del self._failed[key]
        return done

    def _act(self, uow: Work, kind: str, subject: str) -> bool:
        """Act on one row, if it is still due and this node leads; whether anything was done."""
        act = self.acts.get(kind)
        if act is None or not lead(uow.connection, _LEADER):
            return False
        row = alarms.hold(uow, kind, subject)
        if row is None or row.next_at is None or row.next_at > uow.now:
            return False
        act(uow, row)
        return True

    def _follow_leaps(self) -> None:
        """A time to wait is as long as it was: what is not due yet moves with the clock, and a leap fires nothing."""
        total = self.leaps_s()
        before, self._leapt_s = self._leapt_s, total
        last, self._last = self._last, self.store.now()
        if before is None or last is None or total == before:
            return
        by_us = round((total - before) * 1_000_000)
        after_us = microseconds(last)
        self.store.transact(Caller.system(self.platform), lambda uow: alarms.shift(uow, after_us, by_us))
        log.warning("what is due moves with the clock", seconds=round(total - before))

    def _count(self, connection: Connection, now: datetime, always: bool) -> None:
        if always or time.monotonic() - self._seen_at >= SEEN_EVERY_S:
            self._seen_at = time.monotonic()
            self.seen = alarms.late(connection, microseconds(now), KINDS)

    def _stand(self) -> None:
        """Watch what was stored before there were rows, once in a deployment."""
        caller = Caller.system(self.platform)
        with self.store.database.read() as connection:
            self._stands = kept(connection, _STANDING) is not None
        if self._stands:
            return
        codes = ",".join(f"{TELERADIOLOGY_TASK}|{kind.value}" for kind in OF_TASK)
        opened = [("code", codes), ("status", "requested,received,accepted,ready,in-progress,on-hold")]
        since = [("date", f"gt{instant_text(self.store.now() - MAX_DUTY)}")]
        with self.store.work(caller, write=False) as uow:
            found = [version.reference for version in uow.system.each("Task", opened)]
            found += [version.reference for version in uow.system.each("Appointment", since)]
        for start in range(0, len(found), PORTION):

            def watch(uow: Work, portion: list[str] = found[start : start + PORTION]) -> None:
                for reference in portion:
                    with items.apart(NAME, shared=True):
                        self._watch(uow, look_up(uow, reference))

            self.store.transact(caller, watch)
        self.store.transact(caller, lambda uow: keep(uow.connection, _STANDING, "1"))
        self._stands = True

    def _watch(self, uow: Work, version: Version | None) -> None:
        if version is not None and version.type == "Appointment":
            self.leases.garde(uow, version)
        elif version is not None:
            self.watching.task(uow, version)
            self.leases.claim(uow, version)


def display(kind: str) -> str:
    """A kind in words."""
    return DISPLAYS[ESCALATION].get(kind, kind)
