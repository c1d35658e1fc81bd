"""The demonstration's world as data: two hospitals, the platform, its people, their rota, the clients.

All names, numbers and identifiers are invented. Identifier systems are the French ones (FINESS, RPPS).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from fhir_server.demo import protocols
from resources import registry
from resources.codes import DUTY_FUNCTION, DutyFunction, concept
from resources.json import Json

PLATFORM = "platform"
HOSPITAL_A = "hopital-a"
HOSPITAL_B = "hopital-b"
AI_VENDOR = "ai-vendor"

AE_TITLES = {"HOPITAL_A": HOSPITAL_A, "HOPITAL_B": HOSPITAL_B}
"""Calling AE title → organisation."""

PARIS = ZoneInfo("Europe/Paris")
ROTA_DAYS = 14

_FINESS = "https://finess.esante.gouv.fr"
_RPPS = "https://rpps.esante.gouv.fr"

CLINICAL = (
    "Patient",
    "Encounter",
    "ServiceRequest",
    "Task",
    "ImagingStudy",
    "DiagnosticReport",
    "Observation",
    "Condition",
    "AllergyIntolerance",
    "Procedure",
    "MedicationAdministration",
    "MedicationRequest",
    "MedicationStatement",
    "Medication",
    "Communication",
    "CommunicationRequest",
    "Consent",
    "Coverage",
    "RelatedPerson",
    "DocumentReference",
    "Media",
    "Binary",
    "Provenance",
    "QuestionnaireResponse",
    "Questionnaire",
    "List",
    "Group",
    "Basic",
    "Bundle",
    "Composition",
    "Flag",
    "CarePlan",
    "CareTeam",
    "EpisodeOfCare",
    "Immunization",
    "Specimen",
    "Appointment",
    "AppointmentResponse",
    "Account",
    "ClinicalImpression",
    "Goal",
    "RiskAssessment",
    "FamilyMemberHistory",
    "OperationOutcome",
    "Parameters",
)
DIRECTORY = (
    "Organization",
    "OrganizationAffiliation",
    "Practitioner",
    "PractitionerRole",
    "Location",
    "HealthcareService",
    "Endpoint",
    "Device",
    "Schedule",
    "Slot",
    "ActivityDefinition",
    "PlanDefinition",
    "CodeSystem",
    "ValueSet",
    "CapabilityStatement",
)


@dataclass(frozen=True, slots=True)
class DemoClient:
    """A registered client of the demonstration. `role` names it in clients.json."""

    role: str
    name: str
    organization: str
    scope: str
    practitioner: str | None = None


def _scope(letters: str, *types: str) -> str:
    return " ".join(f"system/{name}.{letters}" for name in types if name in registry.TYPES)


_HOSPITAL = f"{_scope('cruds', *CLINICAL, *DIRECTORY, 'Subscription')}"
_READS_CLINICAL = (
    "Patient",
    "Encounter",
    "ServiceRequest",
    "ImagingStudy",
    "DiagnosticReport",
    "Observation",
    "Condition",
    "AllergyIntolerance",
    "Procedure",
    "Communication",
    "Binary",
    "Provenance",
    "DocumentReference",
)

CLIENTS = (
    DemoClient("hospital-a", "EHR of Hôpital A", HOSPITAL_A, _HOSPITAL),
    DemoClient("hospital-b", "EHR of Hôpital B", HOSPITAL_B, _HOSPITAL),
    DemoClient("platform", "Platform RIS", PLATFORM, _scope("cruds", *CLINICAL, *DIRECTORY, "Subscription")),
    DemoClient(
        "radiologist",
        "Reading console",
        PLATFORM,
        f"{_scope('rs', *_READS_CLINICAL, *DIRECTORY, 'Appointment')} "
        f"{_scope('cruds', 'Task', 'DiagnosticReport', 'Communication', 'Binary')} "
        f"{_scope('crus', 'AppointmentResponse')}",
        "Practitioner/lecteur-neuro",
    ),
    DemoClient(
        "regulator",
        "Regulation console",
        PLATFORM,
        f"{_scope('rs', *_READS_CLINICAL, *DIRECTORY, 'Appointment')} "
        f"{_scope('cruds', 'Task', 'ServiceRequest', 'Communication')} {_scope('u', 'ImagingStudy')} "
        f"{_scope('crus', 'AppointmentResponse')}",
        "Practitioner/regulateur",
    ),
    DemoClient(
        "ai-vendor",
        "AI triage",
        AI_VENDOR,
        f"{_scope('rus', 'Task')} {_scope('crus', 'Observation')} {_scope('rs', 'ImagingStudy', 'Device')}",
    ),
    DemoClient("auditor", "Audit desk", PLATFORM, _scope("rs", "AuditEvent")),
    DemoClient(
        "viewer", "Image viewer", PLATFORM, _scope("rs", "ImagingStudy", "Patient", "ServiceRequest", "Endpoint")
    ),
    DemoClient(
        "planner",
        "Rota planning",
        PLATFORM,
        _scope(
            "cruds",
            "Schedule",
            "Slot",
            "Appointment",
            "AppointmentResponse",
            "Practitioner",
            "PractitionerRole",
            "HealthcareService",
            "Location",
            "Organization",
        ),
    ),
    DemoClient("admin", "Administration", PLATFORM, "system/*.cruds"),
)


def directory() -> list[Json]:
    """Organisations, places, people, their roles and schedules, in an order in which references resolve."""
    found: list[Json] = [
        _organization(PLATFORM, "Centre de téléradiologie (démonstration)", "990000001"),
        _organization(HOSPITAL_A, "Hôpital A (démonstration)", "990000002"),
        _organization(HOSPITAL_B, "Hôpital B (démonstration)", "990000003"),
        {"resourceType": "Organization", "id": AI_VENDOR, "active": True, "name": "Éditeur d'IA (démonstration)"},
        {
            "resourceType": "Location",
            "id": "centre-lyon",
            "status": "active",
            "name": "Centre de garde de Lyon",
            "managingOrganization": {"reference": f"Organization/{PLATFORM}"},
        },
        {
            "resourceType": "HealthcareService",
            "id": "lecture-neuro",
            "active": True,
            "name": "Lecture neuroradiologique",
            "providedBy": {"reference": f"Organization/{PLATFORM}"},
        },
    ]
    for person in PEOPLE:
        found += person.resources()
    return [*found, *protocols.catalogue(HOSPITAL_A)]


def _organization(identifier: str, name: str, finess: str) -> Json:
    return {
        "resourceType": "Organization",
        "id": identifier,
        "active": True,
        "name": name,
        "identifier": [{"system": _FINESS, "value": finess}],
    }


@dataclass(frozen=True, slots=True)
class Person:
    """A radiologist of the platform and what its gardes are for."""

    id: str
    family: str
    given: str
    rpps: str
    function: DutyFunction

    def resources(self) -> list[Json]:
        """Practitioner, PractitionerRole and Schedule of this person."""
        practitioner = {"reference": f"Practitioner/{self.id}", "display": f"Dr {self.given} {self.family}"}
        return [
            {
                "resourceType": "Practitioner",
                "id": self.id,
                "active": True,
                "identifier": [{"system": _RPPS, "value": self.rpps}],
                "name": [{"family": self.family, "given": [self.given], "prefix": ["Dr"]}],
            },
            {
                "resourceType": "PractitionerRole",
                "id": f"role-{self.id}",
                "active": True,
                "practitioner": practitioner,
                "organization": {"reference": f"Organization/{PLATFORM}"},
                "code": [concept(DUTY_FUNCTION, self.function)],
                "location": [{"reference": "Location/centre-lyon"}],
                "healthcareService": [{"reference": "HealthcareService/lecture-neuro"}],
            },
            {
                "resourceType": "Schedule",
                "id": f"agenda-{self.id}",
                "active": True,
                "actor": [{"reference": f"PractitionerRole/role-{self.id}"}],
            },
        ]

    def garde(self, day: date) -> tuple[Json, Json]:
        """Slot and Appointment of the garde that begins at midnight, Paris, of that day and lasts until the next."""
        start = datetime.combine(day, time(), PARIS)
        end = datetime.combine(day + timedelta(days=1), time(), PARIS)
        times = {"start": start.isoformat(timespec="seconds"), "end": end.isoformat(timespec="seconds")}
        name = f"{self.id}-{day:%Y%m%d}"
        slot = {
            "resourceType": "Slot",
            "id": f"poste-{name}",
            "status": "free",
            **times,
            "schedule": {"reference": f"Schedule/agenda-{self.id}"},
        }
        appointment = {
            "resourceType": "Appointment",
            "id": f"garde-{name}",
            "status": "booked",
            **times,
            "serviceType": [concept(DUTY_FUNCTION, self.function)],
            "slot": [{"reference": f"Slot/poste-{name}"}],
            "participant": [
                {"actor": {"reference": f"PractitionerRole/role-{self.id}"}, "status": "accepted"},
                {"actor": {"reference": "Location/centre-lyon"}, "status": "accepted"},
            ],
        }
        return slot, appointment


PEOPLE = (
    Person("regulateur", "REGULIER", "Rémi", "10000000001", DutyFunction.REGULATION),
    Person("lecteur-neuro", "NEUROVA", "Nadia", "10000000002", DutyFunction.READING),
    Person("lecteur-general", "GENERAL", "Gilles", "10000000003", DutyFunction.READING),
)
