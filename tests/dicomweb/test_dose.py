"""The dose of a CT: read from its Radiation Dose SR, told with its ImagingStudy, whatever the SR holds.

DICOM PS3.16 TID 10011, 10012, 10013; arrêté du 22 septembre 2006.
"""

from __future__ import annotations

import io
from copy import deepcopy
from decimal import Decimal
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicomweb import dose, phantom
from dicomweb.phantom import Phantom
from resources import dose as told
from resources import validation
from resources.json import Json
from tests.dicomweb.conftest import Service, stow

SCAN = Phantom(patient_id="IPP-1", slices=1, side=16)


def _report(**values: str) -> Json:
    json: Json = pydicom.dcmread(io.BytesIO(phantom.dose_report(SCAN, **values))).to_json_dict()
    return json


def _of(*reports: Json) -> told.Dose:
    found = dose.of_reports((f"1.2.{number}", report) for number, report in enumerate(reports))
    assert found is not None
    return found


def test_ctdi_vol_and_dlp_of_each_event_and_the_accumulated_dlp_are_read() -> None:
    """TID 10012 (113813), TID 10013 (113830, 113838)."""
    found = _of(_report(ctdi_vol="48.2", dlp="867.6"))
    (event,) = found.events
    assert (event.ctdi_vol, event.dlp, event.protocol) == (Decimal("48.2"), Decimal("867.6"), "Crâne 6 mm")
    assert found.dlp_total == Decimal("867.6")
    assert told.of_study({"extension": [told.extension(found)]}).dlp_total == Decimal("867.6")  # type: ignore[union-attr]


def test_a_second_report_with_the_same_event_does_not_count_it_twice() -> None:
    """A scanner sends a report after each acquisition, with all until then."""
    assert _of(_report(), _report()).dlp_total == Decimal("867.6")


def test_a_study_with_its_dose_report_tells_dose_and_equipment(service: Service) -> None:
    """Elements of identification of the equipment, and the dose (arrêté du 22 septembre 2006)."""
    stow(service.client(), phantom.exam(SCAN))
    (study,) = service.resources("ImagingStudy")
    assert validation.validate(study) == []
    found = told.of_study(study)
    assert found is not None
    assert found.is_known
    assert found.dlp_total == Decimal("867.6")
    (device,) = [one for one in study["contained"] if one["resourceType"] == "Device"]
    assert device["manufacturer"] == "Vigie"
    assert {"name": "Phantom", "type": "model-name"} in device["deviceName"]
    assert all(one["performer"] == [{"actor": {"reference": "#equipment-1"}}] for one in study["series"])


def test_a_dose_report_that_comes_later_adds_the_dose(service: Service) -> None:
    """The report is made after the images, and may be sent long after."""
    stow(service.client(), phantom.series(SCAN))
    (study,) = service.resources("ImagingStudy")
    assert told.of_study(study) is None
    stow(service.client(), [phantom.dose_report(SCAN)])
    (study,) = service.resources("ImagingStudy")
    assert told.of_study(study) is not None


def _container(report: Json, code: str) -> Json:
    found: Json = next(
        one for one in report["0040A730"]["Value"] if one["0040A043"]["Value"][0]["00080100"]["Value"] == [code]
    )
    return found


@pytest.mark.parametrize("value", ["-1", "NaN", "Infinity", "1e400", "9" * 40, "", "x", None, {"a": 1}, 1e12])
def test_a_value_that_is_none_is_not_read(value: Any) -> None:
    """A dose is a number of its unit, or there is none: nothing is guessed."""
    report = _report()
    for code in ("113811", "113819"):
        report["0040A730"]["Value"] = [
            one for one in report["0040A730"]["Value"] if code != "113819" or one is not _container(report, code)
        ]
    total = _container(report, "113811")["0040A730"]["Value"][1]
    total["0040A300"]["Value"][0]["0040A30A"]["Value"] = [value]
    assert not _of(report).is_known


def test_a_value_in_another_unit_is_not_read() -> None:
    """mGy·cm, as the template says: 867.6 Gy·cm would be another dose."""
    report = _report()
    report["0040A730"]["Value"] = report["0040A730"]["Value"][:2]
    unit = _container(report, "113811")["0040A730"]["Value"][1]["0040A300"]["Value"][0]["004008EA"]["Value"][0]
    unit["00080100"]["Value"] = ["Gy.cm"]
    assert not _of(report).is_known


def test_another_structured_report_is_no_dose_report() -> None:
    """The root concept decides, not the SOP class: key objects and measurements are SRs too."""
    report = _report()
    report["0040A043"]["Value"][0]["00080100"]["Value"] = ["126000"]
    assert dose.of_reports([("1.2", report)]) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["0040A730", "0040A043", "0040A300", "0040A30A", "00080100", "Value", "004008EA"]), inner,
        max_size=4,
    ),
    max_leaves=30,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_nothing_in_a_report_raises(data: st.DataObject) -> None:
    """What an SR holds is what somebody sent: any part of it may be anything."""
    report = deepcopy(_report())
    node: Any = report
    for _ in range(data.draw(st.integers(1, 12))):
        if isinstance(node, dict) and node:
            key = data.draw(st.sampled_from(sorted(node)))
            if data.draw(st.integers(0, 5)) == 0:
                node[key] = data.draw(_JSON)
                break
            node = node[key]
        elif isinstance(node, list) and node:
            place = data.draw(st.integers(0, len(node) - 1))
            if data.draw(st.integers(0, 5)) == 0:
                node[place] = data.draw(_JSON)
                break
            node = node[place]
    found = dose.of_reports([("1.2", report)])
    if found is not None:
        assert len(told.extension(found)["extension"]) <= 2 + dose.EVENTS_MAX


def test_a_report_of_very_many_events_is_read_to_a_bound() -> None:
    """200 events are kept; the accumulated dose still holds."""
    report = _report()
    event = _container(report, "113819")
    uid = event["0040A730"]["Value"][1]
    many = []
    for number in range(1000):
        one = deepcopy(event)
        one["0040A730"]["Value"][1] = {**uid, "0040A124": {"vr": "UI", "Value": [f"1.2.{number}"]}}
        many.append(one)
    report["0040A730"]["Value"] = [*many, _container(report, "113811")]
    assert len(_of(report).events) == dose.EVENTS_MAX
