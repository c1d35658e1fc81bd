"""A PostgreSQL cluster that a test may stop, kill and start."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import _postgresql_binaries
from tests.crash.service import Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster with PostgreSQL's own settings for durability."""
    binaries = _postgresql_binaries()
    if binaries is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL's binaries are absent")
        pytest.skip("PostgreSQL's binaries are absent")
    made = Cluster(Path(tempfile.gettempdir()), binaries)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def data_of_the_cluster(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of what is served from the cluster: one database, so one folder with its keys and records."""
    return tmp_path_factory.mktemp("data")
