"""Whether images are of the patient of an order: pure. Traits of the one side × traits of the other → outcome.

An accession number typed at a console is no evidence of a person. What agrees, disagrees, is absent or cannot be told
(`Verdict`) is found trait by trait, and `outcome` says what that amounts to. Absence is never agreement, and one
disagreeing trait is enough to hold the images.

docs/decisions/0022-whose-images.md; RNIV (référentiel national d'identitovigilance), IHE RAD PIR
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from dicomweb import names
from dicomweb.attributes import text
from dicomweb.names import Name
from resources.codes import CANONICAL, STUDY_MATCHING, V2_0203
from resources.identifiers import INS_C, INS_SYSTEMS, nir_is_valid
from resources.json import Json

MATCHING = STUDY_MATCHING
EVIDENCE = f"{CANONICAL}/StructureDefinition/study-matching-evidence"
"""Extension of ImagingStudy: the verdict on each trait that decided."""
_DISPLAY = {
    "matched": "The images are of the order's patient",
    "to-confirm": "The images may be of the order's patient: to be confirmed",
    "mismatch": "The images are not of one patient, or not of the order's",
    "unmatched": "No order with this accession number",
}


class Matching(StrEnum):
    """Whether a study was joined to its order."""

    MATCHED = "matched"
    TO_CONFIRM = "to-confirm"
    """An order, and too little evidence: joined, and shown to be so until a person confirms it."""
    UNMATCHED = "unmatched"
    MISMATCH = "mismatch"
    """A trait differs from the order's: the order is named, its patient is not, until a person decides (S4x)."""


class Verdict(StrEnum):
    """What the comparison of one trait says."""

    AGREE = "agree"
    ABSENT = "absent"
    """One side does not say, or what it says cannot be compared."""
    UNCLEAR = "unclear"
    """Alike, not the same: leading zeros, one letter off, a part of a name in common."""
    DISAGREE = "disagree"


class Trait(StrEnum):
    """What a person is told by."""

    IDENTIFIER = "identifier"
    BIRTH_DATE = "birth-date"
    SEX = "sex"
    FAMILY = "family-name"
    GIVEN = "given-name"


Evidence = Mapping[Trait, Verdict]
_RANK = {verdict: rank for rank, verdict in enumerate(Verdict)}
_WORST = {Matching.MATCHED: 0, Matching.TO_CONFIRM: 1, Matching.UNMATCHED: 2, Matching.MISMATCH: 3}


@dataclass(frozen=True, slots=True)
class Number:
    """An identifier of a person, and the authorities that it is known to be of; none: the hospital's own."""

    value: str
    authorities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Traits:
    """What one side says of a person."""

    numbers: tuple[Number, ...] = ()
    others: tuple[Number, ...] = ()
    """Further numbers (Other Patient IDs; what people have said to be this patient's): they agree, or say nothing."""
    foreign: tuple[Number, ...] = ()
    """What people have said to be another patient's."""
    birth_date: str = ""
    """YYYY, YYYYMM or YYYYMMDD."""
    sex: str = ""
    """F, M or empty."""
    names: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True)
class Join:
    """What the accession number, the traits and the decisions of people led to."""

    matching: Matching
    orders: tuple[str, ...] = ()
    """``ServiceRequest/id`` of the orders."""
    subject: Json | None = None
    """Their subject, where the study is joined."""
    accession_system: str = ""
    """Under which system the order has the accession number."""
    evidence: Evidence = field(default_factory=dict)
    decision: str = ""
    """What a person decided, where that is why."""


def tag(matching: Matching) -> Json:
    """The ImagingStudy.meta.tag of an outcome."""
    return {"system": MATCHING, "code": matching.value, "display": _DISPLAY[matching]}


def extension(evidence: Evidence, decision: str = "") -> Json | None:
    """The extension of an ImagingStudy that says which traits decided, without their values, or which decision."""
    said = [{"url": "decision", "valueCode": decision}] if decision else []
    said += [{"url": trait.value, "valueCode": evidence[trait].value} for trait in Trait if trait in evidence]
    return {"url": EVIDENCE, "extension": said} if said else None


# The rule


def outcome(evidence: Evidence) -> Matching:
    """What the verdicts amount to, for images that carry the order's accession number.

    Any disagreement: `mismatch`, but for a family name that alone differs where identifier, birth date and given name
    agree (a name by marriage that one side does not know): `to-confirm`. Anything unclear: `to-confirm`. An agreeing
    identifier with an agreeing name or birth date, or without one the birth date with family and given name:
    `matched`. Sex only ever speaks against: half of all people share it. Names without a birth date are homonyms, a
    birth date with a family name twins: `to-confirm`.
    """
    against = {trait for trait, verdict in evidence.items() if verdict is Verdict.DISAGREE}
    if against:
        sure = (Trait.IDENTIFIER, Trait.BIRTH_DATE, Trait.GIVEN)
        is_renamed = against == {Trait.FAMILY} and all(evidence.get(one) is Verdict.AGREE for one in sure)
        return Matching.TO_CONFIRM if is_renamed else Matching.MISMATCH
    if Verdict.UNCLEAR in evidence.values():
        return Matching.TO_CONFIRM
    agreed = {trait for trait, verdict in evidence.items() if verdict is Verdict.AGREE}
    if Trait.IDENTIFIER in agreed and agreed & {Trait.BIRTH_DATE, Trait.FAMILY, Trait.GIVEN}:
        return Matching.MATCHED
    if {Trait.BIRTH_DATE, Trait.FAMILY, Trait.GIVEN} <= agreed:
        return Matching.MATCHED
    return Matching.TO_CONFIRM


