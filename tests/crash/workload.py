"""The load: a hospital's EHR, its scanner, a gateway, a regulator, each in a thread, at a moderate pace.

An answer is noted in `Promises` only once it has been read whole. What has no answer is unknown, and is never assumed
to have failed. Content carries markers, so that halves of transactions and second copies can be found.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO

import httpx2
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

from dicomweb import phantom
from dicomweb.phantom import Phantom
from fhir_server.duties import tokens
from resources.codes import LOINC, SNOMED
from tests.crash.promises import Image, Json, Promises, dataset_digest
from tests.crash.service import Service, listens

MARKER = "urn:oid:1.2.250.1.999.77.1"
"""Identifier system of what one transaction wrote."""
KEY = "urn:oid:1.2.250.1.999.77.2"
"""Identifier system of what must exist once."""
TOKEN_S = 150.0
INSTANCES = 3
SIDE = 16
Unreachable = (httpx2.HTTPError, OSError)


class Client:
    """One client of the server, in one thread."""

    def __init__(self, service: Service, role: str, promises: Promises) -> None:
        self.promises = promises
        self._base = service.base
        self._described = service.client(role)
        self._http = httpx2.Client(timeout=30, trust_env=False)
        self._token = ""
        self._fetched = -TOKEN_S

    def ask(
        self, operation: str, method: str, path: str, body: Json | bytes | None = None, **headers: str
    ) -> httpx2.Response | None:
        """The answer; None where there was none, or it was no success (noted either way)."""
        request_id = uuid.uuid4().hex
        sent = {
            "Authorization": f"Bearer {self._bearer()}",
            "X-Request-Id": request_id,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        if isinstance(body, dict):
            sent["Content-Type"] = "application/fhir+json"
        try:
            answer = self._http.request(method, f"{self._base}{path}", headers=sent, content=content)
        except Unreachable as error:
            self.promises.refused(operation, type(error).__name__)
            time.sleep(0.2)
            return None
        if 200 <= answer.status_code < 300:
            self.promises.done(operation, request_id)
            return answer
        if answer.status_code == 401:
            self._fetched = -TOKEN_S
        answered = answer.status_code < 500 and answer.status_code != 401
        self.promises.refused(operation, answer.status_code, request_id if answered else "")
        return None

    def close(self) -> None:
        self._http.close()

    def _bearer(self) -> str:
        if time.monotonic() - self._fetched > TOKEN_S:
            one = self._described
            with suppress(tokens.TokenRefused, *Unreachable, ValueError):
                self._token = tokens.fetch_token(
                    f"{self._base}/oauth/token", one["client_id"], one["private_key"], one["scope"]
                )
                self._fetched = time.monotonic()
        return self._token


class Ehr:
    """A hospital's EHR: patients, orders, transactions, conditional creates, reads, searches."""

    def __init__(self, client: Client, seed: int) -> None:
        self._client = client
        self._promises = client.promises
        self._draw = random.Random(seed)
        self._patients: list[Json] = []
        self._orders: list[Json] = []
        self._observations: list[Json] = []
        self._steps: list[Callable[[], None]] = [
            *[self._create_patient] * 3,
            *[self._update_patient] * 3,
            *[self._create_order] * 2,
            *[self._close_order] * 2,
            *[self._transaction] * 3,
            *[self._create_once] * 2,
            *[self._read] * 5,
            self._search,
            self._create_observation,
            self._delete_observation,
        ]

    def step(self) -> None:
        if len(self._patients) < 3:
            self._create_patient()
        else:
            self._draw.choice(self._steps)()

    def _create_patient(self) -> None:
        made = self._post("create", _patient(self._draw))
        if made:
            self._patients.append(made)
            del self._patients[:-200]

    def _update_patient(self) -> None:
        place = self._draw.randrange(len(self._patients))
        birth = f"19{self._draw.randrange(10, 99)}-05-0{self._draw.randrange(1, 9)}"
        changed = {**self._patients[place], "birthDate": birth}
        made = self._put("update", changed)
        if made:
            self._patients[place] = made
        else:  # no answer, or a stale version: look what there is now
            found = self._get("read after doubt", f"Patient/{changed['id']}")
            self._patients[place] = found or self._patients[place]

    def _create_order(self) -> None:
        made = self._post("create order", _order(self._draw.choice(self._patients)))
        if made:
            self._promises.events[f"ServiceRequest/{made['id']}"] += 1
            self._orders.append(made)

    def _close_order(self) -> None:
        if not self._orders:
            return
        order = self._orders.pop(self._draw.randrange(len(self._orders)))
        made = self._put("close order", {**order, "status": "completed"})
        if made:
            self._promises.events[f"ServiceRequest/{made['id']}"] += 1

    def _create_observation(self) -> None:
        patient = f"Patient/{self._draw.choice(self._patients)['id']}"
        made = self._post("create observation", _observation(self._draw, patient))
        if made:
            self._observations.append(made)

    def _delete_observation(self) -> None:
        if not self._observations:
            return
        one = self._observations.pop()
        answer = self._client.ask("delete", "DELETE", f"/fhir/Observation/{one['id']}")
        if answer is not None:
            self._promises.deleted.add(("Observation", one["id"], int(one["meta"]["versionId"]) + 1))

    def _transaction(self) -> None:
        """A patient, an order and an observation that hang together: all or none of them."""
        marker = uuid.uuid4().hex
        tag = [{"system": MARKER, "value": marker}]
        patient, order, observation = (f"urn:uuid:{uuid.uuid4()}" for _ in range(3))
        resources: list[tuple[str, Json]] = [
            (patient, {**_patient(self._draw), "identifier": tag}),
            (order, {**_order({"id": ""}), "subject": {"reference": patient}, "identifier": tag}),
            (observation, {**_observation(self._draw, patient), "identifier": tag, "basedOn": [{"reference": order}]}),
        ]
        bundle = {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [
                {"fullUrl": url, "resource": one, "request": {"method": "POST", "url": one["resourceType"]}}
                for url, one in resources
            ],
        }
        self._promises.transactions[marker] = False
        answer = self._client.ask("transaction", "POST", "/fhir", bundle)
        if answer is None:
            return
        self._promises.transactions[marker] = True
        for entry, (_, resource) in zip(answer.json()["entry"], resources, strict=True):
            kind, id_, _history, version = entry["response"]["location"].split("/")[-4:]
            self._promises.sent[kind, id_, int(version)] = resource
            if kind == "ServiceRequest":
                self._promises.events[f"{kind}/{id_}"] += 1

    def _create_once(self) -> None:
        """A conditional create, retried blindly until it is answered: one resource."""
        key = uuid.uuid4().hex
        body = {**_patient(self._draw), "identifier": [{"system": KEY, "value": key}]}
        for _ in range(20):
            answer = self._client.ask(
                "conditional create", "POST", "/fhir/Patient", body, If_None_Exist=f"identifier={KEY}|{key}",
                Prefer="return=representation",
            )  # fmt: skip
            if answer is not None:
                made = self._keep(answer)
                self._promises.keys[key] = str(made["id"])
                return
            time.sleep(0.1)
        self._promises.keys[key] = ""

    def _read(self) -> None:
        kind, held = self._draw.choice([("Patient", self._patients), ("ServiceRequest", self._orders or [])])
        if held:
            self._get("read", f"{kind}/{self._draw.choice(held)['id']}")

    def _search(self) -> None:
        one = self._draw.choice(self._patients)["identifier"][0]
        self._client.ask("search", "GET", f"/fhir/Patient?identifier={one['system']}|{one['value']}")

    def _post(self, operation: str, body: Json) -> Json | None:
        answer = self._client.ask(
            operation, "POST", f"/fhir/{body['resourceType']}", body, Prefer="return=representation"
        )
        return None if answer is None else self._keep(answer)

    def _put(self, operation: str, body: Json) -> Json | None:
        answer = self._client.ask(
            operation, "PUT", f"/fhir/{body['resourceType']}/{body['id']}", body,
            If_Match=f'W/"{body["meta"]["versionId"]}"', Prefer="return=representation",
        )  # fmt: skip
        return None if answer is None else self._keep(answer)

    def _get(self, operation: str, path: str) -> Json | None:
        answer = self._client.ask(operation, "GET", f"/fhir/{path}")
        return None if answer is None else self._keep(answer)

    def _keep(self, answer: httpx2.Response) -> Json:
        resource: Json = answer.json()
        key = (resource["resourceType"], resource["id"], int(resource["meta"]["versionId"]))
        self._promises.version(key, answer.content)
        return resource


