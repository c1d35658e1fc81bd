"""IHE BALP as a table: one row per interaction says which AuditEvent records it. Part of form 2, and frozen with it.

A row names the profiles of the successful event (with and without a patient), its type, subtype and action, the roles
of the two machines and of the person, and the shape of its entities. Failures have the same row and no profile.
A test compares the RESTful rows with `resources.interactions`. Where they have to change, a new form begins: what was
logged in this one is shown as it was. Needs the standard library alone (`audit.offline` projects with it).

IHE ITI BALP 1.1.4 https://profiles.ihe.net/ITI/BALP/content.html; DICOM PS3.15 §A.5.3 (event ids), PS3.16 CID 400.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

Json = dict[str, Any]

PROFILES = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/"
MINIMAL = PROFILES + "IHE.BasicAudit.OAUTHaccessTokenUse.Minimal"
COMPREHENSIVE = PROFILES + "IHE.BasicAudit.OAUTHaccessTokenUse.Comprehensive"
DISCLOSURE = PROFILES + "IHE.BasicAudit.PrivacyDisclosure.Source"
TOKEN_ISSUED = PROFILES + "IHE.IUA.71"

DCM = "http://dicom.nema.org/resources/ontology/DCM"
RESTFUL = "http://hl7.org/fhir/restful-interaction"
PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
ENTITY_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
OBJECT_ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
BALP_ENTITY_TYPE = "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType"
USER_AGENT_TYPES = "https://profiles.ihe.net/ITI/BALP/CodeSystem/UserAgentTypes"
ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
VIGIE = "urn:x-vigie:audit"
"""What no standard code says: `derived`, `introspect`, `admin`, `notify`, `detail`."""


def coding(system: str, code: str, display: str | None = None) -> Json:
    """A Coding."""
    return {"system": system, "code": code, **({"display": display} if display else {})}


REST = coding("http://terminology.hl7.org/CodeSystem/audit-event-type", "rest", "Restful Operation")
SOURCE = coding(DCM, "110153", "Source Role ID")
DESTINATION = coding(DCM, "110152", "Destination Role ID")
APPLICATION = coding(DCM, "110150", "Application")
CUSTODIAN = coding("http://terminology.hl7.org/CodeSystem/provenance-participant-type", "custodian", "Custodian")
RECORDS_KEEPER = coding("http://snomed.info/sct", "159541003", "Record keeping/library clerk")
AUTHORIZATION_SERVICE = coding(USER_AGENT_TYPES, "AuthzOauthService")
OAUTH_AGENT = coding(USER_AGENT_TYPES, "UserOauthAgent")
RECIPIENT_PERSON = coding(PARTICIPATION, "IRCP", "information recipient")
AUTHOR = coding(PARTICIPATION, "AUT", "author (originator)")
PROVIDER = coding("http://terminology.hl7.org/CodeSystem/v3-RoleClass", "PROV", "healthcare provider")
PERSON = coding(ENTITY_TYPE, "1", "Person")
SYSTEM_OBJECT = coding(ENTITY_TYPE, "2", "System Object")
ROLE_PATIENT = coding(OBJECT_ROLE, "1", "Patient")
ROLE_REPORT = coding(OBJECT_ROLE, "3", "Report")
ROLE_RESOURCE = coding(OBJECT_ROLE, "4", "Domain Resource")
ROLE_SECURITY = coding(OBJECT_ROLE, "13", "Security Resource")
ROLE_QUERY = coding(OBJECT_ROLE, "24", "Query")
REQUEST_ID = coding(BALP_ENTITY_TYPE, "XrequestId")
DETAIL = coding(VIGIE, "detail")
DERIVED = coding(VIGIE, "derived", "Done by the server on the caller's behalf")
DISCLOSE = coding("http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle", "disclose",
                  "Disclose Record Lifecycle Event")
NOTIFIED = coding(VIGIE, "notify", "Notification without content")
APPLICATION_SERVER = coding("http://terminology.hl7.org/CodeSystem/security-source-type", "4", "Application Server")


class Shape(StrEnum):
    """Which entities an event has besides patient, request id and outcome."""

    DATA = "data"
    QUERY = "query"
    STUDY = "study"
    TOKEN = "token"  # noqa: S105 - a shape of entities, not a secret


@dataclass(frozen=True, slots=True)
class Pattern:
    """How one interaction is recorded."""

    type: Json
    subtype: Json
    action: str
    client: Json
    server: Json
    person: Json
    shape: Shape
    profile: str | None = None
    """Claimed by a successful event that concerns no patient."""
    patient_profile: str | None = None
    """Claimed by a successful event that concerns a patient."""
    purpose: str = ""
    """The purpose of such an act, whoever's; empty: the caller's own."""


def _rest(code: str, action: str, entity: str, profile: str | None = None) -> tuple[str, Pattern]:
    """A RESTful interaction: BALP 3:5.7.4, one profile per kind in a plain and in a Patient form."""
    client, server = {"R": (DESTINATION, SOURCE), "D": (APPLICATION, CUSTODIAN)}.get(action, (SOURCE, DESTINATION))
    person = RECIPIENT_PERSON if action in "RE" else AUTHOR
    plain, patient = (f"{PROFILES}IHE.BasicAudit.{profile}", f"{PROFILES}IHE.BasicAudit.Patient{profile}") \
        if profile else (None, None)
    return code, Pattern(
        REST, coding(RESTFUL, code, code), action, client, server, person, Shape(entity), plain, patient)


PATTERNS: Mapping[str, Pattern] = MappingProxyType({
    **dict((
        _rest("read", "R", "data", "Read"),
        _rest("vread", "R", "data", "Read"),
        _rest("create", "C", "data", "Create"),
        _rest("update", "U", "data", "Update"),
        _rest("delete", "D", "data", "Delete"),
        _rest("history-instance", "R", "data"),
        _rest("history-type", "E", "query"),
        _rest("search-type", "E", "query", "Query"),
        _rest("transaction", "E", "query"),
        _rest("batch", "E", "query"),
        _rest("search-system", "E", "query", "Query"),
        _rest("history-system", "E", "query"),
        _rest("operation", "E", "query"),
    )),
    # DICOM PS3.15 §A.5.3.10 Query, §A.5.3.7 DICOM Instances Transferred.
    "dicom-query": Pattern(
        coding(DCM, "110112", "Query"), coding(RESTFUL, "search-type", "search-type"), "E",
        SOURCE, DESTINATION, RECIPIENT_PERSON, Shape.STUDY),
    "dicom-retrieve": Pattern(
        coding(DCM, "110104", "DICOM Instances Transferred"), coding(RESTFUL, "read", "read"), "R",
        DESTINATION, SOURCE, RECIPIENT_PERSON, Shape.STUDY),
    "dicom-store": Pattern(
        coding(DCM, "110104", "DICOM Instances Transferred"), coding(RESTFUL, "create", "create"), "C",
        SOURCE, DESTINATION, AUTHOR, Shape.STUDY),
    # The first instances of a study are durable: if nothing follows, the log says at least that it began.
    "dicom-begin": Pattern(
        coding(DCM, "110102", "Begin Transferring DICOM Instances"), coding(RESTFUL, "create", "create"), "C",
        SOURCE, DESTINATION, AUTHOR, Shape.STUDY),
    # BALP 3:5.7.8: the server is the source and the initiator, the subscriber receives.
    "notify": Pattern(
        coding(DCM, "110106", "Export"), DISCLOSE, "R",
        DESTINATION, SOURCE, RECIPIENT_PERSON, Shape.DATA, None, DISCLOSURE),
    "token": Pattern(
        coding(DCM, "110114", "User Authentication"), coding("urn:ihe:event-type-code", "ITI-71", "Get Access Token"),
        "E", APPLICATION, AUTHORIZATION_SERVICE, RECIPIENT_PERSON, Shape.TOKEN, TOKEN_ISSUED, TOKEN_ISSUED),
    "revoke": Pattern(
        coding(DCM, "110113", "Security Alert"), coding(DCM, "110137", "User Security Attributes Changed"), "E",
        APPLICATION, AUTHORIZATION_SERVICE, RECIPIENT_PERSON, Shape.TOKEN),
    "introspect": Pattern(
        coding(DCM, "110114", "User Authentication"), coding(VIGIE, "introspect", "Introspect an access token"), "E",
        APPLICATION, AUTHORIZATION_SERVICE, RECIPIENT_PERSON, Shape.TOKEN),
    "admin": Pattern(
        coding(DCM, "110100", "Application Activity"), coding(VIGIE, "admin", "Administration"), "E",
        SOURCE, DESTINATION, AUTHOR, Shape.DATA, purpose="HSYSADMIN"),
})
