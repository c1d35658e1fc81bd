"""The code systems and the codes that this server itself writes or decides by.

The local systems are few, and every code of theirs is here with its French display. Codes of others (LOINC, SNOMED CT,
HL7 v2) appear only where a rule depends on them. A CodeableConcept is built by `concept`, and read by `has_coding`.

FHIR R4 §4.3 Using codes  http://hl7.org/fhir/R4/terminologies.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

from resources.json import Json

CANONICAL = "https://vigie.example"
STUDY_MATCHING = f"{CANONICAL}/CodeSystem/study-matching"
"""Of ImagingStudy.meta.tag: matched, to-confirm, mismatch or unmatched (docs/decisions/0022-whose-images.md)."""
"""Root of the canonical addresses of this project's own definitions; a name, not a place to connect to."""

TASK_CODE = "http://hl7.org/fhir/CodeSystem/task-code"
SNOMED = "http://snomed.info/sct"
LOINC = "http://loinc.org"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
V2_0074 = "http://terminology.hl7.org/CodeSystem/v2-0074"
V2_0203 = "http://terminology.hl7.org/CodeSystem/v2-0203"
DOCUMENT_COMPLETION = "http://terminology.hl7.org/CodeSystem/v3-DocumentCompletion"
PROVENANCE_PARTICIPANT = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
STATUS_REASON_EXTENSION = "http://hl7.org/fhir/StructureDefinition/request-statusReason"
"""R4's ServiceRequest has no statusReason element; this standard extension carries it."""

TELERADIOLOGY_TASK = f"{CANONICAL}/CodeSystem/teleradiology-task"
BUSINESS_STATUS = f"{CANONICAL}/CodeSystem/teleradiology-business-status"
STATUS_REASON = f"{CANONICAL}/CodeSystem/teleradiology-status-reason"
DUTY_FUNCTION = f"{CANONICAL}/CodeSystem/duty-function"
CRITICAL_RESULT = f"{CANONICAL}/CodeSystem/critical-result"
TASK_PART = f"{CANONICAL}/CodeSystem/teleradiology-task-part"
DIALOGUE = f"{CANONICAL}/CodeSystem/dialogue"
CATALOGUE = f"{CANONICAL}/CodeSystem/catalogue"
V3_PARTICIPATION_MODE = "http://terminology.hl7.org/CodeSystem/v3-ParticipationMode"
ESCALATION = f"{CANONICAL}/CodeSystem/escalation"
"""Of the flag on a Task (`level-1`…), and of what a Communication of the clock is about."""
READ_BACK = f"{CANONICAL}/StructureDefinition/read-back"
"""Extension of a Communication: whoever was told has read back what was said; valueBoolean."""
FINDING_TIME = f"{CANONICAL}/StructureDefinition/finding-time"
"""Extension of a Communication: when the critical finding was made; valueDateTime."""
IDENTIFIER_TYPE = f"{CANONICAL}/CodeSystem/identifier-type"
RETAKE_REASON = f"{CANONICAL}/CodeSystem/retake-reason"
REPORT_OUTCOME = f"{CANONICAL}/CodeSystem/report-outcome"
NOTICE = f"{CANONICAL}/CodeSystem/notice"
REPORT_REASON = f"{CANONICAL}/CodeSystem/report-reason"
"""Why a signed report was revised or withdrawn."""
CONCLUSION_CATEGORY = f"{CANONICAL}/CodeSystem/conclusion-category"
"""Five points (cf. Nivet, Eur Radiol 2020), in DiagnosticReport.conclusionCode."""
DOSE_ABSENT = f"{CANONICAL}/CodeSystem/dose-absent-reason"
"""Why a report on a CT names no dose."""
EVENT_STATUS_REASON = "http://hl7.org/fhir/StructureDefinition/event-statusReason"
"""R4's DiagnosticReport has no statusReason element; this standard extension carries it."""
COMMUNICATION_CATEGORY = "http://terminology.hl7.org/CodeSystem/communication-category"
UCUM = "http://unitsofmeasure.org"

CANCEL_REQUESTED = f"{CANONICAL}/StructureDefinition/cancel-requested"
"""Extension of a ServiceRequest: the sender asks that it be cancelled although images are here; valueCodeableConcept
says why."""
STUDY_VERSION = f"{CANONICAL}/StructureDefinition/study-version"
"""Extension of Task.input: the version of the ImagingStudy that the reader was shown; valueUnsignedInt."""
STUDY_INSTANCES = f"{CANONICAL}/StructureDefinition/study-instances"
"""Extension of Task.input: how many images the study had when the reader was told of it; valueUnsignedInt."""


