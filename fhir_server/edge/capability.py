"""CapabilityStatement, derived from the tables that also route, search and index: it can promise nothing else.

FHIR R4 http://hl7.org/fhir/R4/capabilitystatement.html
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

from fhir_server.edge import operations
from fhir_server.edge.ports import Services
from resources import interactions, jsontext, registry, search_parameters
from resources.interactions import Interaction, Level
from resources.json import Json

SOFTWARE_VERSION = "0.1.0"
_PUBLISHED = "2026-11-24"

_SMART_SERVICE = {
    "coding": [
        {
            "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
            "code": "SMART-on-FHIR",
            "display": "SMART-on-FHIR",
        }
    ]
}
_TOPICS = (
    "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/capabilitystatement-subscriptiontopic-canonical"
)
_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-subscription"

_READ_CONDITIONS = ("if-none-match", "if-modified-since")


def statement(services: Services, base: str) -> tuple[bytes, str]:
    """What this server does, at the base that the client used: its text, and the entity tag of that."""
    return _text(base, services.subscriptions.topics, services.cors)


@lru_cache(maxsize=16)
def _text(base: str, topics: tuple[str, ...], cors: bool) -> tuple[bytes, str]:
    text = jsontext.dump(_statement(base, topics, cors))
    return text, f'W/"{sha256(text).hexdigest()[:16]}"'


def _statement(base: str, topics: tuple[str, ...], cors: bool) -> Json:
    return {
        "resourceType": "CapabilityStatement",
        "id": "vigie",
        "url": f"{base}/fhir/metadata",
        "version": SOFTWARE_VERSION,
        "name": "Vigie",
        "title": "Vigie, interoperability server for emergency teleradiology",
        "status": "active",
        "date": _PUBLISHED,
        "publisher": "Vigie",
        "kind": "instance",
        "instantiates": [
            "http://hl7.org/fhir/uv/subscriptions-backport/CapabilityStatement/backport-subscription-server-r4"
        ],
        "software": {"name": "Vigie", "version": SOFTWARE_VERSION},
        "implementation": {"description": "Vigie", "url": f"{base}/fhir"},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [
            {
                "mode": "server",
                "security": {
                    "cors": cors,
                    "service": [_SMART_SERVICE],
                    "description": "OAuth2 client_credentials with private_key_jwt (SMART backend services)",
                    "extension": [
                        {
                            "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
                            "extension": [
                                {"url": "token", "valueUri": f"{base}/oauth/token"},
                                {"url": "introspect", "valueUri": f"{base}/oauth/introspect"},
                                {"url": "revoke", "valueUri": f"{base}/oauth/revoke"},
                            ],
                        }
                    ],
                },
                "resource": [_resource(name, topics) for name in registry.TYPES],
                "interaction": [{"code": code} for code in _declared(Level.SYSTEM)],
                "searchParam": [
                    _parameter(p) for p in search_parameters.parameters("Resource").values() if p.supported
                ],
            }
        ],
    }


def _resource(name: str, topics: tuple[str, ...]) -> Json:
    row = registry.TYPES[name]
    writable = Interaction.CREATE in row.interactions
    resource: Json = {
        "type": name,
        "profile": f"http://hl7.org/fhir/StructureDefinition/{name}",
        "interaction": [
            {"code": code}
            for code in _declared(Level.TYPE)
            if code in row.interactions
        ],
        "versioning": "versioned-update" if writable else "versioned",
        "readHistory": True,
        "updateCreate": writable,
        "conditionalCreate": writable and _heeds(Interaction.CREATE, "if-none-exist"),
        "conditionalRead": "full-support" if _heeds(Interaction.READ, *_READ_CONDITIONS) else "not-supported",
        "conditionalUpdate": writable and _by_criteria(Interaction.UPDATE),
        "conditionalDelete": "single" if writable and _by_criteria(Interaction.DELETE) else "not-supported",
        "referencePolicy": ["literal", "logical", "local", "enforced"],
        "searchInclude": ["*", *sorted(_includes(name))],
        "searchParam": [
            _parameter(parameter) for parameter in search_parameters.parameters(name).values() if parameter.supported
        ],
    }
    pointing = sorted(_revincludes(name))
    if pointing:
        resource["searchRevInclude"] = pointing
    listed = [{"name": one.name, "definition": one.definition} for one in operations.of_type(name)]
    if listed:
        resource["operation"] = listed
    if name == "Subscription":
        resource["supportedProfile"] = [_BACKPORT]
        resource["extension"] = [{"url": _TOPICS, "valueCanonical": topic} for topic in topics]
    return resource


def _declared(level: Level) -> list[str]:
    return [row.interaction for row in interactions.TABLE if row.declared is level]


def _heeds(interaction: Interaction, *headers: str) -> bool:
    return any(form.heeds.issuperset(headers) for form in interactions.ROWS[interaction].forms)


def _by_criteria(interaction: Interaction) -> bool:
    return any(form.criteria for form in interactions.ROWS[interaction].forms)


def _parameter(parameter: search_parameters.SearchParameter) -> Json:
    named = {"definition": parameter.definition} if parameter.definition else {}
    return {"name": parameter.code, **named, "type": parameter.kind}


def _includes(name: str) -> list[str]:
    return [
        f"{name}:{parameter.code}"
        for parameter in search_parameters.parameters(name).values()
        if parameter.kind == "reference"
    ]


@lru_cache(maxsize=1)
def _pointing() -> dict[str, list[str]]:
    """Target type → ``Type:parameter`` of what may refer to it."""
    pointing: dict[str, list[str]] = {}
    for name in registry.TYPES:
        if name == "AuditEvent":  # kept apart: it is searched by itself
            continue
        for parameter in search_parameters.parameters(name).values():
            if parameter.kind == "reference":
                for target in parameter.targets:
                    pointing.setdefault(target, []).append(f"{name}:{parameter.code}")
    return pointing


def _revincludes(name: str) -> list[str]:
    return _pointing().get(name, [])
