"""Values that every request makes some of: frozen dataclasses whose making costs what an assignment costs.

The `__init__` of a frozen dataclass goes by `object.__setattr__` for each field, which is four times an assignment: of
an audited read a tenth. `light` gives such a class a plain one. What keeps its instances as they are is then the type
checker, for which the class is frozen as before; equality, hash, `replace` and `repr` are the dataclass's own.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

T = TypeVar("T")


def light(cls: type[T]) -> type[T]:
    """Decorate a frozen dataclass with slots and without `__post_init__`. Raises TypeError for another class."""
    given: list[str] = []
    body: list[str] = []
    names: dict[str, Any] = {"MISSING": MISSING}
    for one in fields(cls):  # type: ignore[arg-type]
        if not one.init or one.kw_only:
            raise TypeError(f"{cls.__name__}.{one.name} is no plain field")
        value = one.name
        if one.default is not MISSING:
            names[f"default_{one.name}"] = one.default
            given.append(f"{one.name}=default_{one.name}")
        elif one.default_factory is not MISSING:
            names[f"factory_{one.name}"] = one.default_factory
            given.append(f"{one.name}=MISSING")
            value = f"factory_{one.name}() if {one.name} is MISSING else {one.name}"
        else:
            given.append(one.name)
        body.append(f"    self.{one.name} = {value}")
    if hasattr(cls, "__post_init__") or not hasattr(cls, "__slots__"):
        raise TypeError(f"{cls.__name__} has a __post_init__, or no slots")
    source = f"def __init__(self, {', '.join(given)}):\n" + "\n".join(body)
    exec(source, names)  # noqa: S102 - as dataclasses makes it: of the names of fields alone
    made = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__annotations__ = dict(cls.__init__.__annotations__)
    cls.__init__ = made  # type: ignore[method-assign]
    del cls.__setattr__, cls.__delattr__
    return cls
