"""Records as JSON, by the types of their fields: what a package may say, and nothing else.

Reading builds only the record types listed here and checks every value against its field's type,
so that a hostile file cannot name anything else, nor put a text where a number belongs. New record
types in `runtime/commands.py` are covered as they come.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import math
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from niello.core.dtypes import BY_NAME, DType
from niello.core.errors import CompilerBug, NielloError
from niello.core.types import TensorType
from niello.graph.opdef import IndexBounds
from niello.passes.autocast import Autocast
from niello.passes.check_indices import IndexCheck
from niello.runtime import commands
from niello.runtime.target import CompileOptions

_KIND = "is"  # the key that names a record's type where the field's type leaves it open


class Malformed(ValueError):
    """JSON that is not what its place asks for."""


_own: dict[str, type[Any]] = {
    "CompileOptions": CompileOptions,
    "Autocast": Autocast,
    "IndexCheck": IndexCheck,
    "IndexBounds": IndexBounds,
}
_Class = TypeVar("_Class", bound=type[Any])


def record(kind: _Class) -> _Class:
    """Marks a record of packages themselves."""
    _own[kind.__name__] = kind
    return kind


@cache
def record_types() -> dict[str, Any]:
    """The record types that a package may hold, by name."""
    found: dict[str, type[Any]] = {
        name: item
        for name, item in vars(commands).items()
        if inspect.isclass(item)
        and item.__module__ == commands.__name__
        and dataclasses.is_dataclass(item)
        and item is not commands.Program
    }
    return {**found, **_own}


@cache
def _fields(kind: Any) -> tuple[tuple[str, Any, Any], ...]:
    """(name, type, default or MISSING) of each field."""
    hints = typing.get_type_hints(kind)
    return tuple((f.name, hints[f.name], f.default) for f in dataclasses.fields(kind) if f.init)


@cache
def _open(kind: Any) -> bool:
    """True for a record type that stands for others derived from it."""
    return any(issubclass(k, kind) and k is not kind for k in record_types().values())


# --- writing


def encode(value: Any, kind: Any = Any) -> Any:
    """A value as JSON's types, for a place of type `kind`. Raises CompilerBug for others."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_KIND: "number", "text": repr(float(value))}  # JSON has no such numbers
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [encode(v, k) for v, k in zip(value, _items(kind, len(value)), strict=True)]
    if isinstance(value, bytes):
        return value.hex() if kind is bytes else {_KIND: "bytes", "hex": value.hex()}
    if isinstance(value, DType):
        return value.name if kind is DType else {_KIND: "dtype", "name": value.name}
    if isinstance(value, TensorType):
        return _type_text(value, kind)
    if type(value) in record_types().values():
        return _encode_record(value, kind)
    raise CompilerBug(
        "save", "a command holds what packages have no form for", received=type(value).__name__
    )


def _type_text(value: TensorType, kind: Any) -> Any:
    found = [value.dtype.name, None if value.shape is None else list(value.shape)]
    return found if kind is TensorType else {_KIND: "type", "of": found}


def _encode_record(value: Any, kind: Any) -> Any:
    own: Any = type(value)
    fields = [
        (name, encode(getattr(value, name), wanted))
        for name, wanted, default in _fields(own)
        if default is dataclasses.MISSING or getattr(value, name) != default
    ]
    exact = _without_none(kind) is own and not _open(own)
    return dict(fields) if exact else {_KIND: own.__name__, **dict(fields)}


def _items(kind: Any, count: int) -> list[Any]:
    """The types of a tuple's items."""
    arguments = typing.get_args(_without_none(kind))
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return [arguments[0]] * count
    return list(arguments) if arguments else [Any] * count


def _without_none(kind: Any) -> Any:
    """`X` of `X | None`."""
    if typing.get_origin(kind) not in (types.UnionType, typing.Union):
        return kind
    rest = [a for a in typing.get_args(kind) if a is not types.NoneType]
    return rest[0] if len(rest) == 1 else Any


# --- reading

Decoder = Callable[[Any], Any]


def decode(value: Any, kind: Any) -> Any:
    """The value of a place of type `kind`. Raises Malformed."""
    return _decoder(kind)(value)


@cache
def _decoder(kind: Any) -> Decoder:
    """What reads values of a type; made once for each type."""
    inner = _without_none(kind)
    if inner in (Any, object):
        return _decode_any
    read = _exact_decoder(inner)
    if inner is kind:
        return read
    return lambda value: None if value is None else read(value)


