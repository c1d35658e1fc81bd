"""What partners agree on differently, as one table: every "by policy" of the workflow is a row here.

A policy has a default, and rows of the database (`store.policies`) that replace it for a partner (an Organization), a
site (an Organization or Location) or an exam (its code). Of the rows that fit, the most specific holds: exam before
site before partner before the whole deployment. Values are JSON. docs/operations.md shows this table
(`scripts/policies_page.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from resources.codes import LOINC, codings
from resources.json import Json
from resources.service_request import PRIORITIES, REQUIREMENTS

MINUTES_MAX = 60 * 24 * 31
LEVELS_MAX = 5
RECIPIENTS: Mapping[str, str] = {
    "owner": "who holds the task; nobody: the function on duty",
    "regulation": "the regulators on duty",
    "reading": "the readers on duty",
    "recipient": "who was addressed",
    "partner": "the hospital that the case is from",
    "support": "the platform's own Organization",
}
"""Whom a level of an escalation can be sent to."""
CRITICAL_CATEGORIES = ("1", "2", "3")
"""ACR actionable findings: minutes, hours, days."""


class Where(NamedTuple):
    """What a policy is asked for, or holds for; empty: not known, or any."""

    partner: str = ""
    """Logical id of the Organization that owns the case."""
    site: str = ""
    """Logical id of the Organization or Location at which the exam is made."""
    exam: str = ""
    """Code of the exam; LOINC where the order has one."""

    def fits(self, asked: Where) -> bool:
        """Whether a row for this place holds at `asked`."""
        return all(mine in ("", theirs) for mine, theirs in zip(self, asked, strict=True))

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """The most specific has the greatest."""
        return bool(self.exam), bool(self.site), bool(self.partner)


EVERYWHERE = Where()


def where_of(order: Json, owner: str) -> Where:
    """Where an order stands: its owner, its site (`locationReference`, else a requesting Organization), its exam."""
    places = [one.get("reference", "") for one in order.get("locationReference", [])]
    places.append(order.get("requester", {}).get("reference", ""))
    site = next((one for one in places if re.fullmatch(r"(Location|Organization)/[^/]+", one)), "").partition("/")[2]
    found = sorted(codings(order.get("code", {})), key=lambda pair: pair[0] != LOINC)
    return Where(owner, "" if site == owner else site, next((code for _, code in found if code), ""))


@dataclass(frozen=True, slots=True)
class Form:
    """What the values of a policy are."""

    words: str
    fault: Callable[[Any], str]
    """What is wrong with a value; empty: nothing."""
    over: Callable[[Any, Any], Any] = lambda default, value: value
    """The value that holds, of the default and a row's."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One thing that is decided by policy."""

    name: str
    form: Form
    default: Any
    meaning: str
    clause: str

    def over(self, value: Any) -> Any:
        """The value that holds where a row says `value`."""
        return self.form.over(self.default, value)


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _minutes(least: int = 0) -> Form:
    said = f"must be whole minutes from {least} to {MINUTES_MAX}"
    return Form("minutes", lambda value: "" if _whole(value, least, MINUTES_MAX) else said)


def _minutes_by(names: Sequence[str], what: str) -> Form:
    def fault(value: Any) -> str:
        if not isinstance(value, dict) or not value or not value.keys() <= set(names):
            return f"must be an object with any of {', '.join(names)}"
        wrong = [name for name, one in value.items() if not _whole(one, 1, MINUTES_MAX)]
        return f"{', '.join(wrong)} must be whole minutes from 1 to {MINUTES_MAX}" if wrong else ""

    return Form(f"minutes by {what}; what a row leaves out has its default", fault, lambda old, new: {**old, **new})


def _one_of(*values: str) -> Form:
    said = f"must be one of {', '.join(values)}"
    return Form(" or ".join(f"`{one}`" for one in values), lambda value: "" if value in values else said)


def _some_of(names: Iterable[str]) -> Form:
    allowed = tuple(names)

    def fault(value: Any) -> str:
        if isinstance(value, list) and all(isinstance(one, str) for one in value) and set(value) <= set(allowed):
            return ""
        return f"must be a list of any of {', '.join(allowed)}"

    return Form("list of " + ", ".join(f"`{one}`" for one in allowed), fault)


