"""A full disk is told, leaves nothing behind, and heals by itself (reliability 5; issue "nothing leaks").

On a volume of a few MB that is really full, of bytes or of inodes: whatever makes a file there in a process that
serves fails n, 2n and 4n times without a descriptor or a file more, and works once there is space. What makes files is
found in the source, so nothing new is left out. Where this process may not mount, only the table is compared.
"""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit import checkpoint, published, spool
from audit.frames import Key
from dicomweb import multipart
from dicomweb.dimse.datasets import DataSet
from dicomweb.phantom import Phantom, series
from dicomweb.workers import Workers
from fhir_server.server import figures
from fhir_server.server.figures import Figures
from fhir_server.server.front import bodies
from resources.outcomes import Unavailable
from store.engine.clock import BelievedClock
from store.engine.database import open_engine
from store.engine.faults import DRIVER_ERRORS, is_away
from store.engine.files import write_private
from store.engine.gate import WriteGate
from store.objects import ObjectStore
from tests import builders
from tests.dicomweb.conftest import stow_body
from tests.fhir_server.conftest import Api

ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024
MULTIPART = 'multipart/related; type="application/dicom"; boundary=xyz'


def mounted(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass
class Volume:
    folder: Path
    kind: str
    _filling: Path

    def fill(self) -> None:
        """Until nothing can be written (`bytes`), or no file be made (`inodes`)."""
        if self.kind == "bytes":
            with self._filling.open("ab", buffering=0) as file, suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            return
        self._filling.mkdir(exist_ok=True)
        with suppress(OSError):
            for number in range(100_000):
                (self._filling / str(number)).touch()

    def free(self) -> None:
        if self._filling.is_dir():
            shutil.rmtree(self._filling)
        else:
            self._filling.unlink(missing_ok=True)

    def tree(self) -> set[str]:
        return {str(path) for path in self.folder.rglob("*") if self._filling not in (path, *path.parents)}


@pytest.fixture(params=["bytes", "inodes"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume | None]:
    folder = tmp_path / "volume"
    folder.mkdir()
    if not mounted(folder, "size=24m,nr_inodes=700"):
        yield None
        return
    yield Volume(folder, str(request.param), folder / "filling")
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


Act = Callable[[], Any]


def _stage(folder: Path) -> Act:
    objects = ObjectStore(folder / "objects")
    return lambda: objects.discard(objects.stage(io.BytesIO(bytes(MIB))))


def _put(folder: Path) -> Act:
    objects = ObjectStore(folder / "objects")
    return lambda: objects.remove(objects.put(bytes(MIB)))


def _spool(folder: Path) -> Act:
    def act() -> None:
        writer = spool.SpoolWriter(folder, lambda: Key(bytes(32)))
        try:
            writer.append([("id", 1, "{}")])
        finally:
            writer.close()

    return act


def _whole_body(folder: Path) -> Act:
    def act() -> None:
        multipart.whole(io.BytesIO(bytes(4 * MIB)), max_bytes=8 * MIB, folder=str(folder)).close()

    return act


def _data_set(folder: Path) -> Act:
    def act() -> None:
        data = DataSet(folder)
        for _ in range(40):
            data.write(bytes(MIB // 10))
        with data.body():
            pass

    return act


def _received(folder: Path) -> Act:
    return lambda: bodies._appended(None, [bytes(MIB)], folder).close()


def _gate(folder: Path) -> Act:
    def act() -> None:
        gate = WriteGate(folder, "gate")
        try:
            with gate.passage():
                pass
        finally:
            gate.close()
            for name in ("gate.turn", "gate.gate"):
                (folder / name).unlink(missing_ok=True)

    return act


def _clock(folder: Path) -> Act:
    def act() -> None:
        BelievedClock(folder / "clock")
        (folder / "clock").unlink(missing_ok=True)

    return act


def _removing(path: Path, write: Act) -> Act:
    def act() -> None:
        try:
            write()
        finally:
            path.unlink(missing_ok=True)

    return act


def _text(folder: Path) -> Act:
    return _removing(folder / "secret", lambda: write_private(folder / "secret", "x" * MIB))


def _signer(folder: Path) -> Act:
    signer = checkpoint.Signer.generate("vigie/test")
    path = folder / "key"

    def act() -> None:
        try:
            checkpoint._write(path, signer)
        finally:
            path.unlink(missing_ok=True)
            path.with_suffix(".pub").unlink(missing_ok=True)

    return act


def _published(folder: Path) -> Act:
    published.begin(folder / "checkpoints.txt")
    return lambda: published.append(folder / "checkpoints.txt", "x" * (MIB // 16))


def _figures(folder: Path) -> Act:
    def act() -> None:
        os.close(figures._created(folder / "figures", Figures("web").process))
        for path in (folder / "figures").iterdir():
            path.unlink()

    return act


def _pixels(folder: Path) -> Act:
    source = folder.parent / "image.dcm"
    source.write_bytes(series(Phantom(slices=1, side=512))[0])
    pool = Workers(1, folder=folder)
    _POOLS.append(pool)
    return lambda: pool.run({"task": "frames", "path": str(source), "frames": [1]}).read()


_POOLS: list[Workers] = []


@pytest.fixture(autouse=True)
def _no_pool_stays() -> Iterator[None]:
    yield
    while _POOLS:
        _POOLS.pop().close()


def _database(folder: Path) -> Act:
    from sqlalchemy import text

    url = f"sqlite:///{folder}/one.db"
    database = open_engine(url)
    with database.write() as connection:
        connection.execute(text("CREATE TABLE t (x BLOB)"))
    database.dispose()

    def act() -> None:
        again = open_engine(url)
        try:
            with again.write() as connection:
                connection.execute(text("INSERT INTO t VALUES (zeroblob(1000000))"))
                connection.execute(text("DELETE FROM t"))
        finally:
            again.dispose()

    return act


TRIED: dict[str, tuple[Callable[[Path], Act], int]] = {
    "store/engine/files.py write_private": (_text, 10),
    "store/objects.py stage": (_stage, 10),
    "store/objects.py put": (_put, 10),
    "audit/spool.py _new_file": (_spool, 10),
    "audit/spool.py check_writable": (lambda folder: lambda: spool.check_writable(folder), 10),
    "audit/published.py append": (_published, 10),
    "audit/published.py begin": (lambda f: _removing(f / "new", lambda: published.begin(f / "new")), 10),
    "audit/checkpoint.py _write": (_signer, 10),
    "dicomweb/multipart.py write": (_whole_body, 10),
    "dicomweb/dimse/datasets.py write": (_data_set, 10),
    "dicomweb/workers.py _run": (_pixels, 1),
    "fhir_server/server/front/bodies.py _appended": (_received, 10),
    "fhir_server/server/figures.py _created": (_figures, 10),
    "store/engine/gate.py _lock_files": (_gate, 10),
    "store/engine/clock.py _keeping": (_clock, 10),
    "SQLite": (_database, 5),
}
"""Where a file is made → (what makes it in a folder, n)."""
ELSEWHERE = {
    "audit/verify.py export": "a command, whose draft goes with it",
    "dicomweb/pixelworker.py _render": "in the pixel worker, into the file of dicomweb/workers.py",
    "dicomweb/pixelworker.py _frames": "in the pixel worker, into the file of dicomweb/workers.py",
    "fhir_server/server/figures.py _fold": "within _created",
    "fhir_server/server/figures.py _locked": "one empty file, made by the first process",
    "fhir_server/server/running.py hold": "one empty file, at the start",
}
_MAKERS = {"TemporaryFile", "NamedTemporaryFile", "mkstemp", "write_bytes", "write_text", "touch"}


def makers() -> set[str]:
    """``file function`` of each place in what serves that makes a file."""
    found = set()
    packages = ("store", "auth", "audit", "dicomweb", "subscriptions", "workflow", "fhir_server/edge",
                "fhir_server/server")
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            if "migrations" in path.parts:
                continue
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    found |= {f"{path.relative_to(ROOT)} {function.name}" for call in ast.walk(function)
                              if isinstance(call, ast.Call) and _makes(call, ast.unparse(function))}
    return found


def _makes(call: ast.Call, within: str) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in _MAKERS:
        return True
    if name != "open":
        return False
    if ast.unparse(call.func) == "os.open":
        flags = ast.unparse(call.args[1])
        return "O_CREAT" in flags or "O_APPEND" in flags or (flags == "flags" and "O_CREAT" in within)
    modes = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)


def test_whatever_makes_a_file_is_in_the_table() -> None:
    """What is added says how it is tried, or why not."""
    assert makers() == (set(TRIED) | set(ELSEWHERE)) - {"SQLite"}


def _told(act: Act) -> None:
    """Run it; what it may raise is an OSError, for whoever calls it, or what a caller can be told."""
    try:
        act()
    except Unavailable:
        return
    except DRIVER_ERRORS as error:
        if not is_away(error):
            raise


_STAY = ("/figures/lock", "-wal", "-shm")
"""What is there as long as its process."""


@pytest.mark.parametrize("place", TRIED)
def test_what_makes_a_file_leaves_nothing_on_a_full_disk_and_heals(volume: Volume | None, place: str) -> None:
    """Reliability 5: two descriptors and two files a refused request, until the process was dead for good."""
    if volume is None:
        return
    make, n = TRIED[place]
    act = make(volume.folder)
    act()  # what is made once is made
    made = volume.tree()
    volume.fill()
    counted = []
    for times in (n, n, 2 * n):
        for _ in range(times):
            with suppress(OSError):
                _told(act)
        counted.append((descriptors(), volume.tree()))
    assert counted[0] == counted[1] == counted[2]
    assert not [path for path in counted[2][1] - made if not path.endswith(_STAY)]
    volume.free()
    act()


def test_a_gate_of_which_one_file_cannot_be_opened_keeps_the_other_once(tmp_path: Path) -> None:
    """The last inode, or descriptor, may be the first file's: the second is tried again, the first not opened anew."""
    (tmp_path / "x.gate").mkdir()
    gate = WriteGate(tmp_path, "x")
    counted = []
    for _ in range(3):
        with pytest.raises(IsADirectoryError), gate.passage():
            pass
        counted.append(descriptors())
    assert len(set(counted)) == 1
    (tmp_path / "x.gate").rmdir()
    with gate.passage():
        pass
    gate.close()


# the doors of the server


@pytest.fixture
def engine() -> str:
    """The database lies on the volume."""
    return "sqlite"


@pytest.mark.uncounted
def test_every_door_says_so_and_all_of_it_works_again_without_a_restart(
    make_api: Callable[..., Api], settings: Any, volume: Volume | None
) -> None:
    """RFC 9110 §15.6.4, RFC 4918 §11.5, PS3.18 Table 10.5.3-1: 503 or 507 with Retry-After, never another 5xx."""
    if volume is None or volume.kind != "bytes":
        return
    data = volume.folder / "data"
    shutil.copytree(settings.data, data)
    api = make_api(data=data, database=f"sqlite:///{data}/vigie.db")
    images = series(Phantom(slices=2, side=32, accession_number="ACC-1", patient_id="IPP-1"))
    chc = api.hospital_a
    assert chc.post("Patient", builders.patient("first")).status_code == 201

    def attempts() -> dict[str, Any]:
        patient = builders.patient("x" * 60_000)
        body = {"resourceType": "Bundle", "type": "transaction", "entry": [
            {"request": {"method": "POST", "url": "Patient"}, "resource": patient} for _ in range(4)]}
        return {
            "create": chc.post("Patient", patient),
            "transaction": chc.post("", body),
            "stow": chc.ask("POST", "/dicom-web/studies", stow_body(images), Content_Type=MULTIPART),
            "long stow": chc.ask("POST", "/dicom-web/studies", stow_body([bytes(5 * MIB)]), Content_Type=MULTIPART),
        }

    volume.fill()
    counted = []
    for times in (2, 2, 4):
        for _ in range(times):
            for name, answer in attempts().items():
                assert answer.status_code in (503, 507), (name, answer.status_code, answer.get_data(as_text=True)[:300])
                assert int(answer.headers["Retry-After"]) > 0, name
        counted.append((descriptors(), {one for one in volume.tree() if "/audit-spool/" not in one}))
    assert counted[0] == counted[1] == counted[2]
    volume.free()
    answers = attempts()
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "create": 201, "transaction": 200, "stow": 200, "long stow": 400,
    }  # fmt: skip
    assert json.loads(answers["stow"].get_data())["00081199"]["Value"]
