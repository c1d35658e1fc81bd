"""Rules are rows by resource type: one that is added is asked at every write of that type, and of no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from resources.outcomes import InvalidContent
from store.access import Change, Draft, Work
from store.unit_of_work import Store
from tests.support import PLATFORM, caller, patient
from workflow.context import Context
from workflow.report_press import Press
from workflow.rules import RULES, Parts, Row, RulesObserver


@dataclass
class Nameless:
    """A rule of this test: a Group has a name; what was written is noted."""

    written: list[str] = field(default_factory=list)

    def prepare(self, uow: Work, draft: Draft) -> None:
        if draft.resource is not None and not draft.resource.get("name"):
            raise InvalidContent("A Group has a name", expression="Group.name")

    def changed(self, uow: Work, change: Change) -> None:
        self.written.append(change.after.reference)


def test_a_row_guards_its_type_and_hears_of_it(make_store: Callable[..., Store]) -> None:
    """docs/extending.md: a type with rules is a row, a file and a test."""
    rule = Nameless()
    rows = (*RULES, Row("Group", guard=lambda parts: rule, sequel=lambda parts: rule))
    store = make_store(observers=[RulesObserver(Parts.of(Context(PLATFORM), Press(None)), rows)])
    group = {"resourceType": "Group", "type": "person", "actual": True}
    with pytest.raises(InvalidContent), store.work(caller("hospital-a")) as uow:
        uow.resources.create("Group", group)
    with store.work(caller("hospital-a")) as uow:
        made = uow.resources.create("Group", {**group, "name": "Garde"})
        uow.resources.create("Patient", patient())
    assert rule.written == [made.reference]


def test_a_row_of_no_resource_type_is_refused_at_assembly() -> None:
    """A misspelled type would be a rule that never guards."""
    with pytest.raises(ValueError, match="Serviecrequest"):
        RulesObserver(Parts.of(Context(PLATFORM), Press(None)), (Row("Serviecrequest"),))


def test_every_row_guards_or_follows() -> None:
    """A row that does neither is dead."""
    assert all(row.guard or row.sequel for row in RULES)
