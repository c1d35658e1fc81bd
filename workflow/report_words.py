"""The words of a printed report, by language: one table, so that a further language is one more row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo


@dataclass(frozen=True, slots=True)
class Words:
    """Everything that a page says of its own."""

    tag: str
    """BCP 47 tag of the document."""
    title: str
    revised: Mapping[str, str]
    """Title by the status of a revised report."""
    withdrawn: str
    hospital: str
    platform: str
    patient: str
    birth_date: str
    sex: str
    sexes: Mapping[str, str]
    unknown: str
    """Of a feminine noun in French."""
    unnamed: str
    doubtful: str
    replaces: str
    void: str
    """Across each page of a withdrawn report."""
    void_banner: str
    reason: str
    exam: str
    unnamed_exam: str
    exam_date: str
    exam_number: str
    modality: str
    requester: str
    equipment: str
    dose: str
    dose_absent: str
    comparison: str
    responsible: str
    indication: str
    technique: str
    results: str
    conclusion: str
    category: str
    changes: str
    removed: str
    added: str
    changed: str
    elements: Mapping[str, str]
    finding: str
    also: str
    signed: str
    on: str
    withdrawn_on: str
    sealed_by: str
    at: str
    page: str
    version: str

    def local_time(self, moment: datetime | None, zone: tzinfo) -> str:
        """An instant in words, with its offset: ``24/11/2026 à 06:05 (UTC+01:00)``."""
        if moment is None:
            return self.unknown
        local = moment.astimezone(zone)
        offset = local.strftime("%z")
        return f"{local:%d/%m/%Y} {self.at} {local:%H:%M} (UTC{offset[:3]}:{offset[3:5]})"

    def date(self, text: object) -> str:
        """A FHIR date in words, as exact as it is."""
        parts = str(text).partition("T")[0].split("-") if text else []
        return "/".join(reversed(parts)) if parts else self.unknown


FRENCH = Words(
    tag="fr-FR",
    title="Compte rendu d'imagerie",
    revised={
        "amended": "Compte rendu d'imagerie — modifié",
        "corrected": "Compte rendu d'imagerie — corrigé",
        "appended": "Compte rendu d'imagerie — complété",
    },
    withdrawn="Compte rendu d'imagerie — ANNULÉ",
    hospital="Établissement demandeur",
    platform="Plateforme de téléradiologie",
    patient="Patient",
    birth_date="Date de naissance",
    sex="Sexe",
    sexes={"male": "masculin", "female": "féminin", "other": "autre", "unknown": "inconnu"},
    unknown="non renseignée",
    unnamed="non renseigné",
    doubtful="Identité douteuse ou fictive : à vérifier avant toute utilisation.",
    replaces="Cette version remplace le compte rendu transmis précédemment.",
    void="ANNULÉ – WITHDRAWN",
    void_banner="ANNULÉ (WITHDRAWN) : ce compte rendu a été retiré et ne doit plus être utilisé.",
    reason="Motif",
    exam="Examen",
    unnamed_exam="Examen d'imagerie, non précisé",
    exam_date="Date de l'examen",
    exam_number="Numéro d'examen",
    modality="Modalité",
    requester="Demandeur",
    equipment="Équipement",
    dose="Dose",
    dose_absent="non disponible",
    comparison="Comparaison",
    responsible="Médecin responsable sur site",
    indication="Indication",
    technique="Technique",
    results="Résultats",
    conclusion="Conclusion",
    category="Catégorie",
    changes="Modifications par rapport à la version précédente",
    removed="Retiré",
    added="Ajouté",
    changed="modifié",
    elements={
        "conclusion": "Conclusion", "conclusionCode": "Codes de conclusion", "text": "Résultats",
        "result": "Observations", "code": "Examen", "effectiveDateTime": "Date de l'examen",
        "effectivePeriod": "Date de l'examen", "imagingStudy": "Examens lus", "media": "Images jointes",
        "category": "Catégorie de document", "encounter": "Venue", "specimen": "Prélèvement",
        "performer": "Responsables", "resultsInterpreter": "Lecteurs", "presentedForm": "Documents joints",
        "extension": "Autres éléments",
    },
    finding="Observation",
    also="Second lecteur",
    signed="Validé et signé par",
    on="le",
    withdrawn_on="Annulé le",
    sealed_by="Scellé électroniquement par",
    at="à",
    page="Page",
    version="version",
)

ENGLISH = Words(
    tag="en-GB",
    title="Imaging report",
    revised={
        "amended": "Imaging report — amended",
        "corrected": "Imaging report — corrected",
        "appended": "Imaging report — with addendum",
    },
    withdrawn="Imaging report — WITHDRAWN",
    hospital="Requesting hospital",
    platform="Teleradiology platform",
    patient="Patient",
    birth_date="Date of birth",
    sex="Sex",
    sexes={"male": "male", "female": "female", "other": "other", "unknown": "unknown"},
    unknown="not known",
    unnamed="not known",
    doubtful="Doubtful or fictitious identity: to be checked before any use.",
    replaces="This version replaces the report that was sent before.",
    void="WITHDRAWN – ANNULÉ",
    void_banner="WITHDRAWN (ANNULÉ): this report has been withdrawn and must no longer be used.",
    reason="Reason",
    exam="Exam",
    unnamed_exam="Imaging exam, not specified",
    exam_date="Date of the exam",
    exam_number="Accession number",
    modality="Modality",
    requester="Requester",
    equipment="Equipment",
    dose="Dose",
    dose_absent="not available",
    comparison="Comparison",
    responsible="Responsible physician on site",
    indication="Indication",
    technique="Technique",
    results="Findings",
    conclusion="Conclusion",
    category="Category",
    changes="Changes from the previous version",
    removed="Removed",
    added="Added",
    changed="changed",
    elements={
        "conclusion": "Conclusion", "conclusionCode": "Conclusion codes", "text": "Findings",
        "result": "Observations", "code": "Exam", "effectiveDateTime": "Date of the exam",
        "effectivePeriod": "Date of the exam", "imagingStudy": "Studies read", "media": "Key images",
        "category": "Kind of document", "encounter": "Encounter", "specimen": "Specimen",
        "performer": "Responsible", "resultsInterpreter": "Readers", "presentedForm": "Attachments",
        "extension": "Other elements",
    },
    finding="Observation",
    also="Second reader",
    signed="Validated and signed by",
    on="on",
    withdrawn_on="Withdrawn on",
    sealed_by="Sealed electronically by",
    at="at",
    page="Page",
    version="version",
)

_BY_TAG: Mapping[str, Words] = {words.tag: words for words in (FRENCH, ENGLISH)}


def words_of(language: str) -> Words:
    """The words of a language (BCP 47); French where there are none of it."""
    return _BY_TAG.get(language, FRENCH)
