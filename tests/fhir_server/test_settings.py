"""Settings: typed, documented, and no way to serve in the open by accident (DESIGN §11)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fhir_server.commands import main
from fhir_server.server.services import endpoint_policy
from fhir_server.server.settings import DECLARED, Declared, Settings, SettingsError, refuse_password
from scripts import settings_page
from subscriptions.endpoints import RefusedEndpoint


def test_plain_http_beyond_loopback_is_refused_unless_tls_ends_before_it() -> None:
    """DESIGN §11: the server refuses to listen beyond loopback over plain http."""
    with pytest.raises(SettingsError, match="TLS"):
        Settings.load({"host": "0.0.0.0"}, environ={}).checked()
    assert Settings.load({"host": "0.0.0.0", "tls_terminated": True, "dimse_port": 0}, environ={}).checked()
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


SAID = {
    "references": "lenient",
    "report_zone": "Europe/Lisbon",
    "token_lifetime_s": "60",
    "max_body_bytes": "2048",
    "database_file": "",
}
"""Values for settings that do not take any number."""


@pytest.mark.parametrize("one", DECLARED.values(), ids=lambda one: one.name)
def test_each_setting_is_said_once_and_read_everywhere(one: Declared) -> None:
    """Attribute, environment and, where it is a flag, the option of a command derive from one declaration."""
    given = SAID.get(one.name, "1" if isinstance(one.default, int) else "2048")
    loaded = Settings.load(environ={one.variable: given})
    assert one.text(getattr(loaded, one.name)) == given
    options = {
        option.name for command in _commands(main.main) for option in command.params if isinstance(option, click.Option)
    }
    assert (one.name in options) is one.flag


def _commands(command: click.Command) -> Iterator[click.Command]:
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _commands(inner)
    else:
        yield command


def test_a_variable_that_is_no_setting_is_refused() -> None:
    """A misspelt VIGIE_TLS_TERMINATD would be silently without effect."""
    with pytest.raises(SettingsError, match="VIGIE_TRUSTED_PROXYS"):
        Settings.load(environ={"VIGIE_TRUSTED_PROXYS": "1"})
    with pytest.raises(SettingsError, match="prot"):
        Settings.load({"prot": 1}, environ={})
    assert Settings.load(environ={"VIGIE_VENV": "x", "VIGIE_PARENT_PID": "1", "VIGIE_TEST_LENGTH": "8"})


def test_a_databases_password_comes_from_a_private_file(tmp_path: Path) -> None:
    """Every account can read a command line; nobody else may read the file."""
    url = "postgresql://vigie:secret@db.example/vigie"
    file = tmp_path / "url"
    file.write_text(f"{url}\n")
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        Settings.load({"database_file": str(file)}, environ={})
    file.chmod(0o600)
    assert Settings.load({"database_file": str(file)}, environ={}).database_url == url
    with pytest.raises(SettingsError, match="one of them"):
        Settings.load({"database_file": str(file), "database": "sqlite:///x.db"}, environ={})
    for given in (url, "postgresql://vigie@db.example/vigie?password=secret"):
        with pytest.raises(SettingsError, match="VIGIE_DATABASE") as refused:
            refuse_password(given)
        assert "secret" not in str(refused.value)
    refuse_password("postgresql://vigie@db.example/vigie")


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


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"host": "0.0.0.0", "tls_terminated": True}, "VIGIE_DIMSE_PLAIN"),
        ({"dimse_tls_port": 2762}, "dimse_tls_certificate"),
        ({"dimse_tls_port": 11112, "dimse_tls_certificate": "c", "dimse_tls_key": "k", "dimse_tls_authorities": "a"},
         "port of its own"),
    ],
)  # fmt: skip
def test_dimse_beyond_loopback_needs_tls_or_a_word(given: dict[str, object], told: str) -> None:
    """PS3.15 §B.12: that TLS ends before HTTP says nothing of DIMSE; one line, and the server does not start."""
    with pytest.raises(SettingsError, match=told):
        Settings.load(given, environ={}).checked()
    assert Settings.load({"host": "0.0.0.0", "tls_terminated": True, "dimse_plain": True}, environ={}).checked()
