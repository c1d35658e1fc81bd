"""Hospital A's emergency with secrets in every corner, and what "nothing of it" means in an answer to somebody else."""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

from werkzeug.test import TestResponse

from dicomweb import phantom
from dicomweb.phantom import Phantom
from fhir_server.demo import world as demo
from fhir_server.demo.hospital import Endpoint
from resources.codes import TELERADIOLOGY_TASK, V2_0203
from resources.json import Json
from subscriptions.terms import PAYLOAD_CONTENT
from subscriptions.topics import ORDER_STATUS, REPORT_SIGNED
from tests import builders
from tests.fhir_server.conftest import Api, Client

SECRET = "GEHEIMNIS"
"""In every text that hospital A or the platform writes about A's patients."""
INTERNAL = "NURINTERN"
"""In what the platform keeps to itself: no hospital sees it, not even A."""
DRAFT = "ENTWURFTEXT"
"""In drafts of A's report: A must not see it."""

ORGANIZATION_A = demo.HOSPITAL_A
ORGANIZATION_B = demo.HOSPITAL_B
PDF = b"%PDF-1.4 " + SECRET.encode()


def stow_body(files: list[bytes]) -> bytes:
    parts = [b"--xyz\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n" for data in files]
    return b"".join(parts) + b"--xyz--\r\n"


def stow(client: Client, files: list[bytes], path: str = "/dicom-web/studies") -> TestResponse:
    return client.ask(
        "POST", path, stow_body(files), Content_Type='multipart/related; type="application/dicom"; boundary=xyz'
    )


def subscription(url: str, topic: str, *, content: str = "full-resource", **more: Any) -> Json:
    channel: Json = {
        "type": "rest-hook",
        "endpoint": url,
        "payload": "application/fhir+json",
        "_payload": {"extension": [{"url": PAYLOAD_CONTENT, "valueCode": content}]},
    }
    channel |= {"header": more.pop("header")} if "header" in more else {}
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "x",
        "criteria": topic,
        "channel": channel,
        **more,
    }


