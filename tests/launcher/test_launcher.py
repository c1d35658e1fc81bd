"""`./vigie` on a machine that lacks something: it says what, and ends. DESIGN §11."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.site import ROOT, environment


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a clone has and the launcher needs: no environment."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("vigie", "requirements.txt", "requirements-dev.txt"):
        target = folder / name
        target.write_bytes((ROOT / name).read_bytes())
        target.chmod((ROOT / name).stat().st_mode)
    return folder


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def launch(tree: Path, path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the clone's `./vigie` with nothing but the basic tools of a machine on the PATH."""
    tools = tree.parent / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("sh", "cat", "cksum", "dirname", "mkdir", "rm", "sleep", "kill", "env"):
        found = next((Path(folder) / name for folder in ("/usr/bin", "/bin") if (Path(folder) / name).exists()), None)
        if found is not None and not (tools / name).exists():
            (tools / name).symlink_to(found)
    return subprocess.run(
        [str(tree / "vigie"), *arguments],
        env={**environment(**variables), "PATH": f"{path}:{tools}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_machine_without_python_is_told_which_it_needs(tree: Path, tmp_path: Path) -> None:
    """Python ≥ 3.11, and how Debian has it."""
    (tmp_path / "bin").mkdir()
    done = launch(tree, tmp_path / "bin", "serve")

    assert done.returncode == 1
    assert "Python 3.11 or newer is needed and was not found" in done.stderr
    assert "apt-get install python3 python3-venv" in done.stderr
    assert not (tree / ".venv").exists()
    assert not (tree / ".venv.lock").exists()


def test_a_python_that_is_too_old_does_not_count(tree: Path, tmp_path: Path) -> None:
    """Neither as `python3` nor as VIGIE_PYTHON."""
    old = program(tmp_path / "bin", "python3", "exit 1")  # how 3.10 answers to the question for 3.11
    done = launch(tree, tmp_path / "bin", "serve", VIGIE_PYTHON=str(old))

    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr


def test_a_python_without_venv_is_named(tree: Path, tmp_path: Path) -> None:
    """Debian parts ensurepip from python3: the package to install is named."""
    bare = program(tmp_path / "bin", "python3", 'case "$*" in *ensurepip*) exit 1;; esac; exit 0')
    done = launch(tree, tmp_path / "bin", "serve", VIGIE_PYTHON=str(bare))

    assert done.returncode == 1
    assert f"{bare} has no venv module" in done.stderr
    assert "apt-get install python3-venv" in done.stderr


def fake_python(tmp_path: Path, pip: str) -> Path:
    """A Python whose venv is a script that records what it is asked, and whose pip does `pip`."""
    inside = (
        f'echo "$@" >>"{tmp_path}/asked"\ncase "$*" in *install*) {pip};; *fhir_server*) echo ran "$PYTHONPATH";; esac'
    )
    return program(
        tmp_path / "bin",
        "python3",
        f'case "$*" in *fcntl*) exec {sys.executable} "$@";; esac\n'
        'case "$*" in "-m venv "*) mkdir -p "$3/bin"; cat >"$3/bin/python" <<"END"\n#!/bin/sh\n'
        f'{inside}\nEND\n/bin/chmod +x "$3/bin/python";; esac',
    )


def test_the_environment_is_made_once(tree: Path, tmp_path: Path) -> None:
    """First use makes it and installs requirements.txt; the next goes straight on; changed ones install again."""
    fake_python(tmp_path, "exit 0")
    first = launch(tree, tmp_path / "bin", "doctor")
    assert first.returncode == 0, first.stderr
    assert "making the environment (first use)" in first.stderr
    assert first.stdout.split() == ["ran", str(tree)]

    second = launch(tree, tmp_path / "bin", "doctor")
    assert second.stderr == ""
    with (tree / "requirements.txt").open("a") as file:
        file.write("# changed\n")
    third = launch(tree, tmp_path / "bin", "doctor")
    assert "installing requirements.txt" in third.stderr
    assert "making the environment" not in third.stderr
    asked = (tmp_path / "asked").read_text()
    assert asked.count("pip install") == 2


def test_a_failed_installation_is_told_and_tried_again(tree: Path, tmp_path: Path) -> None:
    """No half-made environment counts as made."""
    fake_python(tmp_path, "exit 1")
    for _ in range(2):
        done = launch(tree, tmp_path / "bin", "serve")
        assert done.returncode == 1
        assert "could not install requirements.txt: see pip's message above" in done.stderr


def test_two_first_uses_at_once_make_one_environment(tree: Path, tmp_path: Path) -> None:
    """Terminals with `serve`, `demo`, `doctor`: the others wait for the first; a dead one's lock does not count."""
    fake_python(tmp_path, "sleep 1")
    (tree / ".venv.lock").touch()
    started = [
        subprocess.Popen(
            [str(tree / "vigie"), "doctor"],
            env={**environment(), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(5)
    ]
    told = [process.communicate(timeout=60)[1].decode() for process in started]

    assert [process.returncode for process in started] == [0] * 5, told
    assert sum("making the environment" in text for text in told) == 1
    assert (tmp_path / "asked").read_text().count("pip install") == 1


def test_a_first_use_that_was_killed_does_not_stop_the_next(tree: Path, tmp_path: Path) -> None:
    """Its lock ends with it."""
    fake_python(tmp_path, "sleep 30")
    killed = subprocess.Popen(
        [str(tree / "vigie"), "doctor"],
        env={**environment(), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert killed.stderr is not None
    while b"installing" not in killed.stderr.readline():
        pass
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    (tree / ".venv" / "bin" / "python").unlink()
    fake_python(tmp_path, "exit 0")
    done = launch(tree, tmp_path / "bin", "doctor")
    assert done.returncode == 0, done.stderr
