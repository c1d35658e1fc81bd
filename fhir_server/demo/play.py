"""`./vigie demo`: one emergency, from order to delivered report, played with real clients against a running server.

fhirpy is the hospital's EHR, pynetdicom its scanner, dicomweb-client the viewer, an HTTP receiver its endpoint. Each
step says what was called, what was answered and how long it took; the first thing that is not so ends the play.
"""

from __future__ import annotations

import base64
import hashlib
import signal
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import click
import httpx2
import requests
from dicomweb_client import DICOMwebClient
from fhirpy import SyncFHIRClient

from dicomweb import phantom
from dicomweb.phantom import Phantom
from fhir_server.demo import documents, keepsakes, modality
from fhir_server.demo.hospital import Endpoint, Received
from fhir_server.demo.keepsakes import Keepsake
from fhir_server.demo.stage import WITHIN_S, NotSo, Stage
from fhir_server.duties import tokens, upkeep
from fhir_server.server.settings import Settings
from resources.codes import TELERADIOLOGY_TASK
from resources.json import Json


def main(settings: Settings) -> int:
    """Play; 0 when everything was so."""
    described = {one["role"]: one for one in tokens.demo_clients(settings)}
    if not described:
        click.echo("no demo/clients.json in the data folder: start `./vigie serve --demo` first", err=True)
        return 1
    play = Play(settings, described)
    for number in (signal.SIGTERM, signal.SIGINT):  # so that what was made is taken back, also where it was ignored
        signal.signal(number, lambda told, frame: sys.exit(128 + told))
    try:
        play.run()
    except NotSo as error:
        click.echo(f"NOT SO: {error}", err=True)
        return 1
    finally:
        play.close()
    click.echo(f"done: {play.steps} steps, all as they must be")
    for line in keepsakes.ending(play.kept, play.base):
        click.echo(line)
    return 0


