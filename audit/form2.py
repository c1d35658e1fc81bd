"""Form 2 of a record, and the AuditEvents that it is shown as. Pure, the standard library alone: `audit.offline` too.

A record is a *head* (who did what to which resource, when, with which outcome), the *particulars* (the query's text,
details, what went along, why it failed: what may concern several patients) and a *part* for each patient. Head,
particulars and parts are committed to under salts of their own, so that one event is proven, disclosed or erased
without the others (`leaf`). The AuditEvent is `event`, of one part: a function of the record and of this file alone.
What is released is never altered: another meaning is another form. Golden files hold this one (tests/audit/golden).

One event per patient concerned; a failure claims no profile and carries its OperationOutcome. An event never holds a
patient's name, a token or a key: it names resources by reference and a token by its random reference. What depends on
the caller alone is computed once, so sub-objects are shared between events: copy before altering.

IHE ITI BALP 1.1.4 §3:5.7 https://profiles.ihe.net/ITI/BALP/content.html, http://hl7.org/fhir/R4/auditevent.html
"""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any
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
    Json,
    Pattern,
    Shape,
)

FORM = 2
SALT_BYTES = 16
NOTHING = bytes(32)
"""The commitment of absent particulars, and the root of no parts."""
SUCCESS, MINOR, SERIOUS, MAJOR = "0", "4", "8", "12"
"""AuditEvent.outcome."""

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
_DEFAULT_ISSUE = {MINOR: "processing", SERIOUS: "forbidden", MAJOR: "exception"}
_RESULTS = frozenset({"count", "total"})
"""What a query found is not recorded (BALP 3:5.7.4.5)."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STUDY = frozenset({"StudyInstanceUID", "study_instance_uid"})


# --- what the log holds


def leaf(
    seq: int, record_id: str, recorded: int, logged: int, salt: bytes, head: bytes, particulars: bytes,
    parts: Sequence[tuple[bytes, bytes]],
) -> bytes:
    """The leaf hash of a record: of its head's, its particulars' and its parts' commitments.

    `recorded`, `logged`: µs since 1970. `salt`: of the head, then of the particulars, empty or not.
    `parts`: (salt, text) of each, or (commitment, b"") of one that was erased. The position is in the head's
    commitment, so a record that was moved disagrees with its own leaf.
    """
    return leaf_of_commitments(
        committed_head(seq, record_id, recorded, logged, salt[:SALT_BYTES], head),
        committed_particulars(salt, particulars),
        parts_root(parts),
    )


def committed_head(seq: int, record_id: str, recorded: int, logged: int, salt: bytes, head: bytes) -> bytes:
    """The head's commitment; the position and what else is no part of its text are in it. `salt`: its own."""
    stamp = f"{seq}\n{FORM}\n{record_id}\n{recorded}\n{logged}\n".encode()
    return hmac.digest(salt, stamp + head, "sha256")


def committed_particulars(salt: bytes, particulars: bytes) -> bytes:
    """The particulars' commitment, of none too: no byte of a record is without one. `salt`: both of it."""
    return hmac.digest(salt[SALT_BYTES:], particulars, "sha256")


def leaf_of_commitments(head: bytes, particulars: bytes, parts: bytes) -> bytes:
    """The leaf hash (RFC 6962 §2.1) over the three."""
    return sha256(b"\x00" + head + particulars + parts).digest()


