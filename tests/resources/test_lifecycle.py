"""Status tables against the standard's own words, and the workflow's stricter ones."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources import lifecycle
from resources.codes import TaskKind
from resources.diagnostic_report import check_update
from resources.lifecycle import (
    FINISHED_TASK,
    SIGNED,
    TASK_TRANSITIONS,
    TRANSITIONS,
    Role,
    check_transition,
    may_follow,
    roles_of_step,
)
from resources.outcomes import ForbiddenTransition
from scripts import states_page

STATUSES = {
    "ServiceRequest": "draft active on-hold revoked completed entered-in-error unknown",
    "DiagnosticReport": "registered partial preliminary final amended corrected appended cancelled entered-in-error "
    "unknown",
    "Task": "draft requested received accepted rejected ready cancelled in-progress on-hold failed completed "
    "entered-in-error",
    "Appointment": "proposed pending booked arrived fulfilled cancelled noshow entered-in-error checked-in waitlist",
    "Slot": "busy free busy-unavailable busy-tentative entered-in-error",
}
"""The required bindings of R4 4.0.1."""


@pytest.mark.parametrize("type_name", TRANSITIONS)
def test_a_table_knows_every_status_of_the_required_binding_and_no_other(type_name: str) -> None:
    """http://hl7.org/fhir/R4/valueset-{request,diagnostic-report,task,appointment,slot}status.html"""
    named = set(itertools.chain(*TRANSITIONS[type_name].values()))
    known = set(TRANSITIONS[type_name])
    assert named <= known
    assert known | named == set(STATUSES[type_name].split()) - ({"unknown"} if "unknown" not in known else set())
    if type_name not in ("ServiceRequest", "DiagnosticReport"):
        assert known == set(STATUSES[type_name].split())


@pytest.mark.parametrize("kind", TASK_TRANSITIONS)
def test_a_workflow_task_allows_nothing_that_a_plain_task_does_not(kind: TaskKind) -> None:
    """The workflow's tables are stricter, never looser, but for the root Task: a report withdrawn, the exam changed."""
    for before, following in TASK_TRANSITIONS[kind].items():
        back = {"completed": {"in-progress"}, "accepted": {"requested"}} if kind is TaskKind.ORDER else {}
        reopened: set[str] = back.get(before, set())
        assert following <= TRANSITIONS["Task"][before] | reopened, (kind, before)


@pytest.mark.parametrize("kind", TASK_TRANSITIONS)
def test_a_finished_workflow_task_stays_finished(kind: TaskKind) -> None:
    """Task state machine, R4 §12.4.6. Only a failed acquisition is taken up again, and by the server alone the root
    Task of an order whose report was withdrawn."""
    for status in FINISHED_TASK - {"failed"}:
        for following in TASK_TRANSITIONS[kind].get(status, ()):
            assert roles_of_step(kind, status, following) == {Role.SERVER}
            assert (kind, status) == (TaskKind.ORDER, "completed")


FORBIDDEN = [
    ("DiagnosticReport", "final", "preliminary", "amended, corrected, appended or entered-in-error"),
    ("DiagnosticReport", "final", "registered", "signed report"),
    ("DiagnosticReport", "amended", "final", "never goes back"),
    ("DiagnosticReport", "entered-in-error", "final", "none from entered-in-error"),
    ("ServiceRequest", "completed", "active", "not opened again"),
    ("ServiceRequest", "revoked", "active", "not opened again"),
    ("Task", "completed", "in-progress", "none from completed|to entered-in-error"),
    ("Appointment", "fulfilled", "booked", "was worked"),
    ("Slot", "entered-in-error", "free", "none from"),
]


@pytest.mark.parametrize(("type_name", "before", "after", "text"), FORBIDDEN)
def test_a_forbidden_transition_says_what_is_allowed(type_name: str, before: str, after: str, text: str) -> None:
    """French context §7.3, last paragraph."""
    with pytest.raises(ForbiddenTransition, match=text) as refused:
        check_transition(type_name, before, after)
    assert refused.value.issues[0].expression == (f"{type_name}.status",)
    assert f"from {before} to {after}" in str(refused.value)


@pytest.mark.parametrize("type_name", TRANSITIONS)
def test_every_pair_of_statuses_is_as_the_table_says(type_name: str) -> None:
    """The check is the table, no more and no less."""
    table = TRANSITIONS[type_name]
    for before, after in itertools.product(table, table):
        if before == after or after in table[before]:
            check_transition(type_name, before, after)
        else:
            with pytest.raises(ForbiddenTransition):
                check_transition(type_name, before, after)


def test_what_has_no_table_is_free() -> None:
    """Types without a rule are stored as they come."""
    check_transition("Encounter", "finished", "planned")
    check_transition("Task", None, "completed")


def _report(status: str, conclusion: str) -> dict[str, object]:
    return {"resourceType": "DiagnosticReport", "status": status, "conclusion": conclusion}


@given(st.lists(st.tuples(st.sampled_from(STATUSES["DiagnosticReport"].split()), st.sampled_from("ab")), max_size=12))
def test_no_sequence_of_updates_takes_a_signed_report_back(steps: list[tuple[str, str]]) -> None:
    """Whatever is tried, once signed the report is signed or entered-in-error, and final content stays."""
    current = _report("preliminary", "a")
    signed = False
    for status, conclusion in steps:
        wanted = _report(status, conclusion)
        try:
            check_update(current, wanted)
        except ForbiddenTransition:
            continue
        if current["status"] == "final" == status:
            assert wanted == current
        current = wanted
        signed = signed or status in SIGNED
        assert not signed or status in SIGNED | {"entered-in-error"}


def test_content_is_compared_without_what_the_server_stamps() -> None:
    """meta and id are the server's (R4 §3.1.0.4)."""
    left = {"id": "1", "meta": {"versionId": "1"}, "status": "final"}
    right = {"id": "1", "meta": {"versionId": "2"}, "status": "final"}
    assert lifecycle.content(left) == lifecycle.content(right)
    assert may_follow(TRANSITIONS["Slot"], "free", "free")


def test_the_document_shows_the_state_table() -> None:
    """docs/workflow.md: `python -m scripts.states_page` writes it."""
    page = states_page.PAGE.read_text(encoding="utf-8")
    begin = page.index(states_page._BEGIN) + len(states_page._BEGIN)
    assert page[begin : page.index("\n\n", begin)].splitlines() == states_page.rows()
