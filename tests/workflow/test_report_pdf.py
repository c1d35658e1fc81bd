"""The PDF of a report: same bytes, escaped text, identity rules."""

from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from base64 import a85decode
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources import dose as told
from resources.codes import CONCLUSION_CATEGORY, DOSE_ABSENT, LOINC, concept
from resources.diagnostic_report import is_own_entry
from resources.identifiers import INS_NIR_TEST, RELIABILITY, STATUS_NEW
from resources.report_changes import changes
from tests import builders
from workflow.report_pdf import plain_text, render
from workflow.report_text import Sources, concept_text, layout
from workflow.report_words import ENGLISH, FRENCH

SIGNED_AT = datetime(2026, 6, 1, 6, 40, tzinfo=UTC)


def _sources(**more: Any) -> Sources:
    parts: dict[str, Any] = {
        "report": builders.diagnostic_report("ServiceRequest/o", "Patient/p", "ImagingStudy/s", status="final"),
        "report_id": "r", "version": 2, "orders": [builders.service_request("Patient/p")],
        "patient": builders.patient("Nguyễn"), "hospital": builders.organization(), "platform": None,
        "signer": builders.practitioner("Lœuvre"), "studies": [builders.imaging_study(None, "Patient/p")],
        "protocols": [builders.protocol("ServiceRequest/o", "Patient/p")], "results": [],
    }
    return Sources(**(parts | more))


def _page(sources: Sources, zone: str = "Europe/Paris") -> Any:
    return layout(sources, SIGNED_AT, ZoneInfo(zone))


def _printed(sources: Sources) -> str:
    """What a reader takes from the file, by poppler's pdftotext; where there is none, what was laid out."""
    if not _PDFTOTEXT:
        page = _page(sources)
        render(page)
        return "".join(f"{page}{page.watermark}{page.header}\f" for _ in range(3))
    return subprocess.run(
        [_PDFTOTEXT, "-layout", "-", "-"], input=render(_page(sources)), capture_output=True, check=True
    ).stdout.decode()


_PDFTOTEXT = shutil.which("pdftotext") or ""


def test_the_same_text_gives_the_same_bytes() -> None:
    """§7.4.9: generated from the stored text, reproducibly."""
    page = _page(_sources())
    assert render(page) == render(page)
    assert render(page) != render(replace(page, footer="another"))


def test_the_page_says_who_what_how_and_when() -> None:
    """Arrêté du 22 septembre 2006."""
    page = _page(_sources())
    assert page.hospital == "Centre hospitalier de Test"
    assert page.patient[0] == "Patient : NGUYỄN Camille"
    assert page.patient[1] == "Date de naissance : 12/04/1961"
    assert [section.title for section in page.sections] == ["Indication", "Technique", "Résultats", "Conclusion"]
    assert page.sections[2].text == "Hyperdensité spontanée < 2 cm."
    assert ("Date de l'examen", "01/06/2026 à 08:20 (UTC+02:00)") in page.exam
    assert page.signature[-1] == "le 01/06/2026 à 08:40 (UTC+02:00)"
    assert page.banner is None


@pytest.mark.parametrize(("status", "printed"), [("QUAL", True), ("PROV", False), ("FICT", False), (None, False)])
def test_an_ins_is_printed_only_for_a_qualified_identity(status: str | None, printed: bool) -> None:
    """I-07: unqualified identity → reports carry no INS; doubtful → a banner."""
    patient = builders.patient(identifier=[{"system": INS_NIR_TEST, "value": "279035121518989"}])
    if status:
        patient["extension"] = [{"url": RELIABILITY, "extension": [
            {"url": "identityStatus", "valueCoding": {"system": STATUS_NEW, "code": status}}]}]
    page = _page(_sources(patient=patient))
    assert any("279035121518989" in line for line in page.patient) is printed
    assert (page.banner is not None) is (status == "FICT")


def test_a_revised_report_says_so() -> None:
    """S14: the text marks the change."""
    report = builders.diagnostic_report("ServiceRequest/o", "Patient/p", None, status="amended")
    page = _page(_sources(report=report))
    assert page.title.endswith("modifié")
    assert page.banner is not None


@pytest.mark.parametrize(
    ("xhtml", "text"),
    [
        ("<div><p>a</p><p>b &amp; c</p></div>", "a\nb & c"),
        ("<div>un<br/>deux &lt;b&gt;</div>", "un\ndeux <b>"),
        ("", ""),
    ],
)
def test_a_narrative_becomes_lines(xhtml: str, text: str) -> None:
    """DiagnosticReport.text."""
    assert plain_text(xhtml) == text


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200))
def test_any_text_makes_a_page(text: str) -> None:
    """Markup, control characters, emoji: escaped or written by their base letter, never an error."""
    report = builders.diagnostic_report("ServiceRequest/o", "Patient/p", None, status="final",
                                        conclusion=text + "<b>x</b> & <para> ]]>")
    assert render(_page(_sources(report=report, patient=builders.patient(text or "x")))).startswith(b"%PDF-")


