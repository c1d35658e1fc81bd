"""Imaging: what the composition root assembles of this package."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from dicomweb import ae, writes
from dicomweb.batches import Batch, Origin
from dicomweb.dimse.limits import Limits
from dicomweb.dimse.scp import Scp
from dicomweb.dimse.services import Desk
from dicomweb.disclosure import Disclosure
from dicomweb.granting import Granting
from dicomweb.ingest import Ingest
from dicomweb.pace import QUIET_S
from dicomweb.publishing import Publisher
from dicomweb.reconciling import Reconciliation
from dicomweb.views import routes
from dicomweb.wado import Retrieval
from dicomweb.workers import Workers
from resources.outcomes import BadRequest
from store.access import Caller, Loop, Observer, Permit, Waiting, Work
from store.objects import ObjectStore
from store.unit_of_work import Store

if TYPE_CHECKING:
    from flask import Blueprint, Request

MAX_REQUEST_BYTES = 8 * 1024**3


class Imaging:
    """Images: doors in, DICOMweb out, ImagingStudy kept."""

    def __init__(
        self,
        store: Store,
        objects: ObjectStore,
        permit: Permit,
        *,
        zone: tzinfo | None = None,
        public_bases: Sequence[str] = (),
        spool: Path | None = None,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        workers: Workers | None = None,
        quiet_s: float = QUIET_S,
        is_on_duty: Callable[[Work], bool] | None = None,
    ) -> None:
        """`zone`: where study times without offset were written (default Europe/Paris). `public_bases`: URLs of
        /dicom-web as clients know them. `spool`: folder for bodies and results on their way. `workers`: pixel workers,
        two of them unless given. `quiet_s`: see `Publisher`. `is_on_duty`: whether the caller regulates now.
        """
        self._store = store
        self.max_request_bytes = max_request_bytes
        """Largest body of a STOW request."""
        self._public_bases = tuple(public_bases)
        self._spool = spool
        endpoint = public_bases[0] if public_bases else None
        self._publisher = Publisher(zone=zone or ZoneInfo("Europe/Paris"), endpoint=endpoint, quiet_s=quiet_s)
        self.reconciliation = Reconciliation(self._publisher.publish_row, is_on_duty or (lambda uow: False))
        self._workers = workers or Workers(folder=spool)
        self.ingest = Ingest(store, objects, permit, self._publisher, self._workers)
        self._disclosure = Disclosure(store, permit)
        self.registry = ae.Registry(store)
        self._retrieval = Retrieval(objects, self._workers)

    @property
    def observers(self) -> tuple[Observer, ...]:
        """To be told of changes to orders and patients, and of who may see a study."""
        return (self._publisher, Granting())

    @property
    def publisher(self) -> Publisher:
        """What makes ImagingStudies: whoever hears that a study has ended tells it (`Publisher.ended`)."""
        return self._publisher

    @property
    def loops(self) -> tuple[Loop, ...]:
        """Background work: publish what was stored."""
        return (self._publisher.loop(self._store),)

    def queues(self, connection: Connection) -> Mapping[str, Waiting]:
        """What waits to be published."""
        return {"studies-unpublished": writes.backlog(connection)}

    def blueprint(self, guard: Callable[[Request], Caller]) -> Blueprint:
        """DICOMweb at /dicom-web."""
        return routes.blueprint(
            guard, self.ingest, self._disclosure, self._retrieval, public_bases=self._public_bases,
            max_request_bytes=self.max_request_bytes, spool=self._spool,
        )

    def scp(self, *, ae_titles: Collection[str] = ("VIGIE",), limits: Limits | None = None) -> Scp:
        """A DIMSE server, not started: ``scp().start(host, port)``. Best in a process of its own (the GIL)."""
        desk = Desk(self.ingest, self._disclosure, self.registry)
        return Scp(desk, self._store, ae_titles=ae_titles, limits=limits, spool=self._spool)

    def register_ae(self, title: str, organization: str, *addresses: str) -> None:
        """Bind a calling AE title to an organisation and to the addresses that it comes from."""
        self.registry.register(ae.checked(title, organization, addresses=addresses))

    def store_files(self, caller: Caller, files: list[bytes]) -> None:
        """Store instances as `caller` and publish their studies, for seeding; BadRequest where one is refused."""
        batch = Batch(caller, Origin("demo", caller.client_id))
        for data in files:
            outcome = self.ingest.store_instance(data, batch)
            if not outcome.result.is_stored:
                raise BadRequest(f"An instance was refused: {outcome.reason}")
        self.ingest.finish(batch)

        def end(uow: Work) -> None:
            for uid in batch.stored:
                self._publisher.ended(uow, caller.organization, uid)

        self._store.transact(caller, end)
        for uid in batch.stored:
            self._publisher.publish(self._store, caller.organization, uid)

    def close(self) -> None:
        """Let what is on its way to the disk arrive, and end the pixel workers."""
        self.ingest.close()
        self._workers.close()


__all__ = ["Imaging"]
