"""By what a record is found: the rows of `audit_index`, a few per record, each a number and an instant.

They only name candidates: what a search shows is compared with the AuditEvent itself. They can be made again from the
records, and `verify` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import lru_cache
from typing import Any

import orjson

from audit.forms import FORM_1, Part, Row, parts_of, texts_of
from audit.patterns import NOTIFIED, PATTERNS
from resources.hashing import hash64
from resources.json import Json


class Kind(IntEnum):
    """What a row says of a record. The numbers are stored: none is ever given another meaning."""

    PATIENT = 1
    """Logical id of a patient concerned: one row per AuditEvent."""
    PERSON = 2
    """Logical id of the person who acted."""
    CLIENT = 3
    """The client's id."""
    ENTITY = 4
    """Logical id of what it is about, or ``urn:oid:…`` of a study. Patients have a kind of their own."""
    ACT = 5
    """What was done: ``type|subtype|action``, see `act`."""
    OUTCOME = 6
    """Of what did not succeed: a success is what is left."""
    ORGANIZATION = 7
    """Whose people and programs acted, and whose patients it concerns."""
    DERIVED = 8
    """Done by the server on a caller's behalf: one value."""


def number(text: str) -> int:
    """`value` of a text: case does not matter to what only names candidates."""
    return hash64(text.casefold())


Keys = set[tuple[int, int]]
"""(kind, value)."""


def keys_of(row: Row) -> Keys:
    """The rows of a record, without its instant and its position. Empty for what cannot be read."""
    try:
        if row.form == FORM_1:
            return set(_of_event(orjson.loads(row.head or "{}")))
        head, particulars = texts_of(row)
        return keys(head, particulars, parts_of(row))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return set()


def keys(head: Json, particulars: Json, parts: Iterable[Part]) -> Keys:
    """The same of a record of form 2."""
    found = {(_PATIENT, number(part.patient.rpartition("/")[2])) for part in parts if part.patient}
    found |= {(_ORGANIZATION, number(part.owner)) for part in parts if part.owner}
    if "unread" in particulars:
        return found | {(_ACT, number(act_of("operation"))), (_OUTCOME, number("12"))}
    caller, access = head["caller"], head["access"]
    interaction = access["interaction"]
    found |= _of_caller(
        caller.get("client_id", ""), caller.get("organization"), caller.get("practitioner"), interaction,
        interaction == "notify" and access.get("type") in (None, "Subscription"), access.get("derived", False),
        access.get("outcome"),
    )
    if interaction == "notify" and "owner" in access:
        found.add((_ORGANIZATION, number(access["owner"])))
    if "id" in access:
        found.add((_ENTITY, number(access["id"])))
    for reference in particulars.get("context", ()):
        found.add((_ENTITY, number(_id_in(reference))))
    for name, value in particulars.get("detail", ()):
        if name in _STUDY:
            found.add((_ENTITY, number(f"urn:oid:{value}")))
    return found


def act_of(interaction: str, *, bare: bool = False) -> str:
    """ACT of an interaction. `bare`: a notification that discloses nothing."""
    pattern = PATTERNS[interaction]
    return act(pattern.type["code"], (NOTIFIED if bare else pattern.subtype)["code"], pattern.action)


def act(type_code: str, subtype_code: str, action: str) -> str:
    """What `Kind.ACT` numbers."""
    return f"{type_code}|{subtype_code}|{action}"


ACTS = frozenset(act_of(interaction) for interaction in PATTERNS) | {act_of("notify", bare=True)}
"""All that there are, in either form: a search by type, subtype or action asks for some of them."""

_PATIENT, _PERSON, _CLIENT, _ENTITY, _ACT, _OUTCOME, _ORGANIZATION, _DERIVED = map(int, Kind)
_STUDY = frozenset({"StudyInstanceUID", "study_instance_uid"})


@lru_cache(maxsize=16384)
def _of_caller(
    client: str, organization: str | None, person: str | None, interaction: str, bare: bool, derived: bool,
    outcome: str | None,
) -> frozenset[tuple[int, int]]:
    """What one caller's accesses of a kind have in common."""
    found = {(_CLIENT, number(client)), (_ACT, number(act_of(interaction, bare=bare)))}
    if organization:
        found.add((_ORGANIZATION, number(organization)))
    if person:
        found.add((_PERSON, number(person.rpartition("/")[2])))
    if derived:
        found.add((_DERIVED, 1))
    if outcome:
        found.add((_OUTCOME, number(outcome)))
    return frozenset(found)


def _of_event(event: Json) -> Iterator[tuple[int, int]]:
    """Of form 1: the same, out of the AuditEvent. The migration that made form 1 of stored versions repeats it."""
    subtypes = [coding.get("code", "") for coding in event.get("subtype", ())]
    yield _ACT, number(act(event.get("type", {}).get("code", ""), subtypes[0], event.get("action", "")))
    if "derived" in subtypes:
        yield _DERIVED, 1
    if event.get("outcome", "0") != "0":
        yield _OUTCOME, number(event["outcome"])
    for agent in event.get("agent", ()):
        who = agent.get("who", {})
        reference = who.get("reference", "")
        if reference.startswith("Practitioner/"):
            yield _PERSON, number(_id_in(reference))
        elif reference.startswith("Organization/"):
            yield _ORGANIZATION, number(_id_in(reference))
        elif not reference and "identifier" in who:
            yield _CLIENT, number(who["identifier"].get("value", ""))
    for entity in event.get("entity", ()):
        yield from _of_entity(entity.get("what", {}))


def _of_entity(what: Json) -> Iterator[tuple[int, int]]:
    reference: str = what.get("reference", "")
    if reference.startswith("Patient/") and "/_history/" not in reference:
        yield _PATIENT, number(_id_in(reference))
    elif reference and reference != "#oo":
        yield _ENTITY, number(_id_in(reference))
    value: Any = what.get("identifier", {}).get("value", "")
    if value.startswith("urn:oid:"):
        yield _ENTITY, number(value)


def _id_in(reference: str) -> str:
    """The logical id in ``Type/id`` or ``Type/id/_history/n``."""
    parts = reference.split("/")
    return parts[1] if len(parts) > 1 else reference
