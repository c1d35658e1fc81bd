"""The acquisition of a case and the images themselves: what their coming does (S3, S4, and everything that comes late).

`follow` brings a case to where its studies are. It is asked whenever one of them changes, however often: what it does
depends on what is there and on what was noted (`workflow.images`), not on the order of events. Images that somebody
was told are in the archive always lead to a Task: the acquisition that waits for them, the reading, a further reading
after the signature, or one for images that nobody expects.
"""

from __future__ import annotations

from dataclasses import dataclass

from resources import task as tasks
from resources.codes import RETAKE_REASON, TaskKind, code_of
from resources.json import Json
from resources.lifecycle import IN_ERROR
from resources.outcomes import ForbiddenTransition
from store.access import Version, Work
from workflow import cases, images, notices, unexpected
from workflow.cases import Case
from workflow.reading import Reading


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Moves a case as its images come, or do not come."""

    reading: Reading

    def follow(self, uow: Work, case: Case, *, arrived: bool = False) -> None:
        """Move the case to where its studies are; `arrived`: one of them has images that it had not before."""
        if case.order_json.get("status") in ("revoked", IN_ERROR):
            for study in filter(lambda one: images.has_images(one.json()), case.studies()):
                unexpected.raise_for(case, study, "order-ended")
        elif case.is_reported:
            self._late(uow, case)
        elif case.is_open and case.status(TaskKind.ACQUIRE) not in (None, "cancelled"):
            self._expected(uow, case, arrived)
        # Else it is not accepted yet, or is to be regulated anew: the studies wait until it is.

    def acquired(self, uow: Work, case: Case, task: Json) -> None:
        """The technologist, or whoever resolves an incident, moved the acquisition."""
        status = task.get("status")
        if status == "in-progress":
            _tell(case, "retake-requested" if case.is_retake else "")
            self.follow(uow, case)  # images may be here already
        elif status in ("on-hold", "failed"):
            if status == "failed" and case.is_retake:
                self._not_retaken(uow, case, task)
            else:
                case.move(TaskKind.ORDER, business="incident", statusReason=task.get("statusReason"))
        elif status == "completed":
            self._complete(uow, case, self._new(case))

    def retake(self, case: Case, task: Json) -> None:
        """The reader cannot read what there is: the hospital is told and asked for new images."""
        why = task.get("statusReason", {})
        case.open_again(TaskKind.ACQUIRE, reasonCode=why, input=(case.task(TaskKind.ACQUIRE) or {}).get("input"))
        _tell(case, "retake-requested", why)
        about = case.tasks[TaskKind.ACQUIRE].reference
        notices.tell_hospital(case, "retake-requested", str(why.get("text", "")), why=why, about=about)

    def _expected(self, uow: Work, case: Case, arrived: bool) -> None:
        status = case.status(TaskKind.ACQUIRE)
        if status == "completed":
            if images.of_patient(case):
                self.reading.open(uow, case)
                _mark(case)
            else:
                self._withdrawn(case)
            self._raise_foreign(case)
            return
        if status == "failed" and arrived:
            case.move(TaskKind.ACQUIRE, "in-progress", statusReason=None)  # it was given up, and here they are
        elif status == "failed" or (status == "on-hold" and not _held_for_identity(case)):
            studies = [study for study in case.studies() if images.has_images(study.json())]
            case.move(TaskKind.ACQUIRE, output=_outputs(studies) or None)  # a person stopped it, a person goes on
            return
        foreign = images.of_others(case)
        if foreign and not case.is_retake:
            case.move(TaskKind.ACQUIRE, "on-hold", statusReason=cases.reason("identity-mismatch"))
            case.move(TaskKind.ORDER, business="incident")
            return
        if _is_in_doubt(case) and case.policy("to-confirm-holds"):
            case.move(TaskKind.ACQUIRE, "on-hold", statusReason=cases.reason(TO_CONFIRM))
            case.move(TaskKind.ORDER, business="incident")
            return
        self._raise_foreign(case)
        new = self._new(case)
        if any(study.json().get("status") == "available" for study in new):
            self._complete(uow, case, new)
        elif new:
            case.move(TaskKind.ACQUIRE, "in-progress", statusReason=None)
            _tell(case, "retake-requested" if case.is_retake else "")
            self.reading.more(uow, case)

    def _new(self, case: Case) -> list[Version]:
        """The studies that the acquisition has brought: of a retake those with images that the reader has not seen."""
        studies = images.of_patient(case)
        if not case.is_retake:
            return studies
        unread = images.unread(case)
        return [study for study in studies if study.reference in unread]

    def _complete(self, uow: Work, case: Case, studies: list[Version]) -> None:
        if not studies:
            raise ForbiddenTransition(
                "An acquisition is completed once images of the order are here, of a retake once new ones are",
                expression="Task.status",
            )
        why = cases.reason(TO_CONFIRM) if _is_in_doubt(case) else None
        case.move(TaskKind.ACQUIRE, "completed", statusReason=why, output=_outputs(studies))
        _tell(case, "reading" if case.status(TaskKind.READ) == "in-progress" else "")
        if case.is_retake:
            self.reading.resume(uow, case, "new-images")
        else:
            self.reading.open(uow, case)
        _mark(case)
        self._raise_foreign(case)

    def _withdrawn(self, case: Case) -> None:
        """All images were rejected, or are another's: they are to be taken anew, and the reading waits for them."""
        why = cases.reason("images-withdrawn")
        case.open_again(TaskKind.ACQUIRE, reasonCode=why, input=(case.task(TaskKind.ACQUIRE) or {}).get("input"))
        if case.is_under_way(TaskKind.READ):
            case.move(TaskKind.READ, "on-hold", statusReason=why, input=images.inputs(case.task(TaskKind.READ), []))
        _tell(case, "retake-requested", why)

    def _not_retaken(self, uow: Work, case: Case, task: Json) -> None:
        """The hospital cannot take them again: the reader decides on what there is."""
        why = task.get("statusReason")
        case.move(TaskKind.ORDER, business="retake-impossible", statusReason=why)
        self.reading.resume(uow, case, "retake-impossible", why)

    def _late(self, uow: Work, case: Case) -> None:
        """After the signature: images that its reader was not shown are read too."""
        self._raise_foreign(case)
        if case.is_under_way(TaskKind.READ):
            if case.is_under_way(TaskKind.ACQUIRE) and self._new(case):
                self._complete(uow, case, self._new(case))  # the reader of the addendum had asked for a retake
            else:
                self.reading.more(uow, case)
        elif images.unread(case):
            signed = tasks.references((case.task(TaskKind.READ) or {}).get("output", []), "DiagnosticReport")
            report = signed[-1] if signed else None
            self.reading.open_again(uow, case, why=cases.reason("addendum"), report=report)
            case.move(TaskKind.ORDER, business="addendum")

    def _raise_foreign(self, case: Case) -> None:
        for study in images.of_others(case):
            unexpected.raise_for(case, study, "identity-mismatch")


