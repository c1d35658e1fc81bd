"""Two client processes against the running server, which has two web workers: what must happen once happens once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from dicomweb import phantom
from dicomweb.phantom import Phantom
from fhir_server.demo import modality
from resources.codes import TELERADIOLOGY_TASK
from resources.json import Json
from tests.clients.site import Site, environment, until

RACERS = 25
"""Requests at once of each of the two processes."""

_RUNNER = Path(__file__).with_name("racer.py")



def race(site: Site, role: str, method: str, path: str, body: Json, **headers: str) -> list[tuple[int, Json]]:
    """The same request 50 times at once, from two processes: each answer's status and body."""
    asked = {
        "url": f"{site.fhir}/{path}".rstrip("/"),
        "method": method,
        "body": json.dumps(body),
        "headers": {
            "Authorization": f"Bearer {site.token(role)}",
            "Content-Type": "application/fhir+json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
        "times": RACERS,
        "at": time.time() + 2.5,
    }
    racers = [
        subprocess.Popen(
            [sys.executable, str(_RUNNER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
        )
        for _ in range(2)
    ]
    answers: list[tuple[int, Json]] = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(json.dumps(asked).encode())
        racer.stdin.close()
        racer.stdin = None
    for racer in racers:
        out, _ = racer.communicate(timeout=120)
        assert racer.returncode == 0
        answers += [(status, parsed) for status, parsed in json.loads(out)]
    assert len(answers) == 2 * RACERS
    return answers


def told(answers: list[tuple[int, Json]]) -> str:
    """What was answered, for the message of a failure."""
    return str(Counter((status, json.dumps(body.get("issue", ""))[:200]) for status, body in answers))


def test_fifty_conditional_creates_make_one_resource(site: Site) -> None:
    """Issue 2; http.html#ccreate: 201 once, 200 with the same resource to the others."""
    value = uuid.uuid4().hex
    patient = {"resourceType": "Patient", "identifier": [{"system": "urn:oid:1.2.250.1.999.8", "value": value}]}
    condition = f"identifier=urn:oid:1.2.250.1.999.8|{value}"
    answers = race(site, "hospital-a", "POST", "Patient", patient, If_None_Exist=condition)

    assert Counter(status for status, _ in answers) == {201: 1, 200: 49}, told(answers)
    assert len({body["id"] for _, body in answers}) == 1
    with site.http("hospital-a") as http:
        assert http.get(f"/Patient?{condition}&_total=accurate").json()["total"] == 1


def test_fifty_transactions_make_one_order_and_one_case(site: Site) -> None:
    """Issue 2 §10, french-context S0: however often it is sent, it is one order with one root Task."""
    mark = uuid.uuid4().hex
    answers = race(site, "hospital-a", "POST", "", order_bundle(mark))

    assert {status for status, _ in answers} == {200}, told(answers)
    statuses = Counter(tuple(e["response"]["status"][:3] for e in body["entry"]) for _, body in answers)
    assert statuses == {("201", "201"): 1, ("200", "200"): 49}
    with site.http("hospital-a") as http:
        found = http.get(f"/ServiceRequest?identifier=urn:oid:1.2.250.1.999.9|{mark}").json()["entry"]
        assert len(found) == 1
        order = f"ServiceRequest/{found[0]['resource']['id']}"
        assert len(http.get(f"/Patient?identifier=urn:oid:1.2.250.1.999.8|{mark}").json()["entry"]) == 1
        assert len(tasks(http, order, "order")) == 1
    with site.http("regulator") as http:
        assert len(tasks(http, order, "regulate")) == 1


def test_fifty_claims_of_one_reading_have_one_winner(site: Site) -> None:
    """Issue 2, french-context S7: PUT Task with If-Match: one 200, the others 412; there is one owner."""
    reading = ready_reading(site)
    claim = {**reading, "status": "in-progress"}
    answers = race(site, "radiologist", "PUT", f"Task/{reading['id']}", claim, If_Match=etag(reading))

    assert Counter(status for status, _ in answers) == {200: 1, 412: 49}, told(answers)
    with site.http("radiologist") as http:
        now = http.get(f"/Task/{reading['id']}").json()
    assert now["status"] == "in-progress"
    assert int(now["meta"]["versionId"]) == int(reading["meta"]["versionId"]) + 1


def order_bundle(mark: str) -> Json:
    who = f"urn:uuid:{uuid.uuid4()}"
    patient: Json = {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:oid:1.2.250.1.999.8", "value": mark}],
        "name": [{"family": "COURSE"}],
    }
    order: Json = {
        "resourceType": "ServiceRequest",
        "identifier": [{"system": "urn:oid:1.2.250.1.999.9", "value": mark}],
        "status": "active",
        "intent": "order",
        "priority": "stat",
        "category": [{"coding": [{"system": "http://snomed.info/sct", "code": "363679005"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "24725-4"}]},
        "subject": {"reference": who},
        "reasonCode": [{"text": "Déficit brutal"}],
    }
    entries = []
    for url, resource in ((who, patient), (f"urn:uuid:{uuid.uuid4()}", order)):
        identifier = resource["identifier"][0]
        condition = f"identifier={identifier['system']}|{identifier['value']}"
        request = {"method": "POST", "url": resource["resourceType"], "ifNoneExist": condition}
        entries.append({"fullUrl": url, "resource": resource, "request": request})
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def ready_reading(site: Site) -> Json:
    """The `read` Task of a case played as far as S4, through FHIR and DICOM alone."""
    mark = uuid.uuid4().hex
    with site.http("hospital-a") as http:
        made = http.post("/", json=order_bundle(mark)).json()["entry"]
        order = "/".join(made[1]["response"]["location"].split("/fhir/")[1].split("/")[:2])
        stored = http.get(f"/{order}").json()
    number = next(one["value"] for one in stored["identifier"] if one.get("type", {}).get("coding"))
    with site.http("regulator") as http:
        (task,) = tasks(http, order, "regulate")
        task = put(http, {**task, "status": "in-progress"})
        protocol = http.post(
            "/ServiceRequest",
            json={
                "resourceType": "ServiceRequest",
                "status": "active",
                "intent": "filler-order",
                "basedOn": [{"reference": order}],
                "subject": stored["subject"],
                "code": stored["code"],
                "note": [{"text": "Sans injection"}],
            },
        ).json()
        reference = {"reference": f"ServiceRequest/{protocol['id']}"}
        put(http, {**task, "status": "completed", "output": [{"type": {"text": "p"}, "valueReference": reference}]})
    scan = Phantom(patient_id=mark, patient_name="COURSE", accession_number=number, slices=2, side=32)
    assert modality.send(phantom.series(scan), "127.0.0.1", site.dimse_port, "HOPITAL_A") == [0, 0]
    found: list[Json] = []
    with site.http("radiologist") as http:
        until(lambda: bool(found := tasks(http, order, "read")) and found[0]["status"] == "ready", "a reading is ready")
        found = tasks(http, order, "read")
    return found[0]


def tasks(http: Any, order: str, kind: str) -> list[Json]:
    answer = http.get("/Task", params={"focus": order, "code": f"{TELERADIOLOGY_TASK}|{kind}"})
    assert answer.status_code == 200, answer.text
    return [entry["resource"] for entry in answer.json().get("entry", [])]


def etag(resource: Json) -> str:
    return f'W/"{resource["meta"]["versionId"]}"'


def put(http: Any, resource: Json) -> Json:
    answer = http.put(
        f"/{resource['resourceType']}/{resource['id']}", json=resource, headers={"If-Match": etag(resource)}
    )
    assert answer.status_code == 200, answer.text
    stored: Json = answer.json()
    return stored
