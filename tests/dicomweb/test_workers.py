"""The pool of pixel workers."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from dicomweb.workers import Workers
from resources.outcomes import NotAcceptable


def test_a_worker_is_heard_in_a_process_with_many_descriptors(tmp_path: Path) -> None:
    """select(2) takes no descriptor above 1,023 and raises: a busy server has those (house.md A12)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2048 if hard == resource.RLIM_INFINITY else min(2048, hard)
    assert wanted > 1200, "the kernel gives this process enough descriptors to try it"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    workers = Workers(1, folder=tmp_path)
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        assert held[-1] > 1023
        with pytest.raises(NotAcceptable):
            workers.run({"task": "render", "path": str(tmp_path / "absent")})
    finally:
        for descriptor in held:
            os.close(descriptor)
        workers.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