def parts_root(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The Merkle root (RFC 6962 §2.1) of the parts' commitments, in an order that tells nothing of the parts."""
    level = sorted(commitment(salt, text) for salt, text in parts)
    if not level:
        return NOTHING
    level = [sha256(b"\x00" + one).digest() for one in level]
    while len(level) > 1:
        # As RFC 6962 has it: the last of an odd number moves up as it is.
        pairs = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = [*pairs, level[-1]] if len(level) & 1 else pairs
    return level[0]


def part_path(parts: Sequence[tuple[bytes, bytes]], number: int) -> list[tuple[str, bytes]]:
    """What leads from the part with this number to `parts_root`: (``left`` or ``right``, hash) of each neighbour."""
    own = commitment(*parts[number])
    level = sorted(commitment(salt, text) for salt, text in parts)
    at = level.index(own)
    level = [sha256(b"\x00" + one).digest() for one in level]
    path = []
    while len(level) > 1:
        if at ^ 1 < len(level):
            path.append(("left" if at & 1 else "right", level[at ^ 1]))
        pairs = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = [*pairs, level[-1]] if len(level) & 1 else pairs
        at //= 2
    return path


def commitment(salt: bytes, text: bytes) -> bytes:
    """What stands for a part: HMAC-SHA-256 under its salt; of one that was erased only this is left (`text` empty)."""
    return hmac.digest(salt, text, "sha256") if text else salt


def event_id(record_id: str, salt: bytes | None, patient: str) -> str:
    """The AuditEvent's logical id: the record's, and a keyed hash of the patient that tells nothing of other parts."""
    if salt is None:
        return record_id
    return f"{record_id}.{hmac.digest(salt, f'{record_id} {patient}'.encode(), 'sha256')[:8].hex()}"


# --- the AuditEvent


def event(
    id: str, head: Mapping[str, Any], particulars: Mapping[str, Any], patient: str | None, site: Mapping[str, str],
    recorded: int, logged: int,
) -> Json:
    """The AuditEvent of one part (`patient`: ``Patient/id``), or of a record that has none, as it is served."""
    made = body(head, particulars, patient, site, recorded)
    meta = {"versionId": "1", "lastUpdated": instant(logged), **made.pop("meta", {})}
    return {"resourceType": "AuditEvent", "id": id, "meta": meta, **made}


def body(
    head: Mapping[str, Any], particulars: Mapping[str, Any], patient: str | None, site: Mapping[str, str],
    recorded: int,
) -> Json:
    """The AuditEvent without `resourceType`, id and the meta that a version has.

    `site`: ``observer`` (reference of the Device that the server is), ``base_url`` (its FHIR endpoint), ``platform``
    (the Organization that runs it). `recorded`: µs since 1970; when the activity began stands in the head.
    """
    if "unread" in particulars:
        head, particulars = _unread(particulars["unread"], recorded)
    caller, access = head.get("caller", {}), {**head["access"], **particulars}
    interaction = access["interaction"]
    pattern = PATTERNS[interaction]
    outcome = access.get("outcome", SUCCESS)
    good = outcome == SUCCESS
    notified = interaction == "notify"
    token_ref, practitioner, request_id = (caller.get(name) for name in ("token_ref", "practitioner", "request_id"))
    purpose = pattern.purpose or caller.get("purpose", "")
    agents = _agents(
        interaction, caller.get("client_id", ""), caller.get("organization", ""), caller.get("role", ""), practitioner,
        token_ref, caller.get("address", ""), purpose, caller.get("is_system", False),
        access.get("owner") if notified else None, _fact(access, "endpoint") if notified else None,
        site["observer"], site["base_url"])
    subtype = pattern.subtype
    if notified and access.get("type") in (None, "Subscription"):
        subtype = NOTIFIED  # a handshake or a heartbeat discloses nothing
    entities = _ENTITIES[pattern.shape](caller, access, pattern)
    if patient:
        entities.append({"what": {"reference": patient}, "type": PERSON, "role": ROLE_PATIENT})
    if request_id and not (good and pattern.profile is TOKEN_ISSUED):
        # IHE.IUA.71 closes its list of entities.
        entities.append({"what": {"identifier": {"value": request_id}}, "type": REQUEST_ID})
    made: Json = {}
    if good:
        profiles = _profiles(interaction, bool(patient), bool(token_ref), bool(practitioner))
        if profiles:
            made["meta"] = {"profile": profiles}
    else:
        entities.append({"what": {"reference": "#oo"}, "description": "OperationOutcome returned"})
        made["contained"] = [_operation_outcome(access, outcome)]
    made["type"] = pattern.type
    made["subtype"] = [subtype, DERIVED] if access.get("derived") else [subtype]
    made["action"] = pattern.action
    made["period"] = {"start": instant(head["at"])}
    made["recorded"] = instant(recorded)
    made["outcome"] = outcome
    if not good:
        made["outcomeDesc"] = access.get("reason") or _DEFAULT_ISSUE[outcome]
    if purpose:
        made["purposeOfEvent"] = _purpose(purpose)
    made["agent"] = agents
    made["source"] = _source(site["observer"], site["platform"])
    if entities:
        made["entity"] = entities
    return made


def _unread(entry: str, recorded: int) -> tuple[Json, Json]:
    """A record that nobody can read: a failure of the server, with what was written down as it stands."""
    access = {"interaction": "operation", "outcome": MAJOR}
    particulars = {"reason": "exception: a record could not be read", "detail": [["entry", entry[:QUERY_LIMIT_BYTES]]]}
    return {"at": recorded, "access": access}, particulars


def instant(us: int) -> str:
    """µs since 1970 as a FHIR instant: UTC, milliseconds, Z."""
    return f"{_second(us // 1_000_000)}.{us % 1_000_000 // 1000:03d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


# --- entities


def _data(caller: Mapping[str, Any], access: Mapping[str, Any], pattern: Pattern) -> list[Json]:
    """The resource itself, with its version (BALP: `what` with version for an update)."""
    entities = []
    if access.get("type") is not None:
        entity: Json = {"type": SYSTEM_OBJECT,
                        "role": ROLE_REPORT if access["type"] == "DiagnosticReport" else ROLE_RESOURCE}
        if access.get("id") is not None:
            version = "" if access.get("version") is None else f"/_history/{access['version']}"
            entity = {"what": {"reference": f"{access['type']}/{access['id']}{version}"}, **entity}
        else:
            # A create that failed has no id yet: the type is all there is to say.
            entity["description"] = access["type"]
        if access.get("query"):
            # A conditional interaction is identified by its request, kept as BALP keeps a query.
            entity["description"] = cleaned(access["query"])
        entities.append(entity)
    entities += [
        {"what": {"reference": reference}, "type": SYSTEM_OBJECT, "role": ROLE_RESOURCE}
        for reference in access.get("context", ())
    ]
    return entities + _facts(access, skip=frozenset({"endpoint"}))


def _query(caller: Mapping[str, Any], access: Mapping[str, Any], pattern: Pattern) -> list[Json]:
    """The raw request in base64 and its cleaned text; results are not recorded (BALP 3:5.7.4.5)."""
    entities = []
    if access.get("query"):
        entities.append(_request(access["query"], secrets_only=False))
    elif pattern.profile is not None:
        entities.append(_request(f"GET {access.get('type') or ''}", secrets_only=False))
    elif access.get("type") is not None:
        entities += _data(caller, {**access, "detail": ()}, pattern)
    return entities + _facts(access, skip=_RESULTS)


def _study(caller: Mapping[str, Any], access: Mapping[str, Any], pattern: Pattern) -> list[Json]:
    """Each study by its UID (PS3.15 §A.5.3: ParticipantObjectTypeCodeRole 3), with the series, counts and the like."""
    studies = [value for name, value in access.get("detail", ()) if name in _STUDY]
    facts = [{"type": name, "valueString": value} for name, value in access.get("detail", ())
             if name not in _STUDY and name and value]
    entities: list[Json] = []
    for uid in studies:
        entity: Json = {"what": {"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}},
                        "type": SYSTEM_OBJECT, "role": ROLE_REPORT,
                        "detail": [{"type": "StudyInstanceUID", "valueString": uid}]}
        if not entities:
            entity["detail"] += facts
        if access.get("type") and access.get("id"):
            entity["what"]["reference"] = f"{access['type']}/{access['id']}"
        entities.append(entity)
    if access.get("query"):
        entities.append(_request(access["query"], secrets_only=False))
    if not studies:
        entities += _facts(access)
    return entities


def _token(caller: Mapping[str, Any], access: Mapping[str, Any], pattern: Pattern) -> list[Json]:
    """The token request without anything secret, and the token's name (BALP 3:5.7.5, IHE.IUA.71)."""
    entities = [_request(access.get("query") or "POST /oauth/token", secrets_only=True)]
    reference = caller.get("token_ref") or _fact(access, "token_ref")
    if reference is None:
        return entities + _facts(access)
    detail = [{"type": name, "valueString": value} for name, value in access.get("detail", ())
              if name and value and name != "token_ref"]
    entities.append({"what": {"identifier": {"value": TOKEN_URN + reference}}, "type": SYSTEM_OBJECT,
                     "role": ROLE_SECURITY, "detail": detail or [{"type": "token_type", "valueString": "Bearer"}]})
    return entities


_ENTITIES: dict[Shape, Callable[[Mapping[str, Any], Mapping[str, Any], Pattern], list[Json]]] = {
    Shape.DATA: _data, Shape.QUERY: _query, Shape.STUDY: _study, Shape.TOKEN: _token,
}


def _facts(access: Mapping[str, Any], skip: frozenset[str] = frozenset()) -> list[Json]:
    """What else is known, in an entity of our own: BALP forbids `detail` on its data and query entities."""
    facts = [{"type": name, "valueString": value} for name, value in access.get("detail", ())
             if name and value and name not in skip]
    return [{"type": DETAIL, "detail": facts}] if facts else []


def _fact(access: Mapping[str, Any], name: str) -> str | None:
    return next((value for key, value in access.get("detail", ()) if key == name and value), None)


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
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split()) or "(empty)"


def _operation_outcome(access: Mapping[str, Any], outcome: str) -> Json:
    reason = access.get("reason") or ""
    named = _ISSUE_CODE.match(reason)
    code = named[1] if named and named[1] in _ISSUE_CODES else _DEFAULT_ISSUE[outcome]
    issue: Json = {"severity": "error", "code": code}
    if reason:
        issue["diagnostics"] = reason
    return {"resourceType": "OperationOutcome", "id": "oo", "issue": [issue]}


# --- what depends on the caller alone: computed once per caller


@lru_cache(maxsize=4096)
def _agents(
    interaction: str, client_id: str, organization: str, role: str, practitioner: str | None,
    token_ref: str | None, address: str, purpose: str, is_system: bool, owner: str | None, endpoint: str | None,
    observer: str, base_url: str,
) -> list[Json]:
    """Client, server, OAuth client, person, organisation: BALP 3:5.7.4 and 3:5.7.5 in one list."""
    pattern = PATTERNS[interaction]
    notified = interaction == "notify"
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
def _profiles(interaction: str, patient: bool, token: bool, person: bool) -> list[str]:
    pattern = PATTERNS[interaction]
    profile = pattern.patient_profile if patient else pattern.profile
    profiles = [profile] if profile else []
    if token and pattern.shape is not Shape.TOKEN and interaction != "notify":
        profiles.append(COMPREHENSIVE if person else MINIMAL)
    return profiles


@lru_cache(maxsize=64)
def _purpose(code: str) -> list[Json]:
    return [{"coding": [{"system": ACT_REASON, "code": code}]}]


@lru_cache(maxsize=16)
def _source(observer: str, platform: str) -> Json:
    return {"site": platform, "observer": {"reference": observer}, "type": [APPLICATION_SERVER]}

