"""Whoever may not store leaves not a byte in the object store, at every door that writes there.

PS3.18 §10.5 (Store transaction), PS3.4 §B.2 (C-STORE), PS3.7 §9.1.1.1.9 (0124: not authorised).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.association import Association

from dicomweb import ae
from dicomweb.dimse.scp import Scp
from dicomweb.dimse.services import SERVICES
from dicomweb.phantom import Phantom
from dicomweb.service import Imaging
from resources.outcomes import BadRequest
from store.objects import ObjectStore
from tests.dicomweb.conftest import Service, stow
from tests.support import caller

NOT_AUTHORISED = 0x0124


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """What is asked here does not depend on the database."""
    return f"sqlite:///{tmp_path}/vigie.sqlite"


@dataclass
class Kept:
    """What the object store was given since `begin`."""

    folder: Path
    staged: list[str]
    before: frozenset[tuple[str, int]] = frozenset()

    def begin(self) -> None:
        self.before = self.tree()
        self.staged.clear()

    def tree(self) -> frozenset[tuple[str, int]]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return frozenset((str(path), path.stat().st_size) for path in files)

    @property
    def nothing(self) -> bool:
        """Neither an object, nor bytes on their way to be one, for however short a time."""
        return self.tree() == self.before and not self.staged


@pytest.fixture
def kept(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    staged: list[str] = []
    for name in ("stage", "put", "place"):
        real = getattr(ObjectStore, name)

        def watched(*given: Any, real: Callable[..., Any] = real, name: str = name) -> Any:
            staged.append(name)
            return real(*given)

        monkeypatch.setattr(ObjectStore, name, watched)
    found = Kept(tmp_path / "objects", staged)
    found.begin()
    return found


def addresses(service: Service, small: Phantom, owner: str) -> list[str]:
    """Every address that there is, whether it takes a body or says that it does not."""
    given = {
        "study": small.study_uid, "series": small.series_uid, "instance": small.sop_uid(1), "frames": "1",
        "bulk": "7FE00010", "rest": "somewhere", "owner": owner,
    }
    adapter = service.app.url_map.bind("localhost")
    rules = [rule for rule in service.app.url_map.iter_rules() if "POST" in (rule.methods or ())]
    return sorted({adapter.build(rule.endpoint, {name: given[name] for name in rule.arguments}, "POST")
                   for rule in rules})


HTTP_REFUSALS: dict[str, tuple[str, str]] = {
    "no scope": ("hospital-b", "hospital-b"),
    "another's address": ("hospital-a", "hospital-b"),
}
"""Why → (who asks, whose address)."""


@pytest.mark.parametrize("why", HTTP_REFUSALS)
def test_nothing_is_kept_of_a_refused_request(
    service: Service, files: list[bytes], small: Phantom, kept: Kept, why: str
) -> None:
    """Objects are only written after the caller is permitted; STOW-RS at each of its addresses."""
    organization, owner = HTTP_REFUSALS[why]
    service.permit.forbidden.add(("hospital-b", "ImagingStudy"))
    paths = addresses(service, small, owner)
    assert {"/dicom-web/studies", f"/dicom-web/owners/{owner}/studies"} <= set(paths)
    if why == "another's address":
        paths = [path for path in paths if owner in path]
    for path in paths:
        answer = stow(service.client(organization), files, path)
        assert answer.status_code in (403, 404, 405), path
        assert kept.nothing, path
    assert stow(service.client("hospital-a"), files).status_code == 200
    assert not kept.nothing


def test_nothing_is_kept_of_one_who_may_not_store_at_the_door_of_all_doors(
    service: Service, files: list[bytes], kept: Kept
) -> None:
    """Seeding, and whatever door comes next: `Ingest.prepare` itself asks before it keeps a byte."""
    service.permit.forbidden.add(("hospital-b", "ImagingStudy"))
    with pytest.raises(BadRequest, match="not authorised"):
        service.imaging.store_files(caller("hospital-b"), files)
    assert kept.nothing


# C-STORE


@pytest.fixture
def scp(service: Service) -> Iterator[tuple[Scp, int]]:
    made = service.imaging.scp()
    try:
        yield made, made.start("127.0.0.1", 0)
    finally:
        made.stop()


def entity(**more: Any) -> ae.ApplicationEntity:
    return ae.checked("MODALITY", more.pop("organization", "hospital-a"), addresses=["loopback"], **more)


def disable(imaging: Imaging) -> None:
    imaging.registry.set_active("MODALITY", False)


WITHDRAWN: dict[str, Callable[[Imaging], Any]] = {
    "disabled": disable,
    "of another organisation": lambda imaging: imaging.registry.register(entity(organization="hospital-b")),
    "from another address": lambda imaging: imaging.registry.register(replace(entity(), addresses=("192.0.2.1",))),
    "for another class": lambda imaging: imaging.registry.register(entity(sop_classes=["1.2.840.10008.5.1.4.1.1.4"])),
}
"""What an operator alters while an association is open."""


def associate(port: int, data: pydicom.Dataset, title: str = "MODALITY") -> Association:
    peer = AE(title)
    peer.add_requested_context(data.SOPClassUID, data.file_meta.TransferSyntaxUID)
    peer.acse_timeout = peer.dimse_timeout = peer.network_timeout = 30
    return peer.associate("127.0.0.1", port, ae_title="VIGIE")


@pytest.mark.parametrize("why", WITHDRAWN)
def test_nothing_is_kept_of_what_a_title_may_not_store_any_more(
    service: Service, files: list[bytes], kept: Kept, scp: tuple[Scp, int], why: str
) -> None:
    """An association lasts as long as its peer likes: the binding of its title is asked before each instance."""
    service.imaging.registry.register(entity())
    first, second = (pydicom.dcmread(io.BytesIO(data)) for data in files[:2])
    association = associate(scp[1], first)
    assert association.is_established
    try:
        assert association.send_c_store(first).Status == 0
        WITHDRAWN[why](service.imaging)
        kept.begin()
        assert association.send_c_store(second).Status == NOT_AUTHORISED
        assert kept.nothing
        service.imaging.registry.register(entity())
        service.imaging.registry.set_active("MODALITY", True)
        assert association.send_c_store(second).Status == 0
    finally:
        association.release()


@pytest.mark.parametrize("title", ["STRANGER", "DISABLED", "ELSEWHERE", "FORBIDDEN"])
def test_nothing_is_kept_of_a_title_that_is_not_let_in(
    service: Service, files: list[bytes], kept: Kept, scp: tuple[Scp, int], title: str
) -> None:
    """PS3.8 §9.3.4: rejected; and where the organisation may store nothing, each instance is refused."""
    registry = service.imaging.registry
    registry.register(replace(entity(), title="DISABLED"))
    registry.set_active("DISABLED", False)
    registry.register(replace(entity(), title="ELSEWHERE", addresses=("192.0.2.1",)))
    registry.register(replace(entity(organization="hospital-b"), title="FORBIDDEN"))
    service.permit.forbidden.add(("hospital-b", "ImagingStudy"))
    data = pydicom.dcmread(io.BytesIO(files[0]))
    association = associate(scp[1], data, title)
    if association.is_established:
        assert title == "FORBIDDEN"
        assert association.send_c_store(data).Status == NOT_AUTHORISED
        association.release()
    assert kept.nothing


def test_every_service_that_takes_instances_is_among_the_doors() -> None:
    """Of the DIMSE services only C-STORE as SCP brings bytes in: a new one that does is to be tried above."""
    assert {one.operation for one in SERVICES if one.scopes} == {"C-STORE"}