@dataclass
class World:
    """The assembled server after hospital A's emergency."""

    api: Api
    receivers: dict[str, Endpoint]
    refs: dict[str, str] = field(default_factory=dict)
    """What is A's, or about A's: name → ``Type/id``."""
    accession: str = ""
    images: Phantom = field(default_factory=Phantom)
    instances: list[bytes] = field(default_factory=list)

    @property
    def a(self) -> Client:
        return self.api.hospital_a

    @property
    def b(self) -> Client:
        return self.api.hospital_b

    @property
    def ids(self) -> set[str]:
        """Logical ids of what B must know nothing of."""
        return {reference.split("/")[1] for reference in self.refs.values()}

    @property
    def uids(self) -> set[str]:
        uids = {self.images.study_uid, self.images.series_uid}
        return uids | {self.images.sop_uid(number) for number in range(1, self.images.slices + 1)}

    @property
    def secrets(self) -> set[str]:
        return {SECRET, INTERNAL, DRAFT, self.accession, *self.ids, *self.uids}

    def nothing_in(self, answer: TestResponse, *sent: str) -> None:
        """No secret is in status line, headers or body, but what the attacker sent himself."""
        text = " ".join(f"{name}: {value}" for name, value in answer.headers.items()).encode() + answer.get_data()
        text = _packed(text)
        for secret in self.secrets:
            if any(secret in one for one in sent):
                continue
            assert secret.encode() not in text, f"{secret} in the answer {answer.status}"
        for secret in (SECRET, INTERNAL, DRAFT):
            for shifted in _base64_forms(secret):
                assert shifted not in text, "a secret, in base64"

    # — what is lived —

    def live_through(self) -> None:
        """S0 to S9 for one patient, the draft of a second order, and a resource of every kind around them."""
        self._subscribe()
        self._order()
        self._regulate()
        self._acquire()
        self._read()
        self._around()
        self._second_order()
        self.turn()

    def turn(self) -> None:
        """What the background process does, until there is nothing to do."""
        services = self.api.services
        quiet_until = time.monotonic() + 0.4
        while time.monotonic() < quiet_until:  # deliveries run in threads of their own: idle once is not yet done
            worked = services.subscriptions.sequencer.step()
            if services.subscriptions.dispatcher.step() or worked:
                quiet_until = time.monotonic() + 0.4
            else:
                time.sleep(0.02)
        services.ledger.catch_up()

    def task(self, kind: str, order: str | None = None) -> Json:
        (found,) = self.api.platform.found(f"Task?focus={order or self.refs['order']}&code={TELERADIOLOGY_TASK}|{kind}")
        return found

    def put(self, who: Client, resource: Json) -> Json:
        answer = who.put(
            f"{resource['resourceType']}/{resource['id']}",
            resource,
            If_Match=f'W/"{resource["meta"]["versionId"]}"',
        )
        assert answer.status_code == 200, answer.get_data(as_text=True)
        stored: Json = answer.get_json()
        return stored

    def keep(self, name: str, resource: Json) -> Json:
        self.refs[name] = f"{resource['resourceType']}/{resource['id']}"
        return resource

    def _subscribe(self) -> None:
        for name, topic in (("sub-orders", ORDER_STATUS), ("sub-reports", REPORT_SIGNED)):
            asked = subscription(
                self.receivers["a"].url, topic, header=[f"Authorization: Bearer {SECRET}"], reason=SECRET
            )
            self.keep(name, self.a.create(asked))
        self.turn()

    def _order(self) -> None:
        number = {"system": "urn:oid:1.2.250.1.999.1", "value": f"{SECRET}-IPP"}
        self.keep(
            "patient",
            self.a.create(
                {
                    **builders.patient(SECRET, identifier=[number]),
                    "meta": {
                        "source": f"urn:{SECRET}",
                        "tag": [{"system": "urn:tag", "code": SECRET}],
                        "security": [{"system": "urn:label", "code": SECRET}],
                    },
                    "address": [{"city": SECRET}],
                    "managingOrganization": builders.ref(f"Organization/{ORGANIZATION_A}"),
                    "telecom": [{"system": "phone", "value": f"{SECRET} 112"}],
                }
            ),
        )
        patient = builders.ref(self.refs["patient"])
        self.keep(
            "encounter",
            self.a.create(
                {
                    "resourceType": "Encounter",
                    "status": "in-progress",
                    "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "EMER"},
                    "subject": patient,
                    "reasonCode": [{"text": SECRET}],
                    "serviceProvider": builders.ref(f"Organization/{ORGANIZATION_A}"),
                }
            ),
        )
        placer = {
            "system": "urn:placer",
            "value": f"{SECRET}-1",
            "type": {"coding": [{"system": V2_0203, "code": "PLAC"}]},
        }
        order = self.a.create(
            builders.service_request(
                self.refs["patient"],
                identifier=[placer],
                encounter=builders.ref(self.refs["encounter"]),
                reasonCode=[{"text": f"{SECRET} déficit brutal"}],
                authoredOn=None,
            )
        )
        self.keep("order", order)
        self.accession = next(
            one["value"]
            for one in order["identifier"]
            if any(coding.get("code") == "ACSN" for coding in one.get("type", {}).get("coding", ()))
        )

    def _regulate(self) -> None:
        regulator = self.api.regulator
        self.keep("root", self.task("order"))
        task = self.put(regulator, {**self.keep("regulate", self.task("regulate")), "status": "in-progress"})
        wanted = builders.protocol(
            self.refs["order"], self.refs["patient"], note=[{"text": f"{SECRET} sans injection"}]
        )
        protocol = self.keep("protocol", regulator.create(wanted))
        note = [*task.get("note", []), {"text": INTERNAL}]
        done = {"status": "completed", "note": note, "output": builders.output(f"ServiceRequest/{protocol['id']}")}
        self.put(regulator, {**task, **done})
        self.keep("acquire", self.task("acquire"))

    def _acquire(self) -> None:
        self.images = Phantom(
            patient_id=f"{SECRET}-IPP",
            patient_name=f"{SECRET}^CAMILLE",
            patient_birth_date="19610412",
            patient_sex="F",
            accession_number=self.accession,
            institution=SECRET,
            slices=2,
            side=16,
        )
        self.instances = phantom.exam(self.images)
        answer = stow(self.a, self.instances)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        self.api.settled()
        (study,) = self.a.found(f"ImagingStudy?basedon={self.refs['order']}")
        self.keep("study", study)
        self.keep("read", self.task("read"))

    def _read(self) -> None:
        reader = self.api.radiologist
        self.put(reader, {**self.task("read"), "status": "in-progress"})
        quality = {
            "resourceType": "Observation",
            "status": "final",
            "code": {"text": INTERNAL},
            "subject": builders.ref(self.refs["patient"]),
            "valueString": f"{INTERNAL} {SECRET}",
        }
        self.keep("finding", self.api.platform.create(quality))
        draft = builders.diagnostic_report(
            self.refs["order"],
            self.refs["patient"],
            self.refs["study"],
            conclusion=f"{DRAFT} {SECRET}",
            text=None,
        )
        report = self.keep("report", reader.create(draft))
        report = self.put(reader, {**report, "conclusion": f"{DRAFT} deux {SECRET}"})
        signed = self.put(reader, {**report, "conclusion": f"{SECRET} hématome", "status": "final"})
        self.refs["pdf"] = signed["presentedForm"][0]["url"].split("/fhir/")[-1]
        (provenance,) = self.api.platform.found(f"Provenance?target={self.refs['report']}")
        self.keep("provenance", provenance)
        self.turn()

    def _around(self) -> None:
        """What else a hospital keeps: where text, attachments and references to the patient can hide."""
        patient = builders.ref(self.refs["patient"])
        attachment = {"contentType": "text/plain", "data": base64.b64encode(SECRET.encode()).decode(), "title": SECRET}
        concept = {"text": SECRET}
        contained = {"resourceType": "Patient", "id": "p", "name": [{"family": SECRET}]}
        for name, resource in {
            "condition": {"resourceType": "Condition", "code": concept, "subject": patient},
            "observation": {
                "resourceType": "Observation",
                "status": "final",
                "code": concept,
                "subject": patient,
                "valueQuantity": {"value": 41.5, "unit": "mg"},
            },
            "document": {
                "resourceType": "DocumentReference",
                "status": "current",
                "subject": patient,
                "content": [{"attachment": attachment}],
            },
            "binary": {
                "resourceType": "Binary",
                "contentType": "application/pdf",
                "securityContext": patient,
                "data": base64.b64encode(PDF).decode(),
            },
            "communication": {
                "resourceType": "Communication",
                "status": "completed",
                "subject": patient,
                "payload": [{"contentString": SECRET}],
            },
            "list": {
                "resourceType": "List",
                "status": "current",
                "mode": "working",
                "title": SECRET,
                "subject": patient,
                "entry": [{"item": patient}],
            },
            "bundle": {
                "resourceType": "Bundle",
                "type": "collection",
                "entry": [{"fullUrl": "urn:uuid:8e4d1b0f-6f19-4f3c-9e0e-2f1cf8d0a001", "resource": dict(contained)}],
            },
            "basic": {
                "resourceType": "Basic",
                "contained": [contained],
                "code": concept,
                "subject": {"reference": "#p"},
                "extension": [{"url": "urn:x", "valueString": SECRET}],
            },
        }.items():
            self.keep(name, self.a.create(resource))
        altered = self.a.create({"resourceType": "Condition", "code": concept, "subject": patient})
        self.keep("deleted", altered)
        assert self.a.delete(self.refs["deleted"]).status_code == 204

    def _second_order(self) -> None:
        """A second patient's report that stays a draft."""
        order = self.a.create(builders.service_request(self.refs["patient"], reasonCode=[{"text": SECRET}]))
        self.keep("order-2", order)
        regulator, reader = self.api.regulator, self.api.radiologist
        reference = self.refs["order-2"]
        task = self.put(regulator, {**self.task("regulate", reference), "status": "in-progress"})
        protocol = self.keep("protocol-2", regulator.create(builders.protocol(reference, self.refs["patient"])))
        self.put(
            regulator,
            {**task, "status": "completed", "output": builders.output(f"ServiceRequest/{protocol['id']}")},
        )
        accession = next(
            one["value"]
            for one in order["identifier"]
            if any(coding.get("code") == "ACSN" for coding in one.get("type", {}).get("coding", ()))
        )
        scan = Phantom(
            patient_id=f"{SECRET}-IPP", patient_name=f"{SECRET}^CAMILLE", accession_number=accession,
            patient_birth_date="", slices=1, side=8,
        )
        assert stow(self.a, phantom.exam(scan)).status_code == 200
        self.api.settled()
        (study,) = self.a.found(f"ImagingStudy?basedon={reference}")
        self.keep("study-2", study)
        self.put(reader, {**self.task("read", reference), "status": "in-progress"})
        draft = builders.diagnostic_report(
            reference, self.refs["patient"], self.refs["study-2"], conclusion=DRAFT, text=None
        )
        self.keep("draft", reader.create(draft))


def _packed(text: bytes) -> bytes:
    return text.replace(b"\\/", b"/")


def _base64_forms(secret: str) -> list[bytes]:
    """What `secret` looks like inside base64, at each of the three alignments."""
    forms = []
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + secret.encode())
        forms.append(coded[4 if shift else 0 : len(secret) * 4 // 3 - 4])
    return forms


def alike(first: TestResponse, second: TestResponse, names: dict[str, str]) -> None:
    """Two answers are the same byte for byte, apart from the ids (`names`: first → second), request id and time."""
    assert first.status_code == second.status_code, (first.get_data(as_text=True), second.get_data(as_text=True))
    assert _plain(first, names) == _plain(second, {})


def _plain(answer: TestResponse, names: dict[str, str]) -> tuple[list[tuple[str, str]], str]:
    headers = [
        (name, value)
        for name, value in answer.headers.items()
        if name not in ("X-Request-Id", "Date", "Last-Modified", "Content-Length")
    ]
    text = json.dumps(headers) + "\n" + answer.get_data(as_text=True)
    for one, other in names.items():
        text = text.replace(one, other)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "INSTANT", text)
    head, _, body = text.partition("\n")
    return json.loads(head), body
