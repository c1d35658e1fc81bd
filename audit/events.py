"""AuditEvents as IHE BALP asks, built from a caller and an access. Pure.

One event per patient concerned; a failure claims no profile and carries its OperationOutcome. An event never holds a
patient's name, a token or a key: it names resources by reference and a token by its random reference.
What depends on the caller alone is computed once, so sub-objects are shared between events: copy before altering.

IHE ITI BALP 1.1.4 §3:5.7 https://profiles.ihe.net/ITI/BALP/content.html, http://hl7.org/fhir/R4/auditevent.html
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from urllib.parse import unquote_plus, urlsplit

from audit.patterns import (
    ACT_REASON,
    APPLICATION,
    APPLICATION_SERVER,
    COMPREHENSIVE,
    DERIVED,
    DETAIL,
    MINIMAL,
    NOTIFIED,
    OAUTH_AGENT,
    PATTERNS,
    PERSON,
    PROVIDER,
    RECORDS_KEEPER,
    REQUEST_ID,
    ROLE_PATIENT,
    ROLE_QUERY,
    ROLE_REPORT,
    ROLE_RESOURCE,
    ROLE_SECURITY,
    SYSTEM_OBJECT,
    TOKEN_ISSUED,
    Pattern,
    Shape,
)
from resources.json import Json
from resources.times import instant_text
from store.access import Access, Caller, Interaction, Outcome

TOKEN_URN = "urn:ietf:params:oauth:jti:"  # noqa: S105 - a prefix
QUERY_LIMIT_BYTES = 65_536
"""More of a raw request is not kept: an attack stays visible, the log stays small."""

_CREDENTIALS = frozenset({"access_token", "id_token", "refresh_token", "client_assertion", "client_secret",
                          "code_verifier", "assertion", "password", "subject_token", "token", "authorization"})
_PERSONAL = frozenset({"name", "family", "given", "phonetic", "birthdate", "death-date", "identifier", "telecom",
                       "phone", "email", "address", "address-city", "address-postalcode", "address-state", "_content",
                       "_text", "_filter", "patientname", "patientid", "patientbirthdate", "accessionnumber"})
_PAIR = re.compile(r"([?&\n]|^)([^=&?\s]+)=([^&\s]*)")
_HEADER = re.compile(r"(?im)^(authorization|cookie|dpop)(\s*:\s*).*$")
_ISSUE_CODE = re.compile(r"(?:\d{3} )?([a-z][a-z-]{2,30})(?=[:\s]|$)")
_ISSUE_CODES = frozenset({
    "invalid", "structure", "required", "value", "invariant", "security", "login", "unknown", "expired", "forbidden",
    "suppressed", "processing", "not-supported", "duplicate", "multiple-matches", "not-found", "deleted", "too-long",
    "code-invalid", "extension", "too-costly", "business-rule", "conflict", "transient", "lock-error", "no-store",
    "exception", "timeout", "incomplete", "throttled", "informational",
})
_DEFAULT_ISSUE = {Outcome.MINOR: "processing", Outcome.SERIOUS: "forbidden", Outcome.MAJOR: "exception"}
_RESULTS = frozenset({"count", "total"})
"""What a query found is not recorded (BALP 3:5.7.4.5)."""
_STUDY = frozenset({"StudyInstanceUID", "study_instance_uid"})


def build(
    caller: Caller,
    access: Access,
    at: datetime,
    *,
    observer: str,
    base_url: str,
    platform: str,
    recorded: datetime | None = None,
    new_id: Callable[[], str] | None = None,
) -> list[Json]:
    """The AuditEvents of one access: one per patient, else one.

    `at` is when the activity began, `recorded` when it is recorded (default: the same). `observer` is the reference of
    the Device that the server is, `base_url` its FHIR endpoint, `platform` the Organization that runs it.
    """
    pattern = PATTERNS[access.interaction]
    good = access.outcome is Outcome.SUCCESS
    purpose = pattern.purpose or caller.purpose
    agents = _agents(access.interaction, caller.client_id, caller.organization, caller.role, caller.practitioner,
                     caller.token_ref, caller.address, purpose, caller.is_system,
                     access.owner if access.interaction is Interaction.NOTIFY else None,
                     _fact(access, "endpoint") if access.interaction is Interaction.NOTIFY else None,
                     observer, base_url)
    subtype = pattern.subtype
    if access.interaction is Interaction.NOTIFY and access.type in (None, "Subscription"):
        subtype = NOTIFIED  # a handshake or a heartbeat discloses nothing
    start, written = instant_text(at), instant_text(recorded or at)
    entities = _ENTITIES[pattern.shape](caller, access, pattern)
    tail: list[Json] = []
    if caller.request_id and not (good and pattern.profile is TOKEN_ISSUED):
        # IHE.IUA.71 closes its list of entities.
        tail.append({"what": {"identifier": {"value": caller.request_id}}, "type": REQUEST_ID})
    if not good:
        tail.append({"what": {"reference": "#oo"}, "description": "OperationOutcome returned"})
    events = []
    for patient in access.patients or (None,):
        event: Json = {"resourceType": "AuditEvent"}
        if new_id is not None:
            event["id"] = new_id()
        if good:
            profiles = _profiles(access.interaction, patient is not None, bool(caller.token_ref),
                                 bool(caller.practitioner))
            if profiles:
                event["meta"] = {"profile": profiles}
        else:
            event["contained"] = [_operation_outcome(access)]
        event["type"] = pattern.type
        event["subtype"] = [subtype, DERIVED] if access.derived else [subtype]
        event["action"] = pattern.action
        event["period"] = {"start": start}
        event["recorded"] = written
        event["outcome"] = access.outcome.value
        if not good:
            event["outcomeDesc"] = access.reason or _DEFAULT_ISSUE[access.outcome]
        if purpose:
            event["purposeOfEvent"] = _purpose(purpose)
        event["agent"] = agents
        event["source"] = _source(observer, platform)
        concerned = [{"what": {"reference": patient}, "type": PERSON, "role": ROLE_PATIENT}] if patient else []
        entity = [*entities, *concerned, *tail]
        if entity:
            event["entity"] = entity
        events.append(event)
    return events


def unread(entry: str, recorded: datetime, *, observer: str, base_url: str, platform: str) -> Json:
    """The AuditEvent of a record that nobody can read: a failure of the server, with the record as it stands."""
    access = Access(Interaction.OPERATION, outcome=Outcome.MAJOR, reason="exception: a record could not be read",
                    detail=(("entry", entry[:QUERY_LIMIT_BYTES]),))
    (event,) = build(Caller("", ""), access, recorded, observer=observer, base_url=base_url, platform=platform)
    return event


# --- entities


def _data(caller: Caller, access: Access, pattern: Pattern) -> list[Json]:
    """The resource itself, with its version (BALP: `what` with version for an update)."""
    entities = []
    if access.type is not None:
        entity: Json = {"type": SYSTEM_OBJECT,
                        "role": ROLE_REPORT if access.type == "DiagnosticReport" else ROLE_RESOURCE}
        if access.id is not None:
            version = "" if access.version is None else f"/_history/{access.version}"
            entity = {"what": {"reference": f"{access.type}/{access.id}{version}"}, **entity}
        else:
            # A create that failed has no id yet: the type is all there is to say.
            entity["description"] = access.type
        if access.query:
            # A conditional interaction is identified by its request, kept as BALP keeps a query.
            entity["description"] = cleaned(access.query)
        entities.append(entity)
    entities += [
        {"what": {"reference": reference}, "type": SYSTEM_OBJECT, "role": ROLE_RESOURCE} for reference in access.context
    ]
    return entities + _facts(access, skip=frozenset({"endpoint"}))


def _query(caller: Caller, access: Access, pattern: Pattern) -> list[Json]:
    """The raw request in base64 and its cleaned text; results are not recorded (BALP 3:5.7.4.5)."""
    entities = []
    if access.query:
        entities.append(_request(access.query, secrets_only=False))
    elif pattern.profile is not None:
        entities.append(_request(f"GET {access.type or ''}", secrets_only=False))
    elif access.type is not None:
        entities += _data(caller, replace(access, detail=()), pattern)
    return entities + _facts(access, skip=_RESULTS)


def _study(caller: Caller, access: Access, pattern: Pattern) -> list[Json]:
    """Each study by its UID (PS3.15 §A.5.3: ParticipantObjectTypeCodeRole 3), with the series, counts and the like."""
    studies = [value for name, value in access.detail if name in _STUDY]
    facts = [{"type": name, "valueString": value} for name, value in access.detail
             if name not in _STUDY and name and value]
    entities: list[Json] = []
    for uid in studies:
        entity: Json = {"what": {"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}},
                        "type": SYSTEM_OBJECT, "role": ROLE_REPORT,
                        "detail": [{"type": "StudyInstanceUID", "valueString": uid}]}
        if not entities:
            entity["detail"] += facts
        if access.type and access.id:
            entity["what"]["reference"] = f"{access.type}/{access.id}"
        entities.append(entity)
    if access.query:
        entities.append(_request(access.query, secrets_only=False))
    if not studies:
        entities += _facts(access)
    return entities


def _token(caller: Caller, access: Access, pattern: Pattern) -> list[Json]:
    """The token request without anything secret, and the token's name (BALP 3:5.7.5, IHE.IUA.71)."""
    entities = [_request(access.query or "POST /oauth/token", secrets_only=True)]
    reference = caller.token_ref or _fact(access, "token_ref")
    if reference is None:
        return entities + _facts(access)
    detail = [{"type": name, "valueString": value} for name, value in access.detail
              if name and value and name != "token_ref"]
    entities.append({"what": {"identifier": {"value": TOKEN_URN + reference}}, "type": SYSTEM_OBJECT,
                     "role": ROLE_SECURITY, "detail": detail or [{"type": "token_type", "valueString": "Bearer"}]})
    return entities


