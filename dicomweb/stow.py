"""STOW-RS: store instances sent as multipart/related, or one alone.

Each part goes through the one door; parts are committed in groups while the body arrives, and the answer says of each
what became of it. Nothing that was stored is answered with an error status. Where a limit of the request is passed, or
its form is broken, what came before is kept and acknowledged, nothing after it is stored, and one failed item says so.
A part without a delimiter after it is refused: it may be cut short, and what is stored is never overwritten.

DICOM PS3.18 §10.5, Annex I.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, wait

from dicomweb import multipart, part10, uids
from dicomweb.batches import Batch, Origin, Prepared
from dicomweb.ingest import WRITERS, Ingest
from dicomweb.media_types import DICOM, MULTIPART
from dicomweb.multipart import Body, Source, closing
from dicomweb.reader import Unreadable
from dicomweb.status import Result, StoredOutcome
from resources import media_types
from resources.json import Json
from resources.outcomes import FhirError, Malformed, TooLarge, Unavailable, UnsupportedMediaType
from store.access import Caller

GROUP = 32
"""Instances committed together."""


def parts_of(stream: Source, content_type: str, *, max_bytes: int, folder: str | None) -> Iterator[Body]:
    """The instances of a request body, one at a time. Raises UnsupportedMediaType."""
    sent = media_types.parse(content_type)
    if sent.type == DICOM:
        yield multipart.whole(stream, max_bytes=max_bytes, folder=folder)
        return
    if sent.type != MULTIPART:
        raise UnsupportedMediaType("STOW-RS takes multipart/related; type=\"application/dicom\", or application/dicom")
    if sent.parameters.get("type", DICOM).lower() != DICOM:
        raise UnsupportedMediaType("Instances are taken as application/dicom parts, not as metadata and bulk data")
    yield from multipart.parts(stream, sent.parameters.get("boundary"), max_bytes=max_bytes, folder=folder)


def store(
    ingest: Ingest, caller: Caller, origin: Origin, bodies: Iterator[Body], study_instance_uid: str | None
) -> list[StoredOutcome]:
    """Store every part. What breaks the request itself after instances were stored is reported as a failed item."""
    batch = Batch(caller, origin)
    outcomes: list[StoredOutcome] = []
    waiting: list[Future[Prepared | StoredOutcome]] = []
    fault: FhirError | None = None
    try:
        try:
            for body in bodies:
                waiting.append(ingest.writers.submit(_prepare, ingest, body, batch, study_instance_uid))
                if len(waiting) >= GROUP:
                    outcomes += _commit(ingest, waiting, batch)
                    waiting = []
                elif len(waiting) >= WRITERS:
                    wait([waiting[-WRITERS]])
        except FhirError as error:
            fault = error
        outcomes += _commit(ingest, waiting, batch)
    finally:
        wait(waiting)
        ingest.finish(batch)
    if fault is not None and not outcomes:
        raise fault
    some_stored = any(one.result.is_stored for one in outcomes)
    if isinstance(fault, Unavailable) or (isinstance(fault, TooLarge) and some_stored):
        outcomes.append(StoredOutcome(Result.OUT_OF_RESOURCES, reason=fault.diagnostics))
    elif fault is not None:
        outcomes.append(StoredOutcome(Result.NOT_UNDERSTOOD, reason=fault.diagnostics))
    if not outcomes:
        raise Malformed("The request holds no instance")
    ingest.note_refused(caller, origin, outcomes)
    return outcomes


def _commit(
    ingest: Ingest, waiting: list[Future[Prepared | StoredOutcome]], batch: Batch
) -> list[StoredOutcome]:
    """Commit what could be prepared; the outcomes of all, in the order they came."""
    results = [future.result() for future in waiting]
    prepared = [one for one in results if isinstance(one, Prepared)]
    committed = iter(ingest.commit(prepared, batch) if prepared else ())
    return [next(committed) if isinstance(one, Prepared) else one for one in results]


def _prepare(ingest: Ingest, body: Body, batch: Batch, study: str | None) -> Prepared | StoredOutcome:
    with closing(body):
        kind = media_types.parse(body.headers.get("content-type", DICOM)).type
        if kind not in {DICOM, "application/octet-stream", ""}:
            return StoredOutcome(Result.NOT_UNDERSTOOD, reason="a part is not application/dicom")
        if not body.ended:
            return StoredOutcome(
                Result.NOT_UNDERSTOOD, *_named(body), reason="no delimiter follows the last part: it may be cut short"
            )
        return ingest.prepare(body.data, batch, study_instance_uid=study)


def _named(body: Body) -> tuple[str, str]:
    """SOP class and instance of a part that is refused, where its file meta information says them."""
    try:
        part = part10.parse(body.data)
    except Unreadable:
        return "", ""
    class_uid, instance_uid = part.sop_class_uid, part.sop_instance_uid
    return class_uid if uids.is_uid(class_uid) else "", instance_uid if uids.is_uid(instance_uid) else ""


def response(outcomes: list[StoredOutcome], base: str, study_instance_uid: str | None) -> Json:
    """The Store Instances Response Module (Table I.1-1) as DICOM JSON. `base`: URL before ``/studies``."""
    stored = [one for one in outcomes if one.result.is_stored]
    failed = [one for one in outcomes if not one.result.is_stored]
    body: Json = {}
    studies = {one.study_instance_uid for one in stored}
    uid = study_instance_uid or (studies.pop() if len(studies) == 1 else None)
    if stored and uid:
        body["00081190"] = {"vr": "UR", "Value": [f"{base}/studies/{uid}"]}
    if failed:
        body["00081198"] = {"vr": "SQ", "Value": [_failed(one) for one in failed]}
    if stored:
        body["00081199"] = {"vr": "SQ", "Value": [_referenced(one, base) for one in stored]}
    return body


def _failed(outcome: StoredOutcome) -> Json:
    item = _reference(outcome)
    item["00081197"] = {"vr": "US", "Value": [outcome.result.value.failure_reason]}
    if outcome.reason:
        # (0000,0902) is a command element; the text goes where data sets carry one.
        item["00080220"] = {"vr": "LO", "Value": [outcome.reason[:64]]}
    return dict(sorted(item.items()))


def _referenced(outcome: StoredOutcome, base: str) -> Json:
    item = _reference(outcome)
    location = f"{base}/studies/{outcome.study_instance_uid}/series/{outcome.series_instance_uid}"
    item["00081190"] = {"vr": "UR", "Value": [f"{location}/instances/{outcome.sop_instance_uid}"]}
    if outcome.result.value.warning_reason:
        item["00081196"] = {"vr": "US", "Value": [outcome.result.value.warning_reason]}
    return dict(sorted(item.items()))


def _reference(outcome: StoredOutcome) -> Json:
    item: Json = {"00081150": {"vr": "UI"}, "00081155": {"vr": "UI"}}
    if outcome.sop_class_uid:
        item["00081150"]["Value"] = [outcome.sop_class_uid]
    if outcome.sop_instance_uid:
        item["00081155"]["Value"] = [outcome.sop_instance_uid]
    return item
