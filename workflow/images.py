"""Which images of a case its reader was shown, and which have come since.

An entry of the reading's Task.input names a study and, once the reading is claimed, the version of the ImagingStudy
that the claimant was shown (`STUDY_VERSION`). New are the instances that the study has now and had not then. So it
does not matter how often, in which order and in how many versions a study is published.

FHIR R4 Task.input http://hl7.org/fhir/R4/task-definitions.html#Task.input
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from resources import task as tasks
from resources.codes import STUDY_INSTANCES, STUDY_MATCHING, STUDY_VERSION, TaskKind
from resources.json import Json
from resources.lifecycle import FINISHED_TASK
from resources.outcomes import FhirError, Issue
from resources.times import parse_instant
from store.access import Version, Work
from workflow.cases import Case

READABLE = ("registered", "available")


def count(study: Json) -> int:
    """How many instances a study says that it has."""
    listed = sum(len(series.get("instance", ())) for series in study.get("series", ()))
    return max(int(study.get("numberOfInstances", 0)), listed)


def has_images(study: Json) -> bool:
    """Whether there is something to read in it."""
    return study.get("status") in READABLE and count(study) > 0


def new_instances(now: Json, then: Json | None) -> int:
    """How many instances of `now` were not in `then` (None: none was); by UID where they are listed."""
    if then is None:
        return count(now)
    listed, known = _uids(now), _uids(then)
    # A study that is still coming in has its number before it has its list.
    more = max(0, count(now) - count(then))
    if listed and (known or not count(then)):
        return max(len(listed - known), more)
    return more


def of_patient(case: Case) -> list[Version]:
    """The order's studies with images whose patient is the order's: what is to be read."""
    return [study for study in case.studies() if has_images(study.json()) and _is_patients(case, study)]


def is_to_confirm(study: Version) -> bool:
    """Whether too little evidence says that its images are the patient's, and nobody has confirmed it."""
    tags = study.json().get("meta", {}).get("tag", [])
    return any(one.get("system") == STUDY_MATCHING and one.get("code") == "to-confirm" for one in tags)


def of_others(case: Case) -> list[Version]:
    """The order's studies with images that are not known to be its patient's: nobody reads them until they are."""
    return [study for study in case.studies() if has_images(study.json()) and not _is_patients(case, study)]


def _is_patients(case: Case, study: Version) -> bool:
    mine, theirs = (one.get("subject", {}).get("reference") for one in (case.order_json, study.json()))
    return bool(mine == theirs)


def inputs(
    task: Json | None, studies: Iterable[Version], *, shown: bool = False, counted: bool = False
) -> list[Json]:
    """Task.input of a reading: its other parts, then its studies.

    `shown`: in the versions of now, as its reader takes note of them; else what was noted stays. `counted`: with the
    number of images as it is now.
    """
    old = {_study_of(one): one for one in (task or {}).get("input", [])}
    others = [one for one in (task or {}).get("input", []) if not _study_of(one)]
    known = list(old)
    ordered = sorted(studies, key=lambda one: known.index(one.reference) if one.reference in old else len(known))
    return [*others, *(_input(old.get(study.reference), study, shown, counted or shown) for study in ordered)]


def unread(case: Case) -> dict[str, int]:
    """Study → how many of its images the reader of the case's last reading was not shown."""
    task = case.task(TaskKind.READ)
    if task is None:
        return {study.reference: count(study.json()) for study in of_patient(case)}
    noted = {_study_of(one): one for one in task.get("input", [])}
    found = {}
    for study in of_patient(case):
        new = new_instances(study.json(), _shown(case, study, task, noted.get(study.reference)))
        if new:
            found[study.reference] = new
    return found


def gone(case: Case) -> int:
    """How many studies the last reading names that are not the case's to read any more."""
    here = {study.reference for study in of_patient(case)}
    named = tasks.references((case.task(TaskKind.READ) or {}).get("input", []), "ImagingStudy")
    return len(set(named) - here)


def noted_version(uow: Work, study: Version, task: Json) -> Json | None:
    """The study in the version that a Task notes in its inputs; None where it notes none."""
    for entry in task.get("input", []):
        for extension in entry.get("extension", []):
            if _study_of(entry) == study.reference and extension.get("url") == STUDY_VERSION:
                return _version(uow, study, int(extension.get("valueUnsignedInt", 0)))
    return None


def is_flagged(task: Json) -> bool:
    """Whether the reading says that images have come of which its reader has not taken note."""
    return tasks.business_code(task) == "new-images"


def signing_issues(case: Case, report: Json) -> list[Issue]:
    """Why this report cannot be signed yet for its images: some are new, or a study of the reading is not named."""
    task = case.task(TaskKind.READ)
    if task is None or task.get("status") != "in-progress":
        return []
    new = sum(unread(case).values())
    issues = []
    if new or is_flagged(task):
        issues.append(
            Issue(
                "error",
                "business-rule",
                f"{new} image(s) of {case.order.reference} came after the reading was claimed: take note of them first "
                "(read the Task, then send it without businessStatus)",
                ("DiagnosticReport.imagingStudy",),
            )
        )
    named = {one.get("reference") for one in report.get("imagingStudy", [])}
    issues += [
        Issue(
            "error",
            "business-rule",
            f"{study.reference} is an imaging study of {case.order.reference} that the report does not name",
            ("DiagnosticReport.imagingStudy",),
        )
        for study in of_patient(case)
        if named and study.reference not in named
    ]
    return issues


def _study_of(entry: Json) -> str:
    return next(iter(tasks.references([entry], "ImagingStudy")), "")


def _input(old: Json | None, study: Version, shown: bool, counted: bool) -> Json:
    kept = {one["url"]: one for one in (old or {}).get("extension", [])}
    if shown:
        kept[STUDY_VERSION] = {"url": STUDY_VERSION, "valueUnsignedInt": study.version}
    if counted:
        kept[STUDY_INSTANCES] = {"url": STUDY_INSTANCES, "valueUnsignedInt": count(study.json())}
    entry = tasks.part("imaging-study", study.reference)
    return {"extension": [kept[url] for url in sorted(kept)], **entry} if kept else entry


def _shown(case: Case, study: Version, task: Json, noted: Json | None) -> Json | None:
    """The study as the reader of this Task was shown it; None where it was not."""
    if noted is None:
        return None
    if any(extension.get("url") == STUDY_VERSION for extension in noted.get("extension", [])):
        return noted_version(case.uow, study, task)
    if noted.get("extension"):
        return None  # told of, and never taken note of
    if task.get("status") in FINISHED_TASK:  # made before versions were noted: what was there when it ended
        return _as_of(case, study, parse_instant(task.get("lastModified")))
    return None


def _version(uow: Work, study: Version, number: int) -> Json | None:
    if number == study.version:
        return study.json()
    try:
        return uow.system.vread("ImagingStudy", study.id, number).json()
    except FhirError:
        return None


def _as_of(case: Case, study: Version, at: datetime | None) -> Json | None:
    found = study
    while at is not None and found.last_updated > at and found.version > 1:
        found = case.uow.system.vread("ImagingStudy", study.id, found.version - 1)
    return found.json()


def _uids(study: Json) -> set[str]:
    return {str(one.get("uid")) for series in study.get("series", ()) for one in series.get("instance", ())}