class Play(Stage):
    """One emergency."""

    def __init__(self, settings: Settings, described: dict[str, Json]) -> None:
        super().__init__(settings)
        self.settings = settings
        self.described = described
        self.run_id = uuid.uuid4().hex[:12]
        self.endpoint = Endpoint()
        self.subscription: Json = {}
        self.kept: list[Keepsake] = []

    def close(self) -> None:
        """End the subscription, on any exit: an endpoint that is gone would be asked for days. Then close."""
        if self.subscription:
            with suppress(httpx2.HTTPError):
                self.http.delete(
                    f"{self.fhir}/Subscription/{self.subscription['id']}", headers=self.headers("hospital-a")
                )
        self.endpoint.close()
        super().close()

    def run(self) -> None:
        """The steps in order. Raises NotSo at the first thing that is not as it must be."""
        self._tokens()
        self._subscribe()
        self._order()
        self._retry()
        self._regulate()
        self._acquire()
        self._linked()
        self._view()
        self._claim()
        self._draft()
        self._sign()
        self._notified()
        self._pull()
        self._other_hospital()
        self._audited()
        self._verified()

    # — the steps —

    def _tokens(self) -> None:
        with self.step("token: client_credentials with private_key_jwt, one per client") as say:
            for role, one in self.described.items():
                self.tokens[role] = tokens.fetch_token(
                    f"{self.base}/oauth/token", one["client_id"], one["private_key"], one["scope"]
                )
            say(f"200, {len(self.tokens)} opaque tokens")

    def _subscribe(self) -> None:
        with self.step("POST Subscription (topic report-signed, rest-hook) → handshake → active") as say:
            self.subscription = self.ask(
                "hospital-a", "POST", "Subscription", 201, documents.subscription(self.endpoint.url)
            )
            handshake = self.endpoint.wait_for(lambda n: n.kind == "handshake" and self._is_ours(n), WITHIN_S)
            self.so(handshake is not None, "the handshake arrives at the hospital's endpoint")
            self.until(
                lambda: (
                    self.ask("hospital-a", "GET", f"Subscription/{self.subscription['id']}", 200)["status"] == "active"
                ),
                "the subscription becomes active",
            )
            say("201, handshake received, active")

    def _order(self) -> None:
        with self.step("fhirpy: transaction Bundle with Patient, Encounter, ServiceRequest stat") as say:
            self.bundle = documents.order_bundle(self.run_id)
            self.order_answer = self._post_bundle()
            statuses = [entry["response"]["status"][:3] for entry in self.order_answer]
            self.so(statuses == ["201"] * 3, f"three resources are created (answered {statuses})")
            self.patient, self.encounter, self.order = (
                "/".join(entry["response"]["location"].split("/fhir/")[1].split("/")[:2]) for entry in self.order_answer
            )
            order = self.ask("hospital-a", "GET", self.order, 200)
            self.accession = next(
                one["value"]
                for one in order["identifier"]
                if any(c.get("code") == "ACSN" for c in one.get("type", {}).get("coding", []))
            )
            say(f"{', '.join(statuses)}; {self.order}, accession number {self.accession}")

    def _retry(self) -> None:
        with self.step("the same Bundle again, blindly → no second order") as say:
            again = self._post_bundle()
            statuses = [entry["response"]["status"][:3] for entry in again]
            self.so(statuses == ["200"] * 3, f"everything was there already (answered {statuses})")
            placer = self.bundle["entry"][2]["resource"]["identifier"][0]
            found = self.search("hospital-a", "ServiceRequest", identifier=f"{placer['system']}|{placer['value']}")
            self.so(len(found) == 1, f"one order bears the placer number (found {len(found)})")
            say(f"{', '.join(statuses)}; one order")

    def _regulate(self) -> None:
        with self.step("regulator: takes the request, writes the protocol, accepts") as say:
            task = self.task("regulator", "regulate")
            task = self.put("regulator", {**task, "status": "in-progress"})
            protocol = self.ask(
                "regulator", "POST", "ServiceRequest", 201, documents.protocol(self.order, self.patient)
            )
            self.put(
                "regulator",
                {
                    **task,
                    "status": "completed",
                    "output": [
                        {
                            "type": {"text": "protocole"},
                            "valueReference": {"reference": f"ServiceRequest/{protocol['id']}"},
                        }
                    ],
                },
            )
            root = self.task("hospital-a", "order")
            self.so(root["status"] == "accepted", f"the hospital sees its request accepted (is {root['status']})")
            say(f"201, 200; protocol ServiceRequest/{protocol['id']}; the hospital sees: accepted")

    def _acquire(self) -> None:
        with self.step("scanner: C-STORE of the phantom series and its dose report (pynetdicom)") as say:
            self.scan = Phantom(
                patient_id=self.bundle["entry"][0]["resource"]["identifier"][0]["value"],
                patient_name="DUPOND^CLAIRE",
                patient_birth_date="19610214",
                patient_sex="F",
                accession_number=self.accession,
            )
            self.instances = phantom.exam(self.scan)
            statuses = modality.send(self.instances, self.settings.host, self.settings.dimse_port, "HOPITAL_A")
            self.so(set(statuses) == {0}, "every C-STORE answers 0x0000")
            say(f"{len(statuses)} × 0x0000")

    def _linked(self) -> None:
        with self.step("GET ImagingStudy?basedon=… → joined to its order by accession number") as say:
            found: list[Json] = []

            def linked() -> bool:
                found[:] = self.search("hospital-a", "ImagingStudy", basedon=self.order)
                if len(found) != 1 or found[0]["status"] != "available":
                    return False
                return bool(found[0].get("numberOfInstances") == len(self.instances))

            self.until(linked, "the study is complete, with all instances, and linked to the order")
            self.study = found[0]
            self.study_uid = self.study["identifier"][0]["value"].removeprefix("urn:oid:")
            self.so(self.study["subject"]["reference"] == self.patient, "the study is the ordered patient's")
            say(
                f"ImagingStudy/{self.study['id']}, version {self.study['meta']['versionId']}, "
                f"{self.study['numberOfInstances']} instances"
            )

    def _view(self) -> None:
        with self.step("viewer: QIDO-RS, metadata, frames (dicomweb-client)") as say:
            session = requests.Session()
            session.trust_env = False
            session.headers["Authorization"] = f"Bearer {self.tokens['viewer']}"
            viewer = DICOMwebClient(f"{self.base}/dicom-web", session=session)
            studies = viewer.search_for_studies(search_filters={"AccessionNumber": self.accession})
            self.so(len(studies) == 1, f"QIDO-RS finds the study by accession number (found {len(studies)})")
            series = viewer.search_for_series(self.study_uid)
            series_uid = next(
                one["0020000E"]["Value"][0] for one in series if one["00080060"]["Value"] == ["CT"]
            )
            metadata = viewer.retrieve_series_metadata(self.study_uid, series_uid)
            self.so(len(metadata) == self.scan.slices, "the series metadata lists every slice")
            instance_uid = metadata[0]["00080018"]["Value"][0]
            self._picture(series_uid, metadata)
            frame = viewer.retrieve_instance_frames(self.study_uid, series_uid, instance_uid, [1])[0]
            sent = modality.pixels(self.instances, instance_uid)
            self.so(frame == sent, "the frame is byte for byte what the scanner sent")
            say(f"1 study, {len(series)} series, {len(metadata)} instances; frame 1: {len(frame)} bytes, equal")

    def _claim(self) -> None:
        with self.step("radiologist: claims the reading (PUT Task, If-Match)") as say:
            task = self.task("radiologist", "read")
            self.so(task["status"] == "ready", f"the reading is ready (is {task['status']})")
            self.reading = self.put("radiologist", {**task, "status": "in-progress"})
            late = self.http.put(
                f"{self.fhir}/Task/{task['id']}",
                json={**task, "status": "in-progress"},
                headers=self.headers("radiologist") | {"If-Match": f'W/"{task["meta"]["versionId"]}"'},
            )
            self.so(late.status_code == 412, f"a second claim on the old version answers 412 (was {late.status_code})")
            say(f"200, owner {self.reading['owner']['reference']}; second claim 412")

    def _draft(self) -> None:
        with self.step("radiologist: writes; the draft stays invisible to the hospital") as say:
            draft = documents.report(self.order, self.patient, self.study)
            self.report = self.ask("radiologist", "POST", "DiagnosticReport", 201, draft)
            hidden = self.http.get(
                f"{self.fhir}/DiagnosticReport/{self.report['id']}", headers=self.headers("hospital-a")
            )
            self.so(hidden.status_code == 404, f"the hospital does not see the draft (was {hidden.status_code})")
            say("201 preliminary; hospital: 404")

    def _sign(self) -> None:
        with self.step("radiologist: signs (PUT status final, If-Match)") as say:
            self.signed_at = time.perf_counter()
            self.report = self.put("radiologist", {**self.report, "status": "final"})
            self.so(self.report["status"] == "final" and bool(self.report.get("presentedForm")), "the PDF is attached")
            refused = self.http.put(
                f"{self.fhir}/DiagnosticReport/{self.report['id']}",
                json={**self.report, "conclusion": "Autre."},
                headers=self.headers("radiologist") | {"If-Match": f'W/"{self.report["meta"]["versionId"]}"'},
            )
            self.so(refused.status_code == 422, f"a signed report is not altered in place (was {refused.status_code})")
            root = self.task("hospital-a", "order")
            self.so(root["status"] == "completed", f"the request is completed (is {root['status']})")
            say("200 final; altering it in place: 422; the request is completed")

    def _notified(self) -> None:
        with self.step("hospital endpoint: has the notification") as say:
            reference = f"DiagnosticReport/{self.report['id']}"
            event = self.endpoint.wait_for(
                lambda n: n.kind == "event-notification" and (n.focus() or "").endswith(reference), WITHIN_S
            )
            self.so(event is not None, "the notification of the signed report arrives")
            if event is None:
                return
            self.so("webhook-signature" in event.headers, "it is signed (Standard Webhooks)")
            self.so(event.headers.get("authorization") == documents.CHANNEL_HEADER, "it bears the channel's header")
            number = event.parameters().get("events-since-subscription-start")
            say(
                f"event {number}, {event.headers['webhook-id']}, "
                f"{(time.perf_counter() - self.signed_at) * 1000:.0f} ms after the signature was asked for"
            )

    def _pull(self) -> None:
        with self.step("hospital: pulls the report and its PDF") as say:
            report = self.ask("hospital-a", "GET", f"DiagnosticReport/{self.report['id']}", 200)
            form = report["presentedForm"][0]
            self.binary = form["url"].split("/fhir/")[-1]
            answer = self.http.get(
                f"{self.fhir}/{self.binary}", headers=self.headers("hospital-a") | {"Accept": "application/pdf"}
            )
            self.so(answer.status_code == 200 and answer.content.startswith(b"%PDF"), "the PDF is served")
            digest = base64.b64encode(hashlib.sha1(answer.content, usedforsecurity=False).digest()).decode()
            self.so(form.get("hash") == digest, "its hash is the one in the report")
            path = keepsakes.keep(self.folder, "report.pdf", answer.content)
            self.kept.append(Keepsake("report (PDF)", path, f"{self.fhir}/{self.binary}"))
            say(f"200 final; PDF of {len(answer.content)} bytes, hash agrees")

    def _other_hospital(self) -> None:
        with self.step("the other hospital: 404 on all of it") as say:
            paths = [
                self.patient,
                self.encounter,
                self.order,
                f"ImagingStudy/{self.study['id']}",
                f"DiagnosticReport/{self.report['id']}",
                f"Task/{self.reading['id']}",
                self.binary,
                f"Subscription/{self.subscription['id']}",
                f"{self.order}/_history/1",
            ]
            urls = [f"{self.fhir}/{path}" for path in paths]
            urls += [f"{self.base}/dicom-web/studies/{self.study_uid}{tail}" for tail in ("", "/metadata", "/series")]
            for url in urls:
                answer = self.http.get(url, headers=self.headers("hospital-b") | {"Accept": "*/*"})
                empty = answer.status_code == 204 and url.endswith("/series")
                self.so(
                    answer.status_code == 404 or empty,
                    f"{url.removeprefix(self.base)} answers 404 (was {answer.status_code})",
                )
            found = self.search("hospital-b", "ServiceRequest", _id=self.order.split("/")[1])
            self.so(not found, "a search by its id finds nothing")
            say(f"{len(urls)} × nothing")

    def _audited(self) -> None:
        with self.step("auditor: finds each step (GET AuditEvent?entity=…)") as say:
            seen: list[str] = []
            told: list[Json] = []
            for reference, wanted in (
                (self.patient, {"C"}),
                (self.order, {"C", "R"}),
                (f"Task/{self.reading['id']}", {"U"}),
                (f"DiagnosticReport/{self.report['id']}", {"C", "U", "R"}),
            ):
                events = self.search("auditor", "AuditEvent", entity=reference, _count="200")
                told += events
                actions = {event.get("action") for event in events}
                self.so(
                    wanted <= actions, f"{reference}: {sorted(wanted)} recorded (found {sorted(map(str, actions))})"
                )
                refused = [event for event in events if event.get("outcome") == "8"]
                if reference in (self.patient, self.order):
                    self.so(bool(refused), f"the other hospital's attempt on {reference.split('/')[0]} is recorded")
                seen.append(f"{reference.split('/')[0]} {len(events)}")
            path = keepsakes.keep(self.folder, "audit.txt", keepsakes.story(told).encode())
            self.kept.append(Keepsake("audit story", path, f"{self.fhir}/AuditEvent?entity={self.order}"))
            clinical = self.http.get(f"{self.fhir}/{self.patient}", headers=self.headers("auditor"))
            self.so(clinical.status_code == 403, f"the auditor reads no clinical resource (was {clinical.status_code})")
            say(", ".join(seen) + "; clinical resource: 403")

    def _verified(self) -> None:
        with self.step("./vigie audit verify") as say:
            lines: list[str] = []
            status = upkeep.audit_verify(self.settings, lines.append)
            self.so(status == 0, "; ".join(lines))
            say("; ".join(" ".join(line.split()) for line in lines[0].splitlines()))

    # — what the steps share —

    @property
    def folder(self) -> Path:
        """Where this play's files are left."""
        return self.settings.data / "demo" / f"play-{self.run_id}"

    def _picture(self, series_uid: str, metadata: list[Json]) -> None:
        """A rendered image of the middle of the series (PS3.18 §10.4.1.1.4)."""
        instance_uid = metadata[len(metadata) // 2]["00080018"]["Value"][0]
        url = (
            f"{self.base}/dicom-web/studies/{self.study_uid}/series/{series_uid}/instances/{instance_uid}/rendered"
        )
        headers = {"Authorization": f"Bearer {self.tokens['viewer']}", "Accept": "image/jpeg"}
        answer = self.http.get(url, headers=headers)
        self.so(answer.status_code == 200, f"an image is rendered (was {answer.status_code})")
        path = keepsakes.keep(self.folder, "head.jpg", answer.content)
        self.kept.append(Keepsake("image (JPEG)", path, url))

    def task(self, role: str, kind: str) -> Json:
        """The one Task of that kind of the order, as `role` sees it."""
        found = self.search(role, "Task", focus=self.order, code=f"{TELERADIOLOGY_TASK}|{kind}")
        self.so(len(found) == 1, f"{role} sees one Task {kind} (sees {len(found)})")
        return found[0]

    def _is_ours(self, notification: Received) -> bool:
        reference = notification.parameters().get("subscription", {}).get("reference", "")
        return bool(reference.endswith(f"Subscription/{self.subscription['id']}"))

    def _post_bundle(self) -> list[Json]:
        client = SyncFHIRClient(self.fhir, authorization=f"Bearer {self.tokens['hospital-a']}")
        answer = client.execute("", method="post", data=self.bundle)
        entries: list[Json] = answer["entry"]
        return entries
