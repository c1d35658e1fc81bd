"""The subscriber's rights, asked when an event is numbered and again when it is sent (DESIGN §6, §9; leak test L15)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from resources import search
from store.access import EVERYONE, Audience, Outcome, Visibility
from tests.subscriptions.hospital import Hospital
from tests.subscriptions.ward import EHR, OTHER_EHR, RADIOLOGIST, Ward, report
from tests.support import PLATFORM


def test_another_hospital_s_report_is_not_told(ward: Ward, other_hospital: Hospital) -> None:
    """L15: also by a subscription whose filter names it."""
    theirs = ward.subscribe(OTHER_EHR, endpoint=other_hospital.url, filters=["patient=Patient/p"])
    ward.sign()
    ward.turn()
    assert other_hospital.of("event-notification") == []
    assert ward.state(theirs).events == 0


def test_the_platform_hears_of_all_hospitals(ward: Ward, other_hospital: Hospital) -> None:
    """DESIGN §6: hospital resources are visible to that hospital and to the platform."""
    ward.subscribe(RADIOLOGIST, endpoint=other_hospital.url)
    ward.sign()
    ward.permit.audiences["DiagnosticReport"] = Audience("hospital-b", frozenset({"hospital-b", PLATFORM}))
    ward.sign()
    ward.turn()
    assert other_hospital.accepted_numbers == [1, 2]


def test_what_everyone_may_see_is_told_to_everyone(ward: Ward, other_hospital: Hospital) -> None:
    """An audience of all organisations."""
    ward.subscribe()
    ward.subscribe(OTHER_EHR, endpoint=other_hospital.url)
    ward.permit.audiences["DiagnosticReport"] = Audience(PLATFORM, frozenset({EVERYONE}))
    ward.sign()
    ward.turn()
    assert ward.hospital.accepted_numbers == other_hospital.accepted_numbers == [1]


LOSSES: dict[str, Callable[[Ward], None]] = {
    "the client is inactive": lambda ward: ward.clients.pop(EHR.client_id) and None,
    "the client moved to another organisation": lambda ward: ward.clients.update(
        {EHR.client_id: replace(EHR, organization="hospital-b")}
    ),
    "the scope is gone": lambda ward: ward.permit.forbidden.add(("hospital-a", "DiagnosticReport")),
    "the organisation sees nothing any more": lambda ward: ward.permit.visible.update(
        {("hospital-a", "DiagnosticReport"): Visibility(frozenset())}
    ),
    "the scope's constraint leaves it out": lambda ward: ward.permit.visible.update(
        {
            ("hospital-a", "DiagnosticReport"): Visibility(
                frozenset({"hospital-a"}), (search.parse("DiagnosticReport", [("status", "amended")]),)
            )
        }
    ),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_rights_lost_before_sending_suppress_what_was_numbered(ward: Ward, loss: Callable[[Ward], None]) -> None:
    """L15, Backport §safety-security: nothing is sent; it is counted, and on record as suppressed."""
    identifier = ward.subscribe(content="full-resource")
    ward.sign()
    ward.sequence()
    loss(ward)
    ward.trail.clear()
    ward.turn()
    ward.pass_time(60)
    assert ward.hospital.of("event-notification") == []
    state = ward.state(identifier)
    assert (state.events, state.delivered) == (1, 1)
    assert [attempt.result for attempt in ward.attempts(identifier)][-1] == "suppressed"
    (record,) = [access for access in ward.trail.appended if access.interaction == "notify"]
    assert record.outcome is Outcome.SERIOUS
    assert record.reason is not None
    assert record.reason.startswith("suppressed")


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_rights_lost_before_the_event_leave_no_event(ward: Ward, loss: Callable[[Ward], None]) -> None:
    """What the subscriber may not see gets no number: not even the count tells that it happened."""
    identifier = ward.subscribe()
    loss(ward)
    ward.sign()
    ward.turn()
    assert ward.hospital.of("event-notification") == []
    assert ward.state(identifier).events == 0


def test_a_constraint_lets_pass_what_it_names(ward: Ward) -> None:
    """SMART v2 system/DiagnosticReport.rs?status=amended: only those are told."""
    ward.subscribe()
    ward.permit.visible[("hospital-a", "DiagnosticReport")] = Visibility(
        frozenset({"hospital-a"}), (search.parse("DiagnosticReport", [("status", "amended")]),)
    )
    signed = ward.sign()
    ward.update(signed.id, report(status="amended"), RADIOLOGIST)
    ward.turn()
    (received,) = ward.hospital.of("event-notification")
    assert received.body["entry"][1]["response"]["etag"] == 'W/"2"'


def test_of_a_batch_only_what_may_be_seen_is_sent(ward: Ward) -> None:
    """Numbers stay as they were: the gap is what the subscriber may not have."""
    ward.subscribe(max_count=10)
    ward.sign()
    ward.sign(code={"text": "another examination"})
    ward.sign()
    ward.sequence()
    ward.permit.visible[("hospital-a", "DiagnosticReport")] = Visibility(
        frozenset({"hospital-a"}), (search.parse("DiagnosticReport", [("code", "24725-4")]),)
    )
    ward.turn()
    (received,) = ward.hospital.of("event-notification")
    assert received.numbers == [1, 3]
    assert received.status["events-since-subscription-start"] == "3"
    assert [access.reason for access in ward.trail.disclosed if access.outcome is Outcome.SERIOUS]


def test_context_that_the_subscriber_may_not_see_stays_out(ward: Ward) -> None:
    """additional-context is disclosed like anything else: without a Patient scope no Patient goes along."""
    ward.subscribe(content="full-resource")
    who, order = ward.order()
    ward.permit.forbidden.add(("hospital-a", "Patient"))
    ward.sign(who, order)
    ward.turn()
    (received,) = ward.hospital.of("event-notification")
    types = [entry["resource"]["resourceType"] for entry in received.body["entry"]]
    assert types == ["Parameters", "DiagnosticReport", "ServiceRequest"]
    (event,) = received.events
    assert len(event["additional-context"]) == 1


def test_events_answers_what_the_asking_client_may_see_today(ward: Ward) -> None:
    """$events is not a way around a lost right."""
    identifier = ward.subscribe()
    ward.sign()
    ward.turn()
    ward.permit.forbidden.add(("hospital-a", "DiagnosticReport"))
    answer = ward.operation("events", identifier, ("content", "full-resource"))
    assert len(answer["entry"]) == 1


def test_an_inactive_client_gets_no_handshake_and_no_heartbeat(ward: Ward) -> None:
    """Nothing at all goes to the endpoint of a client that was switched off."""
    ward.subscribe(heartbeat_s=20)
    ward.clients.pop(EHR.client_id)
    ward.pass_time(120, 5)
    assert [received.kind for received in ward.hospital.received] == ["handshake"]
