"""Whose images: tables of dangerous and harmless variants, and what holds of all of them.

RNIV (identitovigilance): strict traits are birth name, first given name, birth date, sex; absence is not agreement.
DICOM PS3.3 §C.7.1.1 (Patient), PS3.5 §6.2.1.2 (PN); FHIR R4 Patient.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb.matching import (
    Matching,
    Number,
    Trait,
    Traits,
    Verdict,
    chosen,
    compare,
    is_of_two,
    judged,
    of_images,
    of_patient,
    outcome,
    with_links,
)
from resources.json import Json

IPP = {
    "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "PI"}]},
    "system": "urn:oid:1.2.250.1.999.1", "value": "IPP-77001",
}
INS = {"system": "urn:oid:1.2.250.1.213.1.4.10", "value": "279035121518989"}


def patient(**more: Any) -> Json:
    body: Json = {
        "resourceType": "Patient", "identifier": [IPP], "gender": "female", "birthDate": "1979-03-04",
        "name": [{"use": "official", "family": "Durand", "given": ["Zoé", "Marie"]}],
    }
    return {**body, **more}


def image(
    id_: str = "IPP-77001", name: str | list[str] = "DURAND^ZOE", born: str = "19790304", sex: str = "F", **more: Any
) -> Json:
    people = []
    for one in [name] if isinstance(name, str) else name:
        groups = zip(("Alphabetic", "Ideographic", "Phonetic"), one.split("="), strict=False)
        people.append({key: group for key, group in groups if group})
    said = {
        "00100010": {"vr": "PN", "Value": people}, "00100020": {"vr": "LO", "Value": id_.split("\\")},
        "00100030": {"vr": "DA", "Value": [born]}, "00100040": {"vr": "CS", "Value": [sex]},
    }
    return {tag: one for tag, one in said.items() if one["Value"] not in ([""], [], [{}])} | more


def lo(value: str) -> Json:
    return {"vr": "LO", "Value": [value]}


def result(images: Json, of: Json | None = None) -> Matching:
    return judged([of_images(images)], of_patient(of or patient()))[0]


MISMATCH, TO_CONFIRM, MATCHED = Matching.MISMATCH, Matching.TO_CONFIRM, Matching.MATCHED

NIGHT = [
    (image("", "AUTRE^HOMME", "", "M"), MISMATCH),
    (image("", "AUTRE^HOMME", sex="M"), MISMATCH),
    (image(name="AUTRE^HOMME", born="", sex="M"), MISMATCH),
    (image(name="AUTRE^NOM"), MISMATCH),
    (image(sex="M"), MISMATCH),
    (image(born="19790305"), MISMATCH),
    (image("IPP-12345"), MISMATCH),
    (image("", "Autre^Nom", "", ""), MISMATCH),
]


@pytest.mark.parametrize(("said", "wanted"), NIGHT)
def test_every_night_row_that_was_let_through_is_held(said: Json, wanted: Matching) -> None:
    """An order of DURAND Zoé, F, 1979-03-04, and images with its accession number."""
    assert result(said) is wanted


DANGEROUS: dict[str, tuple[Json, Json | None, Matching]] = {
    "a twin sister without an identifier": (image("", "DURAND^LEA"), None, MISMATCH),
    "a twin whose given name nobody typed": (image("", "DURAND"), None, TO_CONFIRM),
    "a twin in one piece": (image("", "DURAND LEA"), None, TO_CONFIRM),
    "a homonym without birth date": (image("", born=""), None, TO_CONFIRM),
    "nothing but the number": (image("", "", "", ""), None, TO_CONFIRM),
    "nothing but the sex": (image("", "", "", "F"), None, TO_CONFIRM),
    "the right identifier and nothing else": (image(name="", born="", sex=""), None, TO_CONFIRM),
    "the right identifier and sex alone": (image(name="", born=""), None, TO_CONFIRM),
    "birth date and sex alone": (image("", ""), None, TO_CONFIRM),
    "day and month exchanged": (image(born="19790403"), None, MISMATCH),
    "a daughter: same names, another year": (image("", "DURAND^ZOE", "20040304"), None, MISMATCH),
    "leading zeros": (image("0077001"), patient(identifier=[{**IPP, "value": "77001"}]), TO_CONFIRM),
    "a gateway's prefix": (image("H1-IPP-77001"), None, TO_CONFIRM),
    "one letter off": (image(name="DURANT^ZOE"), None, TO_CONFIRM),
    "an initial": (image(name="DURAND^Z"), None, TO_CONFIRM),
    "compound given names with one part in common": (
        image("", "DURAND^JEAN PAUL", sex="M"),
        patient(gender="male", name=[{"family": "Durand", "given": ["Jean-Pierre"]}]), TO_CONFIRM,
    ),
    "two unknown people": (
        image("", "INCONNU^X", "", "M"), patient(gender="male", name=[{"family": "Inconnu"}], birthDate="1900-01-01"),
        TO_CONFIRM,
    ),
    "the insured parent's number": (
        image("179035121518924", "DURAND^ZOE", ""),
        patient(identifier=[{"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203",
                                                  "code": "NH"}]}, "value": "179035121518924"}]), TO_CONFIRM,
    ),
    "the same number of another authority": (
        image(name="", **{"00100021": lo("1.2.3.4")}), None, TO_CONFIRM,
    ),
    "another number of the same authority": (
        image("IPP-12345", **{"00100021": lo("1.2.250.1.999.1")}), None, MISMATCH,
    ),
    "two PatientIDs in one value": (image("IPP-77001\\IPP-12345"), None, TO_CONFIRM),
    "a name by marriage that the record lacks": (image(name="MARTIN^ZOE"), None, TO_CONFIRM),
    "the same without the identifier": (image("", "MARTIN^ZOE"), None, MISMATCH),
    "family and given name exchanged": (image(name="ZOE^DURAND"), None, TO_CONFIRM),
    "another person in ideographs, hers in letters": (
        image("", "AUTRE^PERSONNE=山田^太郎"), None, MISMATCH,
    ),
    "a record that knows the year alone": (image(""), patient(birthDate="1979"), TO_CONFIRM),
    "unknown people under one number": (
        image(name="INCONNU^X", born="", sex=""), patient(name=[{"family": "Inconnu"}]), TO_CONFIRM,
    ),
    "a given name that nobody knows": (
        image("", "DURAND^INCONNUE"), patient(name=[{"family": "Durand", "given": ["Inconnue"]}]), TO_CONFIRM,
    ),
    "only ideographs": (image("", "=山田^太郎", sex=""), None, TO_CONFIRM),
}


@pytest.mark.parametrize("what", DANGEROUS)
def test_dangerous_variants_are_never_matched(what: str) -> None:
    """One digit, one letter, one sibling away from the wrong report."""
    said, of, wanted = DANGEROUS[what]
    assert result(said, of) is wanted


HARMLESS: dict[str, tuple[Json, Json | None]] = {
    "as registered": (image(), None),
    "accents, lower case": (image(name="Durand^Zoé"), None),
    "all given names, the other way round": (image(name="DURAND^MARIE^ZOE"), None),
    "no sex": (image(sex=""), None),
    "sex other": (image(sex="O"), None),
    "no identifier": (image(""), None),
    "no birth date": (image(born=""), None),
    "no name": (image(name=""), None),
    "the name in one piece": (image(name="DURAND ZOE"), None),
    "identifier in other spacing and case": (image(" ipp-77001 "), None),
    "the used name": (
        image(name="MARTIN^ZOE"),
        patient(name=[{"use": "official", "family": "Durand", "given": ["Zoé"]},
                      {"use": "usual", "family": "Martin", "given": ["Zoé"]}]),
    ),
    "both names, joined": (image(name="DURAND-MARTIN^ZOE"), None),
    "a particle and an apostrophe": (
        image(name="DARC^JEANNE"), patient(name=[{"family": "d'Arc", "given": ["Jeanne"]}]),
    ),
    "a particle apart": (
        image(name="LE GALL^ANNE"), patient(name=[{"family": "Le Gall", "given": ["Anne"]}]),
    ),
    "a particle glued on": (image(name="LEGALL^ANNE"), patient(name=[{"family": "Le Gall", "given": ["Anne"]}])),
    "a particle left out": (
        image(name="VILLIERS^ANNE"), patient(name=[{"family": "de Villiers", "given": ["Anne"]}]),
    ),
    "saint, written short": (
        image(name="ST-MARTIN^ANNE"), patient(name=[{"family": "Saint Martin", "given": ["Anne"]}]),
    ),
    "a compound given name, glued": (
        image(name="DURAND^MARIEANNE"), patient(name=[{"family": "Durand", "given": ["Marie-Anne"]}]),
    ),
    "a ligature": (image(name="LECOEUR^ANNE"), patient(name=[{"family": "Lecœur", "given": ["Anne"]}])),
    "an issuer that is the record's system": (image(**{"00100021": lo("1.2.250.1.999.1")}), None),
    "an issuer that nobody knows, and all else": (image(**{"00100021": lo("SCAN")}), None),
    "the INS as PatientID": (image("279035121518989"), patient(identifier=[IPP, INS])),
    "hers among Other Patient IDs": (
        image("", born="", **{"00101002": {"vr": "SQ", "Value": [{"00100020": lo("IPP-77001")}]}}), None,
    ),
    "hers in letters beside ideographs": (image(name="DURAND^ZOE=山田^太郎"), None),
    "the birth name among other attributes": (
        image(name="MARTIN^ZOE", **{"00101005": {"vr": "PN", "Value": [{"Alphabetic": "DURAND^ZOE"}]}}), None,
    ),
    "no FHIR gender": (image(), patient(gender="unknown")),
    "a prefix and a suffix of a person": (image(name="DURAND^ZOE^^MME^"), None),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_harmless_variants_are_matched(what: str) -> None:
    """What consoles, registers and gateways do to a right identity every day."""
    said, of = HARMLESS[what]
    assert result(said, of) is MATCHED


def test_two_people_in_one_study_are_told_without_any_order() -> None:
    """All instances are looked at, not the first; an instance that says nothing contradicts nothing."""
    mine, other, silent = (of_images(image(id_, name)) for id_, name in
                           (("A-100", "DURAND^ZOE"), ("B-200", "DURAND^ZOE"), ("", "")))
    assert is_of_two([mine, other])
    assert not is_of_two([mine, silent])
    assert judged([mine, other], of_patient(patient(identifier=[])))[0] is MISMATCH
    both = patient(identifier=[{**IPP, "value": "A-100"}, {**IPP, "value": "B-200"}])
    assert judged([mine, other], of_patient(both))[0] is MATCHED  # both numbers are hers
    assert judged([of_images(image()), of_images(image("", "", "", ""))], of_patient(patient()))[0] is TO_CONFIRM


def test_of_several_orders_with_one_number_the_agreeing_patient_is_taken() -> None:
    """IHE RAD PIR: not the first, and not a mismatch because there is another."""
    agrees, unsure, differs = (MATCHED, {}), (TO_CONFIRM, {}), (MISMATCH, {})
    assert chosen({"Patient/b": differs, "Patient/a": agrees})[:2] == (MATCHED, ["Patient/a"])
    assert chosen({"Patient/b": unsure, "Patient/a": agrees})[:2] == (MATCHED, ["Patient/a"])
    assert chosen({"Patient/b": unsure, "Patient/a": differs})[:2] == (TO_CONFIRM, ["Patient/b"])
    assert chosen({"Patient/b": agrees, "Patient/a": agrees})[0] is TO_CONFIRM
    assert chosen({"Patient/b": differs})[:2] == (MISMATCH, ["Patient/b"])


def test_a_number_that_people_have_linked_is_evidence() -> None:
    """What a reconciliation taught: this number of this scanner is she, and of nobody else."""
    said, of = of_images(image("0001234")), of_patient(patient())
    assert judged([said], of)[0] is MISMATCH
    assert judged([said], with_links(of, [Number("0001234")], []))[0] is MATCHED
    hers = of_images(image())
    assert judged([hers], with_links(of, [], [Number("IPP-77001")]))[0] is MISMATCH


# What holds of all

WORDS = st.sampled_from(["Durand", "Léa", "Zoé", "Martin", "Jean-Pierre", "Marie", "d'Arc", "Le Gall", "Œuvrard", ""])
PEOPLE = st.builds(
    lambda id_, family, given_, born, sex: image(id_, f"{family}^{'^'.join(given_)}", born, sex),
    st.sampled_from(["IPP-77001", "0077001", "IPP-1", ""]), WORDS, st.lists(WORDS, min_size=1, max_size=2),
    st.sampled_from(["19790304", "19790403", "1979", ""]), st.sampled_from(["F", "M", "O", ""]),
)
RECORDS = st.builds(
    lambda family, given_, born, gender: patient(
        name=[{"family": family, "given": [one for one in given_ if one]}], birthDate=born, gender=gender
    ),
    WORDS, st.lists(WORDS, max_size=3), st.sampled_from(["1979-03-04", "1979", "1980-01-02"]),
    st.sampled_from(["female", "male", "unknown"]),
)


def plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


@given(PEOPLE, RECORDS)
def test_case_accents_and_the_order_of_given_names_change_nothing(said: Json, of: Json) -> None:
    """A console in capitals and a register in accents speak of the same person."""
    before = result(said, of)
    (name,) = said.get("00100010", {}).get("Value") or [{"Alphabetic": "^"}]
    family, *given_ = str(name.get("Alphabetic", "^")).split("^")
    for variant in (
        "^".join([family, *given_]).upper(), plain("^".join([family, *given_])).lower(),
        "^".join([family, *reversed(given_)]), "^".join([family, " ".join(given_)]),
    ):
        other = {**said, "00100010": {"vr": "PN", "Value": [{"Alphabetic": variant}]}}
        assert result(other, of) is before


BETTER = {MATCHED: 0, TO_CONFIRM: 1, Matching.UNMATCHED: 1, MISMATCH: 2}
GONE: dict[Trait, Json] = {
    Trait.IDENTIFIER: {"numbers": (), "others": ()}, Trait.BIRTH_DATE: {"birth_date": ""}, Trait.SEX: {"sex": ""},
}


@given(PEOPLE, RECORDS, st.sampled_from(list(GONE)))
def test_a_trait_that_is_taken_away_is_never_evidence(said: Json, of: Json, trait: Trait) -> None:
    """Absence is not agreement: taking away what does not speak against never makes the outcome better."""
    images, whose = of_images(said), of_patient(of)
    verdict = compare(images, whose)[trait]
    less: Traits = replace(images, **GONE[trait])
    if verdict in (Verdict.AGREE, Verdict.ABSENT):
        assert BETTER[outcome(compare(less, whose))] >= BETTER[outcome(compare(images, whose))]


@given(st.dictionaries(st.sampled_from(list(Trait)), st.sampled_from(list(Verdict))), st.sampled_from(list(Trait)))
def test_no_disagreement_is_ever_matched(evidence: dict[Trait, Verdict], trait: Trait) -> None:
    """Nor is what is unclear; and of the verdicts, agreement is the best that a trait can say."""
    for verdict in (Verdict.DISAGREE, Verdict.UNCLEAR):
        assert outcome({**evidence, trait: verdict}) is not MATCHED
    agreeing = outcome({**evidence, trait: Verdict.AGREE})
    assert all(BETTER[agreeing] <= BETTER[outcome({**evidence, trait: one})] for one in Verdict
               if one is not Verdict.UNCLEAR and one is not Verdict.DISAGREE)


def test_evidence_says_no_value() -> None:
    """The verdicts travel in an extension of the ImagingStudy: words of a table, nothing of a person."""
    _, evidence = judged([of_images(image())], of_patient(patient()))
    assert evidence == dict.fromkeys(Trait, Verdict.AGREE)
