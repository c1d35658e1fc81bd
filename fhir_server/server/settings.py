"""Settings: every option of the server, typed and documented, read from the environment and the command line.

Each field's docstring is its documentation (`docs/settings.md` lists them; a test compares). The environment variable
is ``VIGIE_`` and the field's name in capitals. No secret has a default: keys are made on first use in the data folder
(mode 0600) and nowhere else.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate


class SettingsError(ValueError):
    """A setting that the server cannot run with; the text names the setting."""


@dataclass(frozen=True)
class Settings:
    host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback the server starts only with `tls_terminated`."""
    port: int = 8080
    """HTTP port: /fhir, /dicom-web, /oauth, /livez, /readyz, /metrics."""
    data: Path = Path("var")
    """Data folder: the SQLite file, the objects, the keys."""
    database: str = ""
    """SQLAlchemy URL: ``sqlite:///…`` or ``postgresql+psycopg://…``. Empty: ``vigie.db`` in the data folder."""
    objects: str = ""
    """Folder of the immutable objects (DICOM instances, report PDFs). Empty: ``objects`` in the data folder."""
    dimse_port: int = 11112
    """Port of the DICOM upper layer (C-ECHO, C-STORE). 0: no DIMSE."""
    workers: int = 2
    """Web worker processes."""
    threads: int = 8
    """Threads of each web worker."""
    base_urls: tuple[str, ...] = ()
    """Public base URLs (``https://host``), comma-separated in the environment. Links use the one that the client
    used. Empty: ``http://host:port`` and, on loopback, ``http://localhost:port``."""
    platform: str = "platform"
    """Logical id of the Organization that is the teleradiology platform."""
    references: str = "strict"
    """``strict``: a reference to this server must resolve (409 otherwise). ``lenient``: it may dangle."""
    token_lifetime_s: int = 300
    """Life of an access token in seconds, at most 300 (SMART backend services)."""
    trusted_proxies: int = 0
    """How many reverse proxies in front may be believed for the client's address."""
    tls_terminated: bool = False
    """Say that TLS ends in front of this server; without it the server does not listen beyond loopback."""
    report_zone: str = "Europe/Paris"
    """Time zone of the times printed on a report."""
    endpoint_networks: tuple[str, ...] = ()
    """Private ranges (CIDR, comma-separated) in which hospitals' subscription endpoints may be, e.g. behind a VPN."""
    endpoint_hosts: tuple[str, ...] = ()
    """Closed list of hosts that subscription endpoints may be on, comma-separated. Empty: any public host."""
    endpoint_ports: tuple[str, ...] = ("443",)
    """TCP ports that https subscription endpoints may have, comma-separated."""
    endpoints_insecure: tuple[str, ...] = ()
    """``host:port`` of endpoints that may be reached by plain http, comma-separated."""
    endpoints_on_loopback: bool = False
    """Allow http endpoints on this machine: for demonstrations and tests. `--demo` sets it."""
    max_body_bytes: int = 16 * 1024 * 1024
    """Largest FHIR body accepted, in bytes (DICOM bodies have their own limit)."""
    demo: bool = False
    """Seed two hospitals, the platform, the rota, images and clients; write ``demo/clients.json``."""

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data.resolve() / 'vigie.db'}"

    @property
    def objects_folder(self) -> Path:
        return Path(self.objects.removeprefix("file://")) if self.objects else self.data / "objects"

    @property
    def bases(self) -> tuple[str, ...]:
        """The public bases without trailing slash; the first is the canonical one."""
        if self.base_urls:
            return tuple(base.rstrip("/") for base in self.base_urls)
        host = f"[{self.host}]" if ":" in self.host else self.host
        own = f"http://{host}:{self.port}"
        if self.is_loopback:
            return tuple(dict.fromkeys((own, f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}")))
        return (own,)

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def key(self, name: str) -> bytes:
        """The 32-byte secret `name` of this deployment, made on first use with mode 0600."""
        folder = self.data / "keys"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / name
        if not path.exists():
            # Written aside, then linked: a process that is killed here leaves no half key, and the first one wins.
            draft = folder / f".{name}.{secrets.token_hex(8)}"
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        key = path.read_bytes()
        if len(key) != 32:
            raise SettingsError(f"the key {name} in the data folder is damaged")
        return key

    def checked(self) -> Settings:
        """This, or SettingsError where the server must not start with it."""
        if not self.is_loopback and not self.tls_terminated:
            raise SettingsError(
                "host is beyond loopback and HTTP is plain: put TLS in front and say so with VIGIE_TLS_TERMINATED=1"
            )
        try:
            for network in self.endpoint_networks:
                ipaddress.ip_network(network)
        except ValueError as error:
            raise SettingsError("endpoint_networks holds what is no CIDR range") from error
        if not self.endpoint_ports or not all(
            port.isascii() and port.isdigit() and 0 < int(port) < 65536 for port in self.endpoint_ports
        ):
            raise SettingsError("endpoint_ports holds what is no TCP port, or nothing")
        try:
            ZoneInfo(self.report_zone)
        except (KeyError, ValueError) as error:
            raise SettingsError("report_zone is not a known time zone") from error
        return self

    def environment(self) -> dict[str, str]:
        """The environment that gives a child process these settings."""
        return {f"VIGIE_{name.upper()}": text for name, text in self._texts()}

    def _texts(self) -> list[tuple[str, str]]:
        texts = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                value = ",".join(value)
            elif isinstance(value, bool):
                value = "1" if value else "0"
            texts.append((field.name, str(value)))
        return texts

    @staticmethod
    def load(overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
        """Defaults, then the environment, then `overrides` (flags; None means not given)."""
        given: dict[str, Any] = {}
        for field in dataclasses.fields(Settings):
            text = environ.get(f"VIGIE_{field.name.upper()}")
            if text is not None:
                given[field.name] = text
        given.update({name: value for name, value in (overrides or {}).items() if value is not None})
        if given.get("demo") in (True, "1", "true"):
            given.setdefault("endpoints_on_loopback", True)
        try:
            values = _SettingsSchema().load(given)
        except ValidationError as error:
            problems = "; ".join(
                f"{name}: {' '.join(map(str, text))}" for name, text in dict(error.messages_dict).items()
            )
            raise SettingsError(problems) from error
        return dataclasses.replace(Settings(), **values)


class _Listed(fields.Field[tuple[str, ...]]):
    """A comma-separated list."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(part.strip() for part in parts if part.strip())


class _Folder(fields.Field[Path]):
    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Path:
        return Path(value)


class _SettingsSchema(Schema):
    class Meta:
        unknown = EXCLUDE

    host = fields.String(validate=validate.Length(min=1))
    port = fields.Integer(validate=validate.Range(0, 65535))
    data = _Folder()
    database = fields.String()
    objects = fields.String()
    dimse_port = fields.Integer(validate=validate.Range(0, 65535))
    workers = fields.Integer(validate=validate.Range(1, 64))
    threads = fields.Integer(validate=validate.Range(1, 256))
    base_urls = _Listed()
    platform = fields.String(validate=validate.Regexp(r"^[A-Za-z0-9\-.]{1,64}$"))
    references = fields.String(validate=validate.OneOf(("strict", "lenient")))
    token_lifetime_s = fields.Integer(validate=validate.Range(5, 300))
    trusted_proxies = fields.Integer(validate=validate.Range(0, 8))
    tls_terminated = fields.Boolean()
    report_zone = fields.String()
    endpoint_networks = _Listed()
    endpoint_hosts = _Listed()
    endpoint_ports = _Listed()
    endpoints_insecure = _Listed()
    endpoints_on_loopback = fields.Boolean()
    max_body_bytes = fields.Integer(validate=validate.Range(min=1024))
    demo = fields.Boolean()
