"""The subscription operations: `$status` (type and instance) and `$events` (instance).

`$events` is how a hospital fills the gap that it sees in the event numbers. What it answers is what the asking client
may see today, whatever was delivered before.

http://hl7.org/fhir/uv/subscriptions-backport/STU1.1/OperationDefinition-backport-subscription-status.html
http://hl7.org/fhir/uv/subscriptions-backport/STU1.1/OperationDefinition-backport-subscription-events.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from resources.json import Json
from resources.outcomes import BadRequest, Gone, NotFound
from store.access import Access, Interaction, Version, Work
from subscriptions import notifications, outbox, terms, topics
from subscriptions.composition import Composer
from subscriptions.notifications import Kind, Status
from subscriptions.outbox import State

Parameters = Sequence[tuple[str, str]]
Operation = Callable[[Work, str | None, Parameters, str], Json]
"""(read-only unit of work of the request, id or None at type level, the parameters that the edge declares, FHIR base
that the client used) → resource."""

EVENTS_MAX = 100
STATUSES_MAX = 1000


class Operations:
    """What the edge routes under ``Subscription/$…``."""

    def __init__(self, composer: Composer) -> None:
        self._composer = composer

    @property
    def table(self) -> Mapping[str, Operation]:
        """Operation name, without the dollar → function."""
        return {"status": self.status, "events": self.events}

    def status(self, uow: Work, id: str | None, parameters: Parameters, base_url: str) -> Json:
        """A searchset with the SubscriptionStatus of one subscription, or of those of the caller's organisation."""
        if id is not None:
            found = [self._one(uow, id)]
        else:
            found = self._all(uow, _several(parameters, "id"))
            wanted = _several(parameters, "status")
            found = [status for status in found if not wanted or status.status in wanted]
        return notifications.status_bundle(found, base_url=base_url, at=uow.now)

    def events(self, uow: Work, id: str | None, parameters: Parameters, base_url: str) -> Json:
        """A notification with events from `eventsSinceNumber` to `eventsUntilNumber`, both included; at most 100."""
        if id is None:
            raise BadRequest("$events is asked of one Subscription", code="not-supported")
        version, state = self._subscription(uow, id)
        first = _number(parameters, "eventsSinceNumber", 1)
        last = _number(parameters, "eventsUntilNumber", state.events if state else 0)
        content = _several(parameters, "content")[-1:] or [state.content if state else "id-only"]
        if content[0] not in terms.CONTENT_LEVELS:
            raise BadRequest(f"content is one of {', '.join(terms.CONTENT_LEVELS)}", expression="content")
        rows = outbox.events_between(uow.connection, id, first, last, limit=EVENTS_MAX)
        topic = state.topic if state else ""
        found = self._composer.events(uow.connection, uow.caller, rows, topic=topic, content=content[0])
        detail = (
            ("operation", "$events"),
            ("subscription", id),
            ("events", f"{first}-{last}"),
            ("content", content[0]),
        )
        for (_, focus), event in found.told:
            uow.note(
                Access(
                    Interaction.OPERATION, focus.type, focus.id, focus.version, patients=event.disclosed_patients(),
                    owner=focus.owner, detail=detail, context=event.disclosed_context(),
                )
            )  # fmt: skip
        return notifications.bundle(
            Kind.QUERY_EVENT, _status(version, state), found.with_bare(rows), content=content[0], base_url=base_url,
            at=uow.now,
        )  # fmt: skip

    def _one(self, uow: Work, id: str) -> Status:
        version, state = self._subscription(uow, id)
        return _status(version, state)

    def _all(self, uow: Work, ids: Sequence[str]) -> list[Status]:
        uow.resources.visibility(Interaction.READ, "Subscription")  # Forbidden, also where there is none
        states = outbox.of_organization(uow.connection, uow.caller.organization)
        wanted = {text.rpartition("/")[2] for text in ids}
        found = []
        for state in states[:STATUSES_MAX]:
            if wanted and state.subscription_id not in wanted:
                continue
            try:
                found.append(self._one(uow, state.subscription_id))
            except (NotFound, Gone):  # the scope's constraints leave it out
                continue
        return found

    def _subscription(self, uow: Work, id: str) -> tuple[Version, State | None]:
        """A subscription and how far it has got; None: it has been off since it was written."""
        return uow.resources.read("Subscription", id), outbox.state(uow.connection, id)


def _status(version: Version, state: State | None) -> Status:
    resource = version.json()
    published = topics.by_url(resource.get("criteria"))
    return Status(
        version.id, published.url if published else None, resource["status"], state.events if state else 0,
        resource.get("error"),
    )  # fmt: skip


def _several(asked: Parameters, name: str) -> list[str]:
    return [part for key, value in asked if key == name for part in value.split(",") if part]


def _number(asked: Parameters, name: str, default: int) -> int:
    given = _several(asked, name)
    if not given:
        return default
    if len(given) > 1 or not given[0].isdecimal() or len(given[0]) > 18:
        raise BadRequest(f"{name} is one whole number", expression=name)
    return int(given[0])
