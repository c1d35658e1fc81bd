"""fhir-kit-client (npm), unmodified, driven by a script of our own.

Left out where node or the registry is absent and `CI` is not set: node is no part of what the server needs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.site import Site, environment

_PINNED = "fhir-kit-client@2.0.3"
_SCRIPT = Path(__file__).with_name("kit.mjs")


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < 20:
        pytest.skip("fhir-kit-client needs node 20")
    folder = tmp_path_factory.mktemp("kit")
    done = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", "--prefix", str(folder), _PINNED],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        if os.environ.get("CI"):
            pytest.fail(f"npm could not install {_PINNED}: {done.stderr}")
        pytest.skip("the npm registry does not answer")
    return folder


def test_every_interaction_of_the_client(site: Site, kit: Path) -> None:
    """http.html: capabilities, read, vread, create, update, delete, search, paging, history, batch, transaction."""
    done = subprocess.run(
        ["node", str(_SCRIPT), site.fhir],
        env=environment(KIT=str(kit), TOKEN=site.token("hospital-a")),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 10