_ENTITIES: dict[Shape, Callable[[Caller, Access, Pattern], list[Json]]] = {
    Shape.DATA: _data, Shape.QUERY: _query, Shape.STUDY: _study, Shape.TOKEN: _token,
}


def _facts(access: Access, skip: frozenset[str] = frozenset()) -> list[Json]:
    """What else is known, in an entity of our own: BALP forbids `detail` on its data and query entities."""
    facts = [{"type": name, "valueString": value} for name, value in access.detail
             if name and value and name not in skip]
    return [{"type": DETAIL, "detail": facts}] if facts else []


def _fact(access: Access, name: str) -> str | None:
    return next((value for key, value in access.detail if key == name and value), None)


def _request(raw: str, *, secrets_only: bool) -> Json:
    kept = without_credentials(raw, form_of_token=secrets_only)
    encoded = kept.encode("utf-8", "replace")[:QUERY_LIMIT_BYTES]
    return {"type": SYSTEM_OBJECT, "role": ROLE_QUERY, "description": cleaned(kept),
            "query": b64encode(encoded).decode("ascii")}


def without_credentials(raw: str, *, form_of_token: bool = False) -> str:
    """The request without the values of credentials. `code` is one in an OAuth form, not in a search."""
    def hide(match: re.Match[str]) -> str:
        name = unquote_plus(match[2]).lower()
        secret = name in _CREDENTIALS or (form_of_token and name == "code")
        return f"{match[1]}{match[2]}=***" if secret else match[0]

    return _HEADER.sub(r"\1\2***", _PAIR.sub(hide, raw))


