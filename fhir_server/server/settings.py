"""Settings: every option of the server, each said once: name, type, default, what it is, and whether it is a flag.

From a declaration derive the typed attribute, the reading of the environment, the command's option and its line in
`docs/settings.md`. The environment variable is ``VIGIE_`` and the field's name in capitals. No secret has a default and
none is a flag: the keys of a new deployment are made in its database, sealed under a secret that lies in a file; a
database's password comes from the environment or a file.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from cryptography.x509 import load_pem_x509_certificates
from marshmallow import RAISE, Schema, ValidationError, fields, validate
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from resources.budgets import BODY_BYTES
from store.engine.database import Waits

PREFIX = "VIGIE_"
NOT_SETTINGS = frozenset({"VIGIE_VENV", "VIGIE_PYTHON", "VIGIE_PARENT_PID", "VIGIE_FAULTS_FD"})
"""Variables of the launcher and the supervisor. Any other is a setting, or a mistake that is told."""

_OF_TESTS = "VIGIE_TEST_"

_T = TypeVar("_T")
_DECLARED = "declared"


class SettingsError(ValueError):
    """A setting that the server cannot run with; the text names the setting."""


class Listed(fields.Field[tuple[str, ...]]):
    """A comma-separated list."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(part.strip() for part in parts if part.strip())


