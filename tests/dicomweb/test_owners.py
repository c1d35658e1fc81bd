"""One Study UID in several organisations: every address leads to its owner's images, and none chooses silently.

R4 ImagingStudy.endpoint; PS3.18 §10.4 (retrieve), §10.6 (search), §8.5 (409).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask.testing import FlaskClient

from dicomweb.phantom import Phantom
from tests.dicomweb.conftest import Service, stow
from tests.dicomweb.test_isolation import ROUTES, renamed
from tests.support import PLATFORM

OWNERS = ("hospital-a", "hospital-b", PLATFORM)


def owned(service: Service, files: list[bytes], owners: tuple[str, ...]) -> None:
    """Each has the study, with its own name for the patient; the last has an image less."""
    for number, owner in enumerate(owners):
        mine = renamed(files, f"Of^{owner}")
        assert stow(service.client(owner), mine[: len(mine) - number]).status_code == 200


def addresses(body: Any) -> Iterator[str]:
    """Every address of this server in an answer."""
    if isinstance(body, dict):
        body = list(body.values())
    if isinstance(body, list):
        for one in body:
            yield from addresses(one)
    elif isinstance(body, str) and "/dicom-web/" in body:
        yield urlsplit(body).path


def owner_named(client: FlaskClient, address: str) -> set[str]:
    """Whose images an address leads to, by the name that each gave the patient."""
    if "/bulkdata/" in address:
        address = address.partition("/bulkdata/")[0]
    found = client.get(f"{address}/metadata")
    assert found.status_code == 200, (address, found.get_data(as_text=True))
    return {one["00100010"]["Value"][0]["Alphabetic"].removeprefix("Of^") for one in found.get_json(force=True)}


def given(service: Service, reader: FlaskClient, uid: str) -> Iterator[tuple[str, str]]:
    """(owner, address) of every address that any resource, row or header gives to the platform."""
    for study in service.resources("ImagingStudy"):
        with service.store.work(service_caller(), write=False) as uow:
            owner = uow.system.read("ImagingStudy", study["id"]).owner
        (endpoint,) = [one for one in study["contained"] if one["resourceType"] == "Endpoint"]
        yield owner, urlsplit(endpoint["address"]).path + f"/studies/{uid}"
    for level in ("studies", "series", "instances"):
        for row in reader.get(f"/dicom-web/{level}?includefield=all").get_json(force=True):
            (url,) = row["00081190"]["Value"]
            owner = re.search("/owners/([^/]+)/", url)
            assert owner is not None, url
            for address in addresses(row):
                yield owner[1], address
    for owner_name in OWNERS:
        found = reader.get(f"/dicom-web/owners/{owner_name}/studies/{uid}/metadata")
        if found.status_code == 200:
            for address in addresses(found.get_json(force=True)):
                yield owner_name, address


def service_caller() -> Any:
    from store.access import Caller

    return Caller.system(PLATFORM)


@pytest.mark.parametrize("owners", list(itertools.permutations(OWNERS, 2)), ids="+".join)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_address_that_is_given_leads_to_its_owners_images(
    service: Service, files: list[bytes], small: Phantom, owners: tuple[str, ...]
) -> None:
    """As the platform gives it and follows it, for every two that may have the UID."""
    owned(service, files, owners)
    reader = service.client(PLATFORM)
    followed = list(dict.fromkeys(given(service, reader, small.study_uid)))
    assert {owner for owner, _ in followed} == set(owners)
    assert any("/bulkdata/" in address for _, address in followed)
    for owner, address in followed:
        assert owner_named(reader, address) == {owner}, address
        if "/bulkdata/" in address:
            assert reader.get(address).status_code == 200


def test_the_plain_address_chooses_no_hospital(service: Service, files: list[bytes], small: Phantom) -> None:
    """At every level the same: a refusal that names the addresses which mean one; each hospital still has its own."""
    owned(service, files, ("hospital-a", "hospital-b"))
    values = {"study": small.study_uid, "series": small.series_uid, "instance": small.sop_uid(4)}
    only_of_a = values["instance"]
    reader = service.client(PLATFORM)
    for route in ROUTES:
        address = route.format(**values)
        refused = reader.get(f"/dicom-web{address}")
        assert refused.status_code == 409, address
        for owner in ("hospital-a", "hospital-b"):
            assert f"/dicom-web/owners/{owner}" in refused.get_data(as_text=True)
        assert reader.get(f"/dicom-web/owners/hospital-a{address}").status_code == 200, address
        expected = 404 if only_of_a in address else 200
        assert reader.get(f"/dicom-web/owners/hospital-b{address}").status_code == expected, address
        for hospital in ("hospital-a", "hospital-b"):
            assert service.client(hospital).get(f"/dicom-web{address}").status_code != 409, address


def test_what_the_platform_made_of_a_study_is_shown_beside_it(
    service: Service, files: list[bytes], small: Phantom
) -> None:
    """All, each with its owner: but of two objects under one UID none is chosen."""
    owned(service, files, ("hospital-a", PLATFORM))
    reader = service.client(PLATFORM)
    study = f"/dicom-web/studies/{small.study_uid}"
    assert owner_named(reader, study) == {"hospital-a", PLATFORM}
    both = f"{study}/series/{small.series_uid}/instances/{small.sop_uid(1)}"
    alone = f"{study}/series/{small.series_uid}/instances/{small.sop_uid(4)}"
    for suffix in ("", "/metadata", "/frames/1", "/rendered"):
        assert reader.get(both + suffix).status_code == 409, suffix
        assert reader.get(alone + suffix).status_code == 200, suffix
    assert owner_named(reader, alone) == {"hospital-a"}
