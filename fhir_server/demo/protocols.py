"""A catalogue of emergency CT and MR protocols for the demonstration: common practice, in short; not to be used."""

from __future__ import annotations

from resources.codes import CANONICAL, CATALOGUE, LOINC, SNOMED, concept
from resources.exams import EXAMS
from resources.json import Json
from resources.protocols import IMAGING_PROTOCOL, SCANNER_PROTOCOL, USAGE

_ROWS: tuple[tuple[str, str, str, tuple[tuple[str, str], ...], str, str], ...] = (
    (
        "avc-scanner", "AVC aigu : scanner, angioscanner, perfusion", "90352-6",
        (("230690007", "Accident vasculaire cérébral"),),
        "Crâne sans injection ; angioscanner de la crosse au vertex (60 ml, 4 ml/s, déclenchement sur la crosse) ; "
        "perfusion si délai supérieur à 4 h 30 ou heure inconnue. Ne pas attendre la créatinine.",
        "AVC_CODE_ROUGE",
    ),
    (
        "crane-sans-injection", "Crâne sans injection", "24725-4",
        (("82271004", "Traumatisme crânien"), ("25064002", "Céphalée")),
        "Acquisition hélicoïdale du vertex au foramen magnum, coupes de 0,6 mm ; reconstructions cerveau et os.",
        "CRANE_SS_IV",
    ),
    (
        "embolie-pulmonaire", "Angioscanner pulmonaire", "24628-0",
        (("59282003", "Embolie pulmonaire"),),
        "60 ml à 4 ml/s, déclenchement sur le tronc pulmonaire, apnée en inspiration moyenne, sens caudo-crânial.",
        "EP",
    ),
    (
        "dissection-aortique", "Aorte : dissection, syndrome aortique aigu", "24545-6",
        (("308546005", "Dissection aortique"),),
        "Sans injection puis temps artériel synchronisé à l'ECG, du défilé cervico-thoracique aux fémorales.",
        "AORTE_SYNCHRO",
    ),
    (
        "abdomen-aigu", "Abdomen et pelvis, temps portal", "36813-4",
        (("9209005", "Abdomen aigu"),),
        "Temps portal (70 s, 1,5 ml/kg) des coupoles à la symphyse ; temps artériel si saignement ou ischémie.",
        "ABDO_PORTAL",
    ),
    (
        "colique-nephretique", "Colique néphrétique, faible dose", "36952-0",
        (("7093002", "Colique néphrétique"),),
        "Sans injection, faible dose (moins de 3 mSv), du pôle supérieur des reins à la symphyse.",
        "LITHIASE_LOW_DOSE",
    ),
    (
        "polytraumatise", "Polytraumatisé, corps entier", "87869-4",
        (("417746004", "Traumatisme"),),
        "Crâne et rachis cervical sans injection ; thorax, abdomen et pelvis au temps artériel puis portal ; temps "
        "tardif si lésion d'organe plein.",
        "POLYTRAUMA",
    ),
    (
        "irm-cerebrale-avc", "IRM cérébrale, AVC", "24590-2",
        (("230690007", "Accident vasculaire cérébral"),),
        "Diffusion, FLAIR, T2*, angio-IRM TOF du polygone. Vérifier les contre-indications avant l'entrée en salle.",
        "IRM_AVC",
    ),
)  # fmt: skip
"""id, title, exam (LOINC), indications (SNOMED CT), what is done, name at hospital A's scanner."""


def catalogue(hospital: str) -> list[Json]:
    """The entries as ActivityDefinitions, with the names of that hospital's scanner."""
    return [_entry(*row, hospital=hospital) for row in _ROWS]


def _entry(
    name: str,
    title: str,
    exam: str,
    indications: tuple[tuple[str, str], ...],
    text: str,
    scanner: str,
    *,
    hospital: str,
) -> Json:
    focus = {"system": USAGE, "code": "focus"}
    return {
        "resourceType": "ActivityDefinition",
        "id": f"protocole-{name}",
        "url": f"{CANONICAL}/ActivityDefinition/{name}",
        "version": "1.0",
        "status": "active",
        "title": title,
        "description": text,
        "topic": [concept(CATALOGUE, IMAGING_PROTOCOL)],
        "kind": "ServiceRequest",
        "intent": "filler-order",
        "code": {"coding": [{"system": LOINC, "code": exam, "display": EXAMS[exam].display}]},
        "useContext": [
            {"code": focus, "valueCodeableConcept": {"coding": [{"system": SNOMED, "code": code, "display": display}]}}
            for code, display in indications
        ],
        "extension": [
            {
                "url": SCANNER_PROTOCOL,
                "extension": [
                    {"url": "hospital", "valueReference": {"reference": f"Organization/{hospital}"}},
                    {"url": "name", "valueString": scanner},
                ],
            }
        ],
    }