def test_nothing_in_the_file_opens_or_runs_anything() -> None:
    """A conclusion that looks like markup or a link stays text."""
    report = builders.diagnostic_report("ServiceRequest/o", "Patient/p", None, status="final",
                                        conclusion='<a href="http://x/">x</a><img src="file:///etc/passwd"/>')
    pdf = render(_page(_sources(report=report)))
    streams = b"".join(_streams(pdf))
    assert b"/URI" not in pdf + streams
    assert b"/JavaScript" not in pdf + streams


def _streams(pdf: bytes) -> list[bytes]:
    found = re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL)
    out = []
    for one in found:
        data = one.strip()
        try:
            out.append(zlib.decompress(a85decode(data.removesuffix(b"~>")) if data.endswith(b"~>") else data))
        except (ValueError, zlib.error):
            out.append(data)
    return out


def test_a_time_is_printed_with_its_offset_in_the_hospital_s_zone() -> None:
    """Every time is local somewhere: La Réunion reads its own, in its own language or in English."""
    reunion = ZoneInfo("Indian/Reunion")
    assert FRENCH.local_time(SIGNED_AT, reunion) == "01/06/2026 à 10:40 (UTC+04:00)"
    assert ENGLISH.local_time(SIGNED_AT, reunion) == "01/06/2026 at 10:40 (UTC+04:00)"
    assert FRENCH.local_time(None, reunion) == "non renseignée"
    page = _page(_sources(), "Indian/Reunion")
    assert ("Date de l'examen", "01/06/2026 à 10:20 (UTC+04:00)") in page.exam
    assert page.signature[-1] == "le 01/06/2026 à 10:40 (UTC+04:00)"


_DEVICE = {"resourceType": "Device", "id": "equipment-1", "manufacturer": "ACME",
           "deviceName": [{"name": "CT 5000", "type": "model-name"}, {"name": "SCAN1", "type": "user-friendly-name"}]}


def _full(**more: Any) -> Sources:
    """A report with everything that a page can say."""
    dose = told.Dose(("1.2",), Decimal("912.4"), (told.Event("1", "Crâne", Decimal("48.2"), Decimal("912.4")),))
    study = builders.imaging_study(None, "Patient/p", contained=[_DEVICE], extension=[told.extension(dose)])
    order = builders.service_request("Patient/p", code={"coding": [{"system": LOINC, "code": "24725-4"}]})
    report = builders.diagnostic_report(
        "ServiceRequest/o", "Patient/p", "ImagingStudy/s", status="final",
        code={"coding": [{"system": LOINC, "code": "24725-4"}]},
        conclusionCode=[concept(CONCLUSION_CATEGORY, "pathological-related")],
    )
    prior = builders.imaging_study(None, "Patient/p", started="2025-03-12T10:00:00+01:00", description="CT tête")
    parts = {
        "report": report, "orders": [order], "studies": [study], "priors": [prior],
        "requesters": [builders.practitioner("Urgentiste")], "responsible": [builders.practitioner("Surplace")],
        "readers": [builders.practitioner("Second")], "sealed_by": "Vigie platform (aa:bb…)",
    }
    return _sources(**(parts | more))


def test_the_exam_part_names_exam_requester_equipment_dose_and_comparison() -> None:
    """Arrêté du 22 septembre 2006: justification, equipment, dose; never a bare code."""
    assert dict(_page(_full()).exam) == {
        "Examen": "CT tête",
        "Date de l'examen": "01/06/2026 à 08:20 (UTC+02:00)",
        "Modalité": "CT",
        "Demandeur": "URGENTISTE Claude",
        "Médecin responsable sur site": "SURPLACE Claude",
        "Équipement": "ACME CT 5000 (SCAN1)",
        "Dose": "PDL / DLP 912.4 mGy·cm ; Crâne : CTDIvol 48.2 mGy, DLP 912.4 mGy·cm",
        "Comparaison": "CT tête (12/03/2025)",
    }
    assert "Second lecteur : SECOND Claude" in _page(_full()).signature
    assert "Catégorie : Pathologique, en rapport avec l'indication" in _page(_full()).sections[3].text


def test_a_page_in_english_says_the_same_in_english() -> None:
    """Policy `language`."""
    page = _page(_full(words=ENGLISH))
    assert (page.title, page.language) == ("Imaging report", "en-GB")
    assert [section.title for section in page.sections] == ["Indication", "Technique", "Findings", "Conclusion"]
    assert {"Requester", "Equipment", "Dose", "Comparison"} <= dict(page.exam).keys()


