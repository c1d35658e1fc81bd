"""Every row of `resources.budgets.IMAGE_BUDGETS`: at the limit it is answered; beyond it nothing more has happened."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from dicomweb.phantom import Phantom, series
from dicomweb.tables import dicom_instance
from dicomweb.views import search
from resources import budgets
from resources.budgets import IMAGE_BUDGETS, Budget, Effect
from tests.dicomweb.conftest import Service, stow, stow_body

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
FILES = series(Phantom(slices=3, side=8))


def _parts(service: Service, amount: int) -> Any:
    """The last part is another instance: beyond the limit it is not stored."""
    return stow(service.client(), [FILES[0]] * (amount - 1) + [FILES[1]])


def _headers(service: Service, amount: int) -> Any:
    data = stow_body(FILES[:1]).replace(b"Content-Type: application/dicom", b"X:" + b"y" * (amount - 1), 1)
    kind = 'multipart/related; type="application/dicom"; boundary=xyz'
    return service.client().post("/dicom-web/studies", data=data, content_type=kind)


def _preamble(service: Service, amount: int) -> Any:
    data = b"p" * (amount - len(b"\r\n--xyz\r\n")) + b"\r\n" + stow_body(FILES[:1])
    kind = 'multipart/related; type="application/dicom"; boundary=xyz'
    return service.client().post("/dicom-web/studies", data=data, content_type=kind)


def _values(service: Service, amount: int) -> Any:
    listed = ",".join(["1.2.3"] * (amount - 1))
    return service.client().get("/dicom-web/studies", query_string={"StudyInstanceUID": listed, "PatientID": "x"})


def _words(service: Service, amount: int) -> Any:
    name = " ".join("x" * (amount - 1))
    return service.client().get("/dicom-web/studies", query_string={"PatientName": name, "fuzzymatching": "true"})


def _frames(service: Service, amount: int) -> Any:
    return service.client().get(f"/dicom-web/studies/1.2/series/1.2/instances/1.2/frames/{','.join('1' * amount)}")


CASES: dict[str, tuple[Callable[[Service, int], Any], ...]] = {
    "STOW_PARTS": (_parts,),
    "PART_HEADER_BYTES": (_headers,),
    "PREAMBLE_BYTES": (_preamble,),
    "QIDO_RESULTS": (),
    "QIDO_VALUES": (_values, _words),
    "FRAMES_LISTED": (_frames,),
}
_ALL = [
    pytest.param(one, case, id=f"{one.name}{case.__name__}") for one in IMAGE_BUDGETS for case in CASES[one.name]
]


def instances(service: Service) -> int:
    with service.store.database.read() as connection:
        found: int = connection.execute(select(func.count()).select_from(dicom_instance)).scalar_one()
    return found


def test_every_row_has_a_case_and_its_function(service: Service) -> None:
    assert [one.name for one in IMAGE_BUDGETS] == list(CASES)
    of_images = {one for one in vars(budgets).values() if isinstance(one, Budget)} - set(budgets.BUDGETS)
    assert of_images == set(IMAGE_BUDGETS)
    for one in IMAGE_BUDGETS:
        module, _, name = one.checked.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize(("budget", "case"), _ALL)
def test_one_more_than_the_limit_is_told(service: Service, budget: Budget, case: Callable[[Service, int], Any]) -> None:
    """A refusal has stored nothing; what is cut says so, and what lies beyond the limit was not stored."""
    answer = case(service, budget.value + 1)
    assert answer.status_code == budget.status
    if budget.effect is Effect.CUT:
        (failed,) = answer.get_json(force=True)["00081198"]["Value"]
        assert failed["00081197"]["Value"] == [0xA700]
        assert failed["00080220"]["Value"][0] == budget.text[:64]
        assert instances(service) == 1
    else:
        assert budget.text in answer.get_data(as_text=True)
        assert instances(service) == 0


@pytest.mark.parametrize(("budget", "case"), _ALL)
def test_at_the_limit_it_is_answered(service: Service, budget: Budget, case: Callable[[Service, int], Any]) -> None:
    """The number that is told is the one that is meant."""
    answer = case(service, budget.value)
    assert answer.status_code in ({404} if budget is budgets.FRAMES_LISTED else {200, 204})


def test_results_beyond_the_limit_are_counted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """PS3.18 §8.3.4.4: whatever the client's own limit is."""
    stow(service.client(), FILES)
    monkeypatch.setattr(search, "QIDO_RESULTS", dataclasses.replace(budgets.QIDO_RESULTS, value=2))
    for query in ("", "?limit=3"):
        answer = service.client().get(f"/dicom-web/instances{query}")
        assert len(answer.get_json(force=True)) == 2
        assert answer.headers["Warning"] == '299 Vigie "There are 1 additional results that can be requested"'