def cleaned(raw: str) -> str:
    """One readable line, without credentials, values that could identify a person, and control characters."""
    def hide(match: re.Match[str]) -> str:
        names = unquote_plus(match[2]).lower().split(".")
        plain = {name.partition(":")[0] for name in names} | set(names[-1].split(":"))
        personal = plain & _PERSONAL or plain & _CREDENTIALS
        return f"{match[1]}{match[2]}=***" if personal else match[0]

    text = _HEADER.sub(r"\1\2***", _PAIR.sub(hide, raw[:4096]))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "(empty)"


def _operation_outcome(access: Access) -> Json:
    reason = access.reason or ""
    named = _ISSUE_CODE.match(reason)
    code = named[1] if named and named[1] in _ISSUE_CODES else _DEFAULT_ISSUE[access.outcome]
    issue: Json = {"severity": "error", "code": code}
    if reason:
        issue["diagnostics"] = reason
    return {"resourceType": "OperationOutcome", "id": "oo", "issue": [issue]}


# --- what depends on the caller alone: computed once per caller


@lru_cache(maxsize=4096)
def _agents(
    interaction: Interaction, client_id: str, organization: str, role: str, practitioner: str | None,
    token_ref: str | None, address: str, purpose: str, is_system: bool, owner: str | None, endpoint: str | None,
    observer: str, base_url: str,
) -> list[Json]:
    """Client, server, OAuth client, person, organisation: BALP 3:5.7.4 and 3:5.7.5 in one list."""
    pattern = PATTERNS[interaction]
    notified = interaction is Interaction.NOTIFY
    who: Json = {"identifier": {"value": client_id}} if client_id else {"display": "unauthenticated"}
    network = _network(endpoint or address, base_url if is_system else "")
    policy = [TOKEN_URN + token_ref] if token_ref else None
    delegated = practitioner is not None and not notified
    oauth = policy is not None and pattern.shape is not Shape.TOKEN and not notified

    client: Json = {"type": {"coding": [pattern.client]}, "who": who, "requestor": not (delegated or notified),
                    "network": network}
    if oauth and not delegated:
        # OAUTHaccessTokenUse.Minimal: the highest agent responsible is the client itself.
        client["type"] = {"coding": [pattern.client, OAUTH_AGENT]}
        client["policy"] = policy
    server: Json = {"type": {"coding": [pattern.server]}, "who": {"reference": observer}, "requestor": notified,
                    "network": {"address": base_url, "type": "5"}}
    agents = [client, server]
    if delegated:
        # OAUTHaccessTokenUse.Comprehensive: application and person apart. A delete's client agent is that application.
        if oauth and pattern.client is not APPLICATION:
            agents.append({"type": {"coding": [APPLICATION]}, "who": who, "requestor": False, "network": network})
        agents.append(_person(pattern, str(practitioner), role, policy, purpose, base_url))
    if notified and owner:
        agents.append({"type": {"coding": [RECORDS_KEEPER]}, "who": {"reference": f"Organization/{owner}"},
                       "requestor": False})
    if organization and pattern.shape is not Shape.TOKEN:
        # IHE.IUA.71 closes its list of agents; everywhere else the organisation is said.
        agents.append({"type": {"coding": [PROVIDER]}, "who": {"reference": f"Organization/{organization}"},
                       "requestor": False})
    return agents


