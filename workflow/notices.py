"""What the server says by itself: a Communication on a caller's or on the clock's behalf.

FHIR R4 Communication  http://hl7.org/fhir/R4/communication.html
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from resources.codes import DISPLAYS, NOTICE, concept
from resources.json import Json
from resources.times import instant_text
from store.access import Version, Work
from workflow import context
from workflow.cases import Case
from workflow.context import look_up


def write(
    uow: Work, category: list[Json], text: str, recipients: Iterable[str], orders: Iterable[str] = (), **elements: Any
) -> Version:
    """Say `text` to `recipients` about `orders` (references). In progress until somebody has received it; `elements`
    are further ones of the Communication, or others than these; those that are None are left out."""
    body: dict[str, Any] = {
        "resourceType": "Communication",
        "status": "in-progress",
        "category": category,
        "basedOn": [{"reference": one} for one in orders] or None,
        "sent": instant_text(uow.now),
        "recipient": [{"reference": one} for one in recipients] or None,
        "payload": [{"contentString": text}],
        **elements,
    }
    return context.create(uow, "Communication", {name: one for name, one in body.items() if one is not None})


def tell(case: Case, category: Json, text: str, *, to_platform: bool = False, **elements: Any) -> None:
    """Write to the hospital that ordered (and to the platform) on the caller's behalf. A hospital without an
    Organization here is told by its root Task alone."""
    uow, site = case.uow, case.context
    receivers = [case.order.owner, *([site.platform] if to_platform else [])]
    recipients = [one for name in receivers if look_up(uow, one := f"Organization/{name}") is not None]
    if not recipients:
        return
    sender = site.platform_reference
    if uow.caller.organization == site.platform and uow.caller.practitioner:
        sender = uow.caller.practitioner
    elements["sender"] = {"reference": sender} if look_up(uow, sender) is not None else None
    subject = case.order_json.get("subject")
    write(uow, [category], text, recipients, [case.order.reference], subject=subject, **elements)


def tell_hospital(case: Case, code: str, text: str, *, why: Json | None = None, about: str | None = None) -> None:
    """Tell the hospital that ordered; `code` is one of `NOTICE`, `about` a reference to what it is of."""
    tell(
        case, concept(NOTICE, code), text or DISPLAYS[NOTICE][code], reasonCode=[why] if why else None,
        about=[{"reference": about}] if about else None,
    )
