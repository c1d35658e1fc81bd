"""`./vigie reindex`: index rows by today's rules, online, resumable; parameters keep their numbers (§5)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, update

from resources import definitions, index_rules, search, search_parameters
from resources.registry import TYPES, type_id, type_name
from store import loops, reindex
from store.access import Caller
from store.engine.database import Database
from store.reindex import Progress, Reindex
from store.unit_of_work import Store, UnitOfWork
from store.versions import standing
from store.versions.standing import IndexFault
from store.versions.tables import INDEX_TABLES, index_rule, resource_version, search_parameter, sp_token
from tests.conftest import BASE_URL
from tests.support import Clock

ROOT = Path(__file__).resolve().parents[2]
CALLER = Caller("ehr", "hospital-a", is_system=True)


def patient(number: int) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:ipp", "value": f"P{number}"}],
        "name": [{"family": f"Família {number}", "given": ["Zoé"]}],
        "birthDate": "1970-01-02",
        "managingOrganization": {"reference": "Organization/hospital-a"},
    }


def observation(subject: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": subject},
        "valueQuantity": {"value": 72, "system": "http://unitsofmeasure.org", "code": "/min"},
    }


@pytest.fixture
def filled(make_store: Callable[..., Store]) -> Store:
    """Versions of two types, some of them ended or deleted."""
    store = make_store(references="lenient")

    def write(uow: UnitOfWork) -> None:
        for number in range(30):
            made = uow.resources.create("Patient", patient(number))
            uow.resources.create("Observation", observation(made.reference))
            if number % 3 == 0:
                uow.resources.update("Patient", made.id, {**patient(number + 100), "id": made.id})
            if number % 10 == 1:
                uow.resources.delete("Patient", made.id)

    store.transact(CALLER, write)
    return store


def rows(database: Database) -> set[tuple[Any, ...]]:
    """All index rows, of all tables."""
    with database.read() as connection:
        return {(table.name, *row) for table in INDEX_TABLES for row in connection.execute(select(table))}


def spoil(database: Database) -> None:
    """Rows as if older rules had made them: some missing, some of another meaning."""
    with database.write() as connection:
        for table in INDEX_TABLES:
            connection.execute(delete(table).where(table.c.version_pk % 3 == 0))
        connection.execute(update(sp_token).where(sp_token.c.version_pk % 3 == 1).values(code="old"))


def passed(store: Store, *types: str, told: Callable[[Progress], None] = lambda _: None) -> Progress:
    chosen = types or ("Patient", "Observation")
    pass_ = Reindex(store.database, chosen, base_urls=store.base_urls, rate=1_000_000)
    return pass_.run(told, sleep=lambda _: None)


def test_rows_are_as_if_they_had_just_been_written(filled: Store) -> None:
    """And only those that differ are written."""
    before = rows(filled.database)
    assert passed(filled).altered == 0
    spoil(filled.database)
    assert rows(filled.database) != before
    done = passed(filled)
    assert rows(filled.database) == before
    assert 0 < done.altered < done.versions


def test_other_types_are_left_alone(filled: Store) -> None:
    spoil(filled.database)
    before = rows(filled.database)
    passed(filled, "Patient")
    with filled.database.read() as connection:
        patients = set(
            connection.execute(
                select(resource_version.c.pk).where(resource_version.c.type_id == type_id("Patient"))
            ).scalars()
        )
    assert {row for row in rows(filled.database) if row[1] not in patients} == {
        row for row in before if row[1] not in patients
    }


def test_it_goes_on_from_where_it_was_ended(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small windows, ended after each."""
    monkeypatch.setattr(reindex, "WINDOW", 7)
    before, seen = rows(filled.database), []

    class Ended(BaseException):
        pass

    def end(progress: Progress) -> None:
        seen.append(progress.through)
        raise Ended

    spoil(filled.database)
    for _ in range(50):
        try:
            passed(filled, told=end)
        except Ended:
            continue
        break
    assert seen == sorted(set(seen)), "no window twice"
    assert len(seen) > 5
    passed(filled)
    assert rows(filled.database) == before


