"""The checks of a signature: dose of a CT, coded indication and conclusion, who authenticated how and when.

Arrêté du 22 septembre 2006 (dose); OpenID Connect Core §2 (acr, auth_time); resources/policies.py.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from resources import diagnostic_report as rules
from resources import dose
from resources.codes import CONCLUSION_CATEGORY, DOSE_ABSENT, concept
from resources.json import Json
from resources.outcomes import ForbiddenTransition, Issue
from resources.policies import Where
from store import policies
from tests import builders
from tests.workflow.conftest import Scene
from workflow import report_press, signing
from workflow.report_pdf import Layout
from workflow.signing import CHECKS, Check


def decided(scene: Scene, name: str, value: Any) -> None:
    where = Where("hospital-a")
    scene.store.transact(scene.planner, lambda uow: policies.decide(uow, name, where, value, "convention"))


def drafted(scene: Scene, study: Json | None = None, **more: Any) -> str:
    """A draft on a study of this kind."""
    scene.accepted()
    scene.study = scene.images(**(study or {})).reference
    scene.update(scene.reader, scene.task_ref("read"), status="in-progress")
    draft = builders.diagnostic_report(scene.order, scene.patient, scene.study, **more)
    return scene.create(scene.reader, draft).reference


def refused(scene: Scene, report: str, **more: Any) -> list[tuple[str, str]]:
    """Where the signature is refused, and why."""
    with pytest.raises(ForbiddenTransition) as told:
        scene.update(scene.reader, report, status="final", **more)
    return [(one.expression[0], one.diagnostics) for one in told.value.issues]


def absent(reason: Json) -> list[Json]:
    return [{"url": dose.ABSENT, "valueCodeableConcept": reason}]


def test_a_ct_without_dose_is_not_signed(scene: Scene) -> None:
    """The useful information for the estimate of the dose is part of the report."""
    report = drafted(scene, {"extension": None})
    ((where, text),) = refused(scene, report)
    assert where == "DiagnosticReport.imagingStudy[0]"
    assert "without its dose" in text


@pytest.mark.parametrize("known", [dose.Dose(("1.2",), None), dose.Dose(("1.2",), None, (dose.Event("1", "Crâne"),))])
def test_a_dose_report_without_a_dose_is_none(scene: Scene, known: dose.Dose) -> None:
    """It is there and says nothing."""
    assert refused(scene, drafted(scene, {"extension": [dose.extension(known)]}))


def test_a_ct_is_signed_with_a_coded_reason_why_there_is_no_dose(scene: Scene) -> None:
    """Words alone are no reason that can be counted."""
    report = drafted(scene, {"extension": None})
    assert refused(scene, report, extension=absent({"text": "pas reçu"}))
    scene.update(scene.reader, report, status="final", extension=absent(concept(DOSE_ABSENT, "not-transmitted")))


def test_an_mr_is_signed_without_dose(scene: Scene) -> None:
    """There is none."""
    modality = [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "MR"}]
    report = drafted(scene, {"extension": None, "modality": modality})
    scene.update(scene.reader, report, status="final")


def test_the_conclusion_has_a_category_where_policy_asks(scene: Scene) -> None:
    """Five points; another code is none of them, whatever policy says."""
    report = drafted(scene)
    bad = [{"coding": [{"system": CONCLUSION_CATEGORY, "code": "fine"}]}]
    assert refused(scene, report, conclusionCode=bad)[0][0] == "DiagnosticReport.conclusionCode"
    decided(scene, "coded-conclusion", True)
    ((where, text),) = refused(scene, report)
    assert (where, "pathological-unrelated" in text) == ("DiagnosticReport.conclusionCode", True)
    scene.update(scene.reader, report, status="final", conclusionCode=[concept(CONCLUSION_CATEGORY, "normal")])


def test_the_indication_is_coded_where_policy_asks(scene: Scene) -> None:
    """In the order, the protocol, or by the reader: there is always a way to sign."""
    decided(scene, "coded-indication", True)
    report = drafted(scene)
    assert refused(scene, report)[0][0] == "DiagnosticReport.basedOn[0]"
    coded = [{"url": rules.INDICATION, "valueCodeableConcept": {"coding": [{"system": "x", "code": "stroke"}]}}]
    scene.update(scene.reader, report, status="final", extension=coded)


@pytest.mark.parametrize(
    ("acr", "age", "ok"),
    [("eidas2", 5, True), ("eidas1", 5, False), ("", 5, False), ("eidas2", 31, False), ("eidas2", None, False),
     ("eidas2", -5, False)],
)
def test_who_signs_has_authenticated_as_policy_asks(scene: Scene, acr: str, age: int | None, ok: bool) -> None:
    """A token without the claim is refused where policy asks for it; a time to come is no time."""
    decided(scene, "signing-acr", "eidas2")
    decided(scene, "signing-max-age", 30)
    report = drafted(scene)
    with scene.store.work(scene.server, write=False) as uow:
        now = uow.now
    since = None if age is None else now - timedelta(minutes=age)
    scene.reader = replace(scene.reader, acr=acr, auth_time=since)
    if ok:
        scene.update(scene.reader, report, status="final")
    else:
        assert refused(scene, report)


def test_a_machine_s_token_signs_where_policy_asks_for_nothing(scene: Scene) -> None:
    """No claim, no policy: as before."""
    scene.update(scene.reader, drafted(scene), status="final")


def test_what_is_compared_is_of_the_same_patient(scene: Scene) -> None:
    """A prior of somebody else is no comparison."""
    report = drafted(scene)
    other = scene.create(scene.hospital, builders.patient()).reference
    foreign = scene.images(subject=other, basedOn=None).reference
    named = [{"url": rules.COMPARISON, "valueReference": builders.ref(foreign)}]
    assert refused(scene, report, extension=named)[0][0] == "DiagnosticReport.extension"


def test_a_warning_is_told_and_does_not_refuse(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the table may warn: the signer hears it beside the signed report, once."""
    row = Check("told", lambda signature: [Issue("warning", "business-rule", "Un appel est ouvert")], "test")
    monkeypatch.setattr(signing, "CHECKS", (*CHECKS, row))
    report = drafted(scene)
    told: list[Issue] = []

    def sign(uow: Any) -> None:
        body = dict(uow.system.read(*report.split("/")).json())
        uow.resources.update(*report.split("/"), {**body, "status": "final"})
        told[:] = uow.warnings

    scene.store.transact(scene.reader, sign)
    assert [one.diagnostics for one in told] == ["Un appel est ouvert"]


def test_the_report_is_told_in_the_hospital_s_zone_and_language(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policies `zone` and `language`: La Réunion reads its own time."""
    pages: list[Layout] = []
    monkeypatch.setattr(report_press.report_pdf, "render", lambda page: pages.append(page) or b"%PDF-1.4")
    decided(scene, "zone", "Indian/Reunion")
    decided(scene, "language", "en-GB")
    report = drafted(scene)
    scene.update(scene.reader, report, status="final")
    assert scene.read(report)["presentedForm"][0]["language"] == "en-GB"
    assert ("Date of the exam", "01/06/2026 at 10:20 (UTC+04:00)") in pages[0].exam
    assert pages[0].signature[-1].endswith("(UTC+04:00)")


def test_each_check_has_a_name_of_its_own_and_a_clause() -> None:
    """The table is what docs/workflow.md tells."""
    assert len({one.name for one in CHECKS}) == len(CHECKS)
    assert all(one.clause for one in CHECKS)


