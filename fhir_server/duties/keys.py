"""The operator's duties with keys: which there are, and new ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from audit.checkpoint import Verifier
from audit.offline import ROTATION
from fhir_server.duties import acts, deployment
from fhir_server.server import keys
from fhir_server.server.faults import CannotRun
from fhir_server.server.settings import Settings
from resources.times import instant_text, of_microseconds, utc_now
from store.access import Access
from store.engine.keyring import deployment_key
from workflow import seal

SECRET = "secret"  # noqa: S105 - what is rotated, not a secret
ROTATED = (*keys.SECRETS, seal.KEY)
"""Keys that are rotated by themselves."""


def listed(settings: Settings) -> Iterator[str]:
    """A line for each key, in use or retired."""
    column = deployment_key.c
    with deployment.opened(settings) as services:
        with services.database.read() as connection:
            rows = connection.execute(
                select(column.name, column.number, column.made, column.retired).order_by(column.name, column.number)
            ).all()
        with acts.recorded(services, "platform-keys"):
            verifiers = keys.RingSigner(services.keys, settings).verifiers
            for row in rows:
                public = f" {verifiers[row.number - 1].text()}" if row.name == keys.SIGNING else ""
                until = "in use" if row.retired is None else f"until {instant_text(of_microseconds(row.retired))}"
                yield f"{row.name} {row.number} since {instant_text(of_microseconds(row.made))} {until}{public}"


def rotate_signing(settings: Settings) -> dict[str, Any]:
    """Have the log signed by a new key from now on; the record that says so, the former verifier key, the new one.

    The record, the checkpoint that both keys sign, and the key are one transaction; servers that run sign by the new
    key with their next batch. Raises CannotRun, KeyFault, InconsistentLog.
    """
    with deployment.opened(settings) as services, acts.attempted(services, ROTATION):
        made, number, told = keys.new_signer(settings), 0, {"key": "", "former": ""}
        told["key"] = made.verifier.text()

        def act(former: Verifier) -> Access:
            told["former"] = former.text()
            return acts.access(ROTATION, *told.items())

        def put(connection: Connection) -> None:
            nonlocal number
            number = keys.rotate_signing(settings, connection, made)

        seq = services.ledger.hand_over(acts.operator(settings), act, made, put)
        keys.tell(settings, services.database)
    return {"record": seq, "number": number, **told}


def rotate(settings: Settings, name: str, given: Path | None = None) -> str:
    """Rotate one key, or the deployment secret; what was done, in a line. Raises CannotRun, KeyFault.

    `given`: a file with the private key and the certificates (PEM) that reports are sealed with from now on.
    """
    own = None
    if given is not None:
        if name != seal.KEY:
            raise CannotRun(f"only {seal.KEY} is given as a file")
        own = seal.checked(given.read_bytes(), utc_now())
    if name == keys.SIGNING:
        raise CannotRun("the key of the log is rotated inside the log: ./vigie audit rotate-key")
    if name not in (*ROTATED, SECRET):
        raise CannotRun(f"rotate one of {', '.join((*ROTATED, SECRET))}")
    detail = ("key", name)
    with deployment.opened(settings) as services, acts.attempted(services, "platform-rotate", detail):

        def record(connection: Connection) -> None:
            done = acts.access("platform-rotate", detail)
            services.ledger.append(connection, acts.operator(settings), [done], services.clock())

        if name == SECRET:
            return f"{keys.rotate_secret(settings, services.database, record)} keys are sealed under the new secret"
        with services.database.write() as connection:
            number = keys.rotate(settings, connection, name, own)
            record(connection)
        return f"{name} {number} is in use"
