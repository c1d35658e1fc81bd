"""What a report's page says, in French, taken from the stored resources; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from resources.identifiers import (
    RPPS,
    IdentityStatus,
    canonical,
    identity_status,
    ins_may_travel,
    is_accession,
    is_ins,
)
from resources.json import Json
from resources.times import parse_instant
from workflow.report_pdf import Layout, Section, local_time, plain_text

_GENDER = {"male": "masculin", "female": "féminin", "other": "autre", "unknown": "inconnu"}
_TITLES = {
    "amended": "Compte rendu d'imagerie — modifié",
    "corrected": "Compte rendu d'imagerie — corrigé",
    "appended": "Compte rendu d'imagerie — complété",
}
_REVISION_BANNER = "Cette version remplace le compte rendu transmis précédemment."


@dataclass(frozen=True, slots=True)
class Sources:
    """The stored resources that a report is printed from; None where there is none."""

    report: Json
    report_id: str
    version: int
    order: Json
    patient: Json | None
    hospital: Json | None
    platform: Json | None
    signer: Json | None
    studies: Sequence[Json]
    protocols: Sequence[Json]
    results: Sequence[Json]


def layout(sources: Sources, signed_at: datetime, zone: tzinfo) -> Layout:
    """The page of a signed report."""
    report = sources.report
    return Layout(
        title=_TITLES.get(report.get("status", ""), "Compte rendu d'imagerie"),
        hospital=_name(sources.hospital, "Établissement demandeur"),
        platform=_name(sources.platform, "Plateforme de téléradiologie"),
        patient=tuple(_patient_lines(sources.patient)),
        banner=_banner(sources),
        exam=tuple(_exam_lines(sources, zone)),
        sections=tuple(_sections(sources)),
        signature=tuple(_signature_lines(sources.signer, signed_at, zone)),
        footer=f"DiagnosticReport/{sources.report_id} · version {sources.version}",
    )


def concept_text(concept: Json | None) -> str:
    """A CodeableConcept in words: its text, else a display, else a code."""
    concept = concept or {}
    if concept.get("text"):
        return str(concept["text"])
    codings = concept.get("coding", [])
    return next((str(one[name]) for name in ("display", "code") for one in codings if one.get(name)), "")


def person_name(person: Json | None) -> str:
    """The official name, else the first: family name in capitals, given names after it."""
    names = (person or {}).get("name", [])
    if isinstance(names, dict):
        names = [names]
    if not names:
        return "non renseigné"
    best = next((name for name in names if name.get("use") == "official"), names[0])
    if best.get("family") or best.get("given"):
        parts = [*best.get("prefix", []), str(best.get("family", "")).upper(), *best.get("given", [])]
        return " ".join(part for part in parts if part)
    return str(best.get("text", "non renseigné"))


def _name(organization: Json | None, default: str) -> str:
    return str((organization or {}).get("name") or default)


def _patient_lines(patient: Json | None) -> list[str]:
    if patient is None:
        return ["Patient : non renseigné"]
    lines = [
        f"Patient : {person_name(patient)}",
        f"Date de naissance : {_french_date(patient.get('birthDate'))}",
        f"Sexe : {_GENDER.get(patient.get('gender', ''), 'non renseigné')}",
    ]
    for identifier in patient.get("identifier", []):
        if is_ins(identifier):
            if ins_may_travel(patient):
                lines.append(f"INS : {identifier.get('value', '')}")
        elif any(coding.get("code") == "PI" for coding in identifier.get("type", {}).get("coding", [])):
            lines.append(f"IPP : {identifier.get('value', '')}")
    return lines


def _french_date(text: object) -> str:
    parts = str(text).split("-") if text else []
    return "/".join(reversed(parts)) if parts else "non renseignée"


def _banner(sources: Sources) -> str | None:
    lines = []
    if sources.patient is not None and identity_status(sources.patient) is IdentityStatus.DOUBTFUL:
        lines.append("Identité douteuse ou fictive : à vérifier avant toute utilisation.")
    if sources.report.get("status") in _TITLES:
        lines.append(_REVISION_BANNER)
    return " ".join(lines) or None


def _exam_lines(sources: Sources, zone: tzinfo) -> list[tuple[str, str]]:
    report = sources.report
    lines = [("Examen", concept_text(report.get("code")) or "non renseigné")]
    when = report.get("effectiveDateTime") or report.get("effectivePeriod", {}).get("start")
    exact = parse_instant(when)
    lines.append(("Date de l'examen", local_time(exact, zone) if exact else _french_date(when)))
    accession = next((one.get("value") for one in sources.order.get("identifier", []) if is_accession(one)), None)
    if accession:
        lines.append(("Numéro d'examen", str(accession)))
    modalities = sorted({one.get("code", "") for study in sources.studies for one in study.get("modality", [])} - {""})
    if modalities:
        lines.append(("Modalité", ", ".join(modalities)))
    return lines


def _sections(sources: Sources) -> list[Section]:
    reasons = [concept_text(one) for one in sources.order.get("reasonCode", [])]
    technique = [line for protocol in sources.protocols for line in _protocol_lines(protocol)]
    technique += [str(study["description"]) for study in sources.studies if study.get("description")]
    found = [plain_text(sources.report.get("text", {}).get("div", ""))]
    found += [_observation(one) for one in sources.results]
    sections = [
        Section("Indication", "\n".join(filter(None, reasons))),
        Section("Technique", "\n".join(technique)),
        Section("Résultats", "\n".join(filter(None, found))),
        Section("Conclusion", str(sources.report.get("conclusion", "")).strip()),
    ]
    return [section for section in sections if section.text]


def _protocol_lines(protocol: Json) -> list[str]:
    lines = [concept_text(protocol.get("code")), *(concept_text(one) for one in protocol.get("orderDetail", []))]
    lines += [str(note.get("text", "")) for note in protocol.get("note", [])]
    return [line for line in lines if line.strip()]


def _observation(observation: Json) -> str:
    value = observation.get("valueString") or concept_text(observation.get("valueCodeableConcept"))
    quantity = observation.get("valueQuantity")
    if quantity:
        number = quantity.get("value")
        value = f"{getattr(number, 'text', number)} {quantity.get('unit', '')}".strip()
    return f"{concept_text(observation.get('code'))} : {value}" if value else ""


def _signature_lines(signer: Json | None, signed_at: datetime, zone: tzinfo) -> list[str]:
    lines = [f"Validé et signé par {person_name(signer)}"]
    for identifier in (signer or {}).get("identifier", []):
        system, value = canonical(identifier.get("system", ""), str(identifier.get("value", "")))
        if system == RPPS:
            lines.append(f"RPPS {value}")
            break
    lines.append(f"le {local_time(signed_at, zone)}")
    return lines
