"""Settings: typed, documented, and no way to serve in the open by accident (DESIGN §11)."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fhir_server.server.services import endpoint_policy
from fhir_server.server.settings import Settings, SettingsError
from scripts import settings_page
from subscriptions.endpoints import RefusedEndpoint


def test_plain_http_beyond_loopback_is_refused_unless_tls_ends_before_it() -> None:
    """DESIGN §11: the server refuses to listen beyond loopback over plain http."""
    with pytest.raises(SettingsError, match="TLS"):
        Settings.load({"host": "0.0.0.0"}, environ={}).checked()
    assert Settings.load({"host": "0.0.0.0", "tls_terminated": True}, environ={}).checked()
    assert Settings.load({"host": "::1"}, environ={}).checked()


def test_the_environment_is_read_and_flags_win() -> None:
    loaded = Settings.load(
        {"port": 9000}, environ={"VIGIE_PORT": "8000", "VIGIE_BASE_URLS": "https://a.example/, https://b"}
    )
    assert loaded.port == 9000
    assert loaded.bases == ("https://a.example", "https://b")


@pytest.mark.parametrize(
    "wrong",
    [{"port": "high"}, {"references": "maybe"}, {"workers": 0}, {"platform": "a b"}, {"token_lifetime_s": 3600}],
)
def test_a_setting_that_makes_no_sense_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Settings.load(wrong, environ={})


def test_what_a_child_process_is_given_is_what_its_parent_has(tmp_path: Path) -> None:
    settings = Settings.load({"data": tmp_path, "demo": True, "endpoint_networks": ("10.0.0.0/8",)}, environ={})
    assert Settings.load(environ=settings.environment()) == settings


def test_a_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    """No secret has a default."""
    settings = Settings.load({"data": tmp_path}, environ={})
    key = settings.key("pages")
    assert len(key) == 32
    assert settings.key("pages") == key
    assert settings.key("other") != key
    assert stat.S_IMODE((tmp_path / "keys" / "pages").stat().st_mode) == 0o600


def test_every_setting_is_on_the_page() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8").rstrip().endswith("\n".join(settings_page.rows()))


@pytest.mark.parametrize("ports", ["https", "0", "65536", "443,x", "443 8443", ","])
def test_endpoint_ports_are_tcp_ports(ports: str) -> None:
    """VIGIE_ENDPOINT_PORTS: a typing error is told at the start, not by the first subscription."""
    with pytest.raises(SettingsError, match="endpoint_ports"):
        Settings.load(environ={"VIGIE_ENDPOINT_PORTS": ports}).checked()


def test_endpoints_are_on_the_hosts_and_ports_that_the_deployment_lists(tmp_path: Path) -> None:
    """VIGIE_ENDPOINT_HOSTS, VIGIE_ENDPOINT_PORTS: a closed list of partners is the SSRF guard of last resort."""
    environ = {"VIGIE_ENDPOINT_HOSTS": "EAI.ch-a.example", "VIGIE_ENDPOINT_PORTS": "443,8443"}
    policy = endpoint_policy(Settings.load({"data": tmp_path}, environ=environ))
    assert policy.check("https://eai.ch-a.example:8443/x").port == 8443
    for refused in ("https://eai.ch-a.example:9443/x", "https://eai.ch-b.example/x"):
        with pytest.raises(RefusedEndpoint):
            policy.check(refused)
    default = endpoint_policy(Settings.load({"data": tmp_path}, environ={}))
    assert default.check("https://eai.ch-b.example/x").port == 443