class TaskKind(StrEnum):
    """What a Task of the workflow asks for: codes of `TELERADIOLOGY_TASK`."""

    ORDER = "order"
    """T0, the root task; it also carries task-code `fulfill`."""
    REGULATE = "regulate"
    ACQUIRE = "acquire"
    AI_TRIAGE = "ai-triage"
    READ = "read"
    COMMUNICATE_CRITICAL = "communicate-critical"
    SECOND_READ = "second-read"
    SIGN = "sign"
    CANCEL = "cancel"
    """The hospital asks to cancel an order whose images are here; it also carries task-code `abort`."""
    UNEXPECTED_IMAGES = "unexpected-images"
    """Images that no open order expects."""


class DutyFunction(StrEnum):
    """What a garde is for: codes of `DUTY_FUNCTION` in Appointment.serviceType. The regulator here is the
    regulating radiologist, not the medical dispatcher of a SAMU."""

    REGULATION = "regulation"
    READING = "reading"
    SECOND_READING = "second-reading"


DISPLAYS: Mapping[str, Mapping[str, str]] = {
    TELERADIOLOGY_TASK: {
        TaskKind.ORDER: "Demande de téléradiologie",
        TaskKind.REGULATE: "Régulation radiologique",
        TaskKind.ACQUIRE: "Acquisition des images",
        TaskKind.AI_TRIAGE: "Analyse par un dispositif d'IA",
        TaskKind.READ: "Interprétation",
        TaskKind.COMMUNICATE_CRITICAL: "Communication d'un résultat critique",
        TaskKind.SECOND_READ: "Seconde lecture",
        TaskKind.SIGN: "Signature",
        TaskKind.CANCEL: "Demande d'annulation",
        TaskKind.UNEXPECTED_IMAGES: "Images inattendues",
    },
    BUSINESS_STATUS: {
        "info-requested": "Complément demandé à l'établissement",
        "incident": "Incident sur les images",
        "reading": "Interprétation en cours",
        "signed": "Compte rendu signé",
        "delivered": "Compte rendu remis",
        "acknowledged": "Compte rendu consulté",
        "no-reader-on-duty": "Aucun lecteur de garde",
        "answered": "Réponse reçue de l'établissement",
        "order-changed": "Demande modifiée par l'établissement",
        "report-withdrawn": "Compte rendu annulé, relecture en cours",
        "new-images": "Nouvelles images",
        "addendum": "Images reçues après le compte rendu, relecture en cours",
        "addendum-no-change": "Images complémentaires lues, compte rendu inchangé",
        "retake-requested": "Nouvelle acquisition demandée",
        "retake-impossible": "Nouvelle acquisition impossible",
    },
    STATUS_REASON: {
        "not-justified": "Examen non justifié",
        "contraindicated": "Contre-indication",
        "other-exam-preferred": "Autre examen préférable",
        "duplicate": "Demande en double",
        "incomplete": "Demande incomplète",
        "cancelled-by-requester": "Annulée par le demandeur",
        "identity-mismatch": "Identité des images différente de celle de la demande",
        "identity-to-confirm": "Identité des images à confirmer",
        "images-withdrawn": "Images retirées, nouvelle acquisition attendue",
        "incomplete-study": "Série d'images incomplète",
        "information-needed": "Complément nécessaire",
        "exam-changed": "Examen modifié par l'établissement",
        "report-withdrawn": "Compte rendu annulé",
        "addendum": "Images reçues après la signature",
        "new-images": "Nouvelles images pendant l'interprétation",
        "no-change": "Images complémentaires sans effet sur le compte rendu",
        "not-interpretable": "Examen non interprétable",
        "reported": "Compte rendu signé entre-temps",
        "order-ended": "Demande annulée ou refusée",
        "settled": "Images rattachées ou écartées",
    },
    DUTY_FUNCTION: {
        DutyFunction.REGULATION: "Régulation",
        DutyFunction.READING: "Lecture",
        DutyFunction.SECOND_READING: "Seconde lecture",
    },
    CRITICAL_RESULT: {
        "1": "Critique, à communiquer en minutes (ACR 1)",
        "2": "Critique, à communiquer en heures (ACR 2)",
        "3": "Critique, à communiquer en jours (ACR 3)",
    },
    TASK_PART: {
        "protocol": "Protocole",
        "imaging-study": "Examen d'imagerie",
        "report": "Compte rendu",
        "communication": "Communication",
        "modality": "Modalité",
        "region": "Région anatomique",
        "remaining-time": "Temps restant",
    },
    CATALOGUE: {"imaging-protocol": "Protocole d'imagerie"},
    DIALOGUE: {
        "question": "Question à l'établissement",
        "answer": "Réponse de l'établissement",
        "protocol-withdrawn": "Protocole retiré",
        "reprioritised": "Priorité modifiée",
    },
    ESCALATION: {
        "escalation": "Délai dépassé",
        "returned": "Tâche remise à disposition",
        "critical-result": "Résultat critique",
        **{f"level-{level}": f"Alerte de niveau {level}" for level in range(1, 6)},
        "regulate": "Demande non régulée",
        "acquire": "Images non reçues",
        "read": "Examen non interprété",
        "communicate-critical": "Résultat critique non communiqué",
        "cancel": "Demande d'annulation sans réponse",
        "unexpected-images": "Images inattendues non examinées",
        "delivery": "Compte rendu non remis",
        "unmatched": "Images sans demande",
        "no-reader": "Aucun lecteur de garde",
        "unread": "Message non lu",
        "lease-expired": "Plus de signe de vie du poste",
        "garde-ended": "Fin de garde",
    },
    IDENTIFIER_TYPE: {"requesting-hospital": "Établissement demandeur"},
    RETAKE_REASON: {
        "motion": "Artéfacts de mouvement",
        "artefact": "Autres artéfacts",
        "incomplete-coverage": "Couverture incomplète",
        "wrong-protocol": "Protocole non respecté",
        "contrast-failure": "Défaut d'injection",
        "corrupted-transfer": "Transfert incomplet ou altéré",
        "other": "Autre motif",
    },
    REPORT_OUTCOME: {"not-interpretable": "Examen non interprétable"},
    NOTICE: {
        "retake-requested": "Nouvelle acquisition demandée",
        "not-interpretable": "Examen non interprétable",
        "report-withdrawn": "Compte rendu annulé",
    },
    TASK_CODE: {"fulfill": "Fulfill the focal request", "abort": "Mark the focal resource as no longer active"},
    REPORT_REASON: {
        "wrong-patient": "Compte rendu d'un autre patient",
        "wrong-exam": "Compte rendu d'un autre examen",
        "content-error": "Erreur de contenu",
        "new-information": "Éléments nouveaux",
        "late-images": "Images reçues après la signature",
        "second-reading": "Seconde lecture",
    },
    CONCLUSION_CATEGORY: {
        "normal": "Normal",
        "pathological-related": "Pathologique, en rapport avec l'indication",
        "pathological-unrelated": "Pathologique, sans rapport avec l'indication",
        "incidental": "Découverte fortuite",
        "indeterminate": "Indéterminé",
    },
    DOSE_ABSENT: {
        "not-transmitted": "Rapport de dose non transmis",
        "not-available": "Rapport de dose non disponible sur l'équipement",
        "unreadable": "Rapport de dose illisible",
        "outside-study": "Images d'un autre établissement",
    },
}

