"""What a report's page says, in the hospital's language and zone, taken from the stored resources; pure.

Content of the compte rendu: arrêté du 22 septembre 2006 (identity of patient and physician, date and justification of
the exam, elements of identification of the equipment, dose), indication, technique, results, conclusion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from resources import dose
from resources.codes import CONCLUSION_CATEGORY, DISPLAYS, LOINC, code_of
from resources.dose import Dose
from resources.exams import EXAMS
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
from resources.report_changes import Changed
from resources.times import parse_instant
from workflow.report_pdf import Layout, Section, plain_text
from workflow.report_words import FRENCH, Words


@dataclass(frozen=True, slots=True)
class Sources:
    """The stored resources that a report is printed from; None where there is none."""

    report: Json
    report_id: str
    version: int
    orders: Sequence[Json]
    patient: Json | None
    hospital: Json | None
    platform: Json | None
    signer: Json | None
    studies: Sequence[Json]
    protocols: Sequence[Json]
    results: Sequence[Json]
    requesters: Sequence[Json] = ()
    """Who ordered: persons and organisations."""
    priors: Sequence[Json] = ()
    """ImagingStudy resources that were compared."""
    readers: Sequence[Json] = ()
    """Persons who interpret the report beside the signer."""
    responsible: Sequence[Json] = ()
    """Persons of the hospital who answer for the exam on site."""
    changes: Sequence[Changed] = ()
    """What this version says otherwise than the one before."""
    reason: Json | None = None
    """Why it was revised or withdrawn, as a CodeableConcept."""
    withdrawn: datetime | None = None
    """When it was withdrawn; None: it is in force."""
    sealed_by: str = ""
    """Who seals the file; empty: nobody does."""
    words: Words = FRENCH


def layout(sources: Sources, signed_at: datetime, zone: tzinfo) -> Layout:
    """The page of a signed report, or of one that was withdrawn."""
    report, words = sources.report, sources.words
    title = words.revised.get(report.get("status", ""), words.title)
    return Layout(
        title=words.withdrawn if sources.withdrawn else title,
        hospital=_name(sources.hospital, words.hospital),
        platform=_name(sources.platform, words.platform),
        patient=tuple(_patient_lines(sources.patient, words)),
        banner=_banner(sources),
        exam=tuple(_exam_lines(sources, zone)),
        sections=tuple(_sections(sources)),
        signature=tuple(_signature_lines(sources, signed_at, zone)),
        footer=" · ".join(filter(None, (
            person_name(sources.patient, words)[:60] if sources.patient else "",
            f"DiagnosticReport/{sources.report_id}",
            f"{words.version} {sources.version}",
        ))),
        language=words.tag,
        page=words.page,
        watermark=words.void if sources.withdrawn else None,
        header=_reason(sources) if sources.withdrawn else None,
    )


def signed_at(report: Json) -> datetime | None:
    """When a stored report was signed."""
    return parse_instant(report.get("issued"))


def concept_text(concept: Json | None) -> str:
    """A CodeableConcept in words: its text, else a display, else this server's own display; never a bare code."""
    concept = concept or {}
    if str(concept.get("text", "")).strip():
        return str(concept["text"])
    codings = concept.get("coding", [])
    told = (str(one.get("display", "")).strip() for one in codings)
    return next(filter(None, (*told, *(_known(one) for one in codings))), "")


def _known(coding: Json) -> str:
    system, code = coding.get("system", ""), coding.get("code", "")
    exam = EXAMS.get(code) if system == LOINC else None
    return exam.display if exam is not None else DISPLAYS.get(system, {}).get(code, "")


def person_name(person: Json | None, words: Words = FRENCH) -> str:
    """The official name, else the first: family name in capitals, given names after it."""
    names = (person or {}).get("name", [])
    if isinstance(names, dict):
        names = [names]
    if not names:
        return words.unnamed
    if isinstance(names, str):
        return names
    best = next((name for name in names if name.get("use") == "official"), names[0])
    if best.get("family") or best.get("given"):
        parts = [*best.get("prefix", []), str(best.get("family", "")).upper(), *best.get("given", [])]
        return " ".join(part for part in parts if part)
    return str(best.get("text", words.unnamed))


