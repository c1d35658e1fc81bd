"""Each reading of images is on record, once, with what became of it.

IHE BALP 1.1.4 §3:5.7; DICOM PS3.15 §A.5.3.7 (per study, not per frame); every request is counted by the fixture too.
"""

from __future__ import annotations

from typing import Any

import pytest

from dicomweb.disclosure import WINDOW_S, Disclosure
from dicomweb.phantom import Phantom, series
from dicomweb.queries import Path
from resources.outcomes import NotFound
from store.access import Access, Caller, Interaction, Outcome, Recording
from tests.dicomweb.conftest import Service, stow, stow_body
from tests.support import caller

ANY_FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'


def frame_of(phantom: Phantom, instance: int = 1) -> str:
    return (
        f"/dicom-web/studies/{phantom.study_uid}/series/{phantom.series_uid}/instances/{phantom.sop_uid(instance)}"
        "/frames/1"
    )


def recorded(service: Service) -> list[Access]:
    """The records since the last call, the server's own left out."""
    found = [access for access in (*service.trail.appended, *service.trail.disclosed) if not access.derived]
    service.trail.appended.clear()
    service.trail.disclosed.clear()
    return found


@pytest.fixture
def stored(service: Service, files: list[bytes]) -> Service:
    assert stow(service.client(), files).status_code == 200
    recorded(service)
    return service


def see(service: Service, path: str, accept: str = ANY_FRAMES, **headers: str) -> int:
    client = service.client()
    named = {name.replace("_", "-"): value for name, value in headers.items() if name != "address"}
    where = {"REMOTE_ADDR": headers["address"]} if "address" in headers else {}
    return client.get(path, headers={"Accept": accept, **named}, environ_overrides=where).status_code


@pytest.mark.parametrize(
    "other",
    [{"X_Client": "another"}, {"X_Token": "another"}, {"address": "192.0.2.9"}],
    ids=["client", "token", "address"],
)
def test_the_record_of_one_caller_never_covers_another(
    stored: Service, small: Phantom, other: dict[str, str]
) -> None:
    """BALP: each access is recorded, under who made it."""
    assert see(stored, frame_of(small)) == 200
    assert see(stored, frame_of(small, 2)) == 200
    assert len(recorded(stored)) == 1
    assert see(stored, frame_of(small), **other) == 200
    (second,) = recorded(stored)
    assert (second.interaction, second.outcome) == (Interaction.DICOM_RETRIEVE, Outcome.SUCCESS)
    assert see(stored, frame_of(small), **other) == 200
    assert recorded(stored) == []


def test_the_record_of_one_study_never_covers_another(stored: Service, small: Phantom) -> None:
    further = Phantom(slices=1, side=32, patient_id="IPP-9")
    assert stow(stored.client(), series(further)).status_code == 200
    recorded(stored)
    assert see(stored, frame_of(small)) == 200
    assert see(stored, frame_of(further)) == 200
    uids = [dict(access.detail)["StudyInstanceUID"] for access in recorded(stored)]
    assert uids == [small.study_uid, further.study_uid]


def test_after_its_minute_a_record_covers_nothing(stored: Service, small: Phantom) -> None:
    now = [100.0]
    disclosure = Disclosure(stored.store, stored.permit, clock=lambda: now[0])
    path = Path(small.study_uid, small.series_uid, small.sop_uid(1), None)
    who = caller("hospital-a", token_ref="t")
    for _ in range(3):
        disclosure.frames(who, path)
    assert len(recorded(stored)) == 1
    now[0] += WINDOW_S - 0.1
    disclosure.frames(who, path)
    assert recorded(stored) == []
    now[0] += 0.2
    disclosure.frames(who, path)
    assert len(recorded(stored)) == 1


def test_what_is_refused_within_the_minute_is_on_record_as_refused(stored: Service, small: Phantom) -> None:
    assert see(stored, frame_of(small)) == 200
    recorded(stored)
    assert see(stored, frame_of(small), "text/plain") == 406
    (refused,) = recorded(stored)
    assert (refused.outcome, refused.reason) == (Outcome.MINOR, "406 not-supported")


def test_a_refusal_opens_no_minute(stored: Service, small: Phantom) -> None:
    """What covers later readings is a record that says that the frames were given."""
    assert see(stored, frame_of(small), "text/plain") == 406
    assert see(stored, frame_of(small)) == 200
    assert [access.outcome for access in recorded(stored)] == [Outcome.MINOR, Outcome.SUCCESS]


