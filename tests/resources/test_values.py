"""Light values: as frozen dataclasses, made by assignments."""

from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from resources.values import light
from store.access import Access, Interaction


@light
@dataclass(frozen=True, slots=True)
class Point:
    """An example with every kind of field."""

    x: int
    y: int = 2
    names: list[str] = field(default_factory=list, compare=False)


@dataclass(frozen=True, slots=True)
class Plain:
    """The same without."""

    x: int
    y: int = 2
    names: list[str] = field(default_factory=list, compare=False)


def test_a_light_value_is_made_compared_and_replaced_as_the_dataclass_it_is() -> None:
    """PEP 557: defaults, equality, hash, replace and repr."""
    for kind in (Point, Plain):
        assert (kind(1).x, kind(1).y, kind(1).names) == (1, 2, [])
        assert kind(1).names is not kind(1).names
        assert kind(1, names=["a"]) == kind(1, 2)
        assert hash(kind(1)) == hash(kind(1, 2))
        assert replace(kind(1), y=3) == kind(1, 3)
        assert repr(kind(1)).endswith("(x=1, y=2, names=[])")
        with pytest.raises(TypeError):
            kind()  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        Point(1).z = 1  # type: ignore[attr-defined]
    access = Access(Interaction.READ, "Patient", "1")
    assert replace(access, version=2) == Access(Interaction.READ, "Patient", "1", 2)


def test_only_a_frozen_dataclass_with_plain_fields_can_be_light() -> None:
    """What a plain `__init__` would leave out is refused where it is declared."""

    @dataclass(frozen=True)
    class Open:
        x: int

    @dataclass(frozen=True, slots=True)
    class Late:
        x: int = field(init=False, default=1)

    @dataclass(frozen=True, slots=True)
    class Checked:
        x: int

        def __post_init__(self) -> None:
            raise FrozenInstanceError

    for kind in (Open, Late, Checked):
        with pytest.raises(TypeError):
            light(kind)
