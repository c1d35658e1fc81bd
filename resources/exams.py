"""The emergency CT and MR exams that this server knows by LOINC code: display, modality, regions.

Codes and French displays are those of jdv-code-document-imagerie-cisis, regions those of jdv-region-anatomique-cisis
(SNOMED CT), modalities those of DICOM (PS3.16 CID 33). An order says modality and region by its exam code, or by
`category` (HL7 v2-0074) and `bodySite`; worklists are asked by both.

Value sets https://smt.esante.gouv.fr/fhir/ValueSet/jdv-code-document-imagerie-cisis, …/jdv-region-anatomique-cisis
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from resources.codes import DCM, LOINC, SNOMED, V2_0074, codings
from resources.json import Json

HEAD, THORAX, ABDOMEN, SPINE = "774007", "67734004", "63337009", "737561001"
ARM, LEG, BODY, VESSELS, HEART, BREAST = "53120007", "61685007", "38266002", "113257007", "80891009", "76752008"

REGIONS: Mapping[str, str] = {
    HEAD: "Tête et/ou cou",
    THORAX: "Région thoracique",
    ABDOMEN: "Région abdominopelvienne",
    SPINE: "Colonne vertébrale et/ou moelle épinière",
    ARM: "Membre supérieur",
    LEG: "Membre inférieur",
    BODY: "Corps entier",
    VESSELS: "Système cardiovasculaire",
    HEART: "Cœur",
    BREAST: "Sein",
}
"""SNOMED CT code → French display of the regions that a request names."""

MODALITIES: Mapping[str, str] = {"CT": "Scanner", "MR": "IRM", "US": "Échographie", "NM": "Scintigraphie",
                                 "CR": "Radiographie"}  # fmt: skip
"""DICOM modality → French display."""

_OF_CATEGORY: Mapping[str, str] = {
    "CT": "CT", "NMR": "MR", "RUS": "US", "VUS": "US", "OUS": "US", "CUS": "US", "NMS": "NM", "RX": "CR",
}  # fmt: skip
"""Diagnostic service section (v2-0074) → modality. RAD says no more than radiology."""


@dataclass(frozen=True, slots=True)
class Exam:
    """One exam."""

    display: str
    modality: str
    regions: tuple[str, ...]
    """SNOMED CT codes of `REGIONS`."""


EXAMS: Mapping[str, Exam] = {
    "24725-4": Exam("CT tête", "CT", (HEAD,)),
    "24727-0": Exam("CT tête avec contraste IV", "CT", (HEAD,)),
    "24726-2": Exam("CT tête sans et avec contraste IV", "CT", (HEAD,)),
    "24728-8": Exam("CT perfusion tête", "CT", (HEAD,)),
    "90352-6": Exam("CT, CT de perfusion et angioCT tête, cerveau et vaisseaux de la tête", "CT", (HEAD,)),
    "37498-3": Exam("angioCT vaisseaux tête et cou avec contraste IV", "CT", (HEAD,)),
    "87856-1": Exam("angioCT cercle artériel du cerveau et carotides avec contraste IV", "CT", (HEAD,)),
    "92025-6": Exam("CT tête et rachis cervical avec contraste IV", "CT", (HEAD, SPINE)),
    "24627-2": Exam("CT thorax", "CT", (THORAX,)),
    "24628-0": Exam("CT thorax avec contraste IV", "CT", (THORAX,)),
    "24545-6": Exam("CT aorte thoracique avec contraste IV", "CT", (THORAX,)),
    "36424-0": Exam("CT abdomen sans contraste IV", "CT", (ABDOMEN,)),
    "36813-4": Exam("CT abdomen et pelvis avec contraste IV", "CT", (ABDOMEN,)),
    "36952-0": Exam("CT abdomen et pelvis sans contraste IV", "CT", (ABDOMEN,)),
    "24865-8": Exam("CT pelvis", "CT", (ABDOMEN,)),
    "87854-6": Exam("CT abdomen et pelvis, angioCT aorte abdominale avec contraste IV", "CT", (ABDOMEN,)),
    "87869-4": Exam("CT thorax, abdomen et pelvis", "CT", (THORAX, ABDOMEN)),
    "87848-8": Exam("angioCT artères pulmonaires et veines des membres inférieurs avec contraste IV", "CT",
                    (THORAX, LEG)),
    "87842-1": Exam("angioCT artères coronaires, artères pulmonaires et aorte thoracique", "CT", (THORAX,)),
    "36401-8": Exam("CT rachis cervical sans et avec contraste IV", "CT", (SPINE,)),
    "36399-4": Exam("CT rachis", "CT", (SPINE,)),
    "24590-2": Exam("IRM cerveau", "MR", (HEAD,)),
    "24587-8": Exam("IRM cerveau sans et avec contraste IV", "MR", (HEAD,)),
    "24557-1": Exam("IRM abdomen", "MR", (ABDOMEN,)),
    "36803-5": Exam("angioIRM vaisseaux pulmonaires", "MR", (THORAX,)),
    "91523-1": Exam("IRM thorax, abdomen et pelvis avec contraste IV", "MR", (THORAX, ABDOMEN)),
}  # fmt: skip
"""LOINC code → exam. Its codes too say that an order is imaging."""


def modalities(concept: Json) -> list[str]:
    """The modalities that a CodeableConcept says: of an exam code, or of a category."""
    found = []
    for system, code in codings(concept):
        if system == LOINC and code in EXAMS:
            found.append(EXAMS[code].modality)
        elif system == V2_0074 and code in _OF_CATEGORY:
            found.append(_OF_CATEGORY[code])
        elif system == DCM and code in MODALITIES:
            found.append(code)
    return list(dict.fromkeys(found))


def regions(concept: Json) -> list[str]:
    """The regions that a CodeableConcept says: of an exam code, or as a region itself."""
    found: list[str] = []
    for system, code in codings(concept):
        if system == LOINC and code in EXAMS:
            found += EXAMS[code].regions
        elif system == SNOMED and code in REGIONS:
            found.append(code)
    return list(dict.fromkeys(found))


def modalities_of(order: Json) -> list[str]:
    """The modalities of an order: by its code, else by its category."""
    by_code = modalities(order.get("code", {}))
    return by_code or list(dict.fromkeys(one for held in order.get("category", []) for one in modalities(held)))


def regions_of(order: Json) -> list[str]:
    """The regions of an order: by its code and by bodySite."""
    concepts = [order.get("code", {}), *order.get("bodySite", [])]
    return list(dict.fromkeys(one for held in concepts for one in regions(held)))


def display(code: Json) -> str | None:
    """The French name of an exam: what the sender wrote, else this table's; None where neither has one."""
    text = code.get("text") or next((one["display"] for one in code.get("coding", []) if one.get("display")), None)
    if text:
        return str(text)
    known = (EXAMS.get(value) for system, value in codings(code) if system == LOINC)
    return next((exam.display for exam in known if exam is not None), None)