def test_an_answer_that_was_not_recorded_opens_no_minute(stored: Service, small: Phantom) -> None:
    """Settling comes first: until then nothing was given, so nothing is covered."""
    disclosure = Disclosure(stored.store, stored.permit)
    path = Path(small.study_uid, small.series_uid, small.sop_uid(1), None)
    first, second = _with_recording(), _with_recording()
    disclosure.frames(first, path)
    disclosure.frames(second, path)
    for who in (first, second):
        assert who.recording is not None
        assert not who.recording.is_covered
        stored.store.settle(who.recording, 200)
    assert len(recorded(stored)) == 2


def _with_recording() -> Caller:
    recording = Recording("GET http://localhost/…")
    recording.caller = found = caller("hospital-a", token_ref="t", recording=recording)
    return found


@pytest.mark.parametrize("what", ["", "/metadata", "/rendered", "/thumbnail"])
def test_what_could_not_be_given_is_not_recorded_as_given(stored: Service, small: Phantom, what: str) -> None:
    """A 406 discloses nothing; the record says so, and of whose study."""
    assert see(stored, f"/dicom-web/studies/{small.study_uid}{what}", "text/csv") == 406
    (access,) = recorded(stored)
    assert (access.interaction, access.outcome) == (Interaction.DICOM_RETRIEVE, Outcome.MINOR)


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/studies?NoSuchKey=1", {}, None, 400),
        ("GET", "/studies?limit=x", {}, None, 400),
        ("GET", "/studies", {"Accept": "text/html"}, None, 406),
        ("GET", "/studies/1..2", {}, None, 400),
        ("GET", "/studies/{study}/thumbnail?viewport=a,b", {}, None, 400),
        ("POST", "/studies", {"Content-Type": "text/plain"}, b"x", 415),
        ("POST", "/studies", {"Content-Type": 'multipart/related; type="application/dicom"; boundary=xyz'}, b"x", 400),
        ("POST", "/studies", {"Content-Type": "application/dicom"}, b"no dicom", 400),
        ("POST", "/studies", {"Content-Type": 'multipart/related; type="application/dicom"; boundary=xyz'},
         stow_body([b"no dicom"]), 400),
        ("PUT", "/studies/{study}", {}, None, 405),
        ("DELETE", "/studies/{study}", {}, None, 405),
        ("OPTIONS", "/studies/{study}", {}, None, 405),
        ("GET", "/nothing/here", {}, None, 404),
        ("GET", "/studies/1.2.3", {}, None, 404),
    ],
)  # fmt: skip
def test_every_refusal_is_on_record_once(
    stored: Service, small: Phantom, method: str, path: str, headers: dict[str, str], body: Any, status: int
) -> None:
    """Reference §4.3: what must always be recorded."""
    url = "/dicom-web" + path.format(study=small.study_uid)
    answer = stored.client().open(url, method=method, data=body, headers=headers)
    assert answer.status_code == status
    (access,) = recorded(stored)
    assert access.outcome in (Outcome.MINOR, Outcome.SERIOUS)
    assert (access.reason or "").startswith(str(status))
    if access.query:
        assert access.query == f"{method} http://localhost{url}"


def test_the_instances_that_a_request_had_refused_are_one_record(
    stored: Service, files: list[bytes], small: Phantom
) -> None:
    """Beside the one of the study that it stored."""
    fresh = series(Phantom(slices=1, side=32, patient_id="IPP-9"))
    answer = stow(stored.client(), [*fresh, b"no dicom", b"nor this"])
    assert answer.status_code == 202
    done, refused = recorded(stored)
    assert done.outcome is Outcome.SUCCESS
    assert (refused.outcome, dict(refused.detail)["refused"]) == (Outcome.MINOR, "2")


def test_the_begin_of_a_study_is_the_server_s_word_not_the_access(service: Service, files: list[bytes]) -> None:
    """DCM 110102 and 110104: if the process dies between, the log says that it began."""
    assert stow(service.client(), files).status_code == 200
    (begun,) = [access for access in service.trail.appended if access.interaction is Interaction.DICOM_BEGIN]
    assert begun.derived
    assert len(recorded(service)) == 1


def test_a_failed_unit_of_work_is_recorded_once_and_as_foreign(stored: Service, small: Phantom) -> None:
    answer = stored.client("hospital-b").get(f"/dicom-web/studies/{small.study_uid}")
    assert answer.status_code == 404
    assert len(recorded(stored)) == 1


def test_without_a_recording_it_is_recorded_at_once(stored: Service, small: Phantom) -> None:
    """For what comes by another way than HTTP."""
    disclosure = Disclosure(stored.store, stored.permit)
    disclosure.retrieve(caller("hospital-a"), Path(small.study_uid, None, None, None), "instances")
    assert [access.outcome for access in recorded(stored)] == [Outcome.SUCCESS]
    with pytest.raises(NotFound):
        disclosure.retrieve(caller("hospital-b"), Path(small.study_uid, None, None, None), "instances")
    assert [access.outcome for access in recorded(stored)] == [Outcome.SERIOUS]
