"""The stage of the play: who speaks to the server, how a step is told, and what ends the play."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import httpx2
import requests

from fhir_server.duties import tokens
from fhir_server.server.settings import Settings
from resources.json import Json

WITHIN_S = 15.0
"""How long what happens by itself may take."""


class NotSo(Exception):
    """Something in the play was not as it must be."""


class Stage:
    """Asks the server as one of the play's people (`role`), and tells what was answered."""

    def __init__(self, settings: Settings) -> None:
        self.base = settings.bases[0]
        self.fhir = f"{self.base}/fhir"
        self.steps = 0
        self.tokens: dict[str, str] = {}
        self.http = httpx2.Client(timeout=30, trust_env=False)

    def close(self) -> None:
        """Let go of connections."""
        self.http.close()

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """One numbered step: told with its time; what fails in it is raised as NotSo."""
        self.steps += 1
        began = time.perf_counter()
        told: list[str] = []
        try:
            yield told.append
        except NotSo:
            click.echo(f"{self.steps:2}. {title}")
            raise
        except (
            httpx2.HTTPError,
            requests.RequestException,
            ConnectionError,
            tokens.TokenRefused,
            KeyError,
            IndexError,
            StopIteration,
        ) as error:
            click.echo(f"{self.steps:2}. {title}")
            raise NotSo(f"{type(error).__name__}: {error}") from error
        click.echo(f"{self.steps:2}. {title}\n      {' '.join(told)}  [{(time.perf_counter() - began) * 1000:.0f} ms]")

    def so(self, holds: bool, what: str) -> None:
        """Raise NotSo with `what` unless it holds."""
        if not holds:
            raise NotSo(what)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until it holds; NotSo after `WITHIN_S` seconds."""
        deadline = time.monotonic() + WITHIN_S
        while not holds():
            self.so(time.monotonic() < deadline, what)
            time.sleep(0.05)

    def headers(self, role: str) -> dict[str, str]:
        """The headers of a request by `role`."""
        return {"Authorization": f"Bearer {self.tokens[role]}", "Accept": "application/fhir+json"}

    def ask(self, role: str, method: str, path: str, status: int, body: Json | None = None) -> Json:
        """One FHIR request by `role` that must answer `status`; the resource."""
        answer = self.http.request(
            method,
            f"{self.fhir}/{path}",
            json=body,
            headers=self.headers(role) | ({"Content-Type": "application/fhir+json"} if body else {}),
        )
        self.so(
            answer.status_code == status,
            f"{method} {path} answers {status} (was {answer.status_code}: {answer.text[:300]})",
        )
        parsed: Json = answer.json()
        return parsed

    def put(self, role: str, resource: Json) -> Json:
        """Update a resource under the version that it was read in; the new version."""
        path = f"{resource['resourceType']}/{resource['id']}"
        answer = self.http.put(
            f"{self.fhir}/{path}",
            json=resource,
            headers=self.headers(role)
            | {"If-Match": f'W/"{resource["meta"]["versionId"]}"', "Content-Type": "application/fhir+json"},
        )
        self.so(answer.status_code == 200, f"PUT {path} answers 200 (was {answer.status_code}: {answer.text[:300]})")
        parsed: Json = answer.json()
        return parsed

    def search(self, role: str, type_name: str, **parameters: str) -> list[Json]:
        """The matches of a search by `role`."""
        answer = self.http.get(f"{self.fhir}/{type_name}", params=parameters, headers=self.headers(role))
        self.so(
            answer.status_code == 200,
            f"search of {type_name} answers 200 (was {answer.status_code}: {answer.text[:300]})",
        )
        return [
            entry["resource"]
            for entry in answer.json().get("entry", [])
            if entry.get("search", {}).get("mode") == "match"
        ]