def _exact_decoder(kind: Any) -> Decoder:
    if kind in (bool, int, float, str):
        return _plain_decoder(kind)
    if kind is bytes:
        return _bytes
    if kind is DType:
        return _dtype
    if kind is TensorType:
        return _type
    if typing.get_origin(kind) is tuple:
        return _tuple_decoder(kind)
    if inspect.isclass(kind) and issubclass(kind, enum.Enum):
        return _enum_decoder(kind)
    return _record_decoder(kind)


def _plain_decoder(kind: type[Any]) -> Decoder:
    def read(value: Any) -> Any:
        if type(value) is kind:
            return value
        if kind is float and (type(value) is int or isinstance(value, dict)):
            return _number(value) if isinstance(value, dict) else float(value)
        raise Malformed(f"{_short(value)} where {_name(kind)} belongs")

    return read


def _tuple_decoder(kind: Any) -> Decoder:
    arguments = typing.get_args(kind)
    same = _decoder(arguments[0]) if arguments[1:] == (Ellipsis,) else None

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise Malformed(f"{_short(value)} where a list belongs")
        if same is not None:
            return tuple([same(v) for v in value])
        items = _items(kind, len(value))
        if len(items) != len(value):
            raise Malformed(f"a list of {len(value)} where {len(items)} belong")
        return tuple(decode(v, k) for v, k in zip(value, items, strict=True))

    return read


def _enum_decoder(kind: type[enum.Enum]) -> Decoder:
    known = {member.value: member for member in kind}

    def read(value: Any) -> enum.Enum:
        if not isinstance(value, str) or value not in known:
            raise Malformed(f"{_short(value)} is no {kind.__name__.lower()}")
        return known[value]

    return read


def _record_decoder(kind: Any) -> Decoder:
    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Malformed(f"{_short(value)} where a {_name(kind)} belongs")
        own = kind
        if _KIND in value:
            own = record_types().get(_text(value[_KIND]), object)
            if not issubclass(own, kind):
                raise Malformed(f"there is no {_name(kind)} {_short(value[_KIND])}")
        return _read_fields(own, value)

    return read


def _read_fields(own: Any, value: dict[str, Any]) -> Any:
    if own not in record_types().values():
        raise Malformed(f"{_name(own)} is no record")
    made = {}
    count = int(_KIND in value)
    for name, wanted, default in _fields(own):
        if name in value:
            made[name] = _decoder(wanted)(value[name])
            count += 1
        elif default is dataclasses.MISSING:
            raise Malformed(f"a {own.__name__} lacks {name}")
    if count != len(value):
        extra = set(value) - {_KIND, *made}
        raise Malformed(f"a {own.__name__} has no {_short(min(extra))}")
    return _made(own, made)


def _made(kind: Any, fields: dict[str, Any]) -> Any:
    try:
        return kind(**fields)
    except NielloError as error:  # a record that checks itself
        raise Malformed(str(error)) from error


def _decode_any(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode_any(v) for v in value)
    if not isinstance(value, dict):
        return value
    named = value.get(_KIND)
    if named == "bytes":
        return _bytes(value.get("hex"))
    if named == "number":
        return _number(value)
    if named == "dtype":
        return _dtype(value.get("name"))
    if named == "type":
        return _type(value.get("of"))
    kind = record_types().get(_text(named))
    if kind is None:
        raise Malformed(f"there is no record {_short(named)}")
    return _read_fields(kind, value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Malformed(f"{_short(value)} where a name belongs")
    return value


def _number(value: dict[str, Any]) -> float:
    try:
        return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[_text(value.get("text"))]
    except KeyError:
        raise Malformed(f"{_short(value)} is no number") from None


def _bytes(value: Any) -> bytes:
    try:
        return bytes.fromhex(_text(value))
    except ValueError:
        raise Malformed(f"{_short(value)} is not hexadecimal") from None


def _dtype(value: Any) -> DType:
    found = BY_NAME.get(_text(value))
    if found is None:
        raise Malformed(f"there is no element type {_short(value)}")
    return found


def _type(value: Any) -> TensorType:
    if not isinstance(value, list) or len(value) != 2:
        raise Malformed(f"{_short(value)} is no type")
    name, shape = value
    if shape is not None and not (
        isinstance(shape, list) and all(d is None or (type(d) is int and d >= 0) for d in shape)
    ):
        raise Malformed(f"{_short(shape)} is no shape")
    kind = _dtype(name)
    try:
        return TensorType(None if shape is None else tuple(shape), kind)
    except NielloError as error:
        raise Malformed(str(error)) from error


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind)).lower()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def parse_json(data: bytes) -> Any:
    """JSON without numbers that are none. Raises Malformed."""
    try:
        return json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        raise Malformed(f"{type(error).__name__}: {error}") from error


def _no_number(text: str) -> Any:
    raise Malformed(f"{text} is no number of JSON")
