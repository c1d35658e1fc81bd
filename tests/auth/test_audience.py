"""Owner and audience of every kind of resource, as the store keeps them.

DESIGN §6: set by the server, never by the payload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from auth.audience import Audiences, Widening
from auth.policy import Policy
from resources.codes import TELERADIOLOGY_TASK
from resources.json import Json
from resources.outcomes import NotFound
from store.access import EVERYONE, Caller, Version
from store.unit_of_work import Store
from store.versions.audiences import audience_of
from tests.support import PLATFORM, caller, patient, service_request

A = caller("hospital-a")
B = caller("hospital-b")
P = caller(PLATFORM)
PUBLIC = {EVERYONE}
PLATFORM_ONLY = {PLATFORM}
SHARED = {"hospital-a", PLATFORM}


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store(
        permit=Policy(PLATFORM), observers=[Widening(Audiences(PLATFORM))], references="lenient"
    )


@pytest.fixture
def order(store: Store) -> Version:
    """hospital-a's order p1 → o1."""
    with store.work(A) as uow:
        uow.resources.update("Patient", "p1", patient())
        return uow.resources.update("ServiceRequest", "o1", service_request("Patient/p1"))


def write(store: Store, who: Caller, resource: Json, id: str | None = None) -> Version:
    with store.work(who) as uow:
        if id is None:
            return uow.resources.create(resource["resourceType"], resource)
        return uow.resources.update(resource["resourceType"], id, resource)


def belongs(store: Store, version: Version) -> tuple[str, set[str]]:
    with store.database.read() as connection:
        return version.owner, set(audience_of(connection, version.pk))


def seen_by(store: Store, who: Caller, version: Version) -> bool:
    try:
        with store.work(who, write=False) as uow:
            uow.resources.vread(version.type, version.id, version.version)
    except NotFound:
        return False
    return True


@pytest.mark.parametrize(
    "type_name",
    ["Organization", "Practitioner", "PractitionerRole", "Location", "HealthcareService", "Schedule", "Slot",
     "Endpoint", "Device", "CodeSystem", "ValueSet", "ActivityDefinition"],
)  # fmt: skip
@pytest.mark.parametrize("who", [A, P], ids=["hospital", "platform"])
def test_directory_resources_are_for_all_partners(store: Store, type_name: str, who: Caller) -> None:
    """DESIGN §6; they stay their writer's."""
    version = write(store, who, {"resourceType": type_name})
    assert belongs(store, version) == (who.organization, PUBLIC)
    assert seen_by(store, B, version)


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "Device", "patient": {"reference": "Patient/p1"}},
        {"resourceType": "Endpoint", "header": ["Authorization: Bearer s3cret"]},
    ],
)
def test_a_patients_device_and_an_endpoints_credentials_are_no_directory(store: Store, resource: Json) -> None:
    """A directory type that holds what only its owner and the platform may see."""
    version = write(store, A, resource)
    assert belongs(store, version) == ("hospital-a", SHARED)
    assert not seen_by(store, B, version)


@pytest.mark.parametrize(
    "type_name",
    ["Patient", "Encounter", "ServiceRequest", "Observation", "DiagnosticReport", "ImagingStudy", "Task", "Media",
     "Communication", "DocumentReference", "Condition", "Procedure", "Binary", "Provenance", "Appointment"],
)  # fmt: skip
def test_what_a_hospital_writes_is_seen_by_it_and_the_platform(store: Store, type_name: str) -> None:
    """DESIGN §6; hospital A and hospital B never share."""
    version = write(store, A, {"resourceType": type_name})
    assert belongs(store, version) == ("hospital-a", SHARED)
    assert seen_by(store, P, version)
    assert not seen_by(store, B, version)


def test_a_payload_cannot_choose_its_audience(store: Store) -> None:
    """Set by the server: meta, identifiers and managing organisations change nothing."""
    version = write(
        store, A,
        patient(managingOrganization={"reference": "Organization/hospital-b"},
                meta={"security": [{"code": "*"}], "tag": [{"code": "hospital-b"}]}),
    )  # fmt: skip
    assert belongs(store, version) == ("hospital-a", SHARED)


