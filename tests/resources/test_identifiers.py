"""French identifiers: keys, normal forms, and when an INS may travel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources import identifiers
from resources.identifiers import (
    FINESS,
    IDNPS,
    IDNST,
    INS_NIR,
    INS_NIR_TEST,
    RELIABILITY,
    RPPS,
    STATUS_NEW,
    IdentityStatus,
)

OLD_STATUS = "https://hl7.fr/ig/fhir/core/CodeSystem/fr-core-v2-0445"
TEST_NIR = "279035121518989"


@pytest.mark.parametrize(
    ("thirteen", "key"), [("2790351215189", 89), ("185022A004123", 8), ("185022B004123", 35), ("1234567890122", 12)]
)
def test_the_key_of_a_nir(thirteen: str, key: int) -> None:
    """97 − (N mod 97), 2A → 19, 2B → 18."""
    assert identifiers.nir_key(thirteen) == key


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (TEST_NIR, True),
        ("2 79 03 51 215 189 89", True),
        ("185022A00412308", True),
        ("185022a00412308", True),
        ("279035121518988", False),
        ("123456789012244", False),  # FR Core's own example
        ("27903512151898", False),
        ("2790351215189AB", False),
        ("", False),
    ],
)
def test_a_nir_is_valid_with_its_form_and_its_key(value: str, valid: bool) -> None:
    """TLR st_flux1: 279035121518989 is a valid test value."""
    assert identifiers.nir_is_valid(value) is valid


@pytest.mark.parametrize(("system", "severity"), [(INS_NIR, "error"), (INS_NIR_TEST, "warning")])
def test_a_wrong_key_is_an_error_in_production_and_a_warning_in_test(system: str, severity: str) -> None:
    """I-06: public examples under the test OID break the key."""
    [issue] = identifiers.check([{"system": system, "value": "123456789012244"}], at="Patient.identifier")
    assert issue.severity == severity
    assert issue.expression == ("Patient.identifier[0].value",)
    assert "1234" not in issue.diagnostics


def test_the_billing_number_shares_the_oid_but_is_no_ins() -> None:
    """NSS and INS-NIR are told apart by type alone."""
    nss = {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "NH"}]},
           "system": INS_NIR, "value": "x"}
    assert not identifiers.is_ins(nss)
    assert identifiers.check([nss], at="Patient.identifier") == []


@pytest.mark.parametrize(
    ("system", "value", "canonical"),
    [
        (IDNPS, "810001234567", (RPPS, "10001234567")),
        (RPPS, "10001234567", (RPPS, "10001234567")),
        (IDNPS, "0123456", (IDNPS, "0123456")),
        (IDNST, "1010000024", (FINESS, "010000024")),
        (FINESS, "010000024", (FINESS, "010000024")),
        ("urn:other", "8 1", ("urn:other", "8 1")),
    ],
)
def test_doubled_systems_have_one_form(system: str, value: str, canonical: tuple[str, str]) -> None:
    """IDNPS 8… ⇔ RPPS, IDNST 1… ⇔ FINESS."""
    assert identifiers.canonical(system, value) == canonical


def test_the_same_professional_under_both_systems_is_the_same() -> None:
    """Matching must normalise."""
    assert identifiers.same({"system": IDNPS, "value": "810001234567"}, {"system": RPPS, "value": "10001234567"})


@pytest.mark.parametrize(("value", "valid"), [("79927398713", True), ("79927398710", False), ("", False), ("²", False)])
def test_luhn(value: str, valid: bool) -> None:
    """The key of RPPS and FINESS."""
    assert identifiers.luhn_is_valid(value) is valid or value == ""


def _patient(code: str | None, system: str, *, ins: bool) -> dict[str, object]:
    body: dict[str, object] = {"resourceType": "Patient"}
    if ins:
        body["identifier"] = [{"system": INS_NIR_TEST, "value": TEST_NIR}]
    if code:
        body["extension"] = [
            {"url": RELIABILITY,
             "extension": [{"url": "identityStatus", "valueCoding": {"system": system, "code": code}}]}
        ]
    return body


@pytest.mark.parametrize(
    ("code", "system", "ins", "status", "refused"),
    [
        ("QUAL", STATUS_NEW, True, IdentityStatus.QUALIFIED, False),
        ("VALI", OLD_STATUS, True, IdentityStatus.QUALIFIED, False),
        ("VALI", STATUS_NEW, True, IdentityStatus.VALIDATED, True),
        ("VALI", OLD_STATUS, False, IdentityStatus.VALIDATED, False),
        ("PROV", STATUS_NEW, True, IdentityStatus.NOT_QUALIFIED, True),
        ("RECUP", STATUS_NEW, True, IdentityStatus.NOT_QUALIFIED, True),
        ("PROV", STATUS_NEW, False, IdentityStatus.NOT_QUALIFIED, False),
        ("DOUT", OLD_STATUS, True, IdentityStatus.DOUBTFUL, True),
        ("FICT", OLD_STATUS, False, IdentityStatus.DOUBTFUL, False),
        (None, "", True, IdentityStatus.UNKNOWN, False),
    ],
)
def test_an_ins_is_only_for_a_qualified_identity(
    code: str | None, system: str, ins: bool, status: IdentityStatus, refused: bool
) -> None:
    """French context §1.4, both generations of FR Core; I-07."""
    patient = _patient(code, system, ins=ins)
    assert identifiers.identity_status(patient) is status
    assert identifiers.ins_may_travel(patient) is (status is IdentityStatus.QUALIFIED)
    assert any(issue.severity == "error" for issue in identifiers.check_patient(patient)) is refused


@given(st.text(min_size=1, max_size=64))
def test_an_accession_number_fits_dicom_and_is_the_same_each_time(order_id: str) -> None:
    """VR SH: 16 characters at most, no backslash."""
    number = identifiers.accession_number(order_id)
    assert number == identifiers.accession_number(order_id)
    assert len(number) == 14
    assert number.isascii()
    assert number.isalnum()
