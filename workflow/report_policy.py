"""A policy as it holds for a case: its hospital, its site, its exam (`resources.policies`)."""

from __future__ import annotations

from typing import Any

from resources.policies import where_of
from store import policies
from workflow.cases import Case


def policy(case: Case, name: str) -> Any:
    """The value of a policy for the order of a case."""
    return policies.value(case.uow, name, **where_of(case.order_json, case.order.owner)._asdict())