@pytest.mark.parametrize(
    ("status", "audience"),
    [
        ("registered", PLATFORM_ONLY),
        ("partial", PLATFORM_ONLY),
        ("preliminary", PLATFORM_ONLY),
        ("final", SHARED),
        ("amended", SHARED),
        ("corrected", SHARED),
        ("appended", SHARED),
        ("cancelled", SHARED),
        ("entered-in-error", SHARED),
        ("unknown", PLATFORM_ONLY),
        (None, PLATFORM_ONLY),
    ],
)
def test_a_report_is_the_requesting_hospitals_once_signed(
    store: Store, order: Version, status: str | None, audience: set[str]
) -> None:
    """DESIGN §6: "reports to the platform and to the requesting hospital once signed"."""
    body = report(status=status) if status else {key: v for key, v in report().items() if key != "status"}
    version = write(store, P, body)
    assert belongs(store, version) == (PLATFORM, audience)
    assert seen_by(store, A, version) is ("hospital-a" in audience)
    assert not seen_by(store, B, version)


def test_the_audience_of_a_report_widens_and_its_drafts_stay_inside(store: Store, order: Version) -> None:
    """Each version has its own audience: history shows the hospital what was signed, not what was typed."""
    draft = write(store, P, report(status="preliminary"), "r1")
    signed = write(store, P, report(status="final"), "r1")
    assert not seen_by(store, A, draft)
    assert seen_by(store, A, signed)
    with store.work(A, write=False) as uow:
        assert [version.version for version in uow.resources.history("DiagnosticReport", "r1").versions] == [2]


def test_a_report_is_found_by_its_patient_alone(store: Store, order: Version) -> None:
    """The hospital is the owner of the order or of the patient."""
    version = write(store, P, {"resourceType": "DiagnosticReport", "status": "final", "code": {},
                               "subject": {"reference": "Patient/p1"}})  # fmt: skip
    assert belongs(store, version) == (PLATFORM, SHARED)


@pytest.mark.parametrize(
    "references",
    [
        {"basedOn": [{"reference": "ServiceRequest/o1"}], "subject": {"reference": "Patient/p2"}},
        {"basedOn": [{"reference": "ServiceRequest/o1"}, {"reference": "ServiceRequest/o2"}]},
        {"subject": {"reference": "Patient/absent"}},
        {"subject": {"identifier": {"value": "1"}}},
        {},
    ],
)
def test_a_report_of_two_hospitals_or_of_none_is_shown_to_neither(
    store: Store, order: Version, references: Json
) -> None:
    """Wrong patient: what would tell one hospital of the other's patient stays on the platform."""
    with store.work(B) as uow:
        uow.resources.update("Patient", "p2", patient())
        uow.resources.update("ServiceRequest", "o2", service_request("Patient/p2"))
    version = write(store, P, {"resourceType": "DiagnosticReport", "status": "final", "code": {}, **references})
    assert belongs(store, version) == (PLATFORM, PLATFORM_ONLY)


def test_references_by_this_servers_own_urls_count(store: Store, order: Version) -> None:
    """http://hl7.org/fhir/R4/references.html: absolute references to this server are local."""
    version = write(
        store, P,
        {"resourceType": "DiagnosticReport", "status": "final", "code": {},
         "basedOn": [{"reference": "http://localhost:8080/fhir/ServiceRequest/o1/_history/1"}]},
    )  # fmt: skip
    assert belongs(store, version) == (PLATFORM, SHARED)


@pytest.mark.parametrize(
    ("more", "audience"),
    [
        ({"intent": "filler-order", "basedOn": [{"reference": "ServiceRequest/o1"}]}, SHARED),
        ({"intent": "proposal", "basedOn": [{"reference": "ServiceRequest/o1"}]}, PLATFORM_ONLY),
        ({"intent": "filler-order"}, SHARED),
    ],
)
def test_the_protocol_is_shown_to_the_hospital(
    store: Store, order: Version, more: Json, audience: set[str]
) -> None:
    """French context §7.2: PR, the filler order, is what the technologist works by."""
    version = write(store, P, {**service_request("Patient/p1"), **more})
    assert belongs(store, version) == (PLATFORM, audience)