class Department:
    """An imaging order and its regulation: writes from which the workflow derives further ones."""

    def __init__(self, ehr: Client, regulator: Client, seed: int) -> None:
        self._ehr = ehr
        self._regulator = regulator
        self._promises = ehr.promises
        self._draw = random.Random(seed)
        self._patient: str | None = None

    def step(self) -> None:
        if self._patient is None:
            answer = self._ehr.ask(
                "create", "POST", "/fhir/Patient", _patient(self._draw), Prefer="return=representation"
            )
            if answer is None:
                return
            self._patient = str(answer.json()["id"])
        order = {
            **_order({"id": self._patient}),
            "priority": "stat",
            "category": [{"coding": [{"system": SNOMED, "code": "363679005"}]}],
            "code": {"coding": [{"system": LOINC, "code": "24725-4"}]},
        }
        answer = self._ehr.ask("imaging order", "POST", "/fhir/ServiceRequest", order, Prefer="return=representation")
        if answer is None:
            return
        made = answer.json()
        self._promises.version(("ServiceRequest", made["id"], int(made["meta"]["versionId"])), answer.content)
        self._promises.events[f"ServiceRequest/{made['id']}"] += 1
        found = self._regulator.ask("task search", "GET", f"/fhir/Task?focus=ServiceRequest/{made['id']}")
        if found is None:
            return
        tasks = [entry["resource"] for entry in found.json().get("entry", [])]
        codes = {code["code"]: one for one in tasks for code in one["code"]["coding"]}
        if not {"order", "regulate"} <= codes.keys():
            self._promises.broken.append(f"ServiceRequest/{made['id']} was acknowledged without its tasks")
            return
        self._promises.events[f"Task/{codes['order']['id']}"] += 1
        task = {**codes["regulate"], "status": "in-progress"}
        taken = self._regulator.ask(
            "take task", "PUT", f"/fhir/Task/{task['id']}", task, If_Match=f'W/"{task["meta"]["versionId"]}"',
            Prefer="return=representation",
        )  # fmt: skip
        if taken is not None:
            body = taken.json()
            self._promises.version(("Task", body["id"], int(body["meta"]["versionId"])), taken.content)
            self._promises.events[f"Task/{codes['order']['id']}"] += 1


