"""When each step of a case happened, as figures are made of it (French reference §5.6: T0 to T9, Tc).

R4 §12.5 workflow; docs/workflow.md "Milestones".
"""

from __future__ import annotations

import pytest

from resources.json import Json
from store.access import Caller
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
from tests.journeys.played import Emergency, good, put

ONE_ENGINE = pytest.mark.parametrize("engine", ENGINES[:1], indirect=True)
EVENT_REASON = "http://hl7.org/fhir/StructureDefinition/event-statusReason"
ORDER = ["T0", "T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8", "T9"]


def milestones(who: Client, order: str, number: int = 1) -> dict[str, Json]:
    """What $milestones says of a round: name → its parts."""
    found = good(who.get(f"{order}/$milestones"))
    told = {}
    for one in found.get("parameter", []):
        parts = {part["name"]: next(v for k, v in part.items() if k != "name") for part in one["part"]}
        if parts["round"] == number:
            told[parts["name"]] = parts
    return told


def test_every_step_of_a_case_has_its_time(api: Api) -> None:  # noqa: F811
    """Each once, in their order, with what shows it; the hospital sees those of its own order, and no other's."""
    case = Emergency.of(api).signed()
    signed = milestones(api.hospital_a, case.order_ref)
    assert list(signed) == ORDER[:8]
    report = f"DiagnosticReport/{case.report['id']}"
    services = api.services
    system = Caller.system(services.settings.platform)
    services.store.transact(system, lambda uow: services.workflow.delivered(uow, report))
    good(api.hospital_a.get(report))
    told = milestones(api.hospital_a, case.order_ref)
    assert list(told) == ORDER
    times = [told[name]["at"] for name in ORDER]
    assert times == sorted(times)
    assert told["T0"]["source"] == {"reference": case.order_ref}
    assert told["T7"]["source"] == told["T8"]["source"] == told["T9"]["source"] == {"reference": report}
    assert case.task("order")["businessStatus"]["coding"][0]["code"] == "acknowledged"
    assert api.hospital_b.get(f"{case.order_ref}/$milestones").status_code == 404


@ONE_ENGINE
def test_only_the_first_time_counts(api: Api) -> None:  # noqa: F811
    """A claim given back and taken again, a report read again, by another's staff: nothing moves."""
    case = Emergency.of(api).claimed()
    first = milestones(api.platform, case.order_ref)
    task = good(put(api.radiologist, case.task("read"), status="ready"))
    good(put(api.radiologist, task, status="in-progress"))
    assert milestones(api.platform, case.order_ref) == first
    good(api.platform.get(case.order_ref))
    assert "T9" not in milestones(api.platform, case.order_ref)


@ONE_ENGINE
def test_the_pdf_opened_is_the_report_opened(api: Api) -> None:  # noqa: F811
    """S11: also where only the document is fetched; what the platform reads itself is nobody's opening."""
    case = Emergency.of(api).signed()
    good(api.radiologist.get(f"DiagnosticReport/{case.report['id']}"))
    assert "T9" not in milestones(api.platform, case.order_ref)
    url = case.report["presentedForm"][0]["url"]
    assert api.hospital_a.get(url, Accept="application/pdf").status_code == 200
    assert "T9" in milestones(api.platform, case.order_ref)


@ONE_ENGINE
def test_a_revised_report_begins_another_round(api: Api) -> None:  # noqa: F811
    """S14: when it was signed, accepted and opened again; the first round stays."""
    case = Emergency.of(api).signed()
    first = milestones(api.platform, case.order_ref)
    amended = "Complément : pas d'autre lésion"
    why = [{"url": EVENT_REASON, "valueCodeableConcept": {"text": "Relecture"}}]
    good(put(api.radiologist, case.report, status="amended", conclusion=amended, extension=why))
    assert milestones(api.platform, case.order_ref) == first
    assert set(milestones(api.platform, case.order_ref, 2)) == {"T7"}
