"""Who holds a lease: only a process that is known to have ended counts as gone."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from subscriptions import holders


def test_this_process_is_not_gone() -> None:
    assert holders.mine()
    assert holders.mine() == holders.mine()
    assert not holders.is_gone(holders.mine())


def test_a_process_is_gone_once_it_was_killed_also_while_nobody_has_reaped_it() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        holder = holders._process(other.pid)
        assert holder
        assert not holders.is_gone(holder)
        other.kill()
        assert other.stdout is not None
        other.stdout.read()
        deadline = time.monotonic() + 10
        while not holders.is_gone(holder):
            assert time.monotonic() < deadline, "a zombie sends nothing"
            time.sleep(0.01)
    assert holders.is_gone(holder)


def test_a_number_that_was_given_again_is_another_process() -> None:
    machine, number, started = holders.mine().split("-")
    assert holders.is_gone(f"{machine}-{number}-{int(started) - 1}")


@pytest.mark.parametrize("holder", ["", "x", "-", "other.1-1-1", "a-b-c", "0f3a.4026531836-999999999-5"])
def test_of_another_machine_nothing_is_known(holder: str) -> None:
    """Also of one that is nonsense: its lease is waited for."""
    assert not holders.is_gone(holder)