def dose_text(found: Dose) -> str:
    """A dose in words: the total DLP, then CTDIvol and DLP of each acquisition."""
    parts = [f"PDL / DLP {_plain(found.dlp_total)} mGy·cm"] if found.dlp_total is not None else []
    for number, event in enumerate(found.events, start=1):
        said = [f"CTDIvol {_plain(event.ctdi_vol)} mGy"] if event.ctdi_vol is not None else []
        said += [f"DLP {_plain(event.dlp)} mGy·cm"] if event.dlp is not None else []
        if said:
            parts.append(f"{event.protocol or number} : {', '.join(said)}")
    return " ; ".join(parts)


def _plain(value: object) -> str:
    return getattr(value, "text", None) or format(value, "f")


def _name(organization: Json | None, default: str) -> str:
    return str((organization or {}).get("name") or default)


def _patient_lines(patient: Json | None, words: Words) -> list[str]:
    if patient is None:
        return [f"{words.patient} : {words.unnamed}"]
    lines = [
        f"{words.patient} : {person_name(patient, words)}",
        f"{words.birth_date} : {words.date(patient.get('birthDate'))}",
        f"{words.sex} : {words.sexes.get(patient.get('gender', ''), words.unnamed)}",
    ]
    for identifier in patient.get("identifier", []):
        if is_ins(identifier):
            if ins_may_travel(patient):
                lines.append(f"INS : {identifier.get('value', '')}")
        elif any(coding.get("code") == "PI" for coding in identifier.get("type", {}).get("coding", [])):
            lines.append(f"IPP : {identifier.get('value', '')}")
    return lines


def _banner(sources: Sources) -> str | None:
    words = sources.words
    lines = []
    if sources.withdrawn:
        lines.append(f"{words.void_banner} {_reason(sources)}")
    if sources.patient is not None and identity_status(sources.patient) is IdentityStatus.DOUBTFUL:
        lines.append(words.doubtful)
    if sources.report.get("status") in words.revised:
        lines.append(words.replaces)
    return " ".join(lines) or None


def _reason(sources: Sources) -> str:
    return f"{sources.words.reason} : {reason_text(sources.reason) or sources.words.unnamed}"


def reason_text(reason: Json | None) -> str:
    """A reason in words: its code's display and its text, where they are two."""
    reason = reason or {}
    coded = concept_text({"coding": reason.get("coding", [])})
    text = str(reason.get("text", "")).strip()
    return " — ".join(dict.fromkeys(filter(None, (coded, text))))


def _exam_lines(sources: Sources, zone: tzinfo) -> list[tuple[str, str]]:
    report, words = sources.report, sources.words
    lines = [(words.exam, _exam(sources))]
    when = report.get("effectiveDateTime") or report.get("effectivePeriod", {}).get("start")
    exact = parse_instant(when)
    lines.append((words.exam_date, words.local_time(exact, zone) if exact else words.date(when)))
    accessions = [
        str(one["value"]) for order in sources.orders for one in order.get("identifier", [])
        if is_accession(one) and one.get("value")
    ]
    modalities = sorted(
        {one.get("code", "") for study in sources.studies for one in study.get("modality", [])} - _NO_IMAGES
    )
    lines += [
        (words.exam_number, _joined(accessions)),
        (words.modality, _joined(modalities)),
        (words.requester, _joined(_person(one, words) for one in sources.requesters)),
        (words.responsible, _joined(_person(one, words) for one in sources.responsible)),
        (words.equipment, _joined(equipment for study in sources.studies for equipment in _equipment(study))),
        (words.dose, _dose(sources)),
        (words.comparison, _joined((_prior(one, words) for one in sources.priors), "; ")),
    ]
    return [line for line in lines if line[1]]


_NO_IMAGES = frozenset({"", "SR", "KO", "PR"})
"""Modalities of what accompanies images (PS3.3 §C.7.3.1.1.1)."""


def _exam(sources: Sources) -> str:
    """The exam in words: the report's, else the orders', the protocols', the studies'."""
    told = [concept_text(sources.report.get("code"))]
    told += [_joined(concept_text(one.get("code")) for one in sources.orders)]
    told += [_joined(concept_text(one.get("code")) for one in sources.protocols)]
    told += [_joined(str(one.get("description", "")) for one in sources.studies)]
    return next(filter(None, told), sources.words.unnamed_exam)


def _joined(parts: Iterable[str], by: str = ", ") -> str:
    return by.join(dict.fromkeys(part for part in parts if part))


def _person(person: Json, words: Words) -> str:
    name = person_name(person, words)
    return "" if name == words.unnamed else name


