"""The operator's duty with subscriptions: have what was set aside tried again now."""

from __future__ import annotations

from fhir_server.duties import acts, deployment
from fhir_server.server.faults import CannotRun
from fhir_server.server.settings import Settings
from subscriptions.again import Retried

RETRY = "subscription-retry"


def retry(settings: Settings, subscription: str | None) -> Retried:
    """Try the events that were set aside, of all subscriptions or of one, beside the running service.

    Done again, it tries what is still set aside: nothing is told twice. Raises CannotRun for a subscription that there
    is not.
    """
    with deployment.opened(settings) as services, acts.recorded(services, RETRY):
        done = services.subscriptions.retry(subscription)
        if done is None:
            raise CannotRun("there is no such subscription")
    return done
