"""Where a report is printed and sealed: beside the transaction that signs it, so that no other writer waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from resources.outcomes import Conflict, Unavailable
from store.access import Caller
from store.engine.faults import Outside
from store.engine.keyring import KeyFault
from store.unit_of_work import Store
from tests import builders
from tests.support import PLATFORM
from tests.workflow.conftest import Scene
from workflow.report_pdf import Layout
from workflow.report_press import Press
from workflow.service import Workflow

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Slow:
    """A seal that lets somebody else write while it is made, as a slow authority does."""

    described = "Vigie"

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self.count = 0

    def sealed(self, pdf: bytes) -> bytes:
        self.count += 1
        thread = threading.Thread(target=self.meanwhile)
        thread.start()
        thread.join(30)
        assert not thread.is_alive(), "another writer waits for the seal"
        return pdf + b"\n%sealed"


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def workflow(slow: Slow) -> Workflow:
    return Workflow(platform=PLATFORM, seal=slow)  # type: ignore[arg-type]


def test_another_writer_goes_on_while_a_report_is_sealed(scene: Scene, slow: Slow) -> None:
    """SQLite has one writer: the seal is made while nobody is it."""
    report = scene.drafted()
    slow.meanwhile = lambda: scene.create(scene.hospital, builders.patient())
    scene.update(scene.reader, report, status="final")
    assert slow.count == 1
    assert scene.read(report)["status"] == "final"


def test_what_changed_meanwhile_is_in_the_file(scene: Scene, slow: Slow) -> None:
    """The page is compared with the stored text when it is used: a name that was corrected is printed anew."""
    report = scene.drafted()

    def correct() -> None:
        slow.meanwhile = lambda: None
        scene.update(scene.hospital, scene.patient, name=[{"family": "Corrigé", "given": ["Camille"]}])

    slow.meanwhile = correct
    scene.update(scene.reader, report, status="final")
    assert slow.count == 2


def test_a_claim_that_is_lost_meanwhile_is_no_longer_signed(scene: Scene, slow: Slow) -> None:
    """The guard is asked again in the transaction that signs."""
    report = scene.drafted()
    slow.meanwhile = lambda: scene.update(scene.regulator, scene.task_ref("read"), status="ready")
    with pytest.raises(Exception, match="The reading is ready"):
        scene.update(scene.reader, report, status="final")
    assert scene.read(report)["status"] == "preliminary"


def test_a_report_that_is_created_signed_is_sealed_once(scene: Scene, slow: Slow) -> None:
    """The second attempt has the id that is printed in the first."""
    scene.claimed()
    made = scene.create(
        scene.reader, builders.diagnostic_report(scene.order, scene.patient, scene.study, status="final")
    )
    assert slow.count == 1
    assert scene.read(made.reference)["status"] == "final"


def test_a_failed_seal_refuses_and_leaves_the_draft(scene: Scene, slow: Slow) -> None:
    """No report goes out unsealed."""
    report = scene.drafted()

    def fail(pdf: bytes) -> bytes:
        raise Unavailable("no key")

    slow.sealed = fail  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        scene.update(scene.reader, report, status="final")
    assert scene.read(report)["status"] == "preliminary"


def test_a_transaction_of_ones_own_is_told_to_try_again(scene: Scene) -> None:
    """Only `transact` can leave and come back."""
    report = scene.drafted()
    signed = {**scene.read(report), "status": "final"}

    def sign() -> None:
        with scene.store.work(scene.reader) as uow:
            uow.resources.update(*report.split("/"), signed)

    with pytest.raises(Conflict):
        sign()


def test_whoever_asks_for_what_is_never_ready_is_told_so_in_the_end(make_store: Callable[..., Store]) -> None:
    """A bound on the attempts."""
    store = make_store()
    tried: list[int] = []

    def never(uow: Any) -> None:
        raise Outside(lambda: tried.append(1))

    with pytest.raises(Conflict):
        store.transact(Caller.system(PLATFORM), never)
    assert 0 < len(tried) <= 20


def test_a_file_is_used_for_a_minute_and_no_longer(scene: Scene) -> None:
    """Its time is the time of the signature."""
    press, page = Press(None), Layout("t", "h", "p", (), None, (), (), (), "f")
    with scene.store.work(scene.server, write=False) as uow:
        now = uow.now
    with pytest.raises(Outside) as first:
        press.take(lambda at: page, now)
    first.value.work()
    assert press.take(lambda at: page, now + timedelta(seconds=59)).at == now
    for later in (now + timedelta(seconds=61), now - timedelta(seconds=1)):
        with pytest.raises(Outside):
            press.take(lambda at: page, later)


def test_a_key_that_is_missing_is_an_outage_not_a_fault(scene: Scene) -> None:
    """503, and the operator finds it in the log."""

    class Keyless:
        @property
        def described(self) -> str:
            raise KeyFault("the key report-seal is missing")

    with pytest.raises(Unavailable):
        Press(Keyless()).sealed_by  # type: ignore[arg-type] # noqa: B018
    assert scene.order == ""
