"""A database that says nothing (SIGSTOP, a black hole) holds nobody at any door (reliability.md 3, RFC 9110 §15.6.4).

The bound that is promised is 5 s; what is asserted leaves room for a loaded machine and is far below the time for which
the database would be silent.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import CliRunner
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage
from sqlalchemy import text

from dicomweb import phantom
from dicomweb.phantom import Phantom
from fhir_server.commands.main import main
from fhir_server.duties import deployment
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources.outcomes import Unavailable
from store.engine.database import Database, Waits, open_engine
from store.engine.silence import Silent
from tests.crash.service import Cluster, free_port
from tests.crash.test_recovery import until

WITHIN_S = 20.0


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    cluster.start_if_stopped()
    opened = open_engine(cluster.url)
    yield opened
    opened.dispose()


def read(database: Database) -> None:
    with database.read() as connection:
        connection.execute(text("SELECT 1"))


def write(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("SELECT 1"))


def glance(database: Database) -> None:
    with database.glance() as connection:
        connection.execute(text("SELECT 1"))


WAYS: tuple[Callable[[Database], None], ...] = (read, write, glance)


@pytest.mark.parametrize("way", WAYS)
def test_nobody_waits_for_a_silent_database(
    database: Database, cluster: Cluster, way: Callable[[Database], None]
) -> None:
    """Who waits is told Unavailable, who comes later at once, and all goes on once it answers."""
    told: list[tuple[Exception, float]] = []

    def ask() -> None:
        began = time.monotonic()
        try:
            for _ in range(1000):
                way(database)
        except Exception as error:  # noqa: BLE001 - looked at below
            told.append((error, time.monotonic() - began))

    way(database)  # it has a connection already
    with cluster.frozen():
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(WITHIN_S)
        assert told, "it still waits"
        assert isinstance(told[0][0], Silent)
        assert until(lambda: database._state.silence.is_silent, WITHIN_S)
        began = time.monotonic()
        with pytest.raises(Silent):
            way(database)
        assert time.monotonic() - began < 1
    assert until(lambda: _works(lambda: way(database)))


def test_a_long_statement_of_a_living_database_is_waited_for(database: Database) -> None:
    with database.read() as connection:
        connection.execute(text("SELECT pg_sleep(4)"))
        assert connection.execute(text("SELECT 1")).scalar() == 1


def test_every_connection_has_its_limits(database: Database) -> None:
    """PostgreSQL §20.11.1, libpq §34.1.2: also of loops and commands, which ask for none by themselves."""
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    with database.glance() as connection:
        shown = [connection.execute(text(f"SHOW {name}")).scalar() for name in names]
        driver: Any = connection.connection.driver_connection
    assert shown == ["5min", "30s", "1min"]
    parameters = driver.info.get_parameters()
    assert int(parameters["connect_timeout"]) <= 5
    assert int(parameters["tcp_user_timeout"]) == 10_000
    assert int(parameters["keepalives_idle"]) == 30


def test_a_black_hole_is_told_within_the_time_for_a_connection() -> None:
    """A port that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        database = open_engine(f"postgresql://x@127.0.0.1:{hole.getsockname()[1]}/x", Waits(connect_s=2))
        began = time.monotonic()
        with pytest.raises(Unavailable):
            read(database)
        assert time.monotonic() - began < WITHIN_S
        database.dispose()


# — doors —


@pytest.fixture
def services(cluster: Cluster, data_of_the_cluster: Path) -> Iterator[Services]:
    cluster.start_if_stopped()
    settings = Settings.load({"data": data_of_the_cluster, "database": cluster.url, "port": free_port()}, environ={})
    deployment.upgrade(settings)
    made = Services.of(settings, waits=settings.waits)
    yield made
    made.close()


def test_a_scanner_is_told_that_it_cannot_be_stored_now(services: Services, cluster: Cluster) -> None:
    """PS3.4 §B.2.3: refused, out of resources; PS3.8 §9.3.4: who associates is rejected for a while."""
    services.imaging.register_ae("CT1", "platform", "127.0.0.1")
    server = services.imaging.scp()
    port = free_port()
    server.start("127.0.0.1", port)
    ae = AE("CT1")
    ae.add_requested_context(CTImageStorage)
    try:
        association = ae.associate("127.0.0.1", port, ae_title="VIGIE")
        assert association.is_established
        assert association.send_c_store(_dataset()).Status == 0x0000
        with cluster.frozen():
            began = time.monotonic()
            status = association.send_c_store(_dataset()).Status
            assert time.monotonic() - began < WITHIN_S
            assert status & 0xFF00 == 0xA700
            began = time.monotonic()
            refused = ae.associate("127.0.0.1", port, ae_title="VIGIE")
            assert time.monotonic() - began < WITHIN_S
            assert refused.is_rejected
        assert until(lambda: association.send_c_store(_dataset()).Status == 0x0000)
        association.release()
    finally:
        server.stop()


def test_a_command_says_in_one_line_that_the_database_is_away(services: Services, cluster: Cluster) -> None:
    data: Path = services.settings.data
    arguments = ["client", "list", "--data", str(data), "--database", cluster.url]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    with cluster.frozen():
        began = time.monotonic()
        answer = CliRunner().invoke(main, arguments)
        assert time.monotonic() - began < WITHIN_S
    assert answer.exit_code == 1
    assert answer.output.startswith("Error: The database does not answer")
    assert answer.output.count("\n") == 1


def _dataset() -> Any:
    (data,) = phantom.series(Phantom(slices=1))
    return pydicom.dcmread(io.BytesIO(data))


def _works(way: Callable[[], None]) -> bool:
    try:
        way()
    except Exception:  # noqa: BLE001 - the pool still holds connections that were cut off
        return False
    return True
