"""`./vigie`: one command, its subcommands (DESIGN §11)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from fhir_server.server import logs
from fhir_server.server.settings import Settings, SettingsError
from resources.outcomes import FhirError

HERE = Path(__file__).resolve().parents[2]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Vigie, a FHIR R4-native interoperability server for emergency teleradiology."""
    if context.invoked_subcommand != "test":  # pytest has its own
        logs.configure("vigie", speaks=True)


def _settings(**flags: Any) -> Settings:
    try:
        return Settings.load(flags).checked()
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def data_options(command: Any) -> Any:
    """The options that say where the data is."""
    command = click.option("--database", help="SQLAlchemy URL (default: vigie.db in the data folder).")(command)
    return click.option("--data", type=click.Path(path_type=Path), help="Data folder (default: var).")(command)


@main.command()
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=int, help="HTTP port (default 8080).")
@data_options
@click.option("--objects", help="Folder of the immutable objects (default: objects in the data folder).")
@click.option("--dimse-port", type=int, help="DICOM port (default 11112; 0: none).")
@click.option("--workers", type=int, help="Web worker processes (default 2).")
@click.option("--demo", is_flag=True, default=None, help="Seed two hospitals, the platform, the rota, images, clients.")
def serve(**flags: Any) -> None:
    """Start the whole service, supervised; print `ready http://HOST:PORT` once it can serve."""
    from fhir_server.commands import serve as serving

    sys.exit(serving.serve(_settings(**flags)))


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def test(arguments: tuple[str, ...]) -> None:
    """Run the suite (pytest ARGUMENTS)."""
    import pytest

    sys.exit(
        pytest.main(
            ["--rootdir", str(HERE), *arguments] if arguments else ["--rootdir", str(HERE), str(HERE / "tests")]
        )
    )


@main.group()
def client() -> None:
    """The registered OAuth2 clients."""


@client.command("add")
@click.argument("name")
@click.option("--organization", required=True, help="Logical id of the client's Organization.")
@click.option("--scope", required=True, help='SMART v2 scopes, e.g. "system/ServiceRequest.cruds".')
@click.option("--role", default="", help="What the client is in the workflow: hospital, regulator, radiologist…")
@click.option("--practitioner", help="Practitioner/id of the person behind the client.")
@click.option(
    "--jwks", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Public keys; none: a new key."
)
@data_options
def client_add(
    name: str, organization: str, scope: str, role: str, practitioner: str | None, jwks: Path | None, **flags: Any
) -> None:
    """Register a client; print it as JSON, with its new private key where no JWKS was given."""
    from fhir_server.duties import clients

    try:
        public = json.loads(jwks.read_text(encoding="utf-8")) if jwks else None
        made = clients.add(_settings(**flags), name, organization, scope, role, practitioner, public)
    except (ValueError, FhirError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(made, indent=2))


@main.command()
@click.argument("client_id")
@click.option("--scope", default="", help="Scopes to ask for (default: all that the client may have).")
@click.option("--host", help="Host of the running server.")
@click.option("--port", type=int, help="Port of the running server (default 8080).")
@click.option(
    "--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Private key (JWK) to sign with."
)
@data_options
def token(client_id: str, scope: str, key: Path | None, **flags: Any) -> None:
    """Fetch an access token from the running server by private_key_jwt; print it alone."""
    from fhir_server.duties import clients

    settings = _settings(**flags)
    try:
        click.echo(clients.token(settings, client_id, scope, key))
    except clients.TokenRefused as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.option("--host", help="Host of the running server.")
@click.option("--port", type=int, help="Port of the running server (default 8080).")
@click.option("--dimse-port", type=int, help="Its DICOM port (default 11112).")
@data_options
def demo(**flags: Any) -> None:
    """Play one emergency, from order to delivered report, against a running `serve --demo`."""
    from fhir_server.demo import play

    sys.exit(play.main(_settings(**flags)))


@main.group()
def audit() -> None:
    """The audit log."""


@audit.command("verify")
@data_options
def audit_verify(**flags: Any) -> None:
    """Recompute the Merkle log from what is stored; name the first record altered, missing or swapped."""
    from fhir_server.duties import upkeep

    sys.exit(upkeep.audit_verify(_settings(**flags)))


@audit.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@data_options
def audit_export(file: Path, **flags: Any) -> None:
    """Write the log to FILE for verification without this server."""
    from fhir_server.duties import upkeep

    sys.exit(upkeep.audit_export(_settings(**flags), file))


@main.group()
def db() -> None:
    """The database."""


@db.command("upgrade")
@data_options
def db_upgrade(**flags: Any) -> None:
    """Bring the database to this version's schema."""
    from fhir_server.duties import upkeep

    upkeep.upgrade(_settings(**flags))


@main.command()
@click.argument("destination", type=click.Path(path_type=Path))
@data_options
def backup(destination: Path, **flags: Any) -> None:
    """Copy database, objects and keys to the folder DESTINATION, consistently, while the service runs."""
    from fhir_server.duties import upkeep

    sys.exit(upkeep.backup(_settings(**flags), destination))


@main.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@data_options
def restore(source: Path, **flags: Any) -> None:
    """Lay a backup into an empty data folder and verify it."""
    from fhir_server.duties import upkeep

    sys.exit(upkeep.restore(_settings(**flags), source))


@main.command()
@data_options
def doctor(**flags: Any) -> None:
    """Say what is wrong with this deployment, if anything."""
    from fhir_server.duties import upkeep

    sys.exit(upkeep.doctor(_settings(**flags)))


@main.command()
@click.argument("what", type=click.Choice(["quick"]), default="quick")
@click.option("--seconds", type=float, default=4.0, help="Length of each measurement.")
@click.option("--resources", type=int, default=10_000, help="Resources in the store before searching.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the raw figures.")
@click.option("--database", help="SQLAlchemy URL (default: a new SQLite file).")
def bench(what: str, seconds: float, resources: int, out: Path | None, database: str | None) -> None:
    """Measure reads, creates, searches, images and deliveries beside a bare Flask route."""
    from fhir_server import bench as benches

    sys.exit(benches.quick(seconds=seconds, resources=resources, out=out, database=database))
