"""The registry of application entities: whose an AE title is, and by what it is recognised.

An AE title is a claim that anybody can make. Without TLS it is believed from its registered addresses alone; with TLS
from the holder of a registered certificate (and, where addresses are registered too, from these). One without either is
refused. What is altered here holds from the next association on.

PS3.5 §6.2 (VR AE), PS3.8 §9.3.2 (AE titles of an association), PS3.15 §B.12 (BCP 195 RFC 8996, 9325 TLS profile).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sqlalchemy import Connection, insert, select, update

from dicomweb import uids
from dicomweb.tables import Row, ae_title
from resources.outcomes import BadRequest, NotFound
from store.access import Access, Caller, Interaction
from store.unit_of_work import Store
from store.versions import digests

LOOPBACK = "loopback"
"""Stands for every loopback address of either family."""
_LOOPBACKS = ("127.0.0.0/8", "::1/128")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_TITLE = re.compile(r"[ -\[\]-~]{1,16}")


@dataclass(frozen=True, slots=True)
class ApplicationEntity:
    """A registered AE title."""

    title: str
    organization: str
    """Logical id of the Organization that it stores for."""
    addresses: tuple[str, ...] = ()
    """Addresses, networks (CIDR) or `LOOPBACK`."""
    certificates: tuple[str, ...] = ()
    """SHA-256 of the DER certificates, 64 hexadecimal digits each."""
    sop_classes: frozenset[str] = frozenset()
    """What it may store; empty: any storage class."""
    active: bool = True

    def is_at(self, address: str) -> bool:
        """Whether `address` is one of those registered."""
        try:
            peer = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped:
            peer = peer.ipv4_mapped
        return any(peer in network for network in _networks(self.addresses))

    def is_believed(self, address: str, certificate: str | None) -> bool:
        """Whether whoever comes from `address` is this entity. `certificate`: fingerprint of its TLS certificate, which
        has been verified; None where it came without TLS."""
        if not self.active:
            return False
        if certificate is None:
            return self.is_at(address)
        return certificate in self.certificates and (not self.addresses or self.is_at(address))


def _networks(addresses: Iterable[str]) -> Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for text in addresses:
        for one in _LOOPBACKS if text == LOOPBACK else (text,):
            yield ipaddress.ip_network(one)


def checked(
    title: str, organization: str, *, addresses: Iterable[str] = (), certificates: Iterable[str] = (),
    sop_classes: Iterable[str] = (),
) -> ApplicationEntity:
    """An entity as it is to be registered. Raises BadRequest naming what is wrong."""
    title = title.strip()
    if not _TITLE.fullmatch(title):
        raise BadRequest("An AE title is 1 to 16 printable characters without backslash (PS3.5 §6.2)")
    networks = []
    for text in addresses:
        try:
            networks.append(LOOPBACK if text == LOOPBACK else str(ipaddress.ip_network(text.strip(), strict=False)))
        except ValueError:
            raise BadRequest("An address is an IP address, a network like 192.0.2.0/24, or `loopback`") from None
    fingerprints = [text.replace(":", "").strip().lower() for text in certificates]
    if not all(map(_FINGERPRINT.fullmatch, fingerprints)):
        raise BadRequest("A fingerprint is the SHA-256 of a certificate: 64 hexadecimal digits")
    classes = frozenset(uids.require(text.strip(), "A SOP class") for text in sop_classes)
    return ApplicationEntity(
        title, organization, tuple(dict.fromkeys(networks)), tuple(dict.fromkeys(fingerprints)), classes
    )


class Registry:
    """Reads and alters the AE titles of this server; every alteration is recorded with it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, title: str) -> ApplicationEntity | None:
        """The entity of this title, as it is registered now."""
        with self._store.database.glance() as connection:
            return _found(connection, title)

    def list(self) -> list[ApplicationEntity]:
        """All entities by title."""
        with self._store.database.read() as connection:
            return [_entity(row) for row in connection.execute(select(ae_title).order_by(ae_title.c.ae))]

    def register(self, entity: ApplicationEntity, by: Caller | None = None, detail: Detail = ()) -> ApplicationEntity:
        """Register an entity, or change what is registered of its title; a disabled one stays disabled."""
        values = {
            "organization": entity.organization,
            "addresses": " ".join(entity.addresses),
            "certificates": " ".join(entity.certificates),
            "sop_classes": " ".join(sorted(entity.sop_classes)),
        }
        note = self._note("ae-add", entity, detail)
        with self._store.work(self._actor(by), intent=note) as uow:
            changed = uow.connection.execute(update(ae_title).where(ae_title.c.ae == entity.title).values(**values))
            if not changed.rowcount:
                uow.connection.execute(insert(ae_title).values(ae=entity.title, **values))
            uow.note(_with_row(uow.connection, note, entity.title))
            return _found(uow.connection, entity.title) or entity

    def set_active(
        self, title: str, active: bool, by: Caller | None = None, detail: Detail = ()
    ) -> ApplicationEntity:
        """Admit this title, or refuse it from the next association or instance on. Raises NotFound."""
        entity = self.find(title)
        if entity is None:
            raise NotFound("No such AE title is registered here")
        note = self._note("ae-enable" if active else "ae-disable", entity, detail)
        with self._store.work(self._actor(by), intent=note) as uow:
            uow.connection.execute(update(ae_title).where(ae_title.c.ae == title).values(active=int(active)))
            uow.note(_with_row(uow.connection, note, title))
        return replace(entity, active=active)

    def _actor(self, by: Caller | None) -> Caller:
        return by or Caller.system(self._store.platform)

    @staticmethod
    def _note(operation: str, entity: ApplicationEntity, detail: Detail) -> Access:
        owner = entity.organization
        return Access(Interaction.ADMIN, "Organization", owner, owner=owner,
                      detail=(("operation", operation), ("ae", entity.title), *detail))


Detail = tuple[tuple[str, str], ...]


def rows(connection: Connection, title: str | None = None) -> Iterator[tuple[str, str]]:
    """(``ae/…``, digest of the row) of one title, or of every one: what the audit log says of the registry."""
    statement = select(ae_title).order_by(ae_title.c.ae)
    if title is not None:
        statement = statement.where(ae_title.c.ae == title)
    for row in connection.execute(statement):
        yield f"ae/{row.ae}", digests.of_row("ae_title", row._asdict())


def _with_row(connection: Connection, note: Access, title: str) -> Access:
    """The record of a change, with what the row is after it."""
    row = next(digest for _, digest in rows(connection, title))
    return replace(note, detail=(*note.detail, ("row", row)))


def _found(connection: Connection, title: str) -> ApplicationEntity | None:
    row = connection.execute(select(ae_title).where(ae_title.c.ae == title)).first()
    return None if row is None else _entity(row)


def _entity(row: Row) -> ApplicationEntity:
    return ApplicationEntity(
        row.ae, row.organization, tuple(row.addresses.split()), tuple(row.certificates.split()),
        frozenset(row.sop_classes.split()), bool(row.active),
    )
