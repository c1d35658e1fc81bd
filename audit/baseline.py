"""Digests for the versions that were there before versions had any: logged afterwards, and marked as such.

A step takes a few hundred versions that have no salt: it draws one for each and records their digests in the same
transaction, so that a process which dies in between leaves nothing half done, and another goes on. A baseline says what
a version was when it was taken, not what was written; so a version that no record of a write names is told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import structlog
from sqlalchemy import Connection, bindparam, insert, select, update

from audit import clinical, queries, registry
from audit.clinical import BASELINE
from audit.registry import Registered
from store import items
from store.access import Access, Caller, Interaction, Loop, Trail
from store.engine.database import Database
from store.engine.locks import lock
from store.engine.statements import Prepared
from store.versions import digests
from store.versions.tables import resource_version, store_setting

log = structlog.get_logger("vigie.audit")

NAME = "digest-baseline"
BATCH = 200
"""Versions of one record. On SQLite every writer waits for it: some 10 ms."""
INTERVAL_S = 60.0
"""How often versions are looked for that a process of the version before wrote."""

_MARK = "registry-baseline"
"""Row of store_setting: the registries are on record."""
_SALT = Prepared(
    update(resource_version)
    .where(resource_version.c.pk == bindparam("version_pk"), resource_version.c.salt.is_(None))
    .values(salt=bindparam("own"))
)


class Baseline:
    """Gives digests to the versions that have none. Every process may; what is done is done once."""

    def __init__(
        self,
        database: Database,
        trail: Trail,
        *,
        platform: str,
        clock: Callable[[], datetime],
        registries: Sequence[Registered] = (),
        batch: int = BATCH,
    ) -> None:
        """`platform`: Organization that runs the server. `registries`: rows that are logged once, as they are."""
        self._database = database
        self._trail = trail
        self._caller = Caller.system(platform)
        self._now = clock
        self._registries = registries
        self._batch = batch
        self._after = 0
        self._has_registries = not registries
        self._written: clinical.Written | None = None

    def loop(self) -> Loop:
        """The background loop."""
        return Loop(NAME, self.step, INTERVAL_S)

    def finish(self) -> int:
        """Go on until there is nothing left; how many steps it took."""
        steps = 0
        while self.step():
            steps += 1
        return steps

    def step(self) -> bool:
        """The next few versions; False where there are none."""
        self._log_registries()
        with self._database.read() as connection:
            found = clinical.undigested(connection, self._after, self._batch)
            if not found:
                self._after, self._written = 0, None  # those that are left alone are looked at again, some time
                return False
            written = self._known(connection)
            # Between the two there may be new ones, of a process of the version before: those are looked up.
            known = {
                one.pk for one in found
                if one.reference in written.names or clinical.is_waiting(connection, one.tx)
                or clinical.is_named(connection, one.reference)
            }  # fmt: skip
        recorded: list[tuple[str, str]] = []
        unrecorded: list[tuple[str, str]] = []
        with self._database.write() as connection:
            for one in clinical.undigested(connection, self._after, self._batch):
                if one.pk > found[-1].pk:
                    break
                if one.reference in written.digested:
                    log.error("a version has lost the salt of its digest: it is left as it is")
                    continue
                salt = digests.new_salt()
                digest: str | None = None
                with items.apart(NAME):
                    digest = one.digest_under(salt)
                if digest is None or _SALT.run(connection, {"version_pk": one.pk, "own": salt}) != 1:
                    continue
                (recorded if one.pk in known else unrecorded).append((one.reference, digest))
            accesses = [
                Access(Interaction.ADMIN, detail=(("operation", BASELINE), *more, ("count", str(len(one)))),
                       digests=tuple(one))
                for one, more in ((recorded, ()), (unrecorded, (("unrecorded", "yes"),)))
                if one
            ]  # fmt: skip
            if accesses:
                self._trail.append(connection, self._caller, accesses, self._now())
        self._after = found[-1].pk
        return True

    def _log_registries(self) -> None:
        """Once in the life of a log: what is registered now."""
        if self._has_registries:
            return
        mark = select(store_setting.c.value).where(store_setting.c.name == _MARK)
        with self._database.read() as connection:
            self._has_registries = connection.execute(mark).first() is not None
        if self._has_registries:
            return
        with self._database.write() as connection:
            lock(connection, registry.BASELINE)
            if connection.execute(mark).first() is None:
                rows = tuple(registry.of_all(connection, self._registries))
                detail = (("operation", registry.BASELINE), ("count", str(len(rows))))
                access = Access(Interaction.ADMIN, detail=detail, digests=rows)
                self._trail.append(connection, self._caller, [access], self._now())
                connection.execute(insert(store_setting).values(name=_MARK, value="logged"))
        self._has_registries = True

    def _known(self, connection: Connection) -> clinical.Written:
        """What the log's records of writes name, read once for all steps."""
        if self._written is None:
            self._written = clinical.Written()
            for row in queries.stored(connection):
                self._written.add(row)
        return self._written
