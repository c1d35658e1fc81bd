"""One `name=value` of a search as a Criterion: modifiers, chains, `_has`, composites.

FHIR R4 §3.1.1.4 http://hl7.org/fhir/R4/search.html#modifiers, #chaining, #has, #composite
"""

from __future__ import annotations

from collections.abc import Mapping

from resources import registry
from resources.budgets import CHAIN_DEPTH, CHAIN_TYPES, PARAMETER_VALUES, VALUE_LENGTH
from resources.criteria import (
    Chain,
    Component,
    Composite,
    Criterion,
    Has,
    Leaf,
    Missing,
    QuantityValue,
    RangeValue,
    UriValue,
    Value,
)
from resources.index_rows import Table
from resources.outcomes import BadRequest
from resources.search_parameters import (
    IDENTIFIER,
    OF_TYPE,
    TEXT,
    SearchParameter,
    component_parameter,
    parameter,
)
from resources.search_values import Reading, place, read, refuse, split

MODIFIERS: Mapping[str, frozenset[str]] = {
    "token": frozenset({"missing", "not", "text", "of-type"}),
    "string": frozenset({"missing", "exact", "contains"}),
    "date": frozenset({"missing"}),
    "number": frozenset({"missing"}),
    "quantity": frozenset({"missing"}),
    "reference": frozenset({"missing", "identifier"}),
    "uri": frozenset({"missing", "above", "below"}),
    "composite": frozenset({"missing"}),
}
"""Kind → the modifiers that are answered; a reference takes the name of a target type as well. Others are refused:
`:in`, `:not-in`, and `:above`, `:below` of codes need a terminology service."""


class UnknownParameter(BadRequest):
    """No such parameter, one that this server does not answer, or one without a value: under `handling=lenient` it is
    left out, and told."""

    code = "not-supported"


def empty(name: str) -> UnknownParameter:
    """`gender=`: no filter, which must not be taken for one."""
    fault = refuse(name, "has no value")
    return UnknownParameter(fault.diagnostics, issues=fault.issues)


def criterion(type_name: str | None, name: str, value: str, reading: Reading, *, depth: int = 0) -> Criterion:
    """What `name=value` asks of `type_name`. UnknownParameter, or BadRequest for what must never be left out."""
    if name.startswith("_has:"):
        return _has(type_name, name, value, reading, depth)
    head, dot, rest = name.partition(".")
    code, colon, modifier = head.partition(":")
    found = _known(type_name, code, name)
    if dot:
        return _chain(found, modifier if colon else "", rest, name, value, reading, depth)
    if colon:
        _check_modifier(found, modifier, name)
    if not value:
        raise empty(name)
    if modifier == "missing":
        return _missing(found, name, value)
    if found.components:
        return _composite(found, name, value, reading)
    return _leaf(found, modifier, name, value, reading)


def _known(type_name: str | None, code: str, name: str) -> SearchParameter:
    found = parameter(type_name, code)
    where = f"for {type_name}" if type_name else "for a search of the whole system"
    if found is None:
        fault = refuse(name, f"is not defined {where}", code="not-supported")
    elif not found.supported:
        fault = refuse(name, "is not supported by this server", code="not-supported")
    else:
        return found
    raise UnknownParameter(fault.diagnostics, issues=fault.issues)


def _check_modifier(found: SearchParameter, modifier: str, name: str) -> None:
    allowed = MODIFIERS[found.kind]
    if found.table is Table.ID:
        allowed = frozenset({"not"})
    elif found.table is Table.LAST_UPDATED:
        allowed = frozenset()
    if modifier in allowed:
        return
    if found.kind == "reference" and registry.is_type(modifier):
        _check_target(found, modifier, name)
        return
    raise refuse(name, "the modifier is not supported for a parameter of type " + found.kind, code="not-supported")


def _check_target(found: SearchParameter, type_name: str, name: str) -> None:
    if not may_point_to(found, type_name):
        raise refuse(name, f"{found.code} cannot refer to {type_name}", code="not-supported")


def may_point_to(found: SearchParameter, type_name: str) -> bool:
    """Whether the standard lets this reference parameter have a target of the type."""
    return not found.targets or type_name in found.targets or "Resource" in found.targets


def _values(name: str, value: str) -> list[str]:
    VALUE_LENGTH.check(len(value), place(name))
    parts = split(value, ",")
    PARAMETER_VALUES.check(len(parts), place(name))
    if not all(parts):
        raise refuse(name, "has an empty value between commas")
    return parts


