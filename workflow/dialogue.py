"""The dialogue of a case: one thread of Communications between the hospital and the platform, from order to afterwards.

A message about an order (or about a Task, study, report or message of it) is completed to be of the order: `basedOn`,
`subject`, `sender`, `recipient`, `sent`. Each side may write; the other side alone says that it has received. A
question holds the regulation, the answer wakes it; a change of the order after its protocol, and a new priority, are
told. FHIR R4 Communication  http://hl7.org/fhir/R4/communication.html
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

from resources import communication as messages
from resources import references, service_request
from resources import task as tasks
from resources.codes import DutyFunction, TaskKind
from resources.diagnostic_report import based_on
from resources.json import Json
from resources.lifecycle import FINISHED_TASK, changed_elements, content, differing
from resources.outcomes import Forbidden, ForbiddenTransition, InvalidContent
from resources.times import instant_text
from store.access import Change, Draft, Version, Work
from workflow import context, invalidation, notices, priorities, waiting
from workflow.cases import Case, reason
from workflow.context import Context, before_of, look_up
from workflow.people import People

_ONLY_OWNER = "Only the organization that owns the {} may alter it"


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Observer of Communication, ServiceRequest and Task."""

    context: Context
    people: People

    def prepare(self, uow: Work, draft: Draft) -> None:
        if draft.type == "Communication":
            self._prepare_message(uow, draft)
        elif draft.type == "ServiceRequest":
            self._prepare_others_order(uow, draft)

    def changed(self, uow: Work, change: Change) -> None:
        if change.derived or change.after.deleted:
            return
        if change.after.type == "Communication":
            self._said(uow, change)
        elif change.after.type == "ServiceRequest":
            self._order_changed(uow, change)
        elif change.after.type == "Task":
            self._task_changed(uow, change)

    def acknowledge(self, uow: Work, communication_id: str) -> Version:
        """Say that the caller has read the message: sets `received`, once. As an update by its recipient would."""
        found = uow.resources.read("Communication", communication_id)
        message = deepcopy(found.json())
        if message.get("received"):
            return found
        message["received"] = instant_text(uow.now)
        return uow.resources.update("Communication", communication_id, message, if_match=found.version)

    # Messages

    def _prepare_message(self, uow: Work, draft: Draft) -> None:
        before, after = before_of(draft), draft.resource
        if draft.before is not None and self._is_across(uow, draft.before.owner):
            self._prepare_receipt(uow, before, after)
            return
        if after is None:
            if before is not None and self._case(uow, before) is not None:
                raise ForbiddenTransition(
                    "A message about an order is not deleted: send it with status entered-in-error"
                )
            return
        case = self._case(uow, after) or (self._case(uow, before) if before is not None else None)
        if case is None:
            return
        issues = messages.check(after)
        if issues:
            raise InvalidContent(issues[0].diagnostics, issues=issues)
        if before is not None:
            self._prepare_again(uow, before, after)
        self._complete(uow, case, after)
        self._check_parties(uow, case, after)

    def _prepare_receipt(self, uow: Work, before: Json | None, after: Json | None) -> None:
        """The other side's message: whoever receives it says so, and nothing else."""
        changed = differing(before or {}, after or {})
        if before is None or after is None or "received" not in changed or not changed <= messages.RECEIPT:
            raise Forbidden(_ONLY_OWNER.format("Communication"))
        self._receive(uow, before, after)

    def _receive(self, uow: Work, before: Json, after: Json) -> None:
        if before.get("received"):
            raise ForbiddenTransition("The message was received already", expression="Communication.received")
        after["received"] = instant_text(uow.now)
        after["status"] = "completed" if before.get("status") == "in-progress" else before.get("status")
        if uow.caller.is_system:
            return
        who = uow.caller.practitioner or f"Organization/{uow.caller.organization}"
        note = {"authorReference": {"reference": who}, "time": instant_text(uow.now), "text": "Message lu"}
        if look_up(uow, who) is not None:
            after["note"] = [*before.get("note", []), note]

    def _prepare_again(self, uow: Work, before: Json, after: Json) -> None:
        """The writer's own update: what was read stays what was read, and nobody reads in another's name."""
        if before.get("received") and after.get("status") != "entered-in-error":
            fixed = changed_elements(before, after, (*messages.SAID, "received"))
            if fixed:
                raise ForbiddenTransition(
                    "A message that was received is not altered: write another, inResponseTo it",
                    expression=tuple(f"Communication.{name}" for name in fixed),
                )
        elif after.get("received") and not before.get("received") and not messages.is_spoken(after):
            if not self._is_recipient(uow, before):
                raise ForbiddenTransition(
                    "Whoever receives a message says so, not its sender", expression="Communication.received"
                )
            self._receive(uow, before, after)

    def _is_recipient(self, uow: Work, message: Json) -> bool:
        mine = {f"Organization/{uow.caller.organization}", uow.caller.practitioner}
        return uow.caller.is_system or not mine.isdisjoint(messages.references(message, "recipient"))

    def _complete(self, uow: Work, case: Case, message: Json) -> None:
        """Fill in what makes it a message of the case, from one side to the other."""
        order = case.order.reference
        if order not in messages.references(message, "basedOn"):
            message["basedOn"] = [*message.get("basedOn", []), {"reference": order}]
        message.setdefault("subject", case.order_json.get("subject"))
        sender = uow.caller.practitioner or f"Organization/{uow.caller.organization}"
        if not message.get("sender") and look_up(uow, sender) is not None:
            message["sender"] = {"reference": sender}
        if not messages.references(message, "recipient"):
            other = self.context.platform if self._is_hospital(uow) else case.order.owner
            if look_up(uow, f"Organization/{other}") is not None:
                message["recipient"] = [*message.get("recipient", []), {"reference": f"Organization/{other}"}]
        if message.get("status") in ("in-progress", "completed"):
            message.setdefault("sent", instant_text(uow.now))
            if message["status"] == "completed" and messages.is_spoken(message):
                message.setdefault("received", message["sent"])
        if self._is_hospital(uow) and _waits_for_answer(case) and not messages.is_attempt(message):
            messages.mark(message, messages.ANSWER)

    def _check_parties(self, uow: Work, case: Case, message: Json) -> None:
        """Nobody writes in the other side's name, nor answers a message of another case."""
        sender = look_up(uow, message.get("sender", {}).get("reference"))
        if sender is not None and not uow.caller.is_system:
            side = sender.id if sender.type == "Organization" else sender.owner
            others = case.order.owner if not self._is_hospital(uow) else self.context.platform
            if side == others:
                raise ForbiddenTransition(
                    "A message is sent in the name of the caller's own side", code="forbidden",
                    expression="Communication.sender",
                )
        for reference in messages.references(message, "inResponseTo"):
            found = look_up(uow, reference)
            if found is not None and case.order.reference not in messages.references(found.json(), "basedOn"):
                raise ForbiddenTransition(
                    "A message answers one of its own order", expression="Communication.inResponseTo"
                )

    def _said(self, uow: Work, change: Change) -> None:
        """The hospital has said something: what waited for it goes on."""
        message = change.after.json()
        if change.before is not None or not self._is_hospital(uow) or not messages.is_of(message, messages.ANSWER):
            return
        case = self._case(uow, message)
        if case is not None:
            self._answered(uow, case)

    # Questions and answers

    def _asked(self, uow: Work, case: Case, task: Json) -> None:
        """S1a: the question goes to the hospital, in words, and the deadline stops."""
        text = str(task.get("statusReason", {}).get("text", "")).strip()
        written = [
            version
            for version in uow.system.each("Communication", [("based-on", case.order.reference)])
            if version.tx == uow.tx and version.owner == self.context.platform
        ]
        if not text and not any(messages.text_of(one.json()) for one in written):
            raise ForbiddenTransition(
                "A question to the hospital says what is asked: in Task.statusReason.text, or in a Communication about "
                "the order in the same transaction",
                code="required",
                expression="Task.statusReason.text",
            )
        for version in written:
            marked = deepcopy(version.json())
            messages.mark(marked, messages.QUESTION)
            context.update(uow, version, category=marked["category"])
        if not written:
            notices.tell(case, messages.category(messages.QUESTION), text)
        asked = text or messages.text_of(written[0].json())
        case.move(TaskKind.ORDER, statusReason=reason("information-needed", asked))
        waiting.stop(case)

    def _answered(self, uow: Work, case: Case) -> None:
        """The regulator who asked goes on; where he has gone, whoever is on duty."""
        if not _waits_for_answer(case):
            return
        waiting.resume(case)
        owner = tasks.owner(case.task(TaskKind.REGULATE) or {})
        if owner is not None and self.people.rota.is_on_duty(uow, owner, DutyFunction.REGULATION, uow.now):
            case.move(TaskKind.REGULATE, "in-progress", business="answered", statusReason=None)
            case.move(TaskKind.ORDER, "received", business="", statusReason=None)
        else:
            case.move(TaskKind.REGULATE, "requested", business="answered", statusReason=None, owner=None)
            case.move(TaskKind.ORDER, "requested", business="", statusReason=None)

    # Orders and Tasks

    def _prepare_others_order(self, uow: Work, draft: Draft) -> None:
        """Of the other side's ServiceRequest a regulator on duty alters the priority, nobody anything else."""
        if draft.before is None or not self._is_across(uow, draft.before.owner):
            return
        before = before_of(draft) or {}
        changed = differing(before, draft.resource or {})
        regulates = not self._is_hospital(uow) and service_request.is_imaging_order(before)
        if not regulates or changed != {"priority"}:
            raise Forbidden(_ONLY_OWNER.format("ServiceRequest"))
        self.people.require_duty(uow, DutyFunction.REGULATION, "Altering the priority of an order")

    def _order_changed(self, uow: Work, change: Change) -> None:
        before = before_of(change)
        after = change.after.json()
        if before is None or not service_request.is_imaging_order(after):
            return
        case = Case.load(uow, self.context, change.after.reference)
        if case is None or not case.is_open:
            return
        if not self._is_hospital(uow):
            if before.get("priority") != after.get("priority"):
                self._tell_priority(case, str(before.get("priority", "routine")))
            return
        if invalidation.changed(before, after):
            if case.is_acquired:
                raise invalidation.refused()
            if invalidation.invalidate(uow, case):
                text = invalidation.told(before, after)
                notices.tell(case, messages.category(messages.PROTOCOL_WITHDRAWN), text, to_platform=True)
        if content(before) != content(after):
            self._answered(uow, case)

    def _task_changed(self, uow: Work, change: Change) -> None:
        before = before_of(change)
        task = change.after.json()
        kind = tasks.kind_of(task)
        if before is None or kind is None:
            return
        asks = kind is TaskKind.REGULATE and before.get("status") != task.get("status")
        reprioritised = before.get("priority") != task.get("priority")
        if not asks and not reprioritised:
            return
        case = Case.load(uow, self.context, task.get("focus", {}).get("reference"))
        if case is None:
            return
        if reprioritised and task.get("status") not in FINISHED_TASK:
            self._reprioritised(case, kind, before, task)
        if asks and task.get("status") == "on-hold":
            self._asked(uow, case, task)
        elif asks and before.get("status") == "on-hold" and task.get("status") != "rejected":
            waiting.resume(case)
            case.move(TaskKind.ORDER, statusReason=None)

    def _reprioritised(self, case: Case, kind: TaskKind, before: Json, task: Json) -> None:
        """A regulator altered the priority of a Task: it is the order's, so the order and all the rest follow."""
        old = case.priority
        if str(task.get("priority", "routine")) == old:
            return
        priorities.set_order(case, str(task.get("priority", "routine")))
        kept = {kind} if before.get("restriction") != task.get("restriction") else set()
        priorities.follow(case, old, kept=kept)
        self._tell_priority(case, old)

    def _tell_priority(self, case: Case, before: str) -> None:
        text = f"Priorité modifiée par le régulateur : {before} → {case.priority}"
        notices.tell(case, messages.category(messages.REPRIORITISED), text)

    # Who and where

    def _is_hospital(self, uow: Work) -> bool:
        return not uow.caller.is_system and uow.caller.organization != self.context.platform

    def _is_across(self, uow: Work, owner: str) -> bool:
        """Whether what `owner` has belongs to the other side: the platform's to a hospital, a hospital's to it."""
        platform = self.context.platform
        return not uow.caller.is_system and (uow.caller.organization == platform) != (owner == platform)

    def _case(self, uow: Work, message: Json) -> Case | None:
        orders = list(dict.fromkeys(self._orders(uow, message)))
        return Case.of(uow, self.context, {"basedOn": [{"reference": one} for one in orders]}) if orders else None

    def _orders(self, uow: Work, message: Json) -> Iterator[str]:
        """The orders that a message may be about, by whatever it names of them."""
        for text in messages.references(message, "basedOn", "about", "inResponseTo", "partOf"):
            named = references.parse(text, uow.base_urls)
            reference = f"{named.type}/{named.id}"
            if named.type == "ServiceRequest":
                yield reference
            version = look_up(uow, reference) if named.type in _OF_ORDER else None
            held = version.json() if version is not None else {}
            yield from based_on(held)
            focus = held.get("focus", {}).get("reference")
            if isinstance(focus, str):
                yield focus


_OF_ORDER = frozenset({"ServiceRequest", "Task", "ImagingStudy", "DiagnosticReport", "Communication"})
"""Types by whose basedOn (a Task's focus) a message finds its order."""


def _waits_for_answer(case: Case) -> bool:
    return case.is_open and case.status(TaskKind.REGULATE) == "on-hold"