IMAGING_CATEGORIES: frozenset[tuple[str, str]] = frozenset({
    (SNOMED, "363679005"),  # Imaging
    (LOINC, "LP29684-5"),  # Radiology
    (LOINC, "18748-4"),  # Diagnostic imaging study
    *((V2_0074, code) for code in ("RAD", "RX", "CT", "NMR", "RUS", "VUS", "OUS", "CUS", "NMS", "XRC", "VR")),
})
"""Codings of ServiceRequest.category that make an order an imaging order."""


def coding(system: str, code: str) -> Json:
    """A Coding with the display known for it."""
    body: Json = {"system": system, "code": str(code)}
    display = DISPLAYS.get(system, {}).get(code)
    if display:
        body["display"] = display
    return body


def concept(system: str, code: str, *, text: str | None = None) -> Json:
    """A CodeableConcept of one coding."""
    body: Json = {"coding": [coding(system, code)]}
    if text:
        body["text"] = text
    return body


def codings(concepts: Json | Sequence[Json]) -> Iterator[tuple[str, str]]:
    """The (system, code) pairs of a CodeableConcept or of a list of them."""
    for one in [concepts] if isinstance(concepts, dict) else concepts:
        for item in one.get("coding", []):
            yield item.get("system", ""), item.get("code", "")


def code_of(concepts: Json | Sequence[Json], system: str) -> str | None:
    """The first code of `system` in a CodeableConcept or a list of them."""
    return next((code for found, code in codings(concepts) if found == system), None)


def has_coding(concepts: Json | Sequence[Json], wanted: Iterable[tuple[str, str]]) -> bool:
    """Whether any of `wanted` is among the codings."""
    return not frozenset(wanted).isdisjoint(codings(concepts))
