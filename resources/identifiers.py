"""French identifier systems: one table, normal forms, keys, and when an INS may travel.

The same person or structure is named in two ways (`8` + RPPS under an OID, the bare RPPS under a URL): `canonical`
brings both to one form. The INS-NIR and the billing number NSS share one OID and are told apart by `type` alone. An
INS may leave only with a qualified identity (référentiel INS; RNIV EXI SI 07), and "VALI" meant two things in two
generations of FR Core.

HL7 France FR Core  https://hl7.fr/ig/fhir/core ; Annuaire Santé https://interop.esante.gouv.fr/ig/fhir/annuaire
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from resources.codes import CANONICAL, IDENTIFIER_TYPE, V2_0203, concept
from resources.json import Json
from resources.outcomes import Issue

FR_V2_0203 = "https://hl7.fr/ig/fhir/core/CodeSystem/fr-core-cs-v2-0203"

INS_NIR = "urn:oid:1.2.250.1.213.1.4.8"
INS_NIA = "urn:oid:1.2.250.1.213.1.4.9"
INS_NIR_TEST = "urn:oid:1.2.250.1.213.1.4.10"
INS_NIR_DEMO = "urn:oid:1.2.250.1.213.1.4.11"
INS_C = "urn:oid:1.2.250.1.213.1.4.2"
IDNPS = "urn:oid:1.2.250.1.71.4.2.1"
RPPS = "https://rpps.esante.gouv.fr"
IDNST = "urn:oid:1.2.250.1.71.4.2.2"
FINESS = "https://finess.esante.gouv.fr"
SIRENE = "https://sirene.fr"
STUDY_UID = "urn:dicom:uid"
ACCESSION = f"{CANONICAL}/NamingSystem/accession-number"
"""The accession numbers that this platform gives (it is the filler)."""
ORDER = f"{CANONICAL}/NamingSystem/order"
"""The number of an order here; its `assigner` is the hospital that the order is from."""

INS_SYSTEMS = frozenset({INS_NIR, INS_NIA, INS_NIR_TEST, INS_NIR_DEMO})
_IDNPS_PREFIX = {"8": RPPS}
_IDNST_PREFIX = {"1": FINESS, "2": SIRENE, "3": SIRENE}

RELIABILITY = "https://hl7.fr/ig/fhir/core/StructureDefinition/fr-core-identity-reliability"
STATUS_NEW = "https://hl7.fr/ig/fhir/core/CodeSystem/fr-core-cs-identity-status"
"""The newer generation, where only QUAL is qualified; any other system is read as the older one."""

_NIR = re.compile(r"[1-478]\d{2}(0[1-9]|1[0-2]|[2-9]\d)(\d{2}|2A|2B)\d{6}", re.IGNORECASE)
"""Thirteen characters; a month from 20 on exists for people whose month of birth is unknown."""


def nir_key(thirteen: str) -> int:
    """The key of a NIR of 13 characters: 97 − (N mod 97), with 2A → 19 and 2B → 18 for Corsica."""
    text = thirteen.upper()
    return 97 - int(text[:5] + {"2A": "19", "2B": "18"}.get(text[5:7], text[5:7]) + text[7:]) % 97


def nir_is_valid(value: str) -> bool:
    """Whether `value` (15 characters, spaces allowed) has the form of a NIR and the right key."""
    text = value.replace(" ", "").upper()
    if len(text) != 15 or not text[13:].isdigit() or not _NIR.fullmatch(text[:13]):
        return False
    return nir_key(text[:13]) == int(text[13:])


def luhn_is_valid(value: str) -> bool:
    """Luhn's key, as the RPPS and the FINESS carry it."""
    if not value.isascii() or not value.isdigit():
        return False
    total = 0
    for place, digit in enumerate(reversed(value)):
        doubled = int(digit) * (2 if place % 2 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def canonical(system: str, value: str) -> tuple[str, str]:
    """One form for the doubled systems: ``8`` + RPPS under IDNPS is RPPS; ``1`` + FINESS under IDNST is FINESS."""
    text = value.replace(" ", "")
    prefixes = {IDNPS: _IDNPS_PREFIX, IDNST: _IDNST_PREFIX}.get(system, {})
    target = prefixes.get(text[:1])
    if target and len(text) > 1:
        return target, text[1:]
    return system, text if system in _CHECKS else value


def same(left: Json, right: Json) -> bool:
    """Whether two Identifiers name the same thing, whichever of the doubled systems each uses."""
    return canonical(left.get("system", ""), left.get("value", "")) == canonical(
        right.get("system", ""), right.get("value", "")
    )


@dataclass(frozen=True, slots=True)
class _Check:
    """A test of an identifier's value, and how grave a failure is."""

    name: str
    test: Callable[[str], bool]
    severity: str


_CHECKS: Mapping[str, tuple[_Check, ...]] = {
    INS_NIR: (_Check("a NIR of 15 characters with its key", nir_is_valid, "error"),),
    INS_NIA: (_Check("an NIA of 15 characters with its key", nir_is_valid, "error"),),
    # Public national examples under the test systems break the key (FR Core's own does): a warning only.
    INS_NIR_TEST: (_Check("a NIR of 15 characters with its key", nir_is_valid, "warning"),),
    INS_NIR_DEMO: (_Check("a NIR of 15 characters with its key", nir_is_valid, "warning"),),
    INS_C: (_Check("22 digits", lambda v: bool(re.fullmatch(r"\d{22}", v)), "warning"),),
    RPPS: (
        _Check("11 digits", lambda v: bool(re.fullmatch(r"\d{11}", v)), "warning"),
        _Check("a number with Luhn's key", luhn_is_valid, "warning"),
    ),
    FINESS: (_Check("9 characters", lambda v: bool(re.fullmatch(r"\d[\dAB]\d{7}", v)), "warning"),),
}


def check(identifiers: list[Json], *, at: str) -> list[Issue]:
    """Every fault of these Identifiers; `at`: e.g. ``Patient.identifier``. No value appears in a text."""
    issues: list[Issue] = []
    for index, identifier in enumerate(identifiers):
        system, value = canonical(identifier.get("system", ""), str(identifier.get("value", "")))
        if is_billing_number(identifier):
            continue
        for test in _CHECKS.get(system, ()):
            if not test.test(value):
                text = f"The value under {system} must be {test.name}"
                issues.append(Issue(test.severity, "value", text, (f"{at}[{index}].value",)))
                break
    return issues


def is_billing_number(identifier: Json) -> bool:
    """Whether this is an NSS: the OID of the INS-NIR, but type v2-0203#NH."""
    return any(
        item.get("system") == V2_0203 and item.get("code") == "NH"
        for item in identifier.get("type", {}).get("coding", [])
    )


def is_ins(identifier: Json) -> bool:
    """Whether this Identifier is an INS matricule."""
    return identifier.get("system") in INS_SYSTEMS and not is_billing_number(identifier)


class IdentityStatus(StrEnum):
    """What the sender's identity status means for the INS."""

    QUALIFIED = "qualified"
    VALIDATED = "validated"
    NOT_QUALIFIED = "not-qualified"
    DOUBTFUL = "doubtful"
    """Doubtful or fictive: no INS, and a banner wherever the identity is shown."""
    UNKNOWN = "unknown"
    """No status: an INS is kept as a local identifier and never sent on."""


def identity_status(patient: Json) -> IdentityStatus:
    """The status of a Patient's identity, over both generations of FR Core's code system."""
    codes = [
        (item.get("system", ""), item.get("code", ""))
        for extension in patient.get("extension", [])
        if extension.get("url") == RELIABILITY
        for part in extension.get("extension", [])
        if part.get("url") == "identityStatus"
        for item in [part.get("valueCoding"), *part.get("valueCodeableConcept", {}).get("coding", [])]
        if item
    ]
    found = {code for _, code in codes}
    if found & {"DOUT", "FICT"}:
        return IdentityStatus.DOUBTFUL
    if "QUAL" in found:
        return IdentityStatus.QUALIFIED
    if "VALI" in found:
        newer = any(system == STATUS_NEW for system, code in codes if code == "VALI")
        has_ins = any(is_ins(identifier) for identifier in patient.get("identifier", []))
        return IdentityStatus.QUALIFIED if has_ins and not newer else IdentityStatus.VALIDATED
    return IdentityStatus.NOT_QUALIFIED if found else IdentityStatus.UNKNOWN


def ins_may_travel(patient: Json) -> bool:
    """Whether the INS of this Patient may be sent on: only a qualified identity's."""
    return identity_status(patient) is IdentityStatus.QUALIFIED


def check_patient(patient: Json) -> list[Issue]:
    """The faults of a Patient's identifiers and of the INS against the identity status (errors and warnings)."""
    identifiers = patient.get("identifier", [])
    issues = check(identifiers, at="Patient.identifier")
    status = identity_status(patient)
    for index, identifier in enumerate(identifiers):
        if not is_ins(identifier) or status is IdentityStatus.QUALIFIED:
            continue
        where = (f"Patient.identifier[{index}]",)
        if status is IdentityStatus.UNKNOWN:
            text = "An INS without identity status is kept as a local identifier and is not sent on"
            issues.append(Issue("warning", "business-rule", text, where))
        else:
            text = f"An INS is only for a qualified identity; the identity status is {status.value}"
            issues.append(Issue("error", "business-rule", text, where))
    return issues


_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def accession_number(service_request_id: str) -> str:
    """The accession number of an order: 14 characters (DICOM's SH allows 16), the same for the same order for ever."""
    number = int.from_bytes(blake2b(service_request_id.encode(), digest_size=8).digest(), "big") >> 4
    return "VG" + "".join(_BASE32[(number >> (5 * place)) & 31] for place in range(12))


def accession_identifier(value: str, platform: str) -> Json:
    """The Identifier that carries an accession number given by this platform."""
    return {
        "type": {"coding": [{"system": V2_0203, "code": "ACSN"}]},
        "system": ACCESSION,
        "value": value,
        "assigner": {"identifier": {"system": f"{CANONICAL}/NamingSystem/organization", "value": platform}},
    }


def hospital_identifier(service_request_id: str, hospital: str) -> Json:
    """The Identifier that says which hospital (``Organization/id``) an order is from."""
    return {
        "use": "secondary",
        "type": concept(IDENTIFIER_TYPE, "requesting-hospital"),
        "system": ORDER,
        "value": service_request_id,
        "assigner": {"reference": hospital},
    }


def is_accession(identifier: Json) -> bool:
    """Whether this Identifier is an accession number, whoever gave it."""
    return any(
        item.get("system") == V2_0203 and item.get("code") == "ACSN"
        for item in identifier.get("type", {}).get("coding", [])
    )
