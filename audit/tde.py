"""AuditEvents as the French profile TDE (traçabilité des événements) has them. Pure.

BALP names client, server, person and organisation; TDE allows two agents, one subtype, and needs `period.start`. So the
event is kept as BALP has it and projected when somebody asks: who acted (the person where there is one) and the server;
the client's id stays as `altId`.

https://interop.esante.gouv.fr/ig/fhir/tde/StructureDefinition/tde-auditevent
"""

from __future__ import annotations

from resources.json import Json

PROFILE = "https://interop.esante.gouv.fr/ig/fhir/tde/StructureDefinition/tde-auditevent"


def project(event: Json) -> Json:
    """The event in the profile, from one of ours; what is given is not altered."""
    agents: list[Json] = event.get("agent", [])
    origin = next((agent for agent in agents if agent.get("requestor")), agents[0])
    server = next(
        (agent for agent in agents if agent is not origin and "Device/" in agent.get("who", {}).get("reference", "")),
        None,
    )
    client = next((_client_of(agent) for agent in agents if _client_of(agent)), "")
    first = {**origin, **({"altId": client} if client and "altId" not in origin else {})}
    made = {
        **event,
        "meta": {**event.get("meta", {}), "profile": [PROFILE]},
        "period": {"start": event.get("recorded"), **event.get("period", {})},
        "agent": [first, server] if server is not None else [first],
    }
    if event.get("subtype"):
        made["subtype"] = event["subtype"][:1]
    return made


def _client_of(agent: Json) -> str:
    who = agent.get("who", {})
    return "" if "reference" in who else str(who.get("identifier", {}).get("value", ""))