@pytest.mark.parametrize(
    ("kind", "child", "audience"),
    [
        ("order", False, SHARED),
        ("regulate", True, PLATFORM_ONLY),
        ("acquire", True, SHARED),
        ("ai-triage", True, PLATFORM_ONLY),
        ("read", True, PLATFORM_ONLY),
        ("second-read", True, PLATFORM_ONLY),
        ("communicate-critical", True, PLATFORM_ONLY),
    ],
)
def test_the_root_and_the_acquisition_are_the_tasks_that_a_hospital_sees(
    store: Store, order: Version, kind: str, child: bool, audience: set[str]
) -> None:
    """French context §7.2: T0 is visible to H; the others are the platform's own work."""
    based_on = [{"reference": "ServiceRequest/o1"}]
    filler = write(store, P, {**service_request("Patient/p1"), "intent": "filler-order", "basedOn": based_on})
    body: Json = {
        "resourceType": "Task", "status": "requested", "intent": "order",
        "code": {"coding": [{"system": TELERADIOLOGY_TASK, "code": kind}]},
        "focus": {"reference": filler.reference},
    }  # fmt: skip
    if child:
        body["partOf"] = [{"reference": "Task/t0"}]
    assert belongs(store, write(store, P, body)) == (PLATFORM, audience)


def test_observations_of_devices_and_second_readers_stay_on_the_platform(store: Store, order: Version) -> None:
    """French context §7.6: not exposed in hospital scopes; S13: restricted."""
    for more in ({"device": {"reference": "Device/ai"}}, {"performer": [{"reference": "Practitioner/s"}]}):
        version = write(
            store, P,
            {"resourceType": "Observation", "status": "final", "code": {}, "subject": {"reference": "Patient/p1"},
             **more},
        )  # fmt: skip
        assert belongs(store, version) == (PLATFORM, PLATFORM_ONLY)


@pytest.mark.parametrize(
    ("recipient", "audience"),
    [
        ("Organization/hospital-a", SHARED),
        ("PractitionerRole/requester", SHARED),
        ("Organization/hospital-b", PLATFORM_ONLY),
        ("PractitionerRole/ours", PLATFORM_ONLY),
        (None, PLATFORM_ONLY),
    ],
)
def test_a_communication_is_shown_to_the_hospital_that_it_is_addressed_to(
    store: Store, order: Version, recipient: str | None, audience: set[str]
) -> None:
    """French context S1a, S8c: questions and critical results; notes among readers stay inside."""
    write(store, A, {"resourceType": "PractitionerRole"}, "requester")
    write(store, P, {"resourceType": "PractitionerRole"}, "ours")
    body: Json = {"resourceType": "Communication", "status": "in-progress",
                  "basedOn": [{"reference": "ServiceRequest/o1"}]}  # fmt: skip
    if recipient:
        body["recipient"] = [{"reference": recipient}]
    assert belongs(store, write(store, P, body)) == (PLATFORM, audience)


def test_images_that_match_no_order_stay_visible_to_their_sender(store: Store, order: Version) -> None:
    """Issue 2, 7: unmatched studies are kept and visible as such; when they match, the hospital sees them too."""
    study: Json = {"resourceType": "ImagingStudy", "status": "available"}
    with store.work(A) as uow:
        version = uow.system.create("ImagingStudy", study)
    assert belongs(store, version) == (PLATFORM, SHARED)
    with store.work(P) as uow:
        touched = uow.system.update("ImagingStudy", version.id, study)
    assert belongs(store, touched) == (PLATFORM, SHARED)
    linked = write(store, P, {**study, "basedOn": [{"reference": "ServiceRequest/o1"}]}, version.id)
    assert belongs(store, linked) == (PLATFORM, SHARED)
    assert not seen_by(store, B, linked)


def test_images_are_never_shown_to_a_hospital_that_did_not_send_them(store: Store, order: Version) -> None:
    """An accession number that two hospitals use must not hand one's images to the other."""
    study: Json = {"resourceType": "ImagingStudy", "status": "available",
                   "basedOn": [{"reference": "ServiceRequest/o1"}]}  # fmt: skip
    with store.work(B) as uow:
        version = uow.system.create("ImagingStudy", study)
    assert belongs(store, version) == (PLATFORM, PLATFORM_ONLY)


def test_a_subscription_is_its_organizations_own(store: Store) -> None:
    """Leak L15: not even the platform reads a hospital's channel header."""
    version = write(store, A, {"resourceType": "Subscription", "status": "requested"})
    assert belongs(store, version) == ("hospital-a", {"hospital-a"})
    assert not seen_by(store, P, version)
    assert not seen_by(store, B, version)


def test_audit_events_are_the_platforms(store: Store) -> None:
    """Auditors belong to the platform; a hospital's scope shows it none."""
    with store.work(A) as uow:
        version = uow.system.create("AuditEvent", {"resourceType": "AuditEvent"})
    assert belongs(store, version) == (PLATFORM, PLATFORM_ONLY)
    assert not seen_by(store, A, version)
    assert seen_by(store, P, version)


