"""What is closed goes: no thread of it is left, and so nothing that a thread held."""

from __future__ import annotations

import gc
import threading
import time

from fhir_server.duties import doctor
from fhir_server.server.timed import Timed
from tests.fhir_server.conftest import Api


def running(name: str) -> int:
    return sum(one.name.startswith(name) for one in threading.enumerate())


def gone(name: str, than: int) -> bool:
    until = time.monotonic() + 10
    while running(name) > than and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    return running(name) <= than


def test_whom_nobody_can_ask_any_more_ends() -> None:
    """Its thread held whoever asked, and so was never let go."""
    asked = [Timed("of-this-test", lambda: 7) for _ in range(3)]
    assert [one.answer() for one in asked] == [7, 7, 7]
    assert running("of-this-test") == 3
    asked.pop()
    assert gone("of-this-test", 2)
    assert [one.answer() for one in asked] == [7, 7]


def test_what_asks_itself_is_let_go_too() -> None:
    """Who is asked by way of a method held itself by its own thread."""

    class Owner:
        def __init__(self) -> None:
            self.question = Timed("of-this-owner", self.answered)

        def answered(self) -> int:
            return 7

    owner: Owner | None = Owner()
    assert owner is not None
    assert owner.question.answer() == 7
    owner = None
    assert gone("of-this-owner", 0)


def test_what_the_doctor_asks_with_ends_with_the_answer(api: Api) -> None:
    """DESIGN §11: a dozen threads for each call would add up where the console calls it."""
    before = running("doctor-")
    for _ in range(2):
        assert doctor.doctor(api.services.settings, as_json=True) >= 0
    assert gone("doctor-", before)
