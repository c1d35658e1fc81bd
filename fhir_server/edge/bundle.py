"""POST of a Bundle to the base: batch or transaction.

FHIR R4 §3.1.0.11 http://hl7.org/fhir/R4/http.html#transaction
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from fhir_server.edge import batch, negotiation, reads, writes
from fhir_server.edge.exchange import Answer, Asked, warned
from fhir_server.edge.ports import Handler, Services
from resources import bundles, jsontext, sizes, times
from resources.interactions import Interaction
from resources.json import Json
from resources.outcomes import BadRequest, InvalidContent, Issue
from store.access import Access, Recording, Version

ENTRIES: Mapping[Interaction, Handler] = {
    Interaction.READ: reads.carry_out,
    Interaction.VREAD: reads.carry_out,
    Interaction.SEARCH_TYPE: reads.carry_out,
    Interaction.SEARCH_SYSTEM: reads.carry_out,
    Interaction.HISTORY_INSTANCE: reads.carry_out,
    Interaction.HISTORY_TYPE: reads.carry_out,
    Interaction.HISTORY_SYSTEM: reads.carry_out,
    Interaction.CREATE: writes.create,
    Interaction.UPDATE: writes.update,
    Interaction.DELETE: writes.delete,
}
"""What carries out each interaction that may be an entry of a Bundle, there or by itself."""


def carry_out(services: Services, asked: Asked, intent: Access) -> Answer:
    """Carry out a batch or a transaction. Raises BadRequest, InvalidContent; of a batch, only for the whole."""
    negotiation.require_fhir_json(asked.headers.get("content-type"))
    bundle = jsontext.parse(asked.body)
    if bundle.get("resourceType") != "Bundle":
        raise BadRequest("A Bundle is posted to the base", code="value", expression="resourceType")
    batch.check_size(bundle)
    kind = bundle.get("type")
    own, of_entry = batch.split_issues(bundle)
    of_entries = [issue for listed in of_entry.values() for issue in listed]
    if kind not in ("batch", "transaction"):
        wrong = Issue("error", "value", "Bundle.type must be batch or transaction", ("Bundle.type",))
        raise InvalidContent("Bundle.type must be batch or transaction", issues=(*own, *of_entries, wrong))
    if kind == "transaction" and asked.caller.recording is not None:
        asked.caller.recording.propose(replace(intent, interaction=Interaction.TRANSACTION))
    if own or (kind == "transaction" and of_entry):
        raise InvalidContent("The Bundle is not valid", issues=(*own, *of_entries))
    if kind == "transaction":
        entries = _transaction(services, asked, bundle)
    else:
        entries = _batch(services, asked, bundle, of_entry)
    return Answer(
        200,
        bundles.bundle(
            f"{kind}-response",
            entries,
            dump=jsontext.dump,
            identifier=services.new_id(),
            instant=times.instant_text(services.clock()),
        ),
    )


def _transaction(services: Services, asked: Asked, bundle: Json) -> list[bundles.Entry]:
    def shown(version: Version, asked: Asked) -> bytes:
        return services.shown(version, asked.caller)

    planned = batch.plan(bundle, lambda url: _base_of(services, url), asked.base, lenient=asked.preference.lenient)
    done = services.store.transact(
        asked.caller,
        lambda uow: batch.transaction(
            uow, asked, planned, reader=lambda uow, one: reads.within(services, uow, one), new_id=uow.new_id
        ),
        intent=Access(Interaction.TRANSACTION, query=asked.raw),
    )
    return [batch.response_entry(one, asked, shown) for one in done]


def _batch(services: Services, asked: Asked, bundle: Json, of_entry: dict[int, list[Issue]]) -> list[bundles.Entry]:
    entries: list[bundles.Entry] = []
    spent = batch.Spent()
    for index, entry in enumerate(bundle.get("entry", [])):

        def one_entry(single: Asked, entry: Json = entry, index: int = index) -> Answer:
            if index in of_entry:
                raise InvalidContent("The resource is not valid", issues=of_entry[index])
            one = batch.plan_one(
                index, entry, lambda url: _base_of(services, url), lenient=asked.preference.lenient
            )
            answer = _entry(services, single, one, spent)
            spent.add(answer.body)
            return answer

        entries.extend(_recorded(services, asked, batch.raw_request(entry, asked.base), one_entry))
    return entries


def _recorded(
    services: Services, asked: Asked, raw: str, carry_out: Callable[[Asked], Answer]
) -> list[bundles.Entry]:
    """Carry out one entry of a batch, which is an access of its own, with a record of its own."""
    recording = Recording(raw)
    recording.propose(Access(Interaction.BATCH, query=raw))
    recording.caller = caller = replace(asked.caller, recording=recording)
    status = 500
    try:
        entries = batch.batch(lambda: carry_out(replace(asked, caller=caller, raw=raw)), recording)
        status = batch.status_of(entries)
    finally:
        services.store.settle(recording, status)
        if asked.caller.recording is not None:
            asked.caller.recording.is_recorded = True
    return entries


def _entry(services: Services, asked: Asked, one: batch.Planned, spent: batch.Spent) -> Answer:
    """Carry out an entry of a batch as a request of its own. Its resource was validated with the Bundle.

    Where the answers are full already, a read is refused and a write is answered without its resource.
    """
    route = one.route
    intent = Access(route.interaction, route.type, route.id, route.version, query=asked.raw)
    if asked.caller.recording is not None:
        asked.caller.recording.propose(intent)
    if one.resource is not None:
        sizes.check(route.type or "", one.resource)
    if route.form.entry == "GET":
        spent.admit()
    with_resource = asked.prefers and not spent.is_over
    single = replace(
        asked,
        route=route,
        given=one.given,
        headers={**one.headers, "content-type": negotiation.FHIR_JSON, "accept": negotiation.FHIR_JSON},
        body=b"",
        resource=one.resource,
        preference=replace(asked.preference, returns=asked.preference.returns if with_resource else "minimal"),
    )
    return warned(ENTRIES[route.interaction](services, single, intent), one.given.dropped)


def _base_of(services: Services, url: str) -> str | None:
    bases = [f"{base}/fhir/" for base in services.bases]
    return next((base for base in bases if url.startswith(base)), None)