def worst(outcomes: Iterable[Matching]) -> Matching:
    """The gravest of some outcomes."""
    return max(outcomes, key=_WORST.__getitem__)


def together(evidences: Sequence[Evidence]) -> Evidence:
    """The gravest verdict on each trait."""
    return {
        trait: max((one.get(trait, Verdict.ABSENT) for one in evidences), key=_RANK.__getitem__)
        for trait in Trait
    } if evidences else {}


def judged_beside(images: Sequence[Traits], seen: Sequence[Traits], patient: Traits) -> Matching:
    """What came after a person decided that `seen` is the patient's: alike to the patient or to what was seen."""
    best = [min((outcome(compare(one, other)) for other in (patient, *seen)), key=_WORST.__getitem__) for one in images]
    return worst([Matching.MATCHED, *best])


def judged(images: Sequence[Traits], patient: Traits) -> tuple[Matching, Evidence]:
    """All that a study's instances say (each different set of traits once) against one patient."""
    found = [compare(one, patient) for one in images]
    verdicts = [outcome(one) for one in found]
    evidence = together(found)
    if is_of_two(images, patient):
        return Matching.MISMATCH, evidence
    return (worst(verdicts) if verdicts else Matching.TO_CONFIRM), evidence


def chosen(verdicts: Mapping[str, tuple[Matching, Evidence]]) -> tuple[Matching, list[str], Evidence]:
    """Among the patients of the orders with one number: outcome, the patients (several: nobody can tell), evidence."""
    for wanted in (Matching.MATCHED, Matching.TO_CONFIRM):
        found = [subject for subject, (matching, _) in verdicts.items() if matching is wanted]
        if found:
            evidence = together([verdicts[subject][1] for subject in found])
            return (wanted if len(found) == 1 else Matching.TO_CONFIRM), found, evidence
    return Matching.MISMATCH, list(verdicts), together([evidence for _, evidence in verdicts.values()])


def is_of_two(images: Sequence[Traits], patient: Traits | None = None) -> bool:
    """Whether instances of one study contradict one another. Two numbers that are both the patient's do not."""
    for position, left in enumerate(images):
        for right in images[position + 1 :]:
            found = dict(compare(left, right))
            if patient is not None and all(_numbers(one, patient) is Verdict.AGREE for one in (left, right)):
                found[Trait.IDENTIFIER] = Verdict.AGREE
            if outcome(found) is Matching.MISMATCH:
                return True
    return False


def compare(images: Traits, patient: Traits) -> Evidence:
    """The verdict on each trait."""
    family, given = names.compare(images.names, patient.names)
    return {
        Trait.IDENTIFIER: _numbers(images, patient),
        Trait.BIRTH_DATE: _dates(images.birth_date, patient.birth_date),
        Trait.SEX: _sexes(images.sex, patient.sex),
        Trait.FAMILY: Verdict(family),
        Trait.GIVEN: Verdict(given),
    }


# Trait by trait


def _numbers(images: Traits, patient: Traits) -> Verdict:
    if any(_number(one, patient.foreign) is Verdict.AGREE for one in images.numbers):
        return Verdict.DISAGREE
    found = set()
    for one in images.numbers:
        is_other = _number(one, patient.others) is Verdict.AGREE
        found.add(Verdict.AGREE if is_other else _number(one, patient.numbers))
    known = (*patient.numbers, *patient.others)
    if any(_number(one, known) is Verdict.AGREE for one in images.others):
        found.add(Verdict.AGREE)
    found.discard(Verdict.ABSENT)
    if Verdict.AGREE in found and len(found) > 1:
        return Verdict.UNCLEAR
    return max(found, key=_RANK.__getitem__, default=Verdict.ABSENT)


def _number(number: Number, known: Sequence[Number]) -> Verdict:
    """Numbers of different authorities say nothing of one another; without an authority it is the hospital's own."""
    if number.authorities:
        compared = [one for one in known if one.authorities & number.authorities]
    else:
        is_national = nir_is_valid(number.value)
        compared = [one for one in known if bool(one.authorities & _NATIONAL) == is_national]
    if not compared:
        return Verdict.ABSENT
    if any(number.value == one.value for one in compared):
        return Verdict.AGREE
    return Verdict.UNCLEAR if any(_alike(number.value, one.value) for one in compared) else Verdict.DISAGREE


