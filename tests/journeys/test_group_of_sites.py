"""Sites of one hospital group: one EHR for several sites, each way only by what a site has delegated.

R4 Organization.partOf says who belongs to whom, and gives no right. A delegation does: from when until when, to see or
to act. http://hl7.org/fhir/R4/organization-definitions.html#Organization.partOf
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from dicomweb import phantom
from fhir_server.demo.hospital import Endpoint
from resources.json import Json
from subscriptions.topics import ORDER_STATUS
from tests import builders
from tests.fhir_server.conftest import (  # noqa: F401 - fixtures of the assembled server
    Api,
    Client,
    api,
    door,
    engine,
    make_api,
    settings,
    template,
    templates,
)
from tests.journeys.played import Emergency, good, parameters, put, refusal
from tests.security.scene import stow, subscription

QUICK = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
"""Nothing of the test depends on the database."""
GROUP, SITE_1, SITE_2 = "ght", "ght-site-1", "ght-site-2"
SCOPE = " ".join(
    f"system/{name}.cruds"
    for name in ("Patient", "Encounter", "ServiceRequest", "Task", "ImagingStudy", "DiagnosticReport", "Binary",
                 "Observation", "Condition", "Communication", "Provenance", "Subscription", "Organization")
)  # fmt: skip


@dataclass
class Group:
    """A group with two sites, and their EHRs."""

    api: Api
    ehr: Client
    site_1: Client
    site_2: Client

    def delegate(self, who: Client, of: str, to: str, interactions: str = "rs", **more: str) -> Json:
        """What `who` delegates: `of` lets `to` see (and act). The grant as it is told."""
        asked = parameters(**{
            "subject": f"Organization/{to}", "until": "2099-01-01T00:00:00Z", "reason": "Convention GHT 2026-7",
            "source": "delegation", "interactions": interactions, **more,
        })  # fmt: skip
        found = good(who.post(f"Organization/{of}/$grant", asked))
        return told(found)[0]

    def revoke(self, who: Client, grant: Json, of: str) -> None:
        good(who.post(f"Organization/{of}/$revoke", parameters(grant=grant["grant"])))


def told(answer: Json) -> list[Json]:
    """The grants of an answer, flat."""
    return [{part["name"]: part["valueString"] for part in one["part"]} for one in answer.get("parameter", [])]


def passed(api: Api) -> None:  # noqa: F811
    """Let every process forget what it knew of tokens: what 5 seconds do."""
    api.services.authority._tokens._remembered.clear()
    api.services.authority.clients._known.clear()


@pytest.fixture
def group(api: Api) -> Group:  # noqa: F811
    planner = api.admin
    for name, part_of in ((GROUP, None), (SITE_1, GROUP), (SITE_2, GROUP)):
        body = builders.organization(name=name, partOf=builders.ref(f"Organization/{part_of}") if part_of else None)
        good(planner.put(f"Organization/{name}", {**body, "id": name}), 201)
    made = [api.client("hospital", name, SCOPE) for name in (GROUP, SITE_1, SITE_2)]
    return Group(api, *made)


@QUICK
def test_part_of_alone_reveals_nothing(group: Group) -> None:
    case = Emergency.of(group.api, group.site_1)
    for other in (group.ehr, group.site_2):
        refusal(other.get(case.order_ref), 404)
        assert other.found("ServiceRequest") == other.found("Patient") == other.found("Task") == []
    up = Emergency.of(group.api, group.ehr)
    refusal(group.site_1.get(up.order_ref), 404)


def test_the_group_follows_an_order_of_its_site_until_the_site_ends_it(group: Group) -> None:
    """From the order to the report; then the delegation is revoked, and everything is gone at every door."""
    grant = group.delegate(group.site_1, SITE_1, GROUP)
    passed(group.api)
    case = Emergency.of(group.api, group.site_1).signed()
    ehr = group.ehr
    pdf = case.report["presentedForm"][0]["url"].split("/fhir/")[-1]
    report, study = f"DiagnosticReport/{case.report['id']}", case.study()
    image = f"/dicom-web/studies/{case.scan.study_uid}"
    shown = [case.order_ref, case.patient_ref, report, f"ImagingStudy/{study['id']}", f"{report}/_history", pdf]
    for path in shown:
        good(ehr.get(path))
    orders = ehr.found(f"ServiceRequest?patient={case.patient['id']}&_include=ServiceRequest:patient")
    assert {one["intent"] for one in orders} == {"order", "filler-order"}
    assert ehr.found(f"Task?focus={case.order_ref}&code=order")[0]["status"] == "completed"
    assert len(ehr.found(f"DiagnosticReport?subject:Patient.family={case.patient['name'][0]['family']}")) == 1
    assert ehr.get(f"{image}/metadata").status_code == 200
    assert len(ehr.get("/dicom-web/studies").get_json()) == 1
    # What the site itself does not see, its delegate does not see either.
    refusal(ehr.get(f"Task/{case.task('read')['id']}"), 404)
    group.revoke(group.site_1, grant, SITE_1)
    passed(group.api)
    for path in shown:
        refusal(ehr.get(path), 404)
    for kind in ("ServiceRequest", "Patient", "Task", "DiagnosticReport", "ImagingStudy", "Binary"):
        assert ehr.found(kind) == []
    assert ehr.get(f"{image}/metadata").status_code == 404
    assert ehr.get("/dicom-web/studies").status_code == 204
    good(group.site_1.get(report))


@QUICK
def test_each_direction_is_its_own_and_does_not_go_on_to_a_third(group: Group) -> None:
    """Site 1 lets the group see; the group lets site 2 see: site 2 does not see site 1, and nobody sees back."""
    group.delegate(group.site_1, SITE_1, GROUP)
    group.delegate(group.ehr, GROUP, SITE_2)
    passed(group.api)
    of_site, of_group = Emergency.of(group.api, group.site_1), Emergency.of(group.api, group.ehr)
    of_other = Emergency.of(group.api, group.site_2)
    good(group.ehr.get(of_site.order_ref))
    good(group.site_2.get(of_group.order_ref))
    refusal(group.site_2.get(of_site.order_ref), 404)
    refusal(group.site_1.get(of_group.order_ref), 404)
    refusal(group.ehr.get(of_other.order_ref), 404)


@QUICK
def test_who_may_only_read_writes_nothing_in_the_others_name(group: Group) -> None:
    group.delegate(group.site_1, SITE_1, GROUP)
    passed(group.api)
    case = Emergency.of(group.api, group.site_1)
    refusal(put(group.ehr, case.order, status="revoked"), 403)
    refusal(put(group.ehr, case.patient, birthDate="1970-01-01"), 403)
    refusal(group.ehr.delete(case.patient_ref), 403)
    root = group.ehr.found(f"Task?focus={case.order_ref}&code=order")[0]
    refusal(put(group.ehr, root, note=[{"text": "x"}]), 403)
    made = group.ehr.create(builders.patient(managingOrganization=builders.ref(f"Organization/{SITE_1}")))
    refusal(group.site_1.get(f"Patient/{made['id']}"), 404)  # it is the group's own, whatever it says


def test_who_may_act_writes_for_the_site(group: Group) -> None:
    """The group's EHR orders for its site: what it writes belongs to the site, which sees it as its own."""
    grant = group.delegate(group.site_1, SITE_1, GROUP, "cruds")
    passed(group.api)
    case = Emergency.of(group.api, group.ehr, managingOrganization=builders.ref(f"Organization/{SITE_1}"))
    for reference in (case.patient_ref, case.order_ref):
        good(group.site_1.get(reference))
    assert group.site_1.found(f"Task?focus={case.order_ref}&code=order")
    good(put(group.ehr, case.order, priority="urgent"))
    case.hospital = group.site_1
    case.signed()
    group.revoke(group.site_1, grant, SITE_1)
    passed(group.api)
    refusal(group.ehr.get(case.order_ref), 404)
    refusal(put(group.ehr, case.order, priority="stat"), 404)
    good(group.site_1.get(f"DiagnosticReport/{case.report['id']}"))