@pytest.mark.parametrize(
    ("told_of", "expected"),
    [
        ({"coding": [{"system": LOINC, "code": "24725-4"}]}, "CT tête"),
        ({"coding": [{"system": LOINC, "code": "24725-4", "display": "Scanner"}]}, "Scanner"),
        ({"coding": [{"system": LOINC, "code": "99999-9"}]}, ""),
        ({"text": "Scanner cérébral", "coding": [{"code": "x"}]}, "Scanner cérébral"),
        ({}, ""),
    ],
)
def test_a_concept_is_never_printed_as_a_bare_code(told_of: dict[str, Any], expected: str) -> None:
    """Its text, its display, this server's own display, or nothing."""
    assert concept_text(told_of) == expected


def test_an_exam_that_nobody_names_takes_its_name_from_the_order_the_protocol_or_the_images() -> None:
    """A code that is not in the table is not printed as if it were a name."""
    unknown = {"coding": [{"system": LOINC, "code": "99999-9"}]}
    report = builders.diagnostic_report("ServiceRequest/o", "Patient/p", None, status="final", code=unknown)
    bare = _sources(report=report, orders=[builders.service_request("Patient/p", code=unknown)])
    assert dict(_page(bare).exam)["Examen"] == "Scanner cérébral"
    none = replace(bare, protocols=(), studies=())
    assert dict(_page(none).exam)["Examen"] == "Examen d'imagerie, non précisé"
    assert "99999-9" not in str(_page(none))


def test_a_dose_that_is_stated_absent_is_printed_with_its_reason() -> None:
    """Arrêté du 22 septembre 2006: the dose, or why there is none."""
    report = builders.diagnostic_report(
        "ServiceRequest/o", "Patient/p", None, status="final",
        extension=[{"url": told.ABSENT, "valueCodeableConcept": concept(DOSE_ABSENT, "not-transmitted")}],
    )
    study = builders.imaging_study(None, "Patient/p", extension=None)
    page = _page(_sources(report=report, studies=[study]))
    assert dict(page.exam)["Dose"] == "non disponible (Rapport de dose non transmis)"


def test_a_revision_says_what_changed_and_why() -> None:
    """S14: text marks what changed."""
    before = builders.diagnostic_report("ServiceRequest/o", "Patient/p", None, conclusion="Pas d'hématome.\nFracture.")
    after = builders.diagnostic_report("ServiceRequest/o", "Patient/p", None, conclusion="Hématome.\nFracture.",
                                       status="corrected", conclusionCode=[{"text": "urgent"}])
    found = changes(before, after, ignored=is_own_entry, text_of=plain_text)
    page = _page(_sources(report=after, changes=found, reason={"text": "Erreur de dictée"}))
    assert page.sections[-1].title == "Modifications par rapport à la version précédente"
    assert page.sections[-1].text.split("\n") == [
        "Motif : Erreur de dictée",
        "Conclusion — Retiré : « Pas d'hématome. »",
        "Conclusion — Ajouté : « Hématome. »",
        "Codes de conclusion — Ajouté : « urgent »",
    ]


def test_status_reason_and_own_pdf_are_no_change() -> None:
    """What the server stamps, and why, is not what the report says."""
    before = builders.diagnostic_report("ServiceRequest/o", "Patient/p", None, status="final")
    after = {**before, "status": "amended", "extension": builders.because(), "meta": {"versionId": "9"},
             "presentedForm": [{"title": "Compte rendu d'imagerie", "url": "Binary/x"}]}
    assert changes(before, after, ignored=is_own_entry, text_of=plain_text) == []


def test_the_file_says_what_the_layout_says() -> None:
    """Golden text, by an independent reader of PDF."""
    text = _printed(_full())
    for said in ("CT tête", "URGENTISTE Claude", "ACME CT 5000 (SCAN1)", "912.4 mGy", "12/03/2025", "SECOND Claude",
                 "Hématome intraparenchymateux", "Déficit brutal du membre supérieur droit", "Scellé"):
        assert said in text, said


def test_every_page_of_a_withdrawn_report_says_so_and_why() -> None:
    """R4 entered-in-error: whoever holds one page of it knows."""
    report = builders.diagnostic_report("ServiceRequest/o", "Patient/p", None, status="final",
                                        conclusion="\n".join(f"Ligne {n}" for n in range(120)))
    sources = _sources(report=report, withdrawn=SIGNED_AT, reason={"text": "Autre patient"})
    pages = _printed(sources).split("\f")[:-1]
    assert len(pages) == 3
    for page in pages:
        assert "ANNULÉ – WITHDRAWN" in page
        assert "Motif : Autre patient" in page
    assert _page(sources).title.endswith("ANNULÉ")
    assert "ANNULÉ" not in _printed(replace(sources, withdrawn=None))