def _zone(value: Any) -> str:
    try:
        if isinstance(value, str) and value:
            ZoneInfo(value)
            return ""
    except (ValueError, OSError, LookupError):
        pass
    return "must be the name of a time zone, e.g. Indian/Reunion"


def _levels(value: Any) -> str:
    if not isinstance(value, list) or not 1 <= len(value) <= LEVELS_MAX:
        return f"must be a list of 1 to {LEVELS_MAX} levels"
    for one in value:
        if not isinstance(one, dict) or one.keys() != {"after", "to"} or not _whole(one["after"], 0, MINUTES_MAX):
            return 'each level is {"after": minutes, "to": [recipients]}'
        to = one["to"]
        if not isinstance(to, list) or not to or not all(isinstance(name, str) and name in RECIPIENTS for name in to):
            return f"to must be a list of {', '.join(RECIPIENTS)}"
    after = [one["after"] for one in value]
    return "" if after == sorted(set(after)) else "each level must come later than the one before"


FLAG = Form("`true` or `false`", lambda value: "" if isinstance(value, bool) else "must be true or false")
TEXT = Form(
    "text", lambda value: "" if isinstance(value, str) and 0 < len(value) <= 200 else "must be a text, 1 to 200 long"
)
ZONE = Form("IANA time zone", _zone)
LEVELS = Form("levels: minutes past the due instant, and recipients (" + ", ".join(RECIPIENTS) + ")", _levels)
BY_PRIORITY = _minutes_by(PRIORITIES, "priority")
BY_CATEGORY = _minutes_by(CRITICAL_CATEGORIES, "ACR category")


def _level(after: int, *to: str) -> Json:
    return {"after": after, "to": list(to)}


def _by_priority(stat: int, asap: int, urgent: int, routine: int) -> Json:
    return {"stat": stat, "asap": asap, "urgent": urgent, "routine": routine}


_OURS = "this project's own: no French text fixes any for emergencies"

