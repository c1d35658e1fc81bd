"""A grant opens its object to its holder, from its beginning to its end, and nothing else: every leak test again.

The attacker of `test_leaks` is hospital B. Here he is a hospital that holds a grant: of another case, of a time that is
over, of one to come, one that was revoked. He must see what hospital B sees: nothing, and the same as of what there is
not (DESIGN §6).
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import get_ident
from typing import Any

import pytest
from sqlalchemy import event, update

from auth.tables import access_grant
from fhir_server.demo import world as demo
from resources.times import instant_text
from store.access import Caller
from store.engine.statements import Prepared
from tests import builders
from tests.fhir_server.conftest import Client
from tests.journeys.played import good, parameters, refusal
from tests.security import test_leaks
from tests.security.scene import World
from workflow.granting import Wish

SCOPE = next(one.scope for one in demo.CLIENTS if one.role == "hospital-b")
DEAD = ("other", "expired", "revoked", "future")
_FAR = timedelta(days=1000)


class Stand(World):
    """The same world, attacked by somebody else."""

    other: Client

    @property
    def b(self) -> Client:
        return self.other


@pytest.fixture(scope="module")
def stands(world: World) -> dict[str, Stand]:
    """State of the grant → the world as it is attacked by its holder."""
    return {}


def stand(world: World, stands: dict[str, Stand], state: str) -> Stand:
    if state not in stands:
        name = f"hopital-{state}"
        good(world.api.admin.put(f"Organization/{name}", {**builders.organization(), "id": name}), 201)
        services = world.api.services
        now, system = services.clock(), Caller.system(world.api.services.settings.platform)
        mine = world.b.create(builders.patient())
        order = world.b.create(builders.service_request(f"Patient/{mine['id']}", authoredOn=None))
        objects = {"other": (f"ServiceRequest/{order['id']}", f"Patient/{mine['id']}")}
        for what in objects.get(state, (world.refs["order"], world.refs["patient"], world.refs["study"])):
            since = now + _FAR if state == "future" else now
            wish = Wish(f"Organization/{name}", what, since + _FAR, "essai", "sharing", since)
            if state == "expired":
                _past(services, system, wish)
                continue
            grant = services.granting.add(services.store, system, wish)
            if state == "revoked":
                services.granting.revoke(services.store, system, grant.id)
        made = world.api.client("hospital", name, SCOPE)
        held = Stand(**{key: value for key, value in vars(world).items() if key != "other"})
        held.other = made
        stands[state] = held
    return stands[state]


def _past(services: Any, system: Caller, wish: Wish) -> None:
    """A grant that holds, and whose end is then moved into the past: what has passed since."""
    grant = services.granting.add(services.store, system, wish)
    with services.database.write() as connection:
        connection.execute(update(access_grant).where(access_grant.c.id == grant.id).values(since=1, until=2))


_OF_B_ALONE = ("ORGANIZATION_B", "api.client(", "receivers", "hospital-b", "the_same_identifier")
"""Words of tests that make further clients of hospital B, or count what is its own."""


def _attacks() -> Iterator[Any]:
    """Every leak test whose attacker is hospital B, with each row of its table."""
    for name, function in vars(test_leaks).items():
        if not name.startswith("test_"):
            continue
        source = inspect.getsource(function)
        if "world.b" not in source or any(word in source for word in _OF_B_ALONE):
            continue
        wanted = set(inspect.signature(function).parameters) - {"world", "patient_of_b"}
        rows: list[dict[str, Any]] = [{}]
        for mark in getattr(function, "pytestmark", ()):
            if mark.name != "parametrize":
                continue
            names = mark.args[0] if isinstance(mark.args[0], list | tuple) else mark.args[0].replace(" ", "").split(",")
            columns = [dict(zip(names, _values(value, len(names)), strict=True)) for value in mark.args[1]]
            rows = [{**row, **column} for row, column in itertools.product(rows, columns)]
        if wanted <= rows[0].keys():
            yield pytest.param(function, rows, id=name.removeprefix("test_"))


def _values(value: Any, count: int) -> tuple[Any, ...]:
    if isinstance(value, type(pytest.param())):
        return value.values
    return tuple(value) if count > 1 else (value,)


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
@pytest.mark.parametrize("state", DEAD)
@pytest.mark.parametrize(("function", "rows"), list(_attacks()))
def test_no_grant_but_one_that_holds_opens_anything(
    world: World, stands: dict[str, Stand], function: Callable[..., None], rows: list[dict[str, Any]], state: str
) -> None:
    held = stand(world, stands, state)
    further: dict[str, Any] = {}
    if "patient_of_b" in inspect.signature(function).parameters:
        further["patient_of_b"] = f"Patient/{held.other.create(builders.patient('Boulanger'))['id']}"
    for row in rows[:: max(1, len(rows) // 4)]:  # of the long tables a part: hospital B tries them all
        function(held, **row, **further)


def test_the_attacks_are_many() -> None:
    """The table is read from `test_leaks`: whoever adds an attack there adds it here."""
    assert len(list(_attacks())) > 20


@pytest.mark.parametrize("kind", ["order", "patient", "study"])
def test_a_grant_that_holds_shows_its_object(world: World, kind: str) -> None:
    """The case, the record, the one study: what is A's own of it, and of the platform's what A is shown."""
    name = f"hopital-mit-{kind}"
    good(world.api.admin.put(f"Organization/{name}", {**builders.organization(), "id": name}), 201)
    holder = world.api.client("hospital", name, SCOPE)
    asked = parameters(subject=f"Organization/{name}", until=instant_text(world.api.services.clock() + _FAR),
                       reason="Transfert", source="sharing")
    good(world.a.post(f"{world.refs[kind]}/$grant", asked))
    world.api.services.authority._tokens._remembered.clear()
    seen = {ref for ref in world.refs.values() if holder.get(ref).status_code == 200}
    of_case = {"patient", "order", "encounter", "protocol", "root", "acquire", "study", "report", "pdf", "provenance"}
    of_patient = of_case | (set(world.refs) & {
        "condition", "observation", "document", "binary", "communication", "list", "order-2", "protocol-2", "study-2",
    })  # fmt: skip
    wanted = {"order": of_case, "patient": of_patient, "study": {"study"}}[kind]
    internal = {world.refs[one] for one in ("regulate", "read", "finding", "draft", "sub-orders", "sub-reports")}
    assert not seen & internal
    assert {one for one, ref in world.refs.items() if ref in seen} == wanted
    image = f"/dicom-web/studies/{world.images.study_uid}/metadata"
    assert holder.get(image).status_code == 200
    assert holder.delete(world.refs[kind]).status_code in (403, 422)  # the rules of orders are asked first


def test_a_grant_to_one_client_or_one_person_is_his_alone(world: World) -> None:
    """Subject: the client of an algorithm, the person behind a console; not the colleague beside."""
    name = "ki-anbieter"
    good(world.api.admin.put(f"Organization/{name}", {**builders.organization(), "id": name}), 201)
    one, other = (world.api.client("ai-vendor", name, SCOPE) for _ in range(2))
    services, system = world.api.services, Caller.system(world.api.services.settings.platform)
    until = services.clock() + _FAR
    task = good(world.api.platform.post("Task", {
        **builders.workflow_task("ai-triage"), "focus": builders.ref(world.refs["study"]),
        "owner": builders.ref(f"Organization/{name}"),
    }), 201)  # fmt: skip
    for what, alone, letters in ((world.refs["study"], False, "rs"), (world.refs["order"], True, "rs"),
                                 (f"Task/{task['id']}", False, "rsu")):
        services.granting.add(
            services.store, system,
            Wish(f"Client/{one.client_id}", what, until, "KI", "ai-task", letters=letters, alone=alone),
        )  # fmt: skip
    services.authority._tokens._remembered.clear()
    seen = {ref for ref in world.refs.values() if one.get(ref).status_code == 200}
    assert seen == {world.refs["study"], world.refs["order"]}
    assert not {ref for ref in world.refs.values() if other.get(ref).status_code == 200}
    assert one.get(f"/dicom-web/studies/{world.images.study_uid}/metadata").status_code == 200
    assert other.get(f"/dicom-web/studies/{world.images.study_uid}/metadata").status_code == 404
    current = good(one.get(f"Task/{task['id']}"))
    good(one.put(f"Task/{task['id']}", {**current, "status": "in-progress"}))
    refusal(other.get(f"Task/{task['id']}"), 404)
    finding = {"resourceType": "Observation", "status": "preliminary", "code": {"text": "ICH"},
               "focus": [builders.ref(world.refs["study"])], "derivedFrom": [builders.ref(world.refs["study"])]}
    refusal(other.post("Observation", {**finding, "device": {"display": "KI"}}), 409)
    good(one.post("Observation", {**finding, "device": {"display": "KI"}}), 201)
    answer = one.get(world.refs["study"])
    answer = one.put(world.refs["study"], answer.get_json())
    refusal(answer, 403)


def test_a_read_costs_no_statement_more_for_all_that_is_granted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names come with the token: who holds nothing asks what he asked before, who holds one once for the record."""
    services, system = world.api.services, Caller.system(world.api.services.settings.platform)
    counted: list[int] = [0]
    real, here = Prepared._execute, get_ident()

    def more(*arguments: Any) -> None:
        counted[0] += get_ident() == here  # not what the world's other threads do meanwhile

    def counting(self: Prepared, *arguments: Any) -> Any:
        more()
        return real(self, *arguments)

    monkeypatch.setattr(Prepared, "_execute", counting)
    event.listen(services.database.engine, "before_cursor_execute", more)
    order = world.refs["order"]

    def cost(who: Client) -> int:
        who.get(order)  # the token is remembered
        counted[0] = 0
        good(who.get(order))
        return counted[0]

    try:
        before = cost(world.a)
        wish = Wish("Organization/hopital-b", order, services.clock() + _FAR, "x", "sharing")
        grant = services.granting.add(services.store, system, wish)
        assert cost(world.a) == before
        services.authority._tokens._remembered.clear()
        assert cost(world.b) <= before + 2
        services.granting.revoke(services.store, system, grant.id)
        services.authority._tokens._remembered.clear()
        refusal(world.b.get(order), 404)
        assert cost(world.a) == before
    finally:
        event.remove(services.database.engine, "before_cursor_execute", more)
        services.authority._tokens._remembered.clear()