@pytest.mark.parametrize("who", ["ehr", "site_2"])
@QUICK
def test_nobody_delegates_what_is_anothers(group: Group, who: str) -> None:
    """Neither the group, to itself, nor another site."""
    asked = parameters(subject=f"Organization/{GROUP}", until="2099-01-01T00:00:00Z", reason="x", source="delegation")
    refusal(getattr(group, who).post(f"Organization/{SITE_1}/$grant", asked), 403)
    refusal(getattr(group, who).get(f"Organization/{SITE_1}/$grants"), 403)
    grant = group.delegate(group.site_1, SITE_1, GROUP)
    refusal(getattr(group, who).post(f"Organization/{SITE_1}/$revoke", parameters(grant=grant["grant"])), 403)
    passed(group.api)
    good(group.ehr.get(Emergency.of(group.api, group.site_1).order_ref))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"subject": "Organization/nobody"}, "subject"),
        ({"subject": "Patient/x"}, "subject"),
        ({"subject": f"Organization/{SITE_1}"}, "subject"),
        ({"until": "2001-01-01T00:00:00Z"}, "until"),
        ({"since": "2099-06-01T00:00:00Z"}, "until"),
        ({"interactions": "cud"}, "interactions"),
        ({"interactions": "rsx"}, "interactions"),
        ({"source": "sharing"}, "source"),
        ({"source": "break-glass"}, "source"),
        ({"reason": " "}, "reason"),
    ],
)
@QUICK
def test_a_grant_that_is_none_is_refused(group: Group, change: dict[str, str], where: str) -> None:
    asked = {"subject": f"Organization/{GROUP}", "until": "2099-01-01T00:00:00Z", "reason": "x", "source": "delegation"}
    answer = group.site_1.post(f"Organization/{SITE_1}/$grant", parameters(**{**asked, **change}))
    refusal(answer, 400)
    assert where in answer.get_json()["issue"][0]["expression"][0]


