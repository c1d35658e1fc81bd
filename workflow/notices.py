"""What the platform tells a hospital of its case: a Communication that it may read and subscribe to.

FHIR R4 Communication  http://hl7.org/fhir/R4/communication.html
"""

from __future__ import annotations

from resources.codes import DISPLAYS, NOTICE, concept
from resources.json import Json
from resources.times import instant_text
from workflow import context
from workflow.cases import Case
from workflow.context import look_up


def tell_hospital(case: Case, code: str, text: str, *, why: Json | None = None, about: str | None = None) -> None:
    """Tell the hospital that ordered; `code` is one of `NOTICE`, `about` a reference to what it is of.

    A hospital without an Organization here is told by its root Task alone.
    """
    hospital = f"Organization/{case.order.owner}"
    if look_up(case.uow, hospital) is None:
        return
    sender = case.uow.caller.practitioner or case.context.platform_reference
    body: Json = {
        "resourceType": "Communication",
        "status": "in-progress",
        "category": [concept(NOTICE, code)],
        "basedOn": [{"reference": case.order.reference}],
        "subject": case.order_json.get("subject"),
        "sent": instant_text(case.uow.now),
        "sender": {"reference": sender},
        "recipient": [{"reference": hospital}],
        "payload": [{"contentString": text or DISPLAYS[NOTICE][code]}],
    }
    if why:
        body["reasonCode"] = [why]
    if about:
        body["about"] = [{"reference": about}]
    context.create(case.uow, "Communication", body)
