"""Load beside an open snapshot, such as a dump holds for as long as it runs (reliability.md 1).

`VIGIE_TEST_LOAD_S=600 ./vigie test tests/subscriptions/test_open_snapshot.py -s` is the long form, ten minutes; by
default it lasts some seconds. `VIGIE_TEST_LOAD_RATE` says how many reports a second (10).
"""

from __future__ import annotations

import os
import statistics
import threading
import time

import psycopg
import pytest

from store.access import Loop
from subscriptions.service import Subscriptions
from tests.subscriptions.ward import RADIOLOGIST, Ward, report

LOAD_S = float(os.environ.get("VIGIE_TEST_LOAD_S", "6"))
RATE = float(os.environ.get("VIGIE_TEST_LOAD_RATE", "10"))
LAG_S = 2.0


def turn(ward: Ward, made: Subscriptions, loop: Loop, done: threading.Event) -> None:
    while not done.is_set():
        if not loop.step():
            ward.store.database.wait_for(loop.wake, loop.rest_s)


def arrivals(ward: Ward) -> dict[str, float]:
    """Report → when the hospital had it."""
    return {
        event["focus"]["reference"].rpartition("/")[2]: received.at
        for received in ward.hospital.of("event-notification")
        for event in received.events
    }


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_notifications_keep_up_beside_an_open_snapshot(ward: Ward, postgresql_url: str) -> None:
    """The lag at the end is that of the beginning: what was deleted behind the snapshot costs no look. On a machine
    that does nothing else it stays below 2 s throughout."""
    ward.subscribe()
    ward.update("p", {"resourceType": "Patient"})
    done = threading.Event()
    loops = [loop for loop in ward.subscriptions.loops if loop.wake]
    threads = [threading.Thread(target=turn, args=(ward, ward.subscriptions, loop, done)) for loop in loops]
    written: dict[str, float] = {}
    with psycopg.connect(postgresql_url) as dump:
        dump.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        dump.execute("SELECT count(*) FROM subscription_change")
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while time.monotonic() - began < LOAD_S:
            made = ward.create(report(), RADIOLOGIST)
            written[made.id] = time.monotonic()
            time.sleep(max(0.0, began + len(written) / RATE - time.monotonic()))
        deadline = time.monotonic() + 60
        while len(arrivals(ward)) < len(written) and time.monotonic() < deadline:
            time.sleep(0.05)
        done.set()
        for thread in threads:
            thread.join()
    arrived = arrivals(ward)
    assert arrived.keys() == written.keys()
    lags = [arrived[one] - at for one, at in written.items()]
    third = len(lags) // 3
    first, last = statistics.median(lags[:third]), statistics.median(lags[-third:])
    told = f"{len(lags)} reports, lag at first {first:.3f} s, at last {last:.3f} s, at most {max(lags):.3f} s"
    print(told)
    assert last <= max(LAG_S, 5 * first), told