def test_provenance_and_binary_are_seen_as_what_they_point_to(store: Store, order: Version) -> None:
    """Leak L14: an attachment cannot be used to read across."""
    write(store, P, report(status="preliminary"), "draft")
    write(store, P, report(status="final"), "signed")
    write(store, A, {"resourceType": "Organization"}, "org")
    for pointed, audience in (("draft", PLATFORM_ONLY), ("signed", SHARED)):
        target = {"reference": f"DiagnosticReport/{pointed}"}
        for body in (
            {"resourceType": "Provenance", "target": [target]},
            {"resourceType": "Binary", "contentType": "application/pdf", "securityContext": target},
        ):
            assert belongs(store, write(store, P, body)) == (PLATFORM, audience)
    both = {"resourceType": "Provenance",
            "target": [{"reference": "DiagnosticReport/signed"}, {"reference": "DiagnosticReport/draft"}]}  # fmt: skip
    assert belongs(store, write(store, P, both)) == (PLATFORM, PLATFORM_ONLY)
    public = {"resourceType": "Provenance", "target": [{"reference": "Organization/org"}]}
    assert belongs(store, write(store, A, public)) == ("hospital-a", PUBLIC)
    assert belongs(store, write(store, P, {"resourceType": "Binary"})) == (PLATFORM, PLATFORM_ONLY)


def test_pointers_in_a_circle_come_to_an_end(store: Store) -> None:
    """Provenance of a Provenance of …"""
    write(store, P, {"resourceType": "Provenance", "target": [{"reference": "Provenance/b"}]}, "a")
    write(store, P, {"resourceType": "Provenance", "target": [{"reference": "Provenance/a"}]}, "b")
    version = write(store, P, {"resourceType": "Provenance", "target": [{"reference": "Provenance/b"}]}, "a")
    assert belongs(store, version) == (PLATFORM, PLATFORM_ONLY)


def test_the_pdf_and_the_provenance_of_a_draft_follow_its_signature(store: Store, order: Version) -> None:
    """The hospital that is told of a signed report can read what it refers to."""
    with store.work(P) as uow:
        draft = {**report(status="preliminary"), "presentedForm": [{"url": "Binary/pdf"}]}
        uow.resources.update("DiagnosticReport", "r1", draft)
        context = {"reference": "DiagnosticReport/r1"}
        pdf = uow.resources.update("Binary", "pdf", {"resourceType": "Binary", "securityContext": context})
        provenance = uow.resources.create("Provenance", {"resourceType": "Provenance", "target": [context]})
    assert not seen_by(store, A, pdf)
    write(store, P, {**draft, "status": "final"}, "r1")
    with store.work(A, write=False) as uow:
        assert uow.resources.read("Binary", "pdf").version == 2
        assert uow.resources.read("Provenance", provenance.id).version == 2
    with pytest.raises(NotFound), store.work(B, write=False) as uow:
        uow.resources.read("Binary", "pdf")
    write(store, P, {**draft, "status": "amended"}, "r1")
    with store.work(A, write=False) as uow:
        assert uow.resources.read("Binary", "pdf").version == 2


def test_what_the_server_writes_for_a_hospital_is_the_platforms(store: Store, order: Version) -> None:
    """The root Task of an order: owned by the platform, shown to the hospital."""
    with store.work(A) as uow:
        version = uow.system.create(
            "Task",
            {"resourceType": "Task", "status": "requested", "intent": "order",
             "focus": {"reference": "ServiceRequest/o1"}},
        )  # fmt: skip
    assert belongs(store, version) == (PLATFORM, SHARED)


def test_an_order_and_its_task_in_one_transaction(store: Store) -> None:
    """The order is looked up where it was just written."""
    with store.work(A) as uow:
        made = uow.resources.create("ServiceRequest", service_request("Patient/new"))
        version = uow.system.create(
            "Task",
            {"resourceType": "Task", "status": "requested", "intent": "order", "focus": {"reference": made.reference}},
        )
    assert belongs(store, version) == (PLATFORM, SHARED)


def report(**more: Any) -> Json:
    return {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": {"text": "CT Head"},
        "basedOn": [{"reference": "ServiceRequest/o1"}],
        "subject": {"reference": "Patient/p1"},
        **more,
    }
