"""The DIMSE services of this server, as a table.

From a row derive the presentation contexts that are accepted, the dispatch of messages, the rights of the caller and
its line in docs/dicom-conformance.md. To add a service: a handler and a row. A handler gets a `Call` and gives what the
handler of pynetdicom's event gives: a status, or for C-FIND an iterator of (status, identifier).

PS3.4 Annex A (verification), Annex B (storage); PS3.7 §9.1 (DIMSE-C).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import structlog
from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import StorageServiceClass, VerificationServiceClass

from dicomweb import part10, sop_classes
from dicomweb.ae import ApplicationEntity, Registry
from dicomweb.dimse.datasets import DataSet
from dicomweb.dimse.session import Session
from dicomweb.disclosure import Disclosure
from dicomweb.ingest import Ingest
from dicomweb.media_types import COMPRESSED
from dicomweb.part10 import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomweb.reader import Unreadable
from dicomweb.status import Result, StoredOutcome
from resources.outcomes import FhirError
from store.engine.faults import DRIVER_ERRORS

log = structlog.get_logger("vigie.dimse")

DECODED_AT_ONCE = 8
"""Instances whose header is in memory at once."""
VERIFICATION = "1.2.840.10008.1.1"
NATIVE = (EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE)
"""What is spoken where nothing is stored (PS3.5 §10.1)."""
STORED = (EXPLICIT_LE, IMPLICIT_LE, *COMPRESSED, DEFLATED_LE, EXPLICIT_BE)
"""Stored as they come, best first."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What a handler works with."""

    ingest: Ingest
    reader: Disclosure
    """Finds what the caller may see, and records it: for C-FIND, C-MOVE and C-GET."""
    registry: Registry
    """Asked again before each instance: an association may last longer than what was registered."""
    turns: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(DECODED_AT_ONCE))


@dataclass(frozen=True, slots=True)
class Call:
    """One request of an association."""

    event: Any
    """pynetdicom's event: request, context, file meta."""
    session: Session
    desk: Desk


@dataclass(frozen=True, slots=True)
class Service:
    """A row of the table."""

    name: str
    role: str
    """SCP: it is asked of us; SCU: we ask for it."""
    operation: str
    sop_classes: str
    """In words, for the conformance statement."""
    takes: Callable[[str, ApplicationEntity], bool]
    """Whether an abstract syntax is of this service, for this peer."""
    transfer_syntaxes: Sequence[str]
    message: str
    """pynetdicom's class of the request message."""
    event: evt.InterventionEvent
    provider: type[Any]
    """pynetdicom's service class, which answers with what the handler gives."""
    handler: Callable[[Call], Any]
    scopes: frozenset[str] = frozenset()
    """What the caller may do while it is served."""


def _echo(call: Call) -> int:
    return Result.STORED.value.dimse


def _store(call: Call) -> Dataset:
    outcome = _stored(call)
    status = Dataset()
    status.Status = outcome.result.value.dimse
    if not outcome.result.is_stored:
        call.session.refused[outcome.result.value.dimse] += 1
        status.ErrorComment = outcome.reason[:64]
        log.warning("an instance is refused", result=outcome.result.name)
    return status


def _stored(call: Call) -> StoredOutcome:
    message, session = call.event.request, call.session
    session.recording.is_recorded = False  # each instance is an access; the record of what failed comes at the end
    uid, sop_class = str(message.AffectedSOPInstanceUID), str(message.AffectedSOPClassUID)
    if sop_class != call.event.context.abstract_syntax:
        return StoredOutcome(Result.SOP_CLASS_NOT_SUPPORTED, reason="the SOP Class is not that of the context")
    data: DataSet = message.DataSet
    try:
        if not session.may_store(call.desk.registry.find(session.entity.title), sop_class):
            return StoredOutcome(Result.NOT_AUTHORISED, reason="the AE title may not store this any more")
        with call.desk.turns, data.body() as body:
            part = part10.compose(
                encode_file_meta(call.event.file_meta),
                body,
                sop_class_uid=sop_class,
                sop_instance_uid=uid,
                transfer_syntax_uid=str(call.event.context.transfer_syntax),
            )
            return call.desk.ingest.store_instance(part, session.batch, sop_instance_uid=uid)
    except Unreadable as error:
        return StoredOutcome(Result.NOT_UNDERSTOOD, reason=str(error))
    except (FhirError, OSError, *DRIVER_ERRORS):
        return StoredOutcome(Result.OUT_OF_RESOURCES, reason="the instance could not be recorded")


SERVICES: tuple[Service, ...] = (
    Service(
        "Verification", "SCP", "C-ECHO", "Verification (1.2.840.10008.1.1)",
        lambda uid, entity: uid == VERIFICATION,
        NATIVE, "C_ECHO_RQ", evt.EVT_C_ECHO, VerificationServiceClass, _echo,
    ),
    Service(
        "Storage", "SCP", "C-STORE",
        "every storage class of composite instances: standard, retired, newer than this software, private; "
        "or those that are registered for the AE title",
        lambda uid, entity: sop_classes.may_store(uid, entity.sop_classes),
        STORED, "C_STORE_RQ", evt.EVT_C_STORE, StorageServiceClass, _store,
        scopes=frozenset({"system/ImagingStudy.cu"}),
    ),
)  # fmt: skip

SCOPES = frozenset[str]().union(*(one.scopes for one in SERVICES))
"""What an AE title may do."""


def offered(message: str, abstract_syntax: str, entity: ApplicationEntity) -> Service | None:
    """The service that serves a message of this name under an abstract syntax."""
    return next((one for one in SERVICES if one.message == message and one.takes(abstract_syntax, entity)), None)


def contexts(proposed: Iterable[str], entity: ApplicationEntity) -> list[PresentationContext]:
    """The presentation contexts that are supported of those that a peer proposes."""
    found = []
    for uid in dict.fromkeys(proposed):
        for one in SERVICES:
            if one.takes(uid, entity):
                found.append(_context(uid, one.transfer_syntaxes))
                break
    return found


@lru_cache(maxsize=1024)
def _context(uid: str, transfer_syntaxes: tuple[str, ...]) -> PresentationContext:
    return build_context(uid, list(transfer_syntaxes))