@QUICK
def test_the_platform_delegates_to_nobody(group: Group) -> None:
    asked = parameters(subject=f"Organization/{GROUP}", until="2099-01-01T00:00:00Z", reason="x", source="delegation")
    refusal(group.api.admin.post("Organization/platform/$grant", asked), 400)


@QUICK
def test_a_delegate_is_told_of_events_and_no_more_once_it_has_ended(group: Group) -> None:
    """The subscription is the group's; whose order it is decides the delegation of that moment."""
    services = group.api.services
    receiver = Endpoint()
    try:
        group.ehr.create(subscription(receiver.url, ORDER_STATUS))

        def turn() -> int:
            while services.subscriptions.sequencer.step() | services.subscriptions.dispatcher.step():
                services.subscriptions.dispatcher.drain()
            return len(receiver.received)

        grant = group.delegate(group.site_1, SITE_1, GROUP)
        passed(group.api)
        before = turn()
        Emergency.of(group.api, group.site_1).accepted()
        after = turn()
        assert after > before
        group.revoke(group.site_1, grant, SITE_1)
        passed(group.api)
        Emergency.of(group.api, group.site_1).accepted()
        assert turn() == after
    finally:
        receiver.close()


def test_the_record_of_what_a_delegate_did_names_the_grant(group: Group) -> None:
    grant = group.delegate(group.site_1, SITE_1, GROUP)
    passed(group.api)
    case = Emergency.of(group.api, group.site_1).acquired()
    own = Emergency.of(group.api, group.ehr)
    for path in (case.order_ref, f"Patient?_id={case.patient['id']}", f"{case.order_ref}/_history",
                 f"/dicom-web/studies/{case.scan.study_uid}/metadata", own.order_ref):
        assert group.ehr.get(path).status_code == 200
    named = [event for event in _events(group.api, group.ehr) if grant["grant"] in str(event)]
    assert [event["subtype"][0]["code"] for event in named] == ["read", "search-type", "history-instance", "read"]
    assert all("delegation" in str(event) for event in named)