def test_swept_versions_stay_without_rows(filled: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the sweep comes between the look and the writing: it would never come back for them."""
    clock.advance(hours=2)
    real, swept = Reindex._replace, []

    def late(self: Reindex, found: Any) -> int:
        if not swept:
            swept.append(loops.sweep(filled))
        return real(self, found)

    with filled.database.read() as connection:
        ended = set(
            connection.execute(select(resource_version.c.pk).where(resource_version.c.valid_to < 2**63 - 1)).scalars()
        )
    assert ended
    spoil(filled.database)
    monkeypatch.setattr(Reindex, "_replace", late)
    passed(filled)
    assert swept
    assert not {row for row in rows(filled.database) if row[1] in ended}
    passed(filled)
    assert not {row for row in rows(filled.database) if row[1] in ended}


def test_clients_write_meanwhile(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they write is indexed once, what was there is made anew, and nobody is refused."""
    monkeypatch.setattr(reindex, "WINDOW", 5)
    spoil(filled.database)
    ended, failures = threading.Event(), []

    def write() -> None:
        number = 1000
        while not ended.is_set():
            number += 1
            try:
                filled.transact(CALLER, lambda uow, n=number: uow.resources.create("Patient", patient(n)))
            except Exception as error:  # noqa: BLE001 - the test fails by it
                failures.append(error)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for one in writers:
        one.start()
    try:
        windows: list[int] = []
        pass_ = Reindex(filled.database, ["Patient", "Observation"], base_urls=filled.base_urls)

        def told(progress: Progress) -> None:
            windows.append(progress.through)
            if len(windows) > 15:
                ended.set()

        pass_.run(told)
    finally:
        ended.set()
        for one in writers:
            one.join()
    assert not failures
    assert passed(filled).altered == 0
    found = filled.look(
        CALLER,
        lambda uow: uow.resources.search(
            search.parse("Patient", [("identifier", "urn:ipp|P1001")], base_urls=(BASE_URL,))
        ),
    )
    assert len(found.matches) == 2, "of each writer one"


def test_the_pass_rests(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most `rate` versions a second, and half as long as each window took."""
    monkeypatch.setattr(reindex, "WINDOW", 10)
    slept: list[float] = []
    done = Reindex(filled.database, ["Patient"], base_urls=filled.base_urls, rate=10).run(lambda _: None, slept.append)
    assert sum(slept) > done.versions / 10 * 0.5


def test_a_pass_that_is_killed_goes_on(filled: Store) -> None:
    """kill -9 at any moment."""
    before = rows(filled.database)
    spoil(filled.database)
    program = (
        "import sys, time; from store import reindex; from store.engine.database import open_engine\n"
        "reindex.WINDOW = 2; reindex.AT_ONCE = 1\n"
        f"pass_ = reindex.Reindex(open_engine({filled.database.url!r}), ['Patient', 'Observation'],"
        f" base_urls={filled.base_urls!r})\n"
        "pass_.run(lambda p: print(p.through, flush=True), sleep=lambda s: time.sleep(0.002))\n"
    )
    reached: list[int] = []
    for kills in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert process.stdout is not None
        for _ in range(3 + kills):
            reached.append(int(process.stdout.readline() or reached[-1]))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        time.sleep(0.05)
    assert reached == sorted(reached)
    passed(filled)
    assert rows(filled.database) == before


# What readers know.


def older(database: Database, *types: str) -> None:
    with database.write() as connection:
        for name in types:
            connection.execute(insert(index_rule).values(type_id=type_id(name), rule=0))


def test_readers_know_until_it_is_done(filled: Store) -> None:
    """A type whose rows are of older rules is stale for every process; one that has none is not."""
    with filled.database.read() as connection:
        settled = set(standing.stale(connection))
    older(filled.database, "Patient")
    reader = standing.Standing()
    with filled.database.read() as connection:
        assert "Patient" in standing.stale(connection)
        assert reader.stale(connection) == {"Patient", *settled}
        assert standing.waiting(connection).count == sum(row[1] == "Patient" for row in held(filled.database))
    passed(filled, "Patient")
    reader._looked_at -= 6
    with filled.database.read() as connection:
        assert set(standing.stale(connection)) == settled
        assert reader.stale(connection) == settled
        assert standing.waiting(connection).count == 0


def held(database: Database) -> list[tuple[int, str]]:
    """(pk, type) of all versions that are no deletion."""
    with database.read() as connection:
        found = connection.execute(
            select(resource_version.c.pk, resource_version.c.type_id).where(resource_version.c.deleted == 0)
        )
        return [(row.pk, type_name(row.type_id)) for row in found]


def test_a_new_database_is_of_todays_rules_and_an_old_one_is_not(filled: Store) -> None:
    """DiagnosticReport has had a parameter more since; without a report there is nothing to make anew."""
    assert index_rules.version("DiagnosticReport") > standing.FIRST
    database = filled.database
    report = {"resourceType": "DiagnosticReport", "status": "final", "code": {"text": "x"}}
    filled.transact(CALLER, lambda uow: uow.resources.create("DiagnosticReport", report))
    with database.write() as connection:
        standing.settle(connection)
    with database.read() as connection:
        assert set(standing.stale(connection)) == {"DiagnosticReport"}
    with database.write() as connection:
        connection.execute(delete(resource_version).where(resource_version.c.type_id == type_id("DiagnosticReport")))
        standing.settle(connection)
    with database.read() as connection:
        assert not standing.stale(connection)


# The registry of numbers.


def test_a_number_keeps_its_meaning(database: Database) -> None:
    """The database's copy is appended to; a number or a pair with two meanings is refused."""
    with database.write() as connection:
        standing.settle(connection)
        standing.settle(connection)
        standing.check(connection)
        count = connection.execute(select(func.count()).select_from(search_parameter)).scalar_one()
        assert count == len(search_parameters.numbers())
        last = max(search_parameters.numbers())
        connection.execute(delete(search_parameter).where(search_parameter.c.number == last))
        with pytest.raises(IndexFault, match="db upgrade"):
            standing.check(connection)
        standing.settle(connection)
        standing.check(connection)
    for change in ({"code": "other"}, {"number": 90_001}):
        with database.write() as connection:
            connection.execute(update(search_parameter).where(search_parameter.c.number == 7).values(**change))
        with database.read() as connection, pytest.raises(IndexFault, match="otherwise than this version"):
            standing.check(connection)
        with database.write() as connection, pytest.raises(IndexFault):
            standing.settle(connection)
        with database.write() as connection:
            connection.execute(delete(search_parameter))
            standing.settle(connection)


def test_the_standards_file_in_another_order_numbers_nothing_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor with further rows, which get the next numbers (scripts/number_parameters.py)."""
    before = dict(search_parameters.numbers())
    known = dict(definitions.parameter_numbers())
    given = definitions.search_parameters()
    more = {"id": "Account-aaa", "code": "aaa", "type": "token", "base": ["Account"], "expression": "Account.status"}

    def fresh() -> dict[int, tuple[str, str]]:
        for cached in (search_parameters._registry, search_parameters._numbered, search_parameters.parameters):
            cached.cache_clear()
        return dict(search_parameters.numbers())

    try:
        with monkeypatch.context() as patched:
            patched.setattr(definitions, "search_parameters", lambda: list(reversed(given)))
            assert fresh() == before
            patched.setattr(definitions, "search_parameters", lambda: [more, *given])
            with pytest.raises(ValueError, match="aaa without a number"):
                fresh()
            sys.path.insert(0, str(ROOT / "scripts"))
            import number_parameters

            pairs = [(base, row["code"]) for row in [more, *given] for base in row["base"]]
            numbered = number_parameters.numbered(known, pairs)
            patched.setattr(definitions, "parameter_numbers", lambda: numbered)
            found = fresh()
            assert {number: found[number] for number in before} == before
            assert found.keys() - before.keys() == {max(known.values()) + 1}
    finally:
        sys.path.remove(str(ROOT / "scripts"))
        fresh()


def test_no_rule_changes_unnoticed() -> None:
    """The parameters of each type, held against the version of its rules (tests/store/index_rules.txt).

    Where this fails: raise `index_rules.OF_TYPE` of the type (or OF_ALL), then write the file anew by
    `python -m tests.store.test_reindex`.
    """
    assert RULES.read_text(encoding="utf-8") == _rules()


RULES = Path(__file__).with_name("index_rules.txt")


def _rules() -> str:
    return "".join(f"{name} {index_rules.version(name)} {index_rules.fingerprint(name)}\n" for name in sorted(TYPES))


if __name__ == "__main__":
    RULES.write_text(_rules(), encoding="utf-8")