def _tell(case: Case, business: str, why: Json | None = None) -> None:
    """Tell the hospital on the root Task, which a signed report has ended already."""
    if case.is_reported:
        case.move(TaskKind.ORDER, business=business if business.startswith("retake") else "addendum", statusReason=why)
    else:
        case.move(TaskKind.ORDER, "in-progress", business=business, statusReason=why)


def asks_for_retake(task: Json) -> bool:
    """Whether a reading that is put on hold says that images are to be taken again."""
    return code_of(task.get("statusReason", {}), RETAKE_REASON) is not None


def _outputs(studies: list[Version]) -> list[Json]:
    return [tasks.part("imaging-study", study.reference) for study in studies]


def _held_for_identity(case: Case) -> bool:
    held = case.task(TaskKind.ACQUIRE) or {}
    return held.get("statusReason") in (cases.reason("identity-mismatch"), cases.reason(TO_CONFIRM))


TO_CONFIRM = "identity-to-confirm"


def _is_in_doubt(case: Case) -> bool:
    return any(images.is_to_confirm(study) for study in images.of_patient(case))


def _mark(case: Case) -> None:
    """Say on an open reading whether somebody has still to confirm whose images they are."""
    task = case.task(TaskKind.READ)
    if task is None or not case.is_under_way(TaskKind.READ):
        return
    mark, is_in_doubt = cases.reason(TO_CONFIRM), _is_in_doubt(case)
    if is_in_doubt and not task.get("statusReason"):
        case.move(TaskKind.READ, statusReason=mark)
    elif not is_in_doubt and task.get("statusReason") == mark:
        case.move(TaskKind.READ, statusReason=None)
