"""The PDF of a report: same bytes, escaped text, identity rules."""

from __future__ import annotations

import re
import zlib
from base64 import a85decode
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.identifiers import INS_NIR_TEST, RELIABILITY, STATUS_NEW
from tests import builders
from workflow.report_pdf import local_time, plain_text, render
from workflow.report_text import Sources, layout

SIGNED_AT = datetime(2026, 6, 1, 6, 40, tzinfo=UTC)
PARIS = ZoneInfo("Europe/Paris")


def _sources(**more: Any) -> Sources:
    parts: dict[str, Any] = {
        "report": builders.diagnostic_report("ServiceRequest/o", "Patient/p", "ImagingStudy/s", status="final"),
        "report_id": "r", "version": 2, "order": builders.service_request("Patient/p"),
        "patient": builders.patient("Nguyễn"), "hospital": builders.organization(), "platform": None,
        "signer": builders.practitioner("Lœuvre"), "studies": [builders.imaging_study(None, "Patient/p")],
        "protocols": [builders.protocol("ServiceRequest/o", "Patient/p")], "results": [],
    }
    return Sources(**(parts | more))


def _page(sources: Sources) -> Any:
    return layout(sources, SIGNED_AT, PARIS)


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


def test_a_time_is_printed_with_its_offset() -> None:
    """§6.4: every time is local somewhere."""
    assert local_time(SIGNED_AT, ZoneInfo("Indian/Reunion")) == "01/06/2026 à 10:40 (UTC+04:00)"
    assert local_time(None, PARIS) == "non précisée"
