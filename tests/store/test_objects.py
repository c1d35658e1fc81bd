"""Objects by digest (DESIGN §4, §8: an acknowledged image is durable)."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path

import pytest

from resources.outcomes import NotFound
from store.objects import ObjectStore


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


@pytest.mark.parametrize("as_stream", [False, True])
def test_bytes_come_back_by_their_digest(objects: ObjectStore, as_stream: bool) -> None:
    content = b"DICM" * 700_000
    digest = objects.put(io.BytesIO(content) if as_stream else content)
    assert digest == sha256(content).hexdigest()
    assert objects.size(digest) == len(content)
    with objects.open(digest, verify=True) as file:
        assert file.read() == content
    assert objects.range(digest, 3, 6) == content[3:9]
    assert objects.range(digest, len(content) - 2, 100) == content[-2:]
    assert b"".join(objects.chunks(digest, 5, 2_000_000)) == content[5:2_000_005]


def test_the_same_bytes_are_one_object(objects: ObjectStore, tmp_path: Path) -> None:
    assert objects.put(b"x") == objects.put(io.BytesIO(b"x"))
    assert len([file for file in (tmp_path / "objects").rglob("*") if file.is_file()]) == 1


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n", "0" * 64])
def test_what_is_no_digest_of_an_object_is_not_found(objects: ObjectStore, name: str) -> None:
    for call in (objects.open, objects.size, lambda digest: objects.range(digest, 0, 1), objects.chunks):
        with pytest.raises(NotFound):
            call(name)


def test_a_failing_upload_leaves_nothing(objects: ObjectStore, tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise ConnectionError
            return super().read(3)

    with pytest.raises(ConnectionError):
        objects.put(Broken(b"abcdef"))
    assert not [file for file in (tmp_path / "objects").rglob("*") if file.is_file()]


def test_damage_is_noticed_when_asked(objects: ObjectStore) -> None:
    digest = objects.put(b"abc")
    objects.path(digest).write_bytes(b"abd")
    with pytest.raises(NotFound):
        objects.open(digest, verify=True)


def test_what_interrupted_writers_left_is_removed(objects: ObjectStore, tmp_path: Path) -> None:
    left = tmp_path / "objects" / "incoming" / "abandoned"
    left.write_bytes(b"half")
    assert objects.clean(3600, left.stat().st_mtime + 10) == 0
    assert objects.clean(3600, left.stat().st_mtime + 3700) == 1