TABLE: tuple[Policy, ...] = (
    Policy(
        "required-content", _some_of(REQUIREMENTS), [],
        "what an imaging order must say beside its patient and exam; what is missing is refused at once",
        "CSP R1333-52; ANS téléradiologie, flux 1",
    ),
    Policy(
        "duplicate-accession", _one_of("refuse", "warn"), "refuse",
        "an order whose accession number is open for another patient",
        "RNIV; HAS identitovigilance",
    ),
    Policy(
        "to-confirm-holds", FLAG, False,
        "whether images whose patient is to be confirmed hold the reading; else it is open and marked",
        "RNIV EXI SI",
    ),
    Policy(
        "coded-indication", FLAG, False,
        "whether a report is signed only where the order's reason is coded", "docs/workflow.md, S9",
    ),
    Policy(
        "coded-conclusion", FLAG, False,
        "whether a report is signed only with a coded conclusion category", "docs/workflow.md, S9",
    ),
    Policy(
        "signing-acr", TEXT, "",
        "the `acr` that the token of who signs must have; empty: none is asked", "PGSSI-S; OpenID Connect Core §2",
    ),
    Policy(
        "signing-max-age", _minutes(), 0,
        "how long ago who signs may have authenticated, in minutes; 0: not asked", "OpenID Connect Core §2 auth_time",
    ),
    Policy(
        "zone", ZONE, "",
        "zone of the times that people of the site read; empty: the deployment's (`VIGIE_REPORT_ZONE`)",
        "decrees on legal time of the overseas territories",
    ),
    Policy(
        "language", _one_of("fr-FR", "en-GB"), "fr-FR",
        "language of documents for the site", "HDS EXI 07",
    ),
    Policy("deadline-regulate", BY_PRIORITY, _by_priority(5, 10, 15, 240), "time to regulate an order", _OURS),
    Policy("deadline-acquire", BY_PRIORITY, _by_priority(30, 60, 120, 1440), "time until its images are here", _OURS),
    Policy("deadline-read", BY_PRIORITY, _by_priority(20, 30, 60, 1440), "time to read and sign", _OURS),
    Policy(
        "deadline-communicate-critical", BY_CATEGORY, {"1": 15, "2": 120, "3": 4320},
        "time to reach somebody of the hospital with a critical result", "ACR actionable reporting, categories 1–3",
    ),
    Policy(
        "deadline-delivery", BY_PRIORITY, _by_priority(5, 5, 10, 60),
        "time from the signature until the hospital's endpoint has accepted the notification", _OURS,
    ),
    Policy(
        "question-stops-deadline", FLAG, True,
        "whether the deadlines of an order stop while its hospital is asked; they go on with what was left", _OURS,
    ),
    Policy(
        "deadline-answer", BY_PRIORITY, _by_priority(10, 15, 30, 240),
        "time for the hospital to answer a question of the regulator", _OURS,
    ),
    Policy("deadline-cancel", BY_PRIORITY, _by_priority(5, 10, 15, 240), "time to answer a wish to cancel", _OURS),
    Policy(
        "deadline-unexpected-images", BY_PRIORITY, _by_priority(5, 10, 15, 240),
        "time to say what becomes of images that no open order expects", _OURS,
    ),
    Policy("deadline-unmatched", _minutes(1), 10, "time for images without an order to find theirs", _OURS),
    Policy("deadline-no-reader", _minutes(1), 2, "time for images that nobody on duty can read", _OURS),
    Policy("deadline-unread", _minutes(1), 10, "time for a message to be read", _OURS),
    Policy(
        "escalation-regulate", LEVELS, [_level(0, "owner"), _level(5, "regulation"), _level(15, "support")],
        "who is told, and when, that an order is not regulated in time", _OURS,
    ),
    Policy(
        "escalation-acquire", LEVELS, [_level(0, "partner"), _level(15, "regulation"), _level(30, "support")],
        "who is told that the images do not come", _OURS,
    ),
    Policy(
        "escalation-read", LEVELS, [_level(0, "owner"), _level(10, "regulation"), _level(20, "support")],
        "who is told that nobody has read and signed in time", _OURS,
    ),
    Policy(
        "escalation-communicate-critical", LEVELS,
        [_level(0, "owner"), _level(5, "regulation"), _level(10, "support")],
        "who is told that a critical result has reached nobody; a failed call goes to the next level at once",
        "ACR practice parameter for communication",
    ),
    Policy(
        "escalation-cancel", LEVELS, [_level(0, "regulation"), _level(15, "support")],
        "who is told that nobody answers a wish to cancel", _OURS,
    ),
    Policy(
        "escalation-unexpected-images", LEVELS, [_level(0, "regulation"), _level(15, "support")],
        "who is told that nobody looks at images that no open order expects", _OURS,
    ),
    Policy(
        "escalation-delivery", LEVELS, [_level(0, "support"), _level(10, "regulation", "support")],
        "who is told that a signed report has not been accepted by the hospital", _OURS,
    ),
    Policy(
        "escalation-unmatched", LEVELS, [_level(0, "partner"), _level(15, "regulation"), _level(30, "support")],
        "who is told that images belong to no order", _OURS,
    ),
    Policy(
        "escalation-no-reader", LEVELS, [_level(0, "regulation"), _level(5, "support")],
        "who is told that nobody is on duty for reading", _OURS,
    ),
    Policy(
        "escalation-unread", LEVELS, [_level(0, "recipient"), _level(10, "regulation"), _level(20, "support")],
        "who is told that a message is not read", _OURS,
    ),
    Policy(
        "claim-lease-minutes", _minutes(1), 20,
        "how long a claim of a regulation or a reading holds without a sign of life of its owner", _OURS,
    ),
    Policy(
        "handover-grace-minutes", _minutes(), 15,
        "how long after the end of a garde what its person holds is left to him", _OURS,
    ),
)
"""Every policy. A name is never given another meaning: rows of the database carry it."""

POLICIES: Mapping[str, Policy] = {one.name: one for one in TABLE}


def resolve(name: str, rows: Iterable[tuple[Where, Any]], asked: Where) -> Any:
    """The value of a policy at `asked`: of `rows` (where, value) the most specific that fits, else the default."""
    policy = POLICIES[name]
    fitting = [(where.rank, value) for where, value in rows if where.fits(asked)]
    if not fitting:
        return policy.default
    return policy.over(max(fitting, key=lambda pair: pair[0])[1])
