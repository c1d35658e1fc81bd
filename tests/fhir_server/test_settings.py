"""Settings: typed, documented, and no way to serve in the open by accident (DESIGN §11)."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fhir_server.settings import Settings, SettingsError
from scripts import settings_page


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
