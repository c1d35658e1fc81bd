"""Seed the demonstration's world: directory, rota, clients, AE titles, earlier images. Again: what lacks."""

from __future__ import annotations

from datetime import datetime, timedelta
from io import BytesIO

import structlog
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicomweb import ae, phantom
from dicomweb.phantom import Phantom
from fhir_server.demo import world
from fhir_server.duties import tokens
from fhir_server.server import private as private_files
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources.json import Json
from resources.outcomes import FhirError, Gone, NotFound
from store.access import Caller
from store.unit_of_work import UnitOfWork

log = structlog.get_logger("vigie.demo")

_PYDICOM_FILES = ("CT_small.dcm", "MR_small.dcm", "examples_jpeg2k.dcm")
"""Images that come with pydicom: earlier studies of hospital B."""


def seed(settings: Settings) -> None:
    """Make sure that the demonstration's world is there, and that its rota covers the next days."""
    services = Services.of(settings)
    try:
        system = Caller.system(world.PLATFORM)
        services.store.transact(system, lay_directory)
        services.store.transact(system, lay_rota)
        for ae_title, organization in world.AE_TITLES.items():
            services.imaging.register_ae(ae_title, organization, ae.LOOPBACK)
        if not tokens.demo_clients(settings):
            # The file of the clients comes last: it says that the seeding is complete, also after a crash.
            _earlier_images(services)
            _register_clients(settings, services)
    finally:
        services.close()


def lay_directory(uow: UnitOfWork) -> None:
    """Organizations, practitioners, their roles and places."""
    for resource in world.directory():
        _lay(uow, resource)


def lay_rota(uow: UnitOfWork) -> None:
    """Each person's gardes from yesterday on, `world.ROTA_DAYS` days."""
    today = datetime.now(world.PARIS).date()
    for offset in range(-1, world.ROTA_DAYS):
        for person in world.PEOPLE:
            for resource in person.garde(today + timedelta(days=offset)):
                _lay(uow, resource)


def _lay(uow: UnitOfWork, resource: Json) -> None:
    try:
        uow.system.read(resource["resourceType"], resource["id"])
    except (NotFound, Gone):
        uow.system.update(resource["resourceType"], resource["id"], resource)


def _register_clients(settings: Settings, services: Services) -> None:
    listed = []
    for one in world.CLIENTS:
        made, private = services.authority.clients.add(
            one.name, one.organization, one.scope, one.role, one.practitioner
        )
        listed.append(
            {
                "client_id": made.client_id,
                "organization": one.organization,
                "scope": made.scope,
                "private_key": private,
                "role": one.role,
            }
        )
    private_files.write_json(settings.data / "demo" / "clients.json", listed)


def _earlier_images(services: Services) -> None:
    prior = phantom.series(Phantom(patient_id="A-1001", patient_name="ANCIEN^ALAIN"))
    services.imaging.store_files(Caller.system(world.HOSPITAL_A), prior)
    named = []
    for name in _PYDICOM_FILES:
        path = get_testdata_file(name, download=False)
        if path is None:
            continue
        buffer = BytesIO()
        dcmread(path).save_as(buffer)
        named.append(buffer.getvalue())
    try:
        services.imaging.store_files(Caller.system(world.HOSPITAL_B), named)
    except FhirError as error:
        log.warning("earlier images are left out", exc_info=error)