class Images:
    """Small studies, each sent until every instance of it is acknowledged: by STOW-RS or by C-STORE."""

    def __init__(self, service: Service, promises: Promises, gateway: Client | None, seed: int) -> None:
        """`gateway`: STOW-RS by this client; None: C-STORE."""
        self._service = service
        self._promises = promises
        self._gateway = gateway
        self._numbers = itertools.count(1)
        self._seed = seed
        self._waiting: dict[str, tuple[bytes, Image]] = {}

    def step(self) -> None:
        if not self._waiting:
            self._waiting = self._study()
        send = self._send if self._gateway is None else self._stow
        for sop in send([content for content, _ in self._waiting.values()]):
            _, image = self._waiting.pop(sop)
            self._promises.images[sop] = image

    def _study(self) -> dict[str, tuple[bytes, Image]]:
        name = f"CRASH-{self._seed}-{next(self._numbers)}"
        one = Phantom(patient_id=name, patient_name="ESSAI^CHUTE", slices=INSTANCES, side=SIDE)
        door = "C-STORE" if self._gateway is None else "STOW-RS"
        return {
            one.sop_uid(number): (
                content,
                Image(one.study_uid, one.series_uid, one.sop_uid(number), dataset_digest(content), door),
            )
            for number, content in enumerate(phantom.series(one), start=1)
        }

    def _stow(self, contents: list[bytes]) -> list[str]:
        assert self._gateway is not None
        boundary = uuid.uuid4().hex
        body = b"".join(
            b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (boundary.encode(), content)
            for content in contents
        )
        answer = self._gateway.ask(
            "STOW-RS", "POST", "/dicom-web/studies", body + b"--%s--\r\n" % boundary.encode(),
            Content_Type=f'multipart/related; type="application/dicom"; boundary={boundary}',
            Accept="application/dicom+json",
        )  # fmt: skip
        if answer is None:
            return []
        items = answer.json().get("00081199", {}).get("Value", [])
        return [item["00081155"]["Value"][0] for item in items]

    def _send(self, contents: list[bytes]) -> list[str]:
        datasets = [dcmread(BytesIO(content)) for content in contents]
        entity = AE(ae_title="HOPITAL_A")
        entity.add_requested_context(CTImageStorage, datasets[0].file_meta.TransferSyntaxUID)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 15
        port = self._service.settings.dimse_port
        association = entity.associate("127.0.0.1", port, ae_title="VIGIE") if listens(port) else None
        if association is None or not association.is_established:
            self._promises.refused("C-STORE", "no association")
            time.sleep(0.2)
            return []
        stored = []
        try:
            for dataset in datasets:
                status = association.send_c_store(dataset)
                if status and status.Status == 0x0000:
                    stored.append(str(dataset.SOPInstanceUID))
                    self._promises.done("C-STORE")
                else:
                    self._promises.refused("C-STORE", f"{status.Status:04X}" if status else "aborted")
        except (RuntimeError, ValueError, OSError):  # pynetdicom: the association is gone
            self._promises.refused("C-STORE", "aborted")
        finally:
            association.release() if association.is_established else association.abort()
        return stored


