"""An emergency of hospital A as plain calls of its people, for the journeys that go another way from some step on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from werkzeug.test import TestResponse

from dicomweb import phantom
from dicomweb.phantom import Phantom
from resources.codes import TELERADIOLOGY_TASK
from resources.json import Json
from resources.lifecycle import FINISHED_TASK
from tests import builders
from tests.fhir_server.conftest import Api, Client
from tests.security.scene import stow


def refusal(answer: TestResponse, status: int) -> str:
    """The diagnostics of a refusal with this status."""
    assert answer.status_code == status, (answer.status_code, answer.get_data(as_text=True))
    return " ".join(issue.get("diagnostics", "") for issue in answer.get_json()["issue"])


def good(answer: TestResponse, status: int = 200) -> Json:
    """The resource of an answer with this status."""
    assert answer.status_code == status, (answer.status_code, answer.get_data(as_text=True))
    found: Json = answer.get_json()
    return found


def put(who: Client, resource: Json, **elements: Any) -> TestResponse:
    """The next version of what was read, with these elements (None: without)."""
    body = {name: value for name, value in {**resource, **elements}.items() if value is not None}
    return who.put(
        f"{body['resourceType']}/{body['id']}", body, If_Match=f'W/"{resource["meta"]["versionId"]}"'
    )


def parameters(**values: str) -> Json:
    """A Parameters resource of texts; ``_`` in a name stands for ``-``."""
    given = [{"name": name.replace("_", "-"), "valueString": value} for name, value in values.items()]
    return {"resourceType": "Parameters", "parameter": given}


@dataclass
class Emergency:
    """One order of a hospital and what belongs to it."""

    api: Api
    hospital: Client
    patient: Json = field(default_factory=dict)
    order: Json = field(default_factory=dict)
    scan: Phantom = field(default_factory=Phantom)
    report: Json = field(default_factory=dict)

    @classmethod
    def of(cls, api: Api, hospital: Client | None = None, **more: Any) -> Emergency:
        """S0: the order is sent."""
        made = cls(api, hospital or api.hospital_a)
        made.patient = made.hospital.create(builders.patient(**more))
        made.order = made.hospital.create(
            builders.service_request(made.patient_ref, authoredOn=None, reasonCode=[{"text": "Céphalée brutale"}])
        )
        return made

    @property
    def patient_ref(self) -> str:
        return f"Patient/{self.patient['id']}"

    @property
    def order_ref(self) -> str:
        return f"ServiceRequest/{self.order['id']}"

    @property
    def accession(self) -> str:
        return next(
            str(one["value"])
            for one in self.order["identifier"]
            if any(coding.get("code") == "ACSN" for coding in one.get("type", {}).get("coding", ()))
        )

    def task(self, kind: str, who: Client | None = None) -> Json:
        """The case's Task of that kind that counts, as the platform sees it: the unfinished one, else the last."""
        asked = f"Task?focus={self.order_ref}&code={TELERADIOLOGY_TASK}|{kind}"
        found = (who or self.api.platform).found(asked)
        return max(found, key=lambda one: (one["status"] not in FINISHED_TASK, one["authoredOn"]))

    def study(self) -> Json:
        (found,) = self.api.platform.found(f"ImagingStudy?basedon={self.order_ref}")
        return found

    def accepted(self) -> Emergency:
        """S2a."""
        regulator = self.api.regulator
        task = good(put(regulator, self.task("regulate"), status="in-progress"))
        protocol = regulator.create(builders.protocol(self.order_ref, self.patient_ref))
        output = builders.output(f"ServiceRequest/{protocol['id']}")
        good(put(regulator, task, status="completed", output=output))
        return self

    def acquired(self) -> Emergency:
        """S4: images whose traits are the patient's."""
        self.accepted()
        self.scanned()
        answer = stow(self.hospital, phantom.exam(self.scan))
        assert answer.status_code == 200, answer.get_data(as_text=True)
        self.api.settled()
        return self

    def scanned(self, **more: Any) -> Phantom:
        """What the scanner makes of this patient; nothing of it is sent."""
        name = self.patient["name"][0]
        made = Phantom(
            patient_id=self.patient["identifier"][0]["value"],
            patient_name=f"{name['family'].upper()}^{name['given'][0].upper()}",
            patient_birth_date=self.patient["birthDate"].replace("-", ""),
            patient_sex={"female": "F", "male": "M"}[self.patient["gender"]],
            accession_number=self.accession,
            slices=2,
            side=16,
        )
        self.scan = replace(made, **more)
        return self.scan

    def further(self) -> list[bytes]:
        """An image more of the same series."""
        return phantom.series(replace(self.scan, slices=self.scan.slices + 1))[-1:]

    def sent(self, slices: int, **more: str) -> None:
        """More images of the exam, up to a series of so many; `more` makes it another study."""
        known = 0 if more else self.scan.slices
        self.scan = replace(self.scan, slices=slices, **more)  # type: ignore[arg-type]
        answer = stow(self.hospital, phantom.series(self.scan)[known:])
        assert answer.status_code == 200, answer.get_data(as_text=True)

    def claimed(self) -> Emergency:
        """S7."""
        self.acquired()
        good(put(self.api.radiologist, self.task("read"), status="in-progress"))
        return self

    def drafted(self) -> Emergency:
        """S8."""
        self.claimed()
        study = f"ImagingStudy/{self.study()['id']}"
        self.report = self.api.radiologist.create(builders.diagnostic_report(self.order_ref, self.patient_ref, study))
        return self

    def signed(self) -> Emergency:
        """S9."""
        self.drafted()
        self.report = good(put(self.api.radiologist, self.report, status="final"))
        return self
