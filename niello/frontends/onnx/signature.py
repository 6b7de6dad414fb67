"""Inputs of an ONNX model: their declared types, and what may be fed for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.reader import Source
from niello.frontends.onnx.values import (
    EMPTY,
    STRING,
    EmptyOptional,
    dtype_of,
    host_dtype,
    type_name,
)


@dataclass(frozen=True)
class Input:
    """One input: its ONNX type, whether it has a default value, and sizes given at loading."""

    name: str
    proto: Any  # TypeProto
    has_default: bool
    override: Any = None

    @property
    def type(self) -> Any:
        """A TensorType, or the text of another type."""
        return self._shown(self.proto) if self.override is None else self.override

    def _shown(self, proto: Any) -> Any:
        kind = proto.WhichOneof("value")
        if kind == "tensor_type":
            if host_dtype(proto.tensor_type.elem_type) is not None:
                return f"tensor of {type_name(proto.tensor_type.elem_type)}"
            return nl.TensorType(_shape(proto.tensor_type), dtype_of(proto.tensor_type.elem_type))
        if kind in ("sequence_type", "optional_type"):
            inner = self._shown(getattr(proto, kind).elem_type)
            return f"{kind.removesuffix('_type')} of {inner}"
        return str(kind)

    def declared(self) -> Any:
        """What a graph is made for when nothing is given."""
        if isinstance(self.type, (nl.TensorType, np.ndarray)):
            return self.type
        raise nl.errors.FrontendError(
            f"ONNX input {self.name!r}",
            f"is a {self.type}, whose parts are known only when it is fed",
            advice=f"Give it: load(..., inputs={{{self.name!r}: value}}), or run the model",
        )

    def specialised(self, value: Any) -> Any:
        """The type or array that the user gives, checked against the declaration."""
        if isinstance(value, nl.TensorType):
            self._check(value.shape, value.dtype, value)
            return value
        if isinstance(value, tuple) and all(v is None or isinstance(v, int) for v in value):
            declared = self._shown(self.proto)
            kind = declared.dtype if isinstance(declared, nl.TensorType) else nl.float32
            return self.specialised(nl.TensorType(value, kind))
        return self.fed(value)

    def fed(self, value: Any) -> Any:
        """A fed value as arrays, checked against the declaration."""
        return self._fed(value, self.proto)

    def _fed(self, value: Any, proto: Any) -> Any:
        kind = proto.WhichOneof("value")
        if kind == "optional_type":
            return EMPTY if value is None else self._fed(value, proto.optional_type.elem_type)
        if kind == "sequence_type":
            if not isinstance(value, (list, tuple)):
                raise self._refused("the input is a sequence", type(value).__name__, "a list")
            return [self._fed(v, proto.sequence_type.elem_type) for v in value]
        if kind == "tensor_type" and proto.tensor_type.elem_type == STRING:
            return _strings(value)
        array = self._array(value)
        host = host_dtype(proto.tensor_type.elem_type) if kind == "tensor_type" else None
        if host is not None and array.dtype == host:
            return array
        try:
            found = nl.TensorType(array.shape, array.dtype)
        except nl.errors.NielloError:
            raise self._refused(
                "the value is no array of numbers", f"{array.dtype.name}{list(array.shape)}", "one"
            ) from None
        self._check(found.shape, found.dtype, found, proto)
        return array

    def _array(self, value: Any) -> np.ndarray:
        if isinstance(value, np.ndarray):
            return value
        if isinstance(value, nl.TensorData):
            return value.numpy()
        declared = self._shown(self.proto)
        plain = not hasattr(value, "__array__") and isinstance(declared, nl.TensorType)
        try:
            raw = np.asarray(value)
        except ValueError:  # rows of different lengths
            raise self._refused(
                "the value is no array of numbers", type(value).__name__, "an array"
            ) from None
        if plain and raw.dtype.kind in "biuf" and not (
            raw.dtype.kind == "f" and not declared.dtype.is_float
        ):  # fmt: skip
            return raw.astype(declared.dtype.numpy)
        return raw

    def _check(self, shape: Any, dtype: Any, received: Any, proto: Any = None) -> None:
        declared = self._shown(self.proto if proto is None else proto)
        if not isinstance(declared, nl.TensorType):
            return
        if dtype is not declared.dtype:
            raise self._refused(
                f"the input holds {declared.dtype.name}",
                repr(received),
                f"an array of {declared}",
            )
        fits = declared.shape is None or (
            shape is not None
            and len(shape) == len(declared.shape)
            and all(
                d is None or s is None or d == s for d, s in zip(declared.shape, shape, strict=True)
            )
        )
        if not fits:
            raise self._refused(f"the input is {declared}", repr(received), "that shape")

    def _refused(self, problem: str, received: str, wanted: str) -> nl.errors.FeedError:
        return nl.errors.FeedError(
            f"feed {self.name}",
            problem,
            received=received,
            advice=f"Feed {wanted}",
            tensor=self.name,
        )

    def named_sizes(self, value: Any) -> Iterator[tuple[str, int]]:
        """The names that the model gives to sizes of this input, and their values."""
        if self.proto.WhichOneof("value") != "tensor_type" or isinstance(
            value, (EmptyOptional, list)
        ):
            return
        shape = self.proto.tensor_type.shape
        for dim, size in zip(shape.dim, value.shape, strict=False):
            if dim.dim_param:
                yield dim.dim_param, size


def _shape(proto: Any) -> tuple[int | None, ...] | None:
    if not proto.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.WhichOneof("value") == "dim_value" and d.dim_value >= 0 else None
        for d in proto.shape.dim
    )


def _strings(value: Any) -> np.ndarray:
    raw = np.asarray(value, object)
    made = np.empty(raw.shape, object)
    made.reshape(-1)[:] = [
        v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in raw.reshape(-1)
    ]
    return made


def inputs_of(source: Source, given: Mapping[str, Any]) -> dict[str, Input]:
    """The model's inputs by name. Those that only name weights are not inputs: older files list
    every initializer among them. Raises FeedError for an unknown name in `given`."""
    defaults = set(source.initializers)
    old = source.proto.ir_version < 4
    found: dict[str, Input] = {}
    for value in source.graph.input:
        if value.name in defaults and old:
            continue
        found[value.name] = Input(value.name, value.type, value.name in defaults)
    for name, wanted in given.items():
        if name not in found:
            raise nl.errors.FeedError(
                f"ONNX model {source.name}",
                f"has no input {name!r}",
                received=repr(name),
                advice=f"Its inputs are {', '.join(map(repr, found)) or 'none'}",
                superfluous=[name],
            )
        found[name] = Input(
            name, found[name].proto, found[name].has_default, found[name].specialised(wanted)
        )
    return found
