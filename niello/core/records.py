"""Frozen dataclasses that are quick to make.

`dataclasses.dataclass` writes and compiles six functions for each class, which takes half a
millisecond: with hundreds of operations that was more than half of `import niello`. These have the
same meaning with methods that all of them share.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
_MISSING = dataclasses.MISSING


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """Class decorator: as `dataclass(frozen=True)`; `dataclasses.fields` and `replace` work."""
    made = dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    made._field_names = tuple(f.name for f in dataclasses.fields(made))  # type: ignore[attr-defined,arg-type]
    for name, method in _METHODS.items():
        if name not in cls.__dict__:
            setattr(made, name, method)
    return made


def _init(self: Any, *values: Any, **named: Any) -> None:
    names = self._field_names
    if len(values) > len(names):
        raise TypeError(f"{type(self).__name__} takes {len(names)} values, not {len(values)}")
    given = dict(zip(names, values, strict=False))
    if twice := given.keys() & named.keys():
        raise TypeError(f"{type(self).__name__} got two values for {min(twice)!r}")
    if unknown := named.keys() - set(names):
        raise TypeError(f"{type(self).__name__} has no field {min(unknown)!r}")
    given |= named
    for field in dataclasses.fields(self):
        value = given.get(field.name, _MISSING)
        if value is _MISSING:
            value = field.default
            factory: Any = field.default_factory
            if factory is not _MISSING:
                value = factory()
            if value is _MISSING:
                raise TypeError(f"{type(self).__name__} needs a value for {field.name!r}")
        object.__setattr__(self, field.name, value)
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, name) for name in self._field_names)


def _eq(self: Any, other: object) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _values(self) == _values(other)


def _hash(self: Any) -> int:
    return hash((self.__class__, _values(self)))


def _repr(self: Any) -> str:
    shown = ", ".join(f"{n}={getattr(self, n)!r}" for n in self._field_names)
    return f"{type(self).__qualname__}({shown})"


def _setattr(self: Any, name: str, value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


_METHODS = {
    "__init__": _init,
    "__eq__": _eq,
    "__hash__": _hash,
    "__repr__": _repr,
    "__setattr__": _setattr,
    "__delattr__": _delattr,
}
