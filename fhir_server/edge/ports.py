"""What the edge needs of the server that it is part of. Implemented by `fhir_server.server.services.Services`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from audit.service import Ledger
from auth.service import Authority
from dicomweb.service import Imaging
from fhir_server.edge.exchange import Answer, Asked
from resources.search import Query
from store.access import Access, Caller, Version
from store.unit_of_work import Store
from subscriptions.service import Subscriptions
from workflow.granting import Granting
from workflow.service import Workflow


class Services(Protocol):
    """The assembled server."""

    @property
    def store(self) -> Store: ...
    @property
    def authority(self) -> Authority: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def subscriptions(self) -> Subscriptions: ...
    @property
    def imaging(self) -> Imaging: ...
    @property
    def workflow(self) -> Workflow: ...
    @property
    def granting(self) -> Granting: ...
    @property
    def clock(self) -> Callable[[], datetime]: ...
    @property
    def new_id(self) -> Callable[[], str]: ...

    @property
    def bases(self) -> Sequence[str]:
        """The public bases, ``https://host``; the first is the canonical one."""
        ...

    @property
    def cors(self) -> bool:
        """Whether CORS headers are given (R4 CapabilityStatement.rest.security.cors)."""
        ...

    @property
    def max_body_bytes(self) -> int:
        """Largest FHIR body accepted."""
        ...

    def parse(
        self,
        type_name: str | None,
        parameters: Sequence[tuple[str, str]],
        *,
        lenient: bool = False,
        organization: str = "",
    ) -> Query:
        """Search parameters as a Query; `organization`: whose zone dates without one are in. Raises BadRequest."""
        ...

    def shown(self, version: Version, caller: Caller) -> bytes:
        """The text of a version as this caller may see it."""
        ...


Handler = Callable[[Services, Asked, Access], Answer]
"""Carries out one interaction. The Access is what it is about, for its record.
Raises what `errors` knows how to tell."""
