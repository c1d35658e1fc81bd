"""A signed report turns out to be of another patient, or wrong: withdrawn, told, and replaced by the right one.

R4 diagnostic-report-status `entered-in-error`: withdrawn after a final release, the record should never have existed:
the request is unanswered again. Reference on French practice §7.3 S14, S15: communication to all who received it.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from typing import Any

import pytest

from resources.codes import EVENT_STATUS_REASON, REPORT_REASON
from resources.json import Json
from store.access import Caller
from subscriptions.topics import REPORT_REVISED
from tests import builders
from tests.conftest import ENGINES
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
from tests.journeys.played import Emergency, good, put, refusal
from tests.journeys.test_reports_out import Emergency as Told
from tests.journeys.test_reports_out import events_of, hospital  # noqa: F401 - a fixture
from tests.subscriptions.hospital import Hospital
from tests.subscriptions.ward import subscription
from workflow import withdrawal

pytestmark = pytest.mark.parametrize("engine", ENGINES[:1], indirect=True)
WRONG_PATIENT = builders.because("Dicté sur les images d'une autre patiente", "wrong-patient")


def pdf_of(who: Client, report: Json) -> bytes:
    """The bytes at the report's attachment, which are those that it names."""
    (form,) = report["presentedForm"]
    answer = who.get(form["url"].partition("/fhir/")[2] or form["url"], Accept="application/pdf")
    assert answer.status_code == 200
    digest = base64.b64encode(hashlib.sha1(answer.get_data(), usedforsecurity=False).digest()).decode()
    assert form["hash"] == digest
    return bytes(answer.get_data())


def words_of(pdf: bytes) -> str:
    """The text of a file, by poppler; where there is none, nothing can be said of the words."""
    tool = shutil.which("pdftotext")
    if tool is None:
        return ""
    return subprocess.run([tool, "-layout", "-", "-"], input=pdf, capture_output=True, check=True).stdout.decode()


def test_a_withdrawn_report_opens_its_order_again_and_the_right_one_ends_it(api: Api) -> None:  # noqa: F811
    """The order is active again, its root Task says why, a new reading is there, and a new report is signed on it."""
    case = Emergency.of(api).signed()
    refused = put(api.radiologist, case.report, status="entered-in-error")
    assert "gives its reason" in refusal(refused, 422)
    withdrawn = good(put(api.radiologist, case.report, status="entered-in-error", extension=WRONG_PATIENT))
    assert withdrawn["status"] == "entered-in-error"
    root = case.task("order", api.hospital_a)
    assert (root["status"], root["businessStatus"]["coding"][0]["code"]) == ("in-progress", "report-withdrawn")
    assert root["statusReason"]["coding"][0] == {"system": REPORT_REASON, "code": "wrong-patient"}
    assert api.hospital_a.get(case.order_ref).get_json()["status"] == "active"
    asked = f"Task?focus={case.order_ref}&status=ready"
    (reading,) = api.platform.found(asked)
    good(put(api.radiologist, reading, status="in-progress"))
    study = f"ImagingStudy/{case.study()['id']}"
    again = api.radiologist.create(builders.diagnostic_report(case.order_ref, case.patient_ref, study))
    signed = good(put(api.radiologist, again, status="final"))
    assert signed["status"] == "final"
    root = case.task("order", api.hospital_a)
    assert (root["status"], "statusReason" in root) == ("completed", False)
    assert api.hospital_a.get(case.order_ref).get_json()["status"] == "completed"


def test_whoever_follows_the_old_address_of_the_pdf_finds_it_marked(api: Api) -> None:  # noqa: F811
    """The file says so on each page and why; the earlier bytes are in the history; an amendment's too."""
    case = Emergency.of(api).signed()
    first = pdf_of(api.hospital_a, case.report)
    amended = good(put(api.radiologist, case.report, status="amended", conclusion="Autre.",
                       extension=builders.because()))
    second = pdf_of(api.hospital_a, amended)
    withdrawn = good(put(api.radiologist, amended, status="entered-in-error", extension=WRONG_PATIENT))
    marked = pdf_of(api.hospital_a, withdrawn)
    for report, before in ((case.report, first), (amended, second)):
        address = report["presentedForm"][0]["url"].partition("/fhir/")[2] or report["presentedForm"][0]["url"]
        now = api.hospital_a.get(address, Accept="application/pdf").get_data()
        assert now == marked
        versions = [api.hospital_a.get(f"{address}/_history/{number}", Accept="application/pdf") for number in (1, 2)]
        assert before in [one.get_data() for one in versions]
    words = words_of(marked)
    if words:
        assert all("ANNULÉ" in page and "une autre patiente" in page for page in words.split("\f")[:-1])
        assert "ANNULÉ" not in words_of(second)


