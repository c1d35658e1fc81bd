"""The server's word on a Subscription: active, error, off. The resource and the delivery state change in one commit."""

from __future__ import annotations

from resources.json import Json
from resources.outcomes import Gone, NotFound
from store.access import Caller, Work


def write_status(uow: Work, subscription_id: str, status: str, *, error: str | None = None) -> bool:
    """A new version of the Subscription with this status. False where it was deleted meanwhile.

    `error` is the last error (Subscription.error), a text of ours without anything of the partner's answer.
    """
    try:
        current = uow.resources.read("Subscription", subscription_id)
    except (NotFound, Gone):
        return False
    resource: Json = {key: value for key, value in current.json().items() if key != "error"}
    resource["status"] = status
    if error is not None:
        resource["error"] = error
    uow.resources.update("Subscription", subscription_id, resource, if_match=current.version)
    return True


def server_for(organization: str) -> Caller:
    """The server acting on a Subscription of this organisation, which stays its owner."""
    return Caller.system(organization)