def _person(pattern: Pattern, practitioner: str, role: str, policy: list[str] | None, purpose: str,
            base_url: str) -> Json:
    logical_id = practitioner.rpartition("/")[2]
    person: Json = {
        "type": {"coding": [pattern.person]},
        "who": {"reference": practitioner if "/" in practitioner else f"Practitioner/{practitioner}",
                "identifier": {"system": base_url, "value": logical_id}},
        "requestor": True,
    }
    if role:
        person["role"] = [{"text": role}]
    if policy is not None:
        person["policy"] = policy
    if purpose:
        person["purposeOfUse"] = _purpose(purpose)
    return person


def _network(address: str, own: str) -> Json:
    """AuditEvent.agent.network: 5 URI, 2 IP address, 1 machine name."""
    if not address:
        return {"address": own, "type": "5"} if own else {"address": "unknown", "type": "1"}
    if "://" in address:
        parts = urlsplit(address)
        # The path of a subscriber's endpoint can hold a secret (a capability URL): host and scheme say who it was.
        return {"address": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", "type": "5"}
    numeric = ":" in address or address.replace(".", "").isdigit()
    return {"address": address, "type": "2" if numeric else "1"}


@lru_cache(maxsize=512)
def _profiles(interaction: Interaction, patient: bool, token: bool, person: bool) -> list[str]:
    pattern = PATTERNS[interaction]
    profile = pattern.patient_profile if patient else pattern.profile
    profiles = [profile] if profile else []
    if token and pattern.shape is not Shape.TOKEN and interaction is not Interaction.NOTIFY:
        profiles.append(COMPREHENSIVE if person else MINIMAL)
    return profiles


@lru_cache(maxsize=64)
def _purpose(code: str) -> list[Json]:
    return [{"coding": [{"system": ACT_REASON, "code": code}]}]


@lru_cache(maxsize=16)
def _source(observer: str, platform: str) -> Json:
    return {"site": platform, "observer": {"reference": observer}, "type": [APPLICATION_SERVER]}

