"""What is answered without a token: the CapabilityStatement and the SMART configuration.

FHIR R4 §3.1.0.10 http://hl7.org/fhir/R4/http.html#capabilities;
SMART 2.2 https://hl7.org/fhir/smart-app-launch/STU2.2/conformance.html
"""

from __future__ import annotations

from fhir_server.edge import capability, negotiation, summary
from fhir_server.edge.exchange import Answer, Asked
from fhir_server.edge.ports import Services
from resources import jsontext
from store.access import Access

_FOR_ANY_PAGE = (("Access-Control-Allow-Origin", "*"),)
_ASK_AGAIN = ("Cache-Control", "no-cache")
"""It may be kept, and is asked for again by its ETag."""


def capabilities(services: Services, asked: Asked, intent: Access) -> Answer:
    """The CapabilityStatement at the base that the client used; 304 where the client has it."""
    text, tag = capability.statement(services, asked.origin)
    headers = (("ETag", tag), _ASK_AGAIN, *_FOR_ANY_PAGE)
    if negotiation.holds(asked.headers.get("if-none-match"), tag):
        return Answer(304, b"", headers)
    subset = asked.given.subset
    return Answer(200, text if subset is None else summary.subset(text, subset), headers)


def smart_configuration(services: Services, asked: Asked, intent: Access) -> Answer:
    """The SMART configuration: JSON, but not FHIR."""
    body = jsontext.dump(services.authority.smart_configuration(asked.origin))
    return Answer(200, body, _FOR_ANY_PAGE, "application/json")