def test_every_organisation_that_had_the_report_is_told(api: Api) -> None:  # noqa: F811
    """By a Communication about it, to whom it was disclosed by the audit log; others see nothing of it."""
    case = Emergency.of(api).signed()
    assert api.hospital_a.get(f"DiagnosticReport/{case.report['id']}").status_code == 200
    good(put(api.radiologist, case.report, status="entered-in-error", extension=WRONG_PATIENT))
    (notice,) = api.hospital_a.found(f"Communication?based-on={case.order_ref}")
    assert notice["about"] == [{"reference": f"DiagnosticReport/{case.report['id']}"}]
    assert notice["reasonCode"][0]["coding"][0]["code"] == "wrong-patient"
    assert "annulé" in notice["payload"][0]["contentString"]
    assert notice["status"] == "in-progress"  # it waits to be acknowledged, and escalates
    assert api.hospital_b.found("Communication") == []
    (provenance,) = [
        one for one in api.platform.found(f"Provenance?target=DiagnosticReport/{case.report['id']}") if "reason" in one
    ]
    assert provenance["reason"][0]["text"] == "Dicté sur les images d'une autre patiente"


def test_a_revision_and_a_withdrawal_are_events_of_their_own(
    api: Api, hospital: Hospital  # noqa: F811
) -> None:
    """Topic `report-revised`: nothing at the signature, one for each later version."""
    told = Told(api)
    told.subscribe(subscription(hospital.url, topic=REPORT_REVISED, content="full-resource"))
    told.ordered()
    told.drafted()
    told.signed()
    told.turn()
    assert events_of(hospital, REPORT_REVISED) == []
    told.revised(status="corrected", conclusion="Autre.", extension=builders.because())
    told.turn()
    told.revised(status="entered-in-error", extension=WRONG_PATIENT)
    told.turn()
    found = [one.body["entry"][1]["resource"]["status"] for one in events_of(hospital, REPORT_REVISED)]
    assert found == ["corrected", "entered-in-error"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"conclusion": "Autre."}, "gives its reason"),
        ({"extension": builders.because()}, "says nothing otherwise"),
        ({"conclusion": "Autre.", "extension": [{"url": EVENT_STATUS_REASON, "valueCodeableConcept":
            {"coding": [{"display": "sans code"}]}}]}, "gives its reason"),
    ],
    ids=["no reason", "no change", "empty reason"],
)
def test_an_amendment_needs_a_reason_and_a_change(api: Api, change: dict[str, Any], text: str) -> None:  # noqa: F811
    """S14: Provenance says who and why; the text marks what changed."""
    case = Emergency.of(api).signed()
    assert text in refusal(put(api.radiologist, case.report, status="amended", **change), 422)


def test_an_amendment_says_in_its_pdf_what_changed(api: Api) -> None:  # noqa: F811
    """The removed and the added lines, and the reason, from the stored versions."""
    case = Emergency.of(api).signed()
    amended = good(put(api.radiologist, case.report, status="corrected", conclusion="Pas d'hématome.",
                       extension=builders.because("Erreur de dictée")))
    words = " ".join(words_of(pdf_of(api.hospital_a, amended)).split())
    if words:
        assert "Motif : Erreur de dictée" in words
        assert "Conclusion — Retiré : « Hématome intraparenchymateux lenticulaire gauche. »" in words
        assert "Conclusion — Ajouté : « Pas d'hématome. »" in words


def test_who_had_it_stands_in_the_audit_log(api: Api) -> None:  # noqa: F811
    """Whoever opened the report, or its PDF alone; a refused look is no disclosure."""
    case = Emergency.of(api).signed()
    reference = f"DiagnosticReport/{case.report['id']}"
    address = case.report["presentedForm"][0]["url"].partition("/fhir/")[2] or case.report["presentedForm"][0]["url"]

    def had() -> set[str]:
        api.services.ledger.catch_up()
        with api.services.store.work(Caller.system(api.services.settings.platform), write=False) as uow:
            report = uow.system.read(*reference.split("/"))
            return withdrawal.recipients(uow, report, [uow.system.read(*address.split("/"))])

    with api.services.store.work(Caller.system(api.services.settings.platform), write=False) as uow:
        owner = uow.system.read(*case.order_ref.split("/")).owner
    assert owner not in had()
    assert api.hospital_b.get(reference).status_code == 404
    before = had()
    assert api.hospital_a.get(address, Accept="application/pdf").status_code == 200
    assert had() - before == {owner}
