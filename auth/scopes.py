"""SMART v2 scopes: read, compare, narrow. Pure.

A scope is read whole or refused whole: what is not understood never widens what is granted. v1 scopes are read as
the v2 scopes that they stand for (`read` = rs, `write` = cud, `*` = cruds).

SMART App Launch 2.2, Scopes and Launch Context
https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote, unquote

from resources import registry
from resources.criteria import Composite, Leaf
from resources.outcomes import FhirError
from resources.search import Query
from resources.search import parse as parse_search

LETTERS = "cruds"
"""create, read, update, delete, search: in this order, or the scope is undefined (SMART 2.2 §Scopes for requesting)."""

V1 = {"read": "rs", "write": "cud", "*": "cruds"}
V1_NAMES = {letters: name for name, letters in V1.items()}

CONTEXT_SCOPES = frozenset(
    {"openid", "fhirUser", "profile", "offline_access", "online_access", "launch", "launch/patient", "launch/encounter"}
)
"""Well-formed scopes of launches by people. A system client cannot have them; asking for them is no mistake of form."""

MAX_TEXT = 8192
MAX_SCOPES = 64
MAX_PAIRS = 8

# Anchored by fullmatch and without nested repetition: linear in the length of the text.
_SCOPE = re.compile(
    r"(patient|user|system)/(\*|[A-Z][A-Za-z]{1,63})\."
    r"(?:(read|write|\*)|(c?r?u?d?s?)(?:\?([\x21\x23-\x5B\x5D-\x7E]{1,1024}))?)",
    re.ASCII,
)
_NAME = re.compile(r"_?[a-z][A-Za-z0-9-]{0,63}", re.ASCII)


class MalformedScope(ValueError):
    """The text is no scope of this grammar. The message names the rule and never repeats the text."""


@dataclass(frozen=True, slots=True)
class Scope:
    """`level/type.letters?name=value&…`. `constraint` pairs are decoded and joined by AND."""

    level: str
    type: str
    letters: str
    constraint: tuple[tuple[str, str], ...] = ()
    v1: bool = field(default=False, compare=False)
    """Written in SMART v1 form: then it is answered in that form."""

    def __str__(self) -> str:
        if self.v1 and self.letters in V1_NAMES and not self.constraint:
            return f"{self.level}/{self.type}.{V1_NAMES[self.letters]}"
        text = f"{self.level}/{self.type}.{self.letters}"
        if self.constraint:
            text += "?" + "&".join(f"{name}={quote(value, safe='|:/,$.-_~')}" for name, value in self.constraint)
        return text

    def query(self, type_name: str) -> Query | None:
        """The search that a resource of `type_name` must satisfy; None: any does."""
        return constraint_query(type_name, self.constraint) if self.constraint else None


@lru_cache(maxsize=8192)
def parse(text: str) -> Scope:
    """Read one scope. Raises MalformedScope."""
    match = _SCOPE.fullmatch(text)
    if match is None:
        raise MalformedScope("A scope is (patient|user|system)/(Type|*).(letters of cruds in this order)")
    level, type_name, v1, letters, query = match.groups()
    if type_name != "*" and type_name not in registry.TYPES:
        raise MalformedScope("The scope names a resource type that R4 does not have")
    if v1 is not None:
        return Scope(level, type_name, V1[v1], v1=True)
    if not letters:
        raise MalformedScope("The scope has no letter of cruds")
    if query is None:
        return Scope(level, type_name, letters)
    if type_name == "*":
        raise MalformedScope("A search constraint needs a resource type")
    constraint = _pairs(query)
    constraint_query(type_name, constraint)
    return Scope(level, type_name, letters, constraint)


def parse_all(text: str) -> tuple[Scope, ...]:
    """Read a space-separated list (RFC 6749 §3.3); scopes of launches are left out. Raises MalformedScope."""
    if len(text) > MAX_TEXT:
        raise MalformedScope(f"The scope is longer than {MAX_TEXT} characters")
    tokens = text.split(" ")
    if len(tokens) > MAX_SCOPES:
        raise MalformedScope(f"More than {MAX_SCOPES} scopes")
    return tuple(parse(token) for token in dict.fromkeys(tokens) if token not in CONTEXT_SCOPES)


def text_of(scopes: Iterable[Scope]) -> str:
    """Scopes as the text of a token response."""
    return " ".join(str(scope) for scope in scopes)


@lru_cache(maxsize=4096)
def constraint_query(type_name: str, constraint: tuple[tuple[str, str], ...]) -> Query:
    """The Query of a search constraint. Raises MalformedScope unless every pair became one plain criterion.

    Chains, modifiers, includes and result parameters in scopes are experimental in SMART 2.2; a constraint that is
    dropped would be a door left open, so they are refused.
    """
    try:
        query = parse_search(type_name, constraint)
    except FhirError as error:
        raise MalformedScope("The search constraint is not a search of this type") from error
    plain = all(isinstance(criterion, Leaf | Composite) for criterion in query.criteria)
    if not plain or len(query.criteria) != len(constraint) or query.includes or query.revincludes or query.ignored:
        raise MalformedScope("The search constraint may only hold plain search parameters")
    return query


def covers(granted: Iterable[Scope], requested: Scope) -> bool:
    """Whether all that `requested` allows is allowed by `granted` together."""
    missing = set(requested.letters)
    for scope in granted:
        if _same_reach(scope, requested) and _implied(scope.constraint, requested.constraint):
            missing -= set(scope.letters)
    return not missing


def narrow(requested: Sequence[Scope], allowed: Sequence[Scope]) -> tuple[Scope, ...]:
    """What both `requested` and `allowed` allow, and nothing more: the intersection, scope by scope."""
    kept: list[Scope] = []
    for wish in requested:
        for limit in allowed:
            shared = _intersect(wish, limit)
            if shared is not None and not covers(kept, shared):
                kept = [scope for scope in kept if not covers((shared,), scope)]
                kept.append(shared)
                if len(kept) > MAX_SCOPES:
                    raise MalformedScope(f"More than {MAX_SCOPES} scopes would be granted")
    return _merged(kept)


@lru_cache(maxsize=16384)
def granting(scopes: frozenset[str], type_name: str, letters: str) -> tuple[Scope, ...]:
    """The system scopes among `scopes` that allow one of `letters` on `type_name`; none: it is not allowed."""
    found = []
    for text in sorted(scopes):
        scope = parse(text)
        if scope.level == "system" and scope.type in (type_name, "*") and set(scope.letters) & set(letters):
            found.append(scope)
    return tuple(found)


def _pairs(query: str) -> tuple[tuple[str, str], ...]:
    parts = query.split("&")
    if len(parts) > MAX_PAIRS:
        raise MalformedScope(f"More than {MAX_PAIRS} search constraints in one scope")
    pairs = []
    for part in parts:
        name, equals, raw = part.partition("=")
        if not equals or not raw or "=" in raw:
            raise MalformedScope("A search constraint is name=value")
        if not _NAME.fullmatch(name):
            raise MalformedScope("A search constraint may not have a chain or a modifier")
        try:
            value = unquote(raw, errors="strict")
        except UnicodeDecodeError:
            raise MalformedScope("The search constraint is not UTF-8") from None
        if "+" in raw or not value.isprintable() or value.strip() != value:
            raise MalformedScope("The search constraint holds a character that cannot stand there")
        if "" in _values(value) or value.replace("\\\\", "").endswith("\\"):
            raise MalformedScope("The search constraint holds an empty alternative")
        pairs.append((name, value))
    return tuple(pairs)


def _same_reach(scope: Scope, requested: Scope) -> bool:
    return scope.level == requested.level and scope.type in (requested.type, "*")


def _implied(weaker: tuple[tuple[str, str], ...], stronger: tuple[tuple[str, str], ...]) -> bool:
    """Whether every resource that satisfies `stronger` satisfies `weaker`, as far as can be told from the text."""
    return all(
        any(name == other and _values(narrower) <= _values(value) for other, narrower in stronger)
        for name, value in weaker
    )


@lru_cache(maxsize=4096)
def _values(text: str) -> frozenset[str]:
    """The alternatives of a search value: `a,b`; a comma behind a backslash is a comma (R4 §3.1.1.4.0.1)."""
    alternatives = [""]
    characters = iter(text)
    for character in characters:
        if character == ",":
            alternatives.append("")
        elif character == "\\":
            alternatives[-1] += character + next(characters, "")
        else:
            alternatives[-1] += character
    return frozenset(alternatives)


def _intersect(wish: Scope, limit: Scope) -> Scope | None:
    letters = "".join(letter for letter in LETTERS if letter in wish.letters and letter in limit.letters)
    if wish.level != limit.level or not letters:
        return None
    if wish.type != limit.type and "*" not in (wish.type, limit.type):
        return None
    type_name = limit.type if wish.type == "*" else wish.type
    constraint = _joined(wish.constraint, limit.constraint)
    return Scope(wish.level, type_name, letters, constraint, v1=wish.v1)


def _joined(first: tuple[tuple[str, str], ...], second: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Both constraints (AND); one alone where it already implies the other."""
    if _implied(second, first):
        return first
    if _implied(first, second):
        return second
    return tuple(dict.fromkeys((*first, *second)))


def _merged(scopes: Sequence[Scope]) -> tuple[Scope, ...]:
    """Scopes alike but for their letters become one, where the first of them stood."""
    letters: dict[tuple[str, str, tuple[tuple[str, str], ...]], tuple[set[str], bool]] = {}
    for scope in scopes:
        found, v1 = letters.setdefault((scope.level, scope.type, scope.constraint), (set(), scope.v1))
        found.update(scope.letters)
        letters[scope.level, scope.type, scope.constraint] = (found, v1 and scope.v1)
    return tuple(
        Scope(level, type_name, "".join(letter for letter in LETTERS if letter in found), constraint, v1=v1)
        for (level, type_name, constraint), (found, v1) in letters.items()
    )
