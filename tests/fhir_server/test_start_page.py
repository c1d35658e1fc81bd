"""`/`: whoever opens the address in a browser sees what runs and where to go, and nothing of what is stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from playwright.sync_api import Page, sync_playwright

from fhir_server.server.settings import Settings
from fhir_server.server.start_page import blueprint, doors
from tests.fhir_server.conftest import Live

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page()
        browser.close()


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_browser_shows_every_door_and_obeys_the_policy(live: Live, page: Page) -> None:
    """CSP level 3: one style by its digest; no script, no other source, no frame."""
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{live.base}/")
    assert page.title() == "Vigie"
    assert page.locator("tbody tr").count() == len(doors(live.api.services.settings))
    assert page.locator("h1").evaluate("one => getComputedStyle(one).color") == "rgb(11, 110, 110)"
    for link in page.locator("a").all():
        assert page.request.get(f"{live.base}{link.get_attribute('href')}").status in (200, 503)
    assert not [fault for fault in faults if "favicon" not in fault]


def test_the_page_says_demonstration_only_where_there_is_one(tmp_path: Path) -> None:
    """A hospital's operator must not take a demonstration for the real thing, nor the other way round."""
    for demo in (True, False):
        made = Flask("vigie")
        made.register_blueprint(blueprint(Settings(data=tmp_path, demo=demo)))
        text = made.test_client().get("/").get_data(as_text=True)
        assert ("demonstration" in text) is demo


def test_a_server_without_dimse_shows_no_dicom_port() -> None:
    """VIGIE_DIMSE_PORT=0."""
    assert not [door for door in doors(Settings(dimse_port=0)) if "C-STORE" in door.speaks]
