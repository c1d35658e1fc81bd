"""Ids: version 4 UUIDs (RFC 9562 §5.4) that no two processes share."""

from __future__ import annotations

import multiprocessing
import threading
import uuid

from store.engine.ids import random_digits, random_id


def test_an_id_is_a_version_4_uuid() -> None:
    for _ in range(2000):
        text = random_id()
        assert str(uuid.UUID(text)) == text
        assert uuid.UUID(text).version == 4
        assert uuid.UUID(text).variant == uuid.RFC_4122


def test_threads_never_draw_the_same_digits() -> None:
    drawn: list[str] = []

    def draw() -> None:
        drawn.extend([random_digits() for _ in range(5000)])

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == len(drawn) == 40_000
    assert {len(digits) for digits in drawn} == {32}


def test_a_forked_process_draws_digits_of_its_own() -> None:
    """A web worker is forked: what was drawn ahead stays with the parent."""
    random_digits()
    context = multiprocessing.get_context("fork")
    with context.Pool(2, maxtasksperchild=1) as pool:
        theirs = [digits for listed in pool.map(_draw, [300, 300], chunksize=1) for digits in listed]
    mine = _draw(300)
    assert len({*theirs, *mine}) == 900


def _draw(count: int) -> list[str]:
    return [random_digits() for _ in range(count)]