def _events(api: Api, client: Client) -> list[Json]:  # noqa: F811
    """What a client read and searched, the oldest first."""
    api.services.ledger.catch_up()
    found = api.auditor.found(f"AuditEvent?agent:identifier={client.client_id}&date=ge2020-01-01")
    mine = [one for one in found if one["action"] in ("R", "E") and one["subtype"][0]["code"] not in ("operation",)]
    order: Any = sorted(mine, key=lambda one: one["recorded"])
    return [one for one in order if one["type"]["code"] != "110114"]


def test_a_shared_case_shows_that_case_and_nothing_else(group: Group) -> None:
    """Hospital A shows a transferred patient's case to the next hospital, until the report is read there."""
    api, other = group.api, group.site_2  # noqa: F811
    shared, kept = Emergency.of(api).acquired(), Emergency.of(api).acquired()
    asked = parameters(subject=f"Organization/{SITE_2}", until="2099-01-01T00:00:00Z", reason="Transfert",
                       source="sharing")
    grant = told(good(api.hospital_a.post(f"{shared.order_ref}/$grant", asked)))[0]
    passed(api)
    assert {one["id"] for one in other.found("ServiceRequest")} >= {shared.order["id"]}
    seen = {f"{one['resourceType']}/{one['id']}" for kind in ("Patient", "ServiceRequest", "ImagingStudy", "Task",
            "DiagnosticReport", "Binary", "Observation") for one in other.found(kind)}
    study, root, acquire = shared.study(), shared.task("order"), shared.task("acquire")
    protocols = {f"ServiceRequest/{one['id']}" for one in api.platform.found(
        f"ServiceRequest?based-on={shared.order_ref}")}
    assert seen == {shared.patient_ref, shared.order_ref, f"ImagingStudy/{study['id']}", f"Task/{root['id']}",
                    f"Task/{acquire['id']}"} | protocols
    assert other.get(f"/dicom-web/studies/{shared.scan.study_uid}/metadata").status_code == 200
    assert other.get(f"/dicom-web/studies/{kept.scan.study_uid}/metadata").status_code == 404
    # What comes later of that case is seen as it comes: images, the report with its document.
    later = replace(shared.scan, study_time="091500")
    assert stow(api.hospital_a, phantom.exam(later)).status_code == 200
    api.settled()
    assert other.get(f"/dicom-web/studies/{later.study_uid}/metadata").status_code == 200
    reader = api.radiologist
    good(put(reader, shared.task("read"), status="in-progress"))
    studies = [f"ImagingStudy/{one['id']}" for one in api.platform.found(f"ImagingStudy?basedon={shared.order_ref}")]
    draft = reader.create(builders.diagnostic_report(
        shared.order_ref, shared.patient_ref, None, imagingStudy=[builders.ref(one) for one in studies]
    ))  # fmt: skip
    refusal(other.get(f"DiagnosticReport/{draft['id']}"), 404)
    signed = good(put(reader, draft, status="final"))
    good(other.get(f"DiagnosticReport/{draft['id']}"))
    pdf = signed["presentedForm"][0]["url"].split("/fhir/")[-1]
    assert other.get(pdf, Accept="application/pdf").status_code == 200
    refusal(put(other, good(other.get(shared.order_ref)), priority="routine"), 403)
    good(api.hospital_a.post(f"{shared.order_ref}/$revoke", parameters(grant=grant["grant"])))
    passed(api)
    for path in (shared.order_ref, shared.patient_ref, f"DiagnosticReport/{draft['id']}", pdf):
        refusal(other.get(path), 404)
    assert other.get(f"/dicom-web/studies/{shared.scan.study_uid}/metadata").status_code == 404
