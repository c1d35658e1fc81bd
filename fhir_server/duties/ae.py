"""The registry of AE titles as an operator's duty: each act a function, recorded, the same again and again.

What is altered holds in the running server from the next association on, and for what an open one still stores.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dicomweb import ae
from dicomweb.ae import ApplicationEntity
from fhir_server.duties import acts, deployment
from fhir_server.server.faults import CannotRun
from fhir_server.server.services import Services
from fhir_server.server.settings import Settings
from resources.outcomes import BadRequest, NotFound


def add(
    settings: Settings,
    title: str,
    organization: str,
    *,
    addresses: Iterable[str] = (),
    fingerprints: Iterable[str] = (),
    certificates: Iterable[Path] = (),
    sop_classes: Iterable[str] = (),
) -> dict[str, Any]:
    """Register an AE title, or replace what is registered of it; its description.

    Raises BadRequest where something is wrong with it or the organisation does not exist, CannotRun where a file holds
    no certificate.
    """
    detail = ("ae", title), ("organization", organization)
    with deployment.opened(settings) as services, acts.attempted(services, "ae-add", *detail):
        prints = [*fingerprints, *(one for path in certificates for one in fingerprints_of(path))]
        entity = ae.checked(
            title, organization, addresses=addresses, certificates=prints, sop_classes=sop_classes
        )
        if not (entity.addresses or entity.certificates):
            raise BadRequest("it would be believed from nowhere: give --address, --certificate or --fingerprint")
        _require(services, organization)
        by = acts.actor(settings)
        return _described(services.imaging.registry.register(entity, by.caller, by.detail))


def listed(settings: Settings) -> list[dict[str, Any]]:
    """All AE titles, by name."""
    with deployment.opened(settings) as services, acts.recorded(services, "ae-list"):
        return [_described(one) for one in services.imaging.registry.list()]


def disable(settings: Settings, title: str) -> dict[str, Any]:
    """Refuse this title from the next association or instance on. Raises CannotRun where it is not registered."""
    return _set_active(settings, "ae-disable", title, False)


def enable(settings: Settings, title: str) -> dict[str, Any]:
    """End of `disable`."""
    return _set_active(settings, "ae-enable", title, True)


def fingerprints_of(path: Path) -> list[str]:
    """SHA-256 of the certificates in a PEM or DER file. Raises CannotRun where it holds none."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    raw = path.read_bytes()
    try:
        parts = raw.decode("ascii").split(begin)[1:]
        found = [ssl.PEM_cert_to_DER_cert(begin + part.partition(end)[0] + end) for part in parts]
    except ValueError:  # no text, or no base 64 in it
        found = [raw] if raw.startswith(b"\x30\x82") else []
    if not found:
        raise CannotRun(f"{path.name} holds no certificate (PEM or DER)")
    return [hashlib.sha256(one).hexdigest() for one in found]


def _set_active(settings: Settings, operation: str, title: str, active: bool) -> dict[str, Any]:
    with deployment.opened(settings) as services, acts.attempted(services, operation, ("ae", title)):
        by = acts.actor(settings)
        try:
            return _described(services.imaging.registry.set_active(title.strip(), active, by.caller, by.detail))
        except NotFound:
            raise CannotRun("there is no such AE title: `vigie ae list` shows them") from None


def _require(services: Services, organization: str) -> None:
    known = services.store.look(
        acts.operator(services.settings), lambda uow: uow.system.exists("Organization", organization)
    )
    if not known:
        raise BadRequest("organization does not exist here: store it first", expression="organization")


def _described(entity: ApplicationEntity) -> dict[str, Any]:
    return {
        "ae": entity.title,
        "organization": entity.organization,
        "addresses": list(entity.addresses),
        "certificates": list(entity.certificates),
        "sop_classes": sorted(entity.sop_classes),
        "active": entity.active,
    }
