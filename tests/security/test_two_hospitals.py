"""L17: whatever two hospitals and the platform do, no byte of the one shows in an answer to the other.

A state machine plays random interactions of the whole edge: writes with a secret word of each organisation in random
elements, searches with random parameters, chains and includes, history, Bundles, conditional interactions, images and
subscriptions. What an organisation was ever answered (ids, UIDs) is its own; it must not be in an answer to the other
that did not itself send it, nor must the other's word; and no answer is a 5xx (security-subscriptions R10, R12).

``VIGIE_TEST_MACHINE_EXAMPLES`` sets how long it plays.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from werkzeug.test import TestResponse

from dicomweb import phantom
from dicomweb.phantom import Phantom
from resources.json import Json
from resources.registry import TYPES
from resources.search_parameters import parameters
from subscriptions.topics import ORDER_STATUS, REPORT_SIGNED
from tests import builders
from tests.fhir_server.conftest import Api, Client
from tests.security.scene import stow, subscription

EXAMPLES = int(os.environ.get("VIGIE_TEST_MACHINE_EXAMPLES", "8"))
WORDS = {"a": "ALPHAWORT", "b": "BETAWORT", "platform": "PLATTFORMWORT"}
OTHER = {"a": "b", "b": "a"}

WHO = st.sampled_from(["a", "b"])
NUMBER = st.integers(0, 9999)
KINDS = (
    "Patient", "Encounter", "ServiceRequest", "Condition", "Observation", "DocumentReference", "Binary", "List",
    "Communication", "Task", "Basic", "Provenance", "Bundle", "DiagnosticReport", "ImagingStudy", "Procedure",
)  # fmt: skip
SEARCHED = (*KINDS, "Subscription", "Organization", "Practitioner", "PractitionerRole", "Slot", "Device", "Appointment")

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UID = re.compile(r"2\.25\.[0-9]{20,}")
_ACCESSION = re.compile(r"\bV[0-9A-Z]{13}\b")
_steps = itertools.count()


class TwoHospitals(RuleBasedStateMachine):
    """Two hospitals, the platform, one server."""

    api: Api  # set by the test: the server lives as long as the test, what was stored stays.
    # So no rule has a precondition on it: the next example starts elsewhere, which Hypothesis calls flaky.

    owned: dict[str, set[str]] = {}
    """Organisation → names that it was told."""
    said: dict[str, set[str]] = {}
    """Organisation → UIDs that it has sent: of images they may be the same as the other's."""
    kept: dict[str, list[str]] = {}
    """Organisation → ``Type/id`` that it made, newest last."""
    chosen: dict[str, str] = {}
    """Patient id that a hospital chose → the hospital that was first."""
    studies: dict[str, list[Phantom]] = {}
    links: dict[str, list[str]] = {}
    tokens_since: list[float] = [0.0]

    # — asking —

    def client(self, who: str) -> Client:
        if time.monotonic() - self.tokens_since[0] > 200:  # a token lives for 300 s
            self.tokens_since[0] = time.monotonic()
            self.api.clients.clear()
        return {"a": self.api.hospital_a, "b": self.api.hospital_b, "platform": self.api.platform}[who]

    def ask(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> TestResponse:
        answer = self.client(who).ask(method, path, body, **headers)
        return self.judge(who, answer, f"{path} {body!r} {headers!r}")

    def judge(self, who: str, answer: TestResponse, sent: str) -> TestResponse:
        """The invariant."""
        next(_steps)
        assert answer.status_code < 500, (answer.status_code, sent[:300])
        if who == "platform":
            return answer
        text = "\n".join(f"{name}: {value}" for name, value in answer.headers.items() if name != "X-Request-Id")
        text += "\n" + answer.get_data().decode("utf-8", "replace")
        names = set(_UUID.findall(text)) | set(_UID.findall(text)) | set(_ACCESSION.findall(text))
        for word in (WORDS[OTHER[who]], WORDS["platform"]):
            if word not in sent:
                assert word not in text, (word, sent[:300])
                assert base64.b64encode(word.encode() * 3)[4:12].decode() not in text, (word, sent[:300])
        names.discard(_UUID_OF_ALL)
        foreign = {name for name in names & self.owned[OTHER[who]] if name not in sent} - self.said[who]
        assert not foreign, (foreign, sent[:300])
        self.owned[who] |= {name for name in names if name not in sent and name not in self.owned[OTHER[who]]}
        if answer.status_code in (201,) and answer.is_json and "id" in (made := answer.get_json()):
            self.kept[who].append(f"{made['resourceType']}/{made['id']}")
        return answer

    def some(self, who: str, number: int, type_name: str | None = None) -> str:
        """A reference of `who`'s, or to what nobody has and nobody may write (`is_nothing`)."""
        found = [one for one in self.kept[who][-60:] if type_name is None or one.startswith(f"{type_name}/")]
        return found[number % len(found)] if found else f"{type_name or 'Patient'}/{_NOTHING}"

    def body(self, word: str, type_name: str, patient: str, number: int) -> Json:
        """A resource with the word in one of its corners."""
        of = {"reference": patient}
        text = {"text": word if number % 2 else "x", "coding": [{"system": "urn:c", "code": word}]}
        note = [{"text": f"{word} {number}"}]
        contained = [{"resourceType": "Patient", "id": "c", "name": [{"family": word}]}]
        extra: Json = [
            {},
            {"meta": {"tag": [{"system": "urn:t", "code": word}], "source": f"urn:{word}"}},
            {"extension": [{"url": "urn:e", "valueString": word}]},
            {"identifier": [{"system": "urn:shared", "value": f"{word if number % 3 else 'same'}-{number % 7}"}]},
            {"contained": contained, "extension": [{"url": "urn:e", "valueReference": {"reference": "#c"}}]},
        ][number % 5]
        if type_name in ("Binary", "Bundle"):
            extra.pop("contained", None), extra.pop("extension", None), extra.pop("identifier", None)
        if type_name == "Provenance":
            extra.pop("identifier", None)
        made: Json = {
            "Patient": lambda: builders.patient(word, birthDate="1970-01-01", gender="other", identifier=None),
            "Encounter": lambda: {
                "status": "planned", "subject": of, "reasonCode": [text],
                "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "EMER"},
                "serviceProvider": {"reference": "Organization/hopital-a"},
            },
            "ServiceRequest": lambda: builders.service_request(patient, reasonCode=[text], note=note),
            "Condition": lambda: {"subject": of, "code": text, "note": note},
            "Observation": lambda: {
                "status": "final", "code": text, "subject": of, "valueQuantity": {"value": number, "unit": word},
                "performer": [{"reference": "Organization/hopital-b"}],
            },
            "DocumentReference": lambda: {
                "status": "current", "subject": of, "description": word,
                "content": [{"attachment": {"contentType": "text/plain", "data": _coded(word), "title": word}}],
            },
            "Binary": lambda: {"contentType": "text/plain", "data": _coded(word), "securityContext": of},
            "List": lambda: {"status": "current", "mode": "working", "title": word, "entry": [{"item": of}]},
            "Communication": lambda: {
                "status": "completed", "subject": of, "payload": [{"contentString": word}],
                "recipient": [{"reference": "Organization/platform"}],
            },
            "Task": lambda: {"status": "draft", "intent": "order", "focus": of, "description": word},
            "Basic": lambda: {"code": text, "subject": of},
            "Provenance": lambda: {
                "target": [of], "recorded": "2026-01-01T00:00:00Z", "agent": [{"who": {"display": word}}],
            },
            "Bundle": lambda: {
                "type": "collection", "entry": [{"fullUrl": "urn:uuid:" + _UUID_OF_ALL, "resource": contained[0]}],
            },
            "DiagnosticReport": lambda: {"status": "registered", "code": text, "subject": of, "conclusion": word},
            "ImagingStudy": lambda: {"status": "registered", "subject": of, "description": word},
            "Procedure": lambda: {"status": "in-progress", "subject": of, "code": text},
        }[type_name]()  # fmt: skip
        return {**made, "resourceType": type_name, **extra}

    # — writing —

    @rule(who=WHO, type_name=st.sampled_from(KINDS), number=NUMBER)
    def create(self, who: str, type_name: str, number: int) -> None:
        if type_name != "Patient" and not any(one.startswith("Patient/") for one in self.kept[who][-60:]):
            type_name = "Patient"
        self.ask(who, "POST", type_name, self.body(WORDS[who], type_name, self.some(who, number, "Patient"), number))

    @rule(who=WHO, number=NUMBER, other=NUMBER)
    def update(self, who: str, number: int, other: int) -> None:
        """One's own; now and then pointing at the other's."""
        reference = self.some(who, number)
        if is_nothing(reference):
            return
        patient = self.some(OTHER[who] if other % 4 == 0 else who, other, "Patient")
        type_name, logical_id = reference.split("/")
        if type_name == "Subscription":
            return
        self.ask(who, "PUT", reference, {**self.body(WORDS[who], type_name, patient, other), "id": logical_id})

    @rule(who=WHO, number=NUMBER)
    def overwrite_anothers(self, who: str, number: int) -> None:
        reference = self.some(OTHER[who], number)
        type_name, logical_id = reference.split("/")
        if type_name in KINDS and not is_nothing(reference):  # a PUT there would make it one's own: `choose_a_name`
            body = {**self.body(WORDS[who], type_name, self.some(who, number, "Patient"), number), "id": logical_id}
            headers = {"If_Match": f'W/"{number % 3}"'} if number % 2 else {}
            answer = self.ask(who, "PUT", reference, body, **headers)
            assert answer.status_code in (400, 404, 409, 422), answer.status_code

    @rule(who=WHO, number=NUMBER)
    def choose_a_name(self, who: str, number: int) -> None:
        """Update as create (R4 §3.1.0.4.1): an id is that hospital's which took it first, also once it is deleted."""
        logical_id = f"chosen-{number % 4}"
        body = {**self.body(WORDS[who], "Patient", "", number), "id": logical_id}
        answer = self.ask(who, "PUT", f"Patient/{logical_id}", body)
        mine = self.chosen.setdefault(logical_id, who) == who
        assert answer.status_code in ((200, 201) if mine else (404,)), (logical_id, mine, answer.status_code)

    @rule(who=WHO, number=NUMBER, foreign=st.booleans())
    def delete(self, who: str, number: int, foreign: bool) -> None:
        reference = self.some(OTHER[who] if foreign else who, number)
        before = self.client(OTHER[who]).get(reference).status_code if foreign else 0
        self.ask(who, "DELETE", reference)
        if foreign:
            assert self.client(OTHER[who]).get(reference).status_code == before

    @rule(who=WHO, number=NUMBER, type_name=st.sampled_from(("Condition", "Observation", "Task", "Basic", "List")))
    def point_at_anothers(self, who: str, number: int, type_name: str) -> None:
        body = self.body(WORDS[who], type_name, self.some(OTHER[who], number), number)
        answer = self.ask(who, "POST", type_name, body)
        assert answer.status_code >= 400 or is_nothing(self.some(OTHER[who], number))

    @rule(who=WHO, number=NUMBER, method=st.sampled_from(("POST", "PUT", "DELETE")))
    def conditional(self, who: str, number: int, method: str) -> None:
        type_name = ("Patient", "Condition", "Observation")[number % 3]
        criteria = (
            f"identifier=urn:shared|same-{number % 7}"
            if number % 2
            else f"_id={self.some(OTHER[who], number).split('/')[1]}"
        )
        body = (
            None if method == "DELETE" else self.body(WORDS[who], type_name, self.some(who, number, "Patient"), number)
        )
        if method == "POST":
            self.ask(who, "POST", type_name, body, If_None_Exist=criteria)
        else:
            self.ask(who, method, f"{type_name}?{criteria}", body)

    @rule(who=WHO, numbers=st.lists(NUMBER, min_size=1, max_size=5), kind=st.sampled_from(("batch", "transaction")))
    def bundle(self, who: str, numbers: list[int], kind: str) -> None:
        entries: list[Json] = []
        for index, number in enumerate(numbers):
            theirs = self.some(OTHER[who] if number % 2 else who, number)
            match number % 6:
                case 0:
                    entries.append({"request": {"method": "GET", "url": theirs}})
                case 1:
                    entries.append({"request": {"method": "GET", "url": self.query(number, who)}})
                case 2:
                    entries.append({"request": {"method": "DELETE", "url": theirs}})
                case 3:
                    patient = f"Patient?identifier=urn:shared|same-{number % 7}" if number % 5 else theirs
                    body = self.body(WORDS[who], "Condition", patient, number)
                    entries.append({"request": {"method": "POST", "url": "Condition"}, "resource": body})
                case _:
                    body = self.body(WORDS[who], "Patient", "", number)
                    more = {"ifNoneExist": f"identifier=urn:shared|same-{number % 7}"} if number % 2 else {}
                    request = {"method": "POST", "url": "Patient", **more}
                    url = f"urn:uuid:{index:08d}-0000-4000-8000-000000000000"
                    entries.append({"fullUrl": url, "request": request, "resource": body})
        self.ask(who, "POST", "", {"resourceType": "Bundle", "type": kind, "entry": entries})

    @rule(number=NUMBER, who=WHO)
    def platform_writes(self, number: int, who: str) -> None:
        """What the platform notes about a patient of either hospital, for itself."""
        patient = self.some(who, number, "Patient")
        type_name = ("Observation", "Condition", "DiagnosticReport", "Task", "List", "Procedure")[number % 6]
        body = self.body(WORDS["platform"], type_name, patient, number)
        if type_name == "Task":  # a Task without partOf about a hospital's resource is shown to that hospital
            body = {**body, "description": "x", **{k: v for k, v in {"meta": None}.items() if v}}
            (
                body.pop("meta", None),
                body.pop("extension", None),
                body.pop("identifier", None),
                body.pop("contained", None),
            )
        self.ask("platform", "POST", type_name, body)

    # — reading —

    @rule(
        who=WHO,
        number=NUMBER,
        suffix=st.sampled_from(("", "/_history", "/_history/1", "?_summary=true", "/$status", "/$events")),
    )
    def read(self, who: str, number: int, suffix: str) -> None:
        foreign = number % 3 == 0
        reference = self.some(OTHER[who] if foreign else who, number)
        accept = ("application/fhir+json", "text/plain")[number % 2]
        answer = self.ask(who, "GET", reference + suffix, Accept=accept)
        if foreign:
            assert answer.status_code in (400, 404, 405, 406), (reference, suffix, answer.status_code)

    @rule(who=WHO, number=NUMBER)
    def read_what_any_may(self, who: str, number: int) -> None:
        path = (
            "_history",
            "Patient/_history",
            "Task/_history",
            "Subscription/$status",
            "metadata",
            "Organization/_history",
        )[number % 6]
        self.ask(who, "GET", f"{path}?_count={number % 40 + 1}" if "$" not in path and path != "metadata" else path)

    @rule(who=WHO, number=NUMBER, more=NUMBER)
    def search(self, who: str, number: int, more: int) -> None:
        answer = self.ask(who, "GET", self.query(number, who, more))
        if answer.status_code == 200:
            self.links[who] += [
                link["url"].removeprefix("http://localhost")
                for link in answer.get_json()["link"] if link["relation"] == "next"
            ][-20:]  # fmt: skip

    @rule(who=WHO, number=NUMBER, foreign=st.booleans())
    def turn_the_page(self, who: str, number: int, foreign: bool) -> None:
        links = self.links[OTHER[who] if foreign else who]
        if links:
            answer = self.ask(who, "GET", links[number % len(links)])
            assert not foreign or answer.status_code in (400, 403)

    def query(self, number: int, who: str, more: int = 0) -> str:
        """A search URL out of everything that R4 defines for the type."""
        type_name = SEARCHED[number % len(SEARCHED)]
        pairs = [self.criterion(type_name, number + step * 7, who) for step in range(more % 3 + 1)]
        pairs += self.controls(type_name, more)
        level = "" if more % 13 == 0 else type_name
        if not level:
            pairs = [("_type", type_name), *pairs]
        return f"{level}?{urlencode(pairs)}"

    def criterion(self, type_name: str, number: int, who: str) -> tuple[str, str]:
        known = sorted(parameters(type_name).values(), key=lambda one: one.code)
        one = known[number % len(known)]
        value = self.value(one.kind, number, who)
        if one.kind == "reference" and number % 2 and one.targets:
            target = one.targets[number % len(one.targets)]
            if target in TYPES:
                inner = sorted(parameters(target).values(), key=lambda found: found.code)
                deeper = inner[number // 3 % len(inner)]
                return f"{one.code}:{target}.{deeper.code}", self.value(deeper.kind, number, who)
        if number % 5 == 0:
            source = SEARCHED[number // 5 % len(SEARCHED)]
            refers = [p for p in parameters(source).values() if p.kind == "reference" and type_name in p.targets]
            if refers:
                through = refers[number % len(refers)]
                inner = sorted(parameters(source).values(), key=lambda found: found.code)
                deeper = inner[number // 7 % len(inner)]
                return f"_has:{source}:{through.code}:{deeper.code}", self.value(deeper.kind, number, who)
        modifier = ("", "", "", ":not", ":missing", ":exact", ":contains", ":text")[number % 8]
        if modifier == ":missing":
            value = ("true", "false")[number % 2]
        return one.code + modifier, value

    def value(self, kind: str, number: int, who: str) -> str:
        reference = self.some(OTHER[who] if number % 2 else who, number)
        match kind:
            case "reference":
                return reference if number % 3 else reference.split("/")[1]
            case "date":
                return ("gt2000-01-01", "2026", "lt2100-01-01T00:00:00Z", "ne2026-01-01")[number % 4]
            case "number" | "quantity":
                return ("gt0", str(number), "lt99999", "5||mg")[number % 4]
            case "uri":
                return "urn:x"
            case "token":
                return (
                    reference.split("/")[1],
                    f"urn:shared|same-{number % 7}",
                    f"|{who}",
                    "final",
                    "urn:c|",
                    "active",
                )[number % 6]
            case _:
                return ("x", "same", "a", "z")[number % 4]

    def controls(self, type_name: str, more: int) -> list[tuple[str, str]]:
        refers = sorted(p.code for p in parameters(type_name).values() if p.kind == "reference") or ["_id"]
        source = SEARCHED[more % len(SEARCHED)]
        of_source = sorted(p.code for p in parameters(source).values() if p.kind == "reference") or ["_id"]
        offered = [
            ("_include", "*"), ("_revinclude", "*"), ("_include", f"{type_name}:{refers[more % len(refers)]}"),
            ("_revinclude", f"{source}:{of_source[more % len(of_source)]}"), ("_include:iterate", "*"),
            ("_revinclude:iterate", f"{source}:*"), ("_total", "accurate"),
            ("_summary", ("count", "true", "text")[more % 3]),
            ("_count", str(more % 5)), ("_sort", "-_lastUpdated"), ("_elements", "id"), ("_lastUpdated", "gt2000"),
        ]  # fmt: skip
        return [one for index, one in enumerate(offered) if more >> index & 1]

    # — images —

    @rule(who=WHO, number=NUMBER)
    def send_images(self, who: str, number: int) -> None:
        """Now and then under the other's accession number, patient or UIDs."""
        theirs = self.studies[OTHER[who]]
        uid = (
            theirs[number % len(theirs)].study_uid
            if theirs and number % 3 == 0
            else f"2.25.{10**30 + number}{who == 'a':d}"
        )
        scan = Phantom(
            patient_id=WORDS[who], patient_name=f"{WORDS[who]}^X", institution=WORDS[who], study_instance_uid=uid,
            accession_number=f"SHARED{number % 5}", slices=1, side=8,
        )  # fmt: skip
        files = phantom.series(scan)
        sent = {uid, *_UID.findall(b"".join(files).decode("latin-1"))}
        self.said[who] |= sent
        answer = stow(self.client(who), files, "/dicom-web/studies" + (f"/{uid}" if number % 2 else ""))
        self.judge(who, answer, " ".join(sent))
        again = any(one.study_uid == uid for one in self.studies[who])  # other bytes under one's own UID: 409
        assert answer.status_code in ((200, 202, 409) if again else (200,)), answer.get_data(as_text=True)
        self.studies[who].append(scan)

    @rule(who=WHO, number=NUMBER, form=st.integers(0, 8), foreign=st.booleans())
    def fetch_images(self, who: str, number: int, form: int, foreign: bool) -> None:
        studies = self.studies[OTHER[who] if foreign else who]
        if not studies:
            return
        scan = studies[number % len(studies)]
        study, series = f"/dicom-web/studies/{scan.study_uid}", f"/series/{scan.series_uid}"
        instance = f"{study}{series}/instances/{scan.sop_uid(1)}"
        path = (study, f"{study}/metadata", f"{study}{series}", f"{study}{series}/metadata", instance,
                f"{instance}/metadata", f"{instance}/frames/1", f"{instance}/rendered", f"{study}/series")[form]  # fmt: skip  # noqa: E501
        if number % 7 == 0:
            path = path.replace("/dicom-web", f"/dicom-web/owners/{('hopital-a', 'hopital-b')[number % 2]}")
        self.ask(who, "GET", path, Accept="*/*")

    @rule(who=WHO, number=NUMBER)
    def look_for_images(self, who: str, number: int) -> None:
        level = ("studies", "series", "instances")[number % 3]
        name, value = (
            ("PatientID", "*"), ("PatientName", "*WORT*"), ("AccessionNumber", f"SHARED{number % 5}"),
            ("includefield", "all"), ("limit", str(number % 9)), ("ModalitiesInStudy", "CT"),
        )[number % 6]  # fmt: skip
        self.ask(who, "GET", f"/dicom-web/{level}?{name}={quote(value)}")

    # — subscriptions —

    @rule(who=WHO, number=NUMBER)
    def subscribe(self, who: str, number: int) -> None:
        if sum(one.startswith("Subscription/") for one in self.kept[who]) < 4:
            topic = (ORDER_STATUS, REPORT_SIGNED)[number % 2]
            self.ask(who, "POST", "Subscription", subscription("http://127.0.0.1:9/x", topic, content="full-resource"))

    @rule()
    def events_are_numbered(self) -> None:
        services = self.api.services
        for _ in range(3):
            services.subscriptions.sequencer.step()

    @rule(who=WHO, number=NUMBER)
    def events(self, who: str, number: int) -> None:
        reference = self.some(OTHER[who] if number % 2 else who, number, "Subscription")
        self.ask(who, "GET", f"{reference}/$events?content=full-resource")


_NOTHING = "none"
_UUID_OF_ALL = "11111111-1111-4111-8111-111111111111"


def is_nothing(reference: str) -> bool:
    return reference.endswith(f"/{_NOTHING}")


def _coded(word: str) -> str:
    return base64.b64encode(word.encode() * 3).decode()


def test_whatever_happens_two_hospitals_know_nothing_of_each_other(
    api: Api, record_property: Callable[[str, object], None]
) -> None:
    """L17, R10."""
    began, first = time.monotonic(), next(_steps)

    class Played(TwoHospitals):
        owned: dict[str, set[str]] = {"a": set(), "b": set()}
        said: dict[str, set[str]] = {"a": set(), "b": set()}
        kept: dict[str, list[str]] = {"a": [], "b": [], "platform": []}
        chosen: dict[str, str] = {}
        studies: dict[str, list[Phantom]] = {"a": [], "b": []}
        links: dict[str, list[str]] = {"a": [], "b": []}

    Played.api = api
    run_state_machine_as_test(
        Played,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=60,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
    steps = next(_steps) - first
    record_property("interactions", steps)
    print(f"{steps} interactions in {time.monotonic() - began:.0f} s")