class Folder(fields.Field[Path]):
    """A path in the file system."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Path:
        return Path(value)


@dataclass(frozen=True, slots=True)
class Declared:
    """What is said of one setting."""

    name: str
    kind: fields.Field[Any]
    default: Any
    doc: str
    flag: bool
    """Whether it is an option of the commands too."""

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return PREFIX + self.name.upper()

    def text(self, value: Any) -> str:
        """`value` as the environment has it."""
        if isinstance(value, tuple):
            return ",".join(value)
        if isinstance(value, bool):
            return "1" if value else "0"
        return str(value)


def setting(default: _T, kind: fields.Field[_T], doc: str, *, flag: bool = False) -> _T:
    """Declare a setting in the class body below; `kind` converts and checks what was given."""
    return dataclasses.field(default=default, metadata={_DECLARED: (kind, doc, flag)})


def _text(**checks: Any) -> fields.String:
    return fields.String(**checks)


def _number(low: int, high: int | None = None) -> fields.Integer:
    return fields.Integer(validate=validate.Range(low, high))


@dataclass(frozen=True)
class Settings:
    """The settings of one deployment, checked for type and range; `checked` looks at how they fit together."""

    host: str = setting(
        "127.0.0.1",
        _text(validate=validate.Length(min=1)),
        "Address to listen on. Beyond loopback the server starts only with `tls_terminated`.",
        flag=True,
    )
    port: int = setting(
        8080,
        _number(0, 65535),
        "HTTP port: /fhir, /dicom-web, /oauth, /livez, /readyz, /metrics. 0: a free one, told by `ready`.",
        flag=True,
    )
    data: Path = setting(  # noqa: RUF009 - what it gives is a dataclass field
        Path("var"), Folder(), "Data folder: the SQLite file, the objects, the deployment secret.", flag=True
    )
    database: str = setting(
        "",
        _text(),
        "SQLAlchemy URL: `sqlite:///…` or `postgresql://…`. Empty: `vigie.db` in the data folder. A URL with a "
        "password is no flag, since every account of the machine can read a command line: give it by this variable or "
        "by `database_file`.",
        flag=True,
    )
    database_file: str = setting(
        "", _text(), "File that holds the database URL, readable by its owner alone (mode 0600).", flag=True
    )
    secret_file: str = setting(
        "",
        _text(),
        "File of the deployment secret, which opens the keys in the database: at least 32 characters, mounted by the "
        "operator, the same on all nodes. Empty: `keys/secret` in the data folder, made with a new deployment.",
        flag=True,
    )
    objects: str = setting(
        "",
        _text(),
        "Folder of the immutable objects (DICOM instances, report PDFs). Empty: `objects` in the data folder.",
        flag=True,
    )
    checkpoints: str = setting(
        "",
        _text(),
        "File that the signed checkpoints of the audit log are published to, best on another volume; nodes of one "
        "database share it. Empty: `checkpoints.txt` in the data folder.",
        flag=True,
    )
    dimse_port: int = setting(
        11112,
        _number(0, 65535),
        "Port of the DICOM upper layer (C-ECHO, C-STORE), without TLS: an AE title is believed from its registered "
        "addresses. 0: none.",
        flag=True,
    )
    dimse_plain: bool = setting(
        False,
        fields.Boolean(),
        "Say that DIMSE without TLS may be spoken beyond loopback, for instance within a VPN; without it the server "
        "starts there with `dimse_port` 0 alone.",
    )
    dimse_tls_port: int = setting(
        0,
        _number(0, 65535),
        "Port of the DICOM upper layer with TLS, 2762 by custom: an AE title is believed from the holder of its "
        "registered certificate (PS3.15 §B.12). 0: none.",
    )
    dimse_tls_certificate: str = setting("", _text(), "PEM file of the certificate chain of `dimse_tls_port`.")
    dimse_tls_key: str = setting("", _text(), "PEM file of its private key.")
    dimse_tls_authorities: str = setting(
        "", _text(), "PEM file of the authorities, or single certificates, that modalities' certificates must be of."
    )
    dimse_ae_titles: tuple[str, ...] = setting(
        ("VIGIE",),
        Listed(validate=validate.Length(min=1)),
        "Called AE titles that are answered to, comma-separated; the first one is ours. `*`: any.",
    )
    dimse_associations: int = setting(64, _number(1, 512), "Associations at once.")
    dimse_associations_per_ae: int = setting(16, _number(1, 512), "Of them, of one calling AE title.")
    dimse_associations_per_address: int = setting(32, _number(1, 512), "Of them, from one address.")
    dimse_artim_s: int = setting(
        5, _number(1, 60), "Seconds until a connection has sent its association request (PS3.8 §9.1.5)."
    )
    workers: int = setting(
        2, _number(1, 64), "Web worker processes; best as many as processors: then each has its own.", flag=True
    )
    threads: int = setting(8, _number(1, 256), "Threads of each web worker.")
    base_urls: tuple[str, ...] = setting(
        (),
        Listed(),
        "Public base URLs (`https://host`), comma-separated. Links use the one that the client used. Empty: "
        "`http://host:port` and, on loopback, `http://localhost:port`.",
    )
    platform: str = setting(
        "platform",
        _text(validate=validate.Regexp(r"^[A-Za-z0-9\-.]{1,64}$")),
        "Logical id of the Organization that is the teleradiology platform.",
    )
    references: str = setting(
        "strict",
        _text(validate=validate.OneOf(("strict", "lenient"))),
        "`strict`: a reference to this server must resolve (409 otherwise). `lenient`: it may dangle.",
    )
    token_lifetime_s: int = setting(
        300, _number(5, 300), "Life of an access token in seconds, at most 300 (SMART backend services)."
    )
    trusted_proxies: int = setting(
        0, _number(0, 8), "How many reverse proxies in front may be believed for the client's address."
    )
    tls_terminated: bool = setting(
        False,
        fields.Boolean(),
        "Say that TLS ends in front of this server; without it the server does not listen beyond loopback.",
    )
    metrics_networks: tuple[str, ...] = setting(
        (), Listed(), "Networks (CIDR, comma-separated) that may read /metrics, beside this machine."
    )
    study_quiet_s: int = setting(
        5,
        _number(0, 600),
        "A study is complete, and ready to be read, when no image of it has come for so many seconds, or at once when "
        "the modality says that its step is completed.",
    )
    report_zone: str = setting(
        "Europe/Paris",
        _text(),
        "Time zone of the deployment: of the times printed on a report, and of dates without a zone in searches. The "
        "policy `zone` gives an organisation its own.",
    )
    tsa_url: str = setting(
        "", fields.String(), "Time stamping authority (RFC 3161, http or https) that sealed reports are stamped by."
    )
    tsa_certificates: str = setting(
        "", fields.String(), "File of the root certificates (PEM) that time stamps must lead to; empty: any sound one."
    )
    endpoint_networks: tuple[str, ...] = setting(
        (),
        Listed(),
        "Private ranges (CIDR, comma-separated) in which hospitals' subscription endpoints may be, e.g. behind a VPN.",
    )
    endpoint_hosts: tuple[str, ...] = setting(
        (),
        Listed(),
        "Closed list of hosts that subscription endpoints may be on, comma-separated. Empty: any public host.",
    )
    endpoint_ports: tuple[str, ...] = setting(
        ("443",), Listed(), "TCP ports that https subscription endpoints may have, comma-separated."
    )
    endpoints_insecure: tuple[str, ...] = setting(
        (), Listed(), "`host:port` of endpoints that may be reached by plain http, comma-separated."
    )
    endpoints_on_loopback: bool = setting(
        False,
        fields.Boolean(),
        "Allow http endpoints on this machine: for demonstrations and tests. `--demo` sets it.",
    )
    max_body_bytes: int = setting(
        BODY_BYTES.value,
        _number(1024),
        "Largest FHIR body accepted, in bytes (DICOM bodies have their own limit).",
    )
    statement_timeout_s: int = setting(
        30, _number(1, 3600), "Longest statement of a request, in seconds (PostgreSQL); then it is answered 503."
    )
    lock_timeout_s: int = setting(
        4,
        _number(1, 3600),
        "Longest wait of a request for what another transaction holds, in seconds; then it is answered 503.",
    )
    connect_timeout_s: int = setting(
        3,
        _number(1, 600),
        "Longest wait of a request for a connection to the database, in seconds (PostgreSQL).",
    )
    client_in_flight: int = setting(
        256, _number(1), "Requests of one client in flight at once in one web worker; further ones are answered 429."
    )
    organization_in_flight: int = setting(
        512, _number(1), "Requests of one organisation in flight at once in one web worker; further ones: 429."
    )
    client_rate: int = setting(
        6000,
        _number(1),
        "Requests a second of one client in one web worker, with bursts of two seconds' worth; further ones: 429.",
    )
    organization_rate: int = setting(
        12000, _number(1), "Requests a second of one organisation in one web worker, likewise."
    )
    body_grace_s: int = setting(
        10, _number(1, 600), "Time in seconds that the body of a request has to come, besides `body_min_rate`: 408."
    )
    body_min_rate: int = setting(
        16384, _number(1), "Bytes a second that a body has to come with, and an answer to be taken with."
    )
    body_memory_bytes: int = setting(
        64 * 1024 * 1024, _number(0), "Memory of one web worker for bodies on their way; beyond it they go to files."
    )
    body_disk_bytes: int = setting(
        16 * 1024**3, _number(0), "Disk space of one web worker for bodies on their way; beyond it: 503."
    )
    bodies_at_once: int = setting(
        1024, _number(1), "Bodies on their way at once to one web worker; further ones are answered 503."
    )
    bodies_of_one: int = setting(
        256,
        _number(1),
        "Bodies on their way at once of one organisation, or of one address without a token; further ones: 429.",
    )
    answer_timeout_s: int = setting(
        60,
        _number(1, 86400),
        "Time in seconds in which an answer has to begin (more for a long body); then it is answered 503.",
    )
    write_grace_s: int = setting(
        30, _number(1, 3600), "Time in seconds that a client has to take a long answer, besides `body_min_rate`."
    )
    demo: bool = setting(
        False,
        fields.Boolean(),
        "Seed two hospitals, the platform, the rota, images and clients; write `demo/clients.json`.",
        flag=True,
    )

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database or f"sqlite:///{self.data.resolve() / 'vigie.db'}"

    @property
    def objects_folder(self) -> Path:
        """Folder of the immutable objects."""
        return Path(self.objects.removeprefix("file://")) if self.objects else self.data / "objects"

    @property
    def checkpoints_file(self) -> Path:
        """File of the published checkpoints."""
        return Path(self.checkpoints) if self.checkpoints else self.data / "checkpoints.txt"

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
    def waits(self) -> Waits:
        """How long requests wait for the database."""
        return Waits(
            connect_s=self.connect_timeout_s,
            statement_s=self.statement_timeout_s,
            lock_s=self.lock_timeout_s,
            idle_s=15.0,
            network_s=10.0,
        )

    @property
    def is_loopback(self) -> bool:
        """Whether it listens on this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def checked(self) -> Settings:
        """This, or SettingsError where the server must not start with it."""
        if not self.is_loopback and not self.tls_terminated:
            raise SettingsError(
                "host is beyond loopback and HTTP is plain: put TLS in front and say so with VIGIE_TLS_TERMINATED=1"
            )
        self._check_dimse()
        _check_database(self.database_url)
        for name, networks in (("endpoint", self.endpoint_networks), ("metrics", self.metrics_networks)):
            try:
                for network in networks:
                    ipaddress.ip_network(network)
            except ValueError as error:
                raise SettingsError(f"{name}_networks holds what is no CIDR range") from error
        if not self.endpoint_ports or not all(
            port.isascii() and port.isdigit() and 0 < int(port) < 65536 for port in self.endpoint_ports
        ):
            raise SettingsError("endpoint_ports holds what is no TCP port, or nothing")
        try:
            ZoneInfo(self.report_zone)
        except (KeyError, ValueError) as error:
            raise SettingsError("report_zone is not a known time zone") from error
        if self.tsa_url and not self.tsa_url.startswith(("http://", "https://")):
            raise SettingsError("tsa_url is not an http or https address")
        if self.tsa_certificates:
            try:
                load_pem_x509_certificates(Path(self.tsa_certificates).read_bytes())
            except (OSError, ValueError) as error:
                raise SettingsError("tsa_certificates is not a file of certificates (PEM)") from error
        return self

    def _check_dimse(self) -> None:
        if self.dimse_port and not self.is_loopback and not self.dimse_plain:
            raise SettingsError(
                "host is beyond loopback and dimse_port is without TLS: set VIGIE_DIMSE_PORT=0 and "
                "VIGIE_DIMSE_TLS_PORT, or allow it with VIGIE_DIMSE_PLAIN=1"
            )
        files = self.dimse_tls_certificate, self.dimse_tls_key, self.dimse_tls_authorities
        if self.dimse_tls_port and not all(files):
            raise SettingsError("dimse_tls_port needs dimse_tls_certificate, dimse_tls_key and dimse_tls_authorities")
        if self.dimse_tls_port and self.dimse_tls_port == self.dimse_port:
            raise SettingsError("dimse_tls_port is dimse_port: each needs a port of its own")

    def environment(self) -> dict[str, str]:
        """The environment that gives a child process these settings."""
        return {one.variable: one.text(getattr(self, one.name)) for one in DECLARED.values()}

    @staticmethod
    def load(overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
        """Defaults, then the environment, then `overrides` (flags; None means not given). Raises SettingsError."""
        ours = {name for name in environ if name.startswith(PREFIX) and not name.startswith(_OF_TESTS)}
        unknown = sorted(ours - _VARIABLES - NOT_SETTINGS)
        if unknown:
            raise SettingsError(f"{unknown[0]} is no setting: docs/settings.md lists them")
        given: dict[str, Any] = {
            name: environ[one.variable] for name, one in DECLARED.items() if one.variable in environ
        }
        given.update({name: value for name, value in (overrides or {}).items() if value is not None})
        if given.get("demo") in (True, "1", "true"):
            given.setdefault("endpoints_on_loopback", True)
        try:
            values: dict[str, Any] = _SCHEMA.load(given)
        except ValidationError as error:
            problems = "; ".join(
                f"{name}: {' '.join(map(str, text))}" for name, text in dict(error.messages_dict).items()
            )
            raise SettingsError(problems) from error
        if values.get("database_file"):
            if values.get("database"):
                raise SettingsError("database and database_file are given: one of them says where the database is")
            values["database"] = _read_private(Path(values.pop("database_file")))
        return dataclasses.replace(Settings(), **values)


DECLARED: Mapping[str, Declared] = {
    field.name: Declared(field.name, field.metadata[_DECLARED][0], field.default, *field.metadata[_DECLARED][1:])
    for field in dataclasses.fields(Settings)
}
"""Name → what is said of the setting, in the order of the class."""
_VARIABLES = frozenset(one.variable for one in DECLARED.values())


class _Strict(Schema):
    class Meta:
        unknown = RAISE


_SCHEMA: Schema = _Strict.from_dict({name: one.kind for name, one in DECLARED.items()}, name="SettingsSchema")()


def refuse_password(database: str | None) -> None:
    """Raise SettingsError where a database URL of a command line holds a password."""
    try:
        url = make_url(database) if database else None
    except ArgumentError:
        return
    if url is not None and (url.password or "password" in url.query):
        raise SettingsError(
            "--database holds a password, which every account of this machine could read: "
            "give the URL by VIGIE_DATABASE or --database-file"
        )


def _check_database(text: str) -> None:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise SettingsError("database is no URL like sqlite:///… or postgresql://…") from error
    driver = url.drivername
    if driver not in ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg"):
        raise SettingsError("database must be a sqlite:///… or postgresql://… URL; no other dialect is known")
    if driver.startswith("sqlite") and (not url.database or url.database == ":memory:"):
        raise SettingsError("database: SQLite needs a file, since several processes share it")


def _read_private(path: Path) -> str:
    try:
        loose = path.stat().st_mode & 0o077
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("database_file cannot be read") from error
    if loose:
        raise SettingsError("database_file can be read by others: chmod 600 it")
    if not text:
        raise SettingsError("database_file is empty")
    return text