def _leaf(found: SearchParameter, modifier: str, name: str, value: str, reading: Reading) -> Leaf:
    values: dict[Value, None] = {}
    for part in _values(name, value):
        try:
            values |= dict.fromkeys(read(part, found, modifier, reading))
        except ValueError as fault:
            raise refuse(name, str(fault)) from fault
    table, param_id = found.table, found.id
    if modifier == "text":
        table, param_id = Table.STRING, found.id + TEXT
    elif modifier == "of-type":
        param_id = found.id + OF_TYPE
    elif modifier == "identifier":
        table, param_id = Table.TOKEN, found.id + IDENTIFIER
    return Leaf(name, found, modifier, table, param_id, tuple(values), negated=modifier == "not")


def _missing(found: SearchParameter, name: str, value: str) -> Missing:
    if value not in ("true", "false"):
        raise refuse(name, "must be true or false")
    return Missing(name, found, found.table, found.row_id, missing=value == "true")


def _composite(found: SearchParameter, name: str, value: str, reading: Reading) -> Composite:
    groups: list[tuple[Component, ...]] = []
    for whole in _values(name, value):
        parts = split(whole, "$")
        if len(parts) != len(found.components) or not all(parts):
            raise refuse(name, f"must have {len(found.components)} parts with $ between them")
        combinations: list[tuple[Component, ...]] = [()]
        for position, part in enumerate(parts):
            own = component_parameter(found, position)
            try:
                values = read(part, own, "", reading)
            except ValueError as fault:
                raise refuse(name, f"part {position + 1} {fault}") from fault
            combinations = [
                (*before, Component(own.table, own.id, one)) for before in combinations for one in values
            ]
        groups += combinations
    return Composite(name, found, tuple(groups))


def _chain(
    found: SearchParameter, target: str, rest: str, name: str, value: str, reading: Reading, depth: int
) -> Chain:
    """`subject:Patient.name`: every target type that has the rest of the name is an alternative (§3.1.1.4.6)."""
    _check_depth(depth, name)
    if found.kind != "reference":
        raise refuse(name, f"{found.code} is not a reference: it cannot be chained")
    if target:
        if not registry.is_type(target):
            raise refuse(name, "a chain's modifier must be a resource type", code="not-supported")
        _check_target(found, target, name)
        types: tuple[str, ...] = (target,)
    else:
        types = tuple(sorted(one for one in found.targets if registry.is_type(one)))
    CHAIN_TYPES.check(len(types), place(name))
    if not types:
        raise refuse(name, f"{found.code} may refer to any type: name one, as in {found.code}:Patient.{rest}")
    alternatives: list[tuple[str, Criterion]] = []
    unknown: UnknownParameter | None = None
    fault: BadRequest | None = None
    for type_name in types:
        try:
            alternatives.append((type_name, criterion(type_name, rest, value, reading, depth=depth + 1)))
        except UnknownParameter as error:
            unknown = unknown or error
        except BadRequest as error:
            fault = fault or error
    if not alternatives:
        raise fault or unknown or refuse(name, "is not defined")
    return Chain(name, found, found.id, tuple(alternatives))


def _has(type_name: str | None, name: str, value: str, reading: Reading, depth: int) -> Has:
    """`_has:Observation:patient:code` (§3.1.1.4.8)."""
    _check_depth(depth, name)
    parts = name.split(":", 3)
    if len(parts) != 4 or not all(parts):
        raise refuse(name, "must have the form _has:Type:reference:parameter")
    _, source, code, rest = parts
    if type_name is None:
        raise refuse(name, "is not supported for a search of the whole system", code="not-supported")
    if not registry.is_type(source):
        raise refuse(name, "the second part must be a resource type", code="not-supported")
    found = _known(source, code, name)
    if found.kind != "reference":
        raise refuse(name, f"{code} of {source} is not a reference")
    _check_target(found, type_name, name)
    return Has(name, source, found, found.id, criterion(source, rest, value, reading, depth=depth + 1))


def _check_depth(depth: int, name: str) -> None:
    CHAIN_DEPTH.check(depth + 1, place(name))


def value_count(asked: Criterion) -> int:
    """Conditions that a criterion becomes: its values, of a chain those of every type that it tries."""
    if isinstance(asked, Leaf):
        return sum(_alternatives(value) for value in asked.values)
    if isinstance(asked, Composite):
        return sum(_alternatives(component.value) for components in asked.values for component in components)
    if isinstance(asked, Chain):
        return sum(1 + value_count(inner) for _, inner in asked.alternatives)
    if isinstance(asked, Has):
        return 1 + value_count(asked.inner)
    return 1


def _alternatives(value: Value) -> int:
    if isinstance(value, RangeValue | QuantityValue):
        return max(1, len(value.alternatives))
    if isinstance(value, UriValue):
        return max(1, len(value.uris))
    return 1