class Load:
    """Threads that take steps until told to stop."""

    def __init__(
        self, services: Sequence[Service], promises: Promises, *, ehrs: int = 4, pause_s: float = 0.04, seed: int = 0
    ) -> None:
        """Clients take the nodes in turn. Of two loads with the same promises each has a `seed` of its own."""
        self._stopping = threading.Event()
        self._promises = promises
        service = services[-1]
        self._clients = [Client(services[n % len(services)], "hospital-a", promises) for n in range(ehrs + 2)]
        regulator = Client(service, "regulator", promises)
        steps: list[tuple[Callable[[], None], float]] = [
            (Ehr(client, seed + number).step, pause_s) for number, client in enumerate(self._clients[:ehrs])
        ]
        steps += [
            (Department(self._clients[ehrs], regulator, seed + 101).step, 10 * pause_s),
            (Images(service, promises, self._clients[ehrs + 1], seed + 102).step, 10 * pause_s),
            (Images(service, promises, None, seed + 103).step, 10 * pause_s),
        ]
        self._clients.append(regulator)
        self._threads = [threading.Thread(target=self._run, args=one, daemon=True) for one in steps]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(90)
        for client in self._clients:
            client.close()

    def _run(self, step: Callable[[], None], pause_s: float) -> None:
        while not self._stopping.is_set():
            try:
                step()
            except Exception as error:  # noqa: BLE001 - a fault of the harness must be seen, not end the load
                self._promises.broken.append(f"the harness failed: {error!r}")
            time.sleep(pause_s)


def _patient(draw: random.Random) -> Json:
    return {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:oid:1.2.250.1.999.77.3", "value": uuid.uuid4().hex}],
        "name": [{"family": f"ESSAI{draw.randrange(10**6)}", "given": ["Chute"]}],
        "gender": draw.choice(["female", "male"]),
        "birthDate": "1961-02-14",
    }


def _order(patient: Json) -> Json:
    """An order outside imaging: an event of order-status, without tasks."""
    return {
        "resourceType": "ServiceRequest",
        "status": "active",
        "intent": "order",
        "identifier": [{"system": "urn:oid:1.2.250.1.999.77.4", "value": uuid.uuid4().hex}],
        "code": {"coding": [{"system": LOINC, "code": "58410-2"}]},
        "subject": {"reference": f"Patient/{patient['id']}"},
        "reasonCode": [{"text": "essai"}],
    }


def _observation(draw: random.Random, patient: str) -> Json:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "8867-4"}]},
        "subject": {"reference": patient},
        "valueQuantity": {"value": draw.randrange(40, 180), "unit": "/min"},
    }
