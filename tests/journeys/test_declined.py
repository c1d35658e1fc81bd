"""Who declined is not on duty: nobody counts on him, nothing is proposed to him, and the hole in the rota is shown.

R4 Appointment.participant.status (participationstatus), AppointmentResponse
http://hl7.org/fhir/R4/appointmentresponse.html
"""

from __future__ import annotations

import pytest

from resources.json import Json
from tests import builders
from tests.fhir_server.conftest import (  # noqa: F401 - fixtures of the assembled server
    Api,
    api,
    door,
    engine,
    make_api,
    settings,
    template,
    templates,
)
from tests.journeys.played import Emergency, good, put, refusal

NEURO = "PractitionerRole/role-lecteur-neuro"


def duties(api: Api, name: str = "duty") -> list[Json]:  # noqa: F811
    """The reading part of $on-duty, by `name` (duty, gap)."""
    found = good(api.planner.get("PractitionerRole/$on-duty?function=reading"))
    return [
        {part["name"]: next(value for key, value in part.items() if key != "name") for part in one["part"]}
        for one in found.get("parameter", [])
        if one["name"] == name
    ]


def readers(api: Api) -> set[str]:  # noqa: F811
    return {duty["practitioner"]["reference"].removeprefix("Practitioner/") for duty in duties(api)}


def garde_of(api: Api, reader: str) -> Json:  # noqa: F811
    """The reader's garde of now."""
    (found,) = [one for one in duties(api) if one["practitioner"]["reference"] == f"Practitioner/{reader}"]
    return good(api.planner.get(found["appointment"]["reference"]))


def answer(garde: Json, status: str, actor: str = NEURO) -> Json:
    return {
        "resourceType": "AppointmentResponse",
        "appointment": builders.ref(f"Appointment/{garde['id']}"),
        "actor": builders.ref(actor),
        "participantStatus": status,
    }


@pytest.mark.parametrize("status", ["declined", "tentative", "needs-action"])
def test_only_who_accepted_is_on_duty(api: Api, status: str) -> None:  # noqa: F811
    garde = garde_of(api, "lecteur-neuro")
    participants = [{**garde["participant"][0], "status": status}, *garde["participant"][1:]]
    good(put(api.planner, garde, participant=participants))
    assert readers(api) == {"lecteur-general"}
    (gap,) = duties(api, "gap")
    assert gap["appointment"]["reference"] == f"Appointment/{garde['id']}"
    for _ in range(3):
        read = Emergency.of(api).acquired().task("read")
        assert read["owner"]["reference"] == "Practitioner/lecteur-general"


def test_a_reader_declines_and_what_was_proposed_to_him_goes_to_who_is_there(api: Api) -> None:  # noqa: F811
    """His own console answers; the garde follows; his proposals go on, what he has claimed stays his."""
    claimed = Emergency.of(api).claimed()
    cases = [Emergency.of(api).acquired() for _ in range(3)]
    proposed = [one for one in cases if one.task("read")["owner"]["reference"] == "Practitioner/lecteur-neuro"]
    assert proposed
    garde = garde_of(api, "lecteur-neuro")
    api.radiologist.create(answer(garde, "declined"))
    now = good(api.planner.get(f"Appointment/{garde['id']}"))
    assert [one["status"] for one in now["participant"]] == ["declined", "accepted"]
    assert readers(api) == {"lecteur-general"}
    for case in cases:
        assert case.task("read")["owner"]["reference"] == "Practitioner/lecteur-general"
    assert claimed.task("read")["owner"]["reference"] == "Practitioner/lecteur-neuro"
    # He cannot take another: he is not on duty.
    assert "on duty" in refusal(put(api.radiologist, cases[0].task("read"), status="in-progress"), 422)
    api.radiologist.create(answer(garde, "accepted"))
    assert readers(api) == {"lecteur-general", "lecteur-neuro"}
    assert not duties(api, "gap")


def test_when_the_last_one_declines_the_reading_says_that_nobody_is_there(api: Api) -> None:  # noqa: F811
    case = Emergency.of(api).acquired()
    for name in ("lecteur-neuro", "lecteur-general"):
        api.planner.create(answer(garde_of(api, name), "declined", f"PractitionerRole/role-{name}"))
    read = case.task("read")
    assert "owner" not in read
    assert read["businessStatus"]["coding"][0]["code"] == "no-reader-on-duty"
    assert len(duties(api, "gap")) == 2


def test_a_garde_that_is_cancelled_gives_its_proposals_on_too(api: Api) -> None:  # noqa: F811
    cases = [Emergency.of(api).acquired() for _ in range(2)]
    good(put(api.planner, garde_of(api, "lecteur-neuro"), status="cancelled"))
    for case in cases:
        assert case.task("read")["owner"]["reference"] == "Practitioner/lecteur-general"


def test_nobody_answers_for_somebody_else(api: Api) -> None:  # noqa: F811
    garde = garde_of(api, "lecteur-general")
    actor = "PractitionerRole/role-lecteur-general"
    assert "participant's own" in refusal(api.radiologist.post("AppointmentResponse", answer(garde, "declined", actor)),
                                          403)
    assert "nobody of that garde" in refusal(api.planner.post("AppointmentResponse", answer(garde, "declined")), 422)
    assert refusal(api.hospital_b.post("AppointmentResponse", answer(garde, "declined", actor)), 403)
    assert readers(api) == {"lecteur-general", "lecteur-neuro"}


def test_who_declined_is_free_for_another_garde_and_back_only_if_that_one_allows(api: Api) -> None:  # noqa: F811
    """Two gardes of one person never overlap: judged again when he changes his mind."""
    garde = garde_of(api, "lecteur-neuro")
    api.planner.create(answer(garde, "declined"))
    api.planner.create(builders.garde(NEURO, garde["start"], garde["end"], function="regulation"))
    assert "overlaps" in refusal(api.planner.post("AppointmentResponse", answer(garde, "accepted")), 409)


def test_a_garde_that_was_worked_is_not_answered_any_more(api: Api) -> None:  # noqa: F811
    garde = garde_of(api, "lecteur-neuro")
    garde = good(put(api.planner, garde, status="arrived"))
    good(put(api.planner, garde, status="fulfilled"))
    assert "nothing to answer" in refusal(api.planner.post("AppointmentResponse", answer(garde, "declined")), 422)
