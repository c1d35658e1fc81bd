"""The definitions compiled into checks: per type a table from JSON member name to what may stand there.

A shape is made when the first element of its type is checked, and kept. A check walks what was sent, not what could
have been: its time is that of the members that are there. The place of an element is a chain of tuples, made into an
expression only for a fault.

http://hl7.org/fhir/R4/json.html, http://hl7.org/fhir/R4/elementdefinition.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from resources import bundle_rules, definitions, primitives
from resources.definitions import Element
from resources.elements import objects, reference_type
from resources.invariants import DATA_TYPES, EVERY_RESOURCE, Rule, Scope
from resources.invariants_clinical import CLINICAL
from resources.invariants_conformance import CONFORMANCE
from resources.invariants_structure import STRUCTURE
from resources.json import Json
from resources.outcomes import Issue

Where = tuple[Any, str | int]
"""(the place of the parent, a name or position); the root is a str."""

MAX_ISSUES = 100
"""Beyond these a resource is wrong enough; an answer has an end."""

_RULES: Mapping[tuple[str, str], Rule] = {
    **DATA_TYPES,
    **EVERY_RESOURCE,
    **CLINICAL,
    **CONFORMANCE,
    **STRUCTURE,
    **bundle_rules.BUNDLE,
    **bundle_rules.IN_TEXT,
}


@dataclass(slots=True)
class Run:
    """One validation: what was found so far, and the resource being looked at."""

    scope: Scope
    issues: list[Issue] = field(default_factory=list)

    def add(self, code: str, rule: str, where: Where | str) -> None:
        """Note a problem at `where`, up to MAX_ISSUES."""
        if len(self.issues) < MAX_ISSUES:
            self.issues.append(Issue("error", code, rule, (expression(where),)))


def expression(where: Where | str) -> str:
    """A place as a FHIRPath expression (OperationOutcome.issue.expression)."""
    parts: list[str] = []
    while not isinstance(where, str):
        where, part = where
        parts.append(f"[{part}]" if isinstance(part, int) else f".{part}")
    return where + "".join(reversed(parts))


# What may stand under one member name

Value = Callable[[Any, Where, Run], None]
"""Check one value: neither null nor a list."""


@dataclass(slots=True, frozen=True)
class Member:
    """A JSON member of an object: an element, an element in one type of a choice, or the `_` companion of either."""

    label: str
    """How an expression names it: ``status``, ``value.ofType(Quantity)``."""
    many: bool
    most: int | None
    check: Value
    choice: str | None
    """The element name, if the element is a choice."""
    companion: bool
    partner: str | None
    """The other of ``birthDate`` and ``_birthDate``; None for complex types."""


@dataclass(slots=True, frozen=True)
class Shape:
    """What an object of a type may hold, must hold, and must satisfy."""

    name: str
    members: Mapping[str, Member]
    required: tuple[tuple[str, tuple[str, ...]], ...]
    """Element name and the member names of which one must be there."""
    rules: tuple[tuple[str, Rule], ...]
    """The text of each invariant and its function."""

    def check(self, node: Any, where: Where | str, run: Run) -> None:
        """Note every problem of `node` and below."""
        if not isinstance(node, dict):
            run.add("structure", "Not a JSON object", where)
            return
        if not node or (len(node) == 1 and "id" in node and self.name not in _MAY_BE_BARE):
            run.add("invariant", "An element has neither value nor children (ele-1)", where)
            return
        self._members(node, where, run)
        for name, names in self.required:
            for key in names:
                if key in node:
                    break
            else:
                run.add("required", "A required element is missing", (where, name))
        for words, rule in self.rules:
            held = rule(node, run.scope)
            if held is False:
                run.add("invariant", words, where)
            elif held is not True:
                for place in held:
                    run.add("invariant", words, (where, place))

    def _members(self, node: Json, where: Where | str, run: Run) -> None:
        members = self.members
        chosen: dict[str, str] | None = None
        for key, value in node.items():
            member = members.get(key)
            if member is None:
                self._unknown(key, where, run)
                continue
            place = (where, member.label)
            if member.choice is not None:
                if chosen is None:
                    chosen = {}
                if chosen.setdefault(member.choice, member.label) != member.label:
                    run.add("structure", "A choice element has more than one type", (where, member.choice))
            if member.many:
                _check_list(member, value, node, place, run)
            elif value is None:
                run.add("structure", "null stands only inside an array of primitives", place)
            elif isinstance(value, list):
                run.add("structure", "An element that does not repeat is a JSON array", place)
            else:
                member.check(value, place, run)

    def _unknown(self, key: str, where: Where | str, run: Run) -> None:
        known = key.isascii() and key.replace("_", "").isalnum() and len(key) <= 64
        run.add("structure", "R4 has no such element here", (where, key) if known else where)


def _check_list(member: Member, value: Any, node: Json, place: Where, run: Run) -> None:
    if not isinstance(value, list):
        run.add("structure", "An element that repeats is not a JSON array", place)
        return
    if not value:
        run.add("structure", "An array is empty", place)
        return
    if member.most is not None and len(value) > member.most:
        run.add("structure", f"An element repeats more than {member.most} times", place)
    partner = None if member.partner is None else node.get(member.partner)
    if member.companion and isinstance(partner, list) and len(partner) != len(value):
        run.add("structure", "The values and their extensions are arrays of different length", place)
    for index, item in enumerate(value):
        spot = (place, index)
        if item is not None:
            if isinstance(item, list):
                run.add("structure", "An array stands inside an array", spot)
            else:
                member.check(item, spot, run)
        elif not _has_partner(partner, index):
            run.add("structure", "null stands only where the other array has a value or an extension", spot)


def _has_partner(partner: Any, index: int) -> bool:
    return isinstance(partner, list) and index < len(partner) and partner[index] is not None


# Values


def _primitive(accepts: primitives.Check, codes: frozenset[str] | None) -> Value:
    if codes is None:

        def check(value: Any, where: Where, run: Run) -> None:
            rule = accepts(value)
            if rule is not None:
                run.add("value", rule, where)

        return check

    def check_code(value: Any, where: Where, run: Run) -> None:
        if not isinstance(value, str):
            run.add("value", "Not a JSON string", where)
        elif value not in codes:
            run.add("code-invalid", "The code is not in the required value set", where)

    return check_code


def _complex(owner: str, element: Element) -> Value:
    """The check of a value of a complex type, with what the element asks of it besides."""
    found: list[Shape] = []

    def check(value: Any, where: Where, run: Run) -> None:
        if not found:
            found.append(shape(owner))
        found[0].check(value, where, run)

    extra = _extra(owner, element)
    if extra is None:
        return check

    def check_all(value: Any, where: Where, run: Run) -> None:
        check(value, where, run)
        if isinstance(value, dict):
            extra(value, where, run)

    return check_all


def _extra(owner: str, element: Element) -> Callable[[Json, Where, Run], None] | None:
    if owner == "Reference":
        return _reference(element.targets)
    if element.profile == "SimpleQuantity":
        return _simple_quantity
    systems = definitions.codes(element.codes) if element.codes else None
    if systems is not None and owner in ("Coding", "CodeableConcept", "Quantity"):
        return _bound(owner, systems)
    return None


def _reference(targets: frozenset[str]) -> Callable[[Json, Where, Run], None]:
    anything = not targets or "Resource" in targets

    def check(value: Json, where: Where, run: Run) -> None:
        literal = value.get("reference")
        if isinstance(literal, str) and not _is_link(literal):
            run.add("value", "Not a reference: Type/id, an absolute URL, a urn: or a # of a contained resource", where)
            return
        for named in (reference_type(value), value.get("type")):
            if isinstance(named, str) and ":" not in named and named not in _RESOURCES:
                run.add("value", "R4 has no resource type of this name", where)
            elif not anything and named in _RESOURCES and named not in targets:
                run.add("structure", "A reference to this type is not allowed here", where)
            else:
                continue
            return
        if isinstance(literal, str) and literal[:1] == "#" and not anything:
            kind = run.scope.contained.get(literal[1:]) if literal != "#" else run.scope.root.get("resourceType")
            if isinstance(kind, str) and kind in _RESOURCES and kind not in targets:
                run.add("structure", "A reference to this type is not allowed here", where)

    return check


def _is_link(literal: str) -> bool:
    if literal[:1] == "#" or ":" in literal:
        return not any(character.isspace() for character in literal)
    return reference_type({"reference": literal}) is not None and literal[:1] != "/"


def _simple_quantity(value: Json, where: Where, run: Run) -> None:
    if "comparator" in value or "_comparator" in value:
        run.add("invariant", "The comparator is not used on a SimpleQuantity (sqt-1)", where)


def _bound(owner: str, systems: Mapping[str, frozenset[str]]) -> Callable[[Json, Where, Run], None]:
    """A required binding: one coding is of the value set (http://hl7.org/fhir/R4/terminologies.html#required)."""

    def is_in(coding: Json) -> bool:
        system, code = coding.get("system"), coding.get("code")
        if not isinstance(system, str) or not isinstance(code, str):
            return False
        return code in systems.get(system, ())

    def check(value: Json, where: Where, run: Run) -> None:
        if owner == "CodeableConcept":
            said = bool(value.keys() - {"id", "extension"})
            fits = any(is_in(coding) for coding in objects(value, "coding"))
        else:
            said, fits = "code" in value, is_in(value)
        if said and not fits:
            run.add("code-invalid", "The code is not in the required value set", where)

    return check


def check_resource(value: Any, where: Where | str, run: Run, *, contained: bool = False) -> None:
    """Check a resource of whatever type it says to be, in a scope of its own."""
    if not isinstance(value, dict):
        run.add("structure", "Not a JSON object", where)
        return
    name = value.get("resourceType")
    if not isinstance(name, str) or name not in _RESOURCES:
        words = "resourceType is missing" if name is None else "R4 has no resource type of this name"
        run.add("structure", words, (where, "resourceType"))
        return
    outer = run.scope
    run.scope = Scope(value, outer.root, outer.contained) if contained else Scope.of(value)
    shape(name).check(value, where, run)
    run.scope = outer


def _inner_resource(element: Element) -> Value:
    contained = element.path == "DomainResource.contained"

    def check(value: Any, where: Where, run: Run) -> None:
        check_resource(value, where, run, contained=contained)

    return check


def _ignored(_value: Any, _where: Where, _run: Run) -> None:
    """`resourceType`, which was read to find the shape."""


# Compiling

_RESOURCES = frozenset(row.name for row in definitions.types().values() if row.kind == "resource" and not row.abstract)
_MAY_BE_BARE = _RESOURCES | {"Element"}
"""Where an `id` alone is content: a resource, and what stands beside a primitive value."""
_PRIMITIVES = frozenset(row.name for row in definitions.types().values() if row.kind == "primitive-type")


@cache
def shape(owner: str) -> Shape:
    """The shape of a type or of the backbone element with this path."""
    members: dict[str, Member] = {}
    required = []
    for element in definitions.children(owner):
        names = _declare(element, members)
        if element.min:
            required.append((element.name, names))
    if owner in _RESOURCES:
        members["resourceType"] = Member("resourceType", False, None, _ignored, None, False, None)
    return Shape(owner, members, tuple(required), tuple(_rules(owner)))


def _declare(element: Element, members: dict[str, Member]) -> tuple[str, ...]:
    """Put the member names of an element into the table, and give them."""
    names: list[str] = []
    for kind in element.types or (element.same_as or "",):
        capital = kind[:1].upper() + kind[1:]
        name = element.name + capital if element.choice else element.name
        label = f"{element.name}.ofType({kind})" if element.choice else element.name
        choice = element.name if element.choice else None
        primitive = kind in _PRIMITIVES
        members[name] = Member(
            label, element.many, element.max, _value(element, kind), choice, False, "_" + name if primitive else None
        )
        names.append(name)
        if primitive:
            check = _complex("Element", element)
            members["_" + name] = Member(label, element.many, element.max, check, choice, True, name)
            names.append("_" + name)
    return tuple(names)


def _value(element: Element, kind: str) -> Value:
    if kind == "Resource":
        return _inner_resource(element)
    if kind in _PRIMITIVES:
        systems = definitions.codes(element.codes) if element.codes and kind == "code" else None
        allowed = None if systems is None else frozenset().union(*systems.values())
        return _primitive(primitives.CHECKS[kind], allowed)
    if element.same_as is not None or kind in ("BackboneElement", "Element"):
        return _complex(element.same_as or element.path, element)
    return _complex(kind, element)


def _rules(owner: str) -> list[tuple[str, Rule]]:
    chain = [owner]
    while chain[-1] in definitions.types() and definitions.types()[chain[-1]].base:
        chain.append(str(definitions.types()[chain[-1]].base))
    return [
        (_words(at, key), rule)
        for type_name in reversed(chain)
        for (at, key), rule in _RULES.items()
        if at == type_name
    ]


def _words(at: str, key: str) -> str:
    """The standard's own words for an invariant, with its key."""
    if (at, key) in bundle_rules.WORDS:
        return bundle_rules.WORDS[at, key]
    for row in definitions.constraints():
        if row.key == key and (row.path == at or row.path.startswith(at)):
            return f"{row.human.rstrip('. ')} ({key})"
    raise KeyError((at, key))