def _alike(left: str, right: str) -> bool:
    """Leading zeros, punctuation, or a prefix or suffix that a gateway added."""
    left, right = ("".join(filter(str.isalnum, one)).lstrip("0") for one in (left, right))
    short, long = sorted((left, right), key=len)
    return left == right or (len(short) >= 4 and (long.startswith(short) or long.endswith(short)))


def _dates(left: str, right: str) -> Verdict:
    short, long = sorted((left, right), key=len)
    if not short:
        return Verdict.ABSENT
    if not long.startswith(short):
        return Verdict.DISAGREE
    return Verdict.AGREE if len(short) == 8 else Verdict.ABSENT


def _sexes(left: str, right: str) -> Verdict:
    if not left or not right:
        return Verdict.ABSENT
    return Verdict.AGREE if left == right else Verdict.DISAGREE


# What each side says

IDENTITY = (
    "00080050", "00100010", "00100020", "00100021", "00100024", "00100030", "00100040", "00101000", "00101001",
    "00101002", "00101005",
)
"""Attributes of an instance by which its patient and order are told."""
_NATIONAL = frozenset({*(system.removeprefix("urn:oid:") for system in (*INS_SYSTEMS, INS_C))})
_NO_NUMBER = frozenset({"UNKNOWN", "INCONNU", "INCONNUE", "ANONYMOUS", "ANONYME", "NONE", "NULL", "SANSIPP"})
_SHARED_TYPES = frozenset({"NH", "SS", "HC", "MB"})
"""Types (v2-0203) of numbers that a family has in common: an insured parent's is no evidence of the child."""


def of_images(json: Json) -> Traits:
    """What one instance says (DICOM JSON; see IDENTITY)."""
    numbers = _of_item(json)
    others = [Number(value) for value in map(bare, text(json, "00101000").split("\\")) if value]
    for item in json.get("00101002", {}).get("Value") or []:
        if isinstance(item, dict):
            others.extend(_of_item(item))
    found = [
        name
        for tag_ in ("00100010", "00101005", "00101001")
        for value in json.get(tag_, {}).get("Value") or []
        if isinstance(value, dict)
        for name in names.of_dicom(value)
    ]
    sex = text(json, "00100040").strip().upper()
    return Traits(
        tuple(numbers), tuple(others), birth_date=date(text(json, "00100030")), sex=sex if sex in ("F", "M") else "",
        names=names.completed(found),
    )


def _of_item(json: Json) -> list[Number]:
    issuers = {authority(text(json, "00100021"))}
    for item in json.get("00100024", {}).get("Value") or []:
        if isinstance(item, dict):
            issuers |= {authority(text(item, "00400032")), authority(text(item, "00400031"))}
    return [
        Number(value, frozenset(issuers - {""})) for value in map(bare, text(json, "00100020").split("\\")) if value
    ]


def of_patient(patient: Json) -> Traits:
    """What a Patient says."""
    numbers = [number for identifier in patient.get("identifier", []) if (number := _of_identifier(identifier))]
    sex = {"male": "M", "female": "F"}.get(str(patient.get("gender", "")), "")
    found = [name for one in patient.get("name", []) for name in names.of_fhir(one)]
    born = date(str(patient.get("birthDate", "")))
    return Traits(tuple(numbers), birth_date=born, sex=sex, names=names.completed(found))


def _of_identifier(identifier: Json) -> Number | None:
    codings = identifier.get("type", {}).get("coding", [])
    if any(one.get("system") == V2_0203 and one.get("code") in _SHARED_TYPES for one in codings):
        return None
    value = bare(str(identifier.get("value", "")))
    if not value:
        return None
    assigner = identifier.get("assigner", {})
    said = (identifier.get("system", ""), assigner.get("display", ""), assigner.get("identifier", {}).get("value", ""))
    return Number(value, frozenset(map(authority, map(str, said))) - {""})


def with_links(patient: Traits, hers: Iterable[Number], others: Iterable[Number]) -> Traits:
    """The traits with the numbers that people have said to be this patient's, and another's."""
    return replace(patient, others=(*patient.others, *hers), foreign=tuple(others))


def authority(value: str) -> str:
    """An assigning authority as it is compared: an OID without its URN, without case."""
    return value.strip().removeprefix("urn:oid:").casefold()


def bare(value: str) -> str:
    """A number as it is compared: without spaces and case; empty where it is a word or zeros in place of one."""
    found = "".join(value.split()).upper()
    return "" if not found.strip("0-.") or found in _NO_NUMBER else found


def date(value: str) -> str:
    """Digits of a birth date as far as it is one; empty for what stands in place of one."""
    digits = "".join(filter(str.isdigit, value.split("\\")[0]))[:8]
    if len(digits) < 4 or digits[:4] < "1850":
        return ""
    if len(digits) < 6 or not "01" <= digits[4:6] <= "12":
        return digits[:4]
    if len(digits) < 8 or not "01" <= digits[6:8] <= "31":
        return digits[:6]
    return "" if digits in ("19000101", "18500101", "99991231") else digits