def _equipment(study: Json) -> list[str]:
    """Manufacturer and model of the devices that made the images: elements of identification of the equipment."""
    devices = [one for one in study.get("contained", []) if one.get("resourceType") == "Device"]
    found = []
    for device in devices:
        names = {one.get("type"): str(one.get("name", "")) for one in device.get("deviceName", [])}
        station = names.get("user-friendly-name", "")
        said = " ".join(filter(None, (str(device.get("manufacturer", "")), names.get("model-name", ""))))
        found.append(f"{said} ({station})" if said and station else said or station)
    return found


def _dose(sources: Sources) -> str:
    found = [known for study in sources.studies if (known := dose.of_study(study)) is not None and known.is_known]
    if found:
        return " ; ".join(dose_text(one) for one in found)
    absent = dose.absent_reason(sources.report)
    return f"{sources.words.dose_absent} ({reason_text(absent)})" if absent and reason_text(absent) else (
        sources.words.dose_absent if absent else ""
    )


def _prior(study: Json, words: Words) -> str:
    what = str(study.get("description", "")) or _joined(one.get("code", "") for one in study.get("modality", []))
    return f"{what} ({words.date(study.get('started'))})".strip()


def _sections(sources: Sources) -> list[Section]:
    words = sources.words
    reasons = [concept_text(one) for order in sources.orders for one in order.get("reasonCode", [])]
    technique = [line for protocol in sources.protocols for line in _protocol_lines(protocol)]
    technique += [str(study["description"]) for study in sources.studies if study.get("description")]
    found = [plain_text(sources.report.get("text", {}).get("div", ""))]
    found += [_observation(one, words) for one in sources.results]
    conclusion = [str(sources.report.get("conclusion", "")).strip()]
    category = code_of(sources.report.get("conclusionCode", []), CONCLUSION_CATEGORY)
    if category is not None and category in DISPLAYS[CONCLUSION_CATEGORY]:
        shown = DISPLAYS[CONCLUSION_CATEGORY][category] if words is FRENCH else category.replace("-", ", ")
        conclusion.append(f"{words.category} : {shown}")
    sections = [
        Section(words.indication, _joined(reasons, "\n")),
        Section(words.technique, _joined(technique, "\n")),
        Section(words.results, "\n".join(filter(None, found))),
        Section(words.conclusion, "\n".join(filter(None, conclusion))),
        Section(words.changes, "\n".join(_change_lines(sources))),
    ]
    return [section for section in sections if section.text]


def _change_lines(sources: Sources) -> list[str]:
    """What this version says otherwise, and why."""
    words = sources.words
    if not sources.changes:
        return []
    lines = [f"{words.reason} : {reason_text(sources.reason) or words.unnamed}"]
    for change in sources.changes:
        name = words.elements.get(change.element, change.element)
        told = [f"{words.removed} : « {line} »" for line in change.removed]
        told += [f"{words.added} : « {line} »" for line in change.added]
        lines += [f"{name} — {line}" for line in told] or [f"{name} — {words.changed}"]
    return lines


def _protocol_lines(protocol: Json) -> list[str]:
    lines = [concept_text(protocol.get("code")), *(concept_text(one) for one in protocol.get("orderDetail", []))]
    lines += [str(note.get("text", "")) for note in protocol.get("note", [])]
    return [line for line in lines if line.strip()]


def _observation(observation: Json, words: Words) -> str:
    value = observation.get("valueString") or concept_text(observation.get("valueCodeableConcept"))
    quantity = observation.get("valueQuantity")
    if quantity:
        number = quantity.get("value")
        value = f"{getattr(number, 'text', number)} {quantity.get('unit', '')}".strip()
    return f"{concept_text(observation.get('code')) or words.finding} : {value}" if value else ""


def _signature_lines(sources: Sources, signed_at: datetime, zone: tzinfo) -> list[str]:
    words, signer = sources.words, sources.signer
    lines = [f"{words.signed} {person_name(signer, words)}"]
    for identifier in (signer or {}).get("identifier", []):
        system, value = canonical(identifier.get("system", ""), str(identifier.get("value", "")))
        if system == RPPS:
            lines.append(f"RPPS {value}")
            break
    lines += [f"{words.also} : {_person(one, words)}" for one in sources.readers if _person(one, words)]
    lines.append(f"{words.on} {words.local_time(signed_at, zone)}")
    if sources.sealed_by:
        lines.append(f"{words.sealed_by} {sources.sealed_by}")
    if sources.withdrawn:
        lines.append(f"{words.withdrawn_on} {words.local_time(sources.withdrawn, zone)}")
    return lines
