"""Source: an ONNX model file, checked before anything is built from it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx import registry
from niello.frontends.onnx.functions import has_expansion
from niello.frontends.onnx.values import STRING, type_name

# Bits of the types that share bytes (TensorProto.DataType).
PACKED = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2}


class Source:
    """A model's graph, weights, functions and operator set versions.

    Raises FrontendError for what is no ONNX model, for operator sets newer than the installed
    `onnx` package knows, and for operators without a translation (all of them at once).
    """

    def __init__(self, model: Any) -> None:
        self.proto, self.name, self.folder = _read(model)
        self._owned = self.proto is not model
        self._arrays: dict[int, tuple[Any, np.ndarray]] = {}
        self._external: dict[Path, np.memmap[Any, Any]] = {}
        try:
            self._open()
        except nl.errors.NielloError:
            raise
        except (ArithmeticError, AttributeError, LookupError, MemoryError) as error:
            raise self._damaged(error) from error
        except (RecursionError, TypeError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> nl.errors.FrontendError:
        return nl.errors.FrontendError(
            f"ONNX model {self.name}",
            f"its parts do not fit together: {type(error).__name__}: {error}",
            received="a damaged model",
            advice="Check it with onnx.checker, or export it again",
        )

    def _open(self) -> None:
        if not self.proto.HasField("graph") or not self.proto.opset_import:
            raise nl.errors.FrontendError(
                f"ONNX model {self.name}",
                "it holds no graph, or does not say which operator sets it uses",
                received="a model without graph or opset_import",
                advice="Give a file that onnx.checker accepts",
            )
        self.graph = self.proto.graph
        self.opsets = {_domain(o.domain): o.version for o in self.proto.opset_import}
        self.functions = {
            (_domain(f.domain), f.name, getattr(f, "overload", "")): f for f in self.proto.functions
        }
        _check_names(self)
        _check_opset(self.opsets, self.name)
        _check_operators(self)
        self.initializers = {p.name: self.array(p) for p in self.graph.initializer}
        for p in self.graph.sparse_initializer:
            self.initializers[p.values.name] = self.sparse_array(p)
        if self._owned:  # the arrays hold the weights now
            for p in self.graph.initializer:
                p.ClearField("raw_data")

    def function(self, domain: str, name: str, overload: str) -> Any:
        """The model's own function of that name, or None."""
        return self.functions.get((domain, name, overload))

    # --- weights
    def array(self, proto: Any) -> np.ndarray:
        """The array of a TensorProto, from the model or from a file beside it."""
        known = self._arrays.get(id(proto))
        if known is None:
            made = self._external_array(proto) if proto.data_location == 1 else self._inside(proto)
            known = self._arrays[id(proto)] = (proto, made)  # kept, so that its id stays its own
        return known[1]

    def _inside(self, proto: Any) -> np.ndarray:
        from onnx import numpy_helper

        try:
            found = numpy_helper.to_array(proto)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise self._bad_weights(proto, f"its content does not make an array: {error}") from None
        if proto.data_type == STRING:
            return np.array([_string(s) for s in found.reshape(-1)], object).reshape(found.shape)
        return np.asarray(found)

    def sparse_array(self, proto: Any) -> np.ndarray:
        """The array of a SparseTensorProto."""
        values, positions = self.array(proto.values), self.array(proto.indices)
        try:
            dense = np.zeros(tuple(proto.dims), values.dtype)
            if positions.ndim == 1:
                dense.reshape(-1)[positions] = values
            else:
                dense[tuple(positions.T)] = values
        except (IndexError, ValueError, MemoryError) as error:
            raise self._bad_weights(proto.values, f"is not a sparse tensor: {error}") from None
        return dense

    def _external_array(self, proto: Any) -> np.ndarray:
        from onnx import TensorProto, helper

        entries = {e.key: e.value for e in proto.external_data}
        path = self._external_path(proto, entries.get("location", ""))
        data = self._external.get(path)
        if data is None:
            data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)  # type: ignore[assignment]
            self._external[path] = data  # type: ignore[assignment]
        assert data is not None
        full = _bytes_of(proto)
        start, size = (_whole(entries.get(k), d) for k, d in (("offset", 0), ("length", full)))
        if start < 0 or size != full or start + size > data.size:
            raise self._bad_weights(
                proto,
                f"{type_name(proto.data_type)}{list(proto.dims)} does not fit bytes {start} to "
                f"{start + size} of {path.name}, which has {data.size}",
            )
        part = data[start : start + size]
        if proto.data_type in PACKED:
            whole = TensorProto(dims=proto.dims, data_type=proto.data_type, raw_data=bytes(part))
            return self._inside(whole)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))
        return np.asarray(part).view(dtype).reshape(tuple(proto.dims))

    def _external_path(self, proto: Any, location: str) -> Path:
        if self.folder is None:
            raise self._bad_weights(
                proto, "it is stored in another file, and a model in memory has no folder"
            )
        path = (self.folder / location).resolve()
        if not location or not path.is_relative_to(self.folder.resolve()):
            raise self._bad_weights(
                proto, "it is stored in a file outside of the model's folder", location
            )
        if not path.is_file():
            raise self._bad_weights(proto, f"its file {location!r} is missing", str(path))
        return path

    def _bad_weights(
        self, proto: Any, problem: str, received: Any = None
    ) -> nl.errors.FrontendError:
        return nl.errors.FrontendError(
            f"ONNX model {self.name}: tensor {proto.name!r}",
            problem,
            received=received,
            advice="Keep the model and its data files together, as they were exported",
            tensor=proto.name,
        )


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _whole(text: str | None, default: int) -> int:
    """A number of an external data entry; -1 for what is none."""
    if text is None:
        return default
    return int(text) if text.isdecimal() else -1


def _bytes_of(proto: Any) -> int:
    """How many bytes the content of a tensor takes in a file."""
    from onnx import helper

    count = math.prod(proto.dims)
    bits = PACKED.get(proto.data_type)
    if bits is not None:
        return -(-count * bits // 8)
    known = proto.data_type in helper.get_all_tensor_dtypes() and proto.data_type not in (0, STRING)
    return count * helper.tensor_dtype_to_np_dtype(proto.data_type).itemsize if known else -1


def _string(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _read(model: Any) -> tuple[Any, str, Path | None]:
    """The ModelProto, a name for messages, and the folder of its data files."""
    onnx = _onnx()
    if isinstance(model, onnx.ModelProto):
        return model, model.graph.name or "in memory", None
    if isinstance(model, (bytes, bytearray, memoryview)):
        return _parsed(bytes(model), "in memory"), "in memory", None
    if not isinstance(model, (str, os.PathLike)):
        raise nl.errors.FrontendError(
            "ONNX load",
            "takes a path, the bytes of a file, or a ModelProto",
            received=type(model).__name__,
        )
    path = Path(model)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise nl.errors.FrontendError(
            f"ONNX model {path}", f"cannot be read: {error.strerror}", received=str(path)
        ) from None
    return _parsed(raw, path.name), path.name, path.parent


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise nl.errors.FrontendError(
            "ONNX load",
            "the package onnx is not installed",
            advice="Install niello[onnx]",
        ) from None
    return onnx


def _parsed(raw: bytes, name: str) -> Any:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import ModelProto

    proto = ModelProto()
    try:
        proto.ParseFromString(raw)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise nl.errors.FrontendError(
            f"ONNX model {name}",
            f"is not a complete ONNX file: {str(error).rstrip('.')}",
            received=f"{len(raw)} bytes",
            advice="Export or download it again",
        ) from None
    return proto


def _check_opset(opsets: dict[str, int], name: str) -> None:
    from onnx.defs import onnx_opset_version

    newest = onnx_opset_version()
    asked = opsets.get("", 1)
    if not 1 <= asked <= newest:
        raise nl.errors.FrontendError(
            f"ONNX model {name}",
            f"uses operator set {asked}, and the installed onnx package knows 1 to {newest}",
            received=asked,
            advice="Install a newer onnx package, or export with an older operator set",
            opset=asked,
        )


def nodes_of(graph: Any) -> Iterator[Any]:
    """All nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)
            for inner in attribute.graphs:
                yield from nodes_of(inner)


def _check_names(source: Source) -> None:
    """Refuse names that are no text: in a damaged file they are bytes."""
    for body in (source.graph, *source.functions.values()):
        for node in nodes_of(body):
            names = [node.op_type, node.domain, node.name, *node.input, *node.output]
            names += [a.name for a in node.attribute]
            if not all(isinstance(n, str) for n in names):
                raise ValueError(f"names are not UTF-8: {names}")
    values = (*source.graph.input, *source.graph.output, *source.graph.initializer)
    names = [*source.opsets, *(v.name for v in values)]
    names += [d.dim_param for v in source.graph.input for d in v.type.tensor_type.shape.dim]
    if not all(isinstance(n, str) for n in names):
        raise ValueError(f"names are not UTF-8: {names}")


def _check_operators(source: Source) -> None:
    """Refuse a model with operators that have no translation, naming each with its count."""
    unknown: dict[str, list[str]] = {}
    bodies = [(source.graph, source.opsets)]
    for f in source.functions.values():
        bodies.append((f, {_domain(o.domain): o.version for o in f.opset_import}))
    for body, opsets in bodies:
        for node in nodes_of(body):
            domain = _domain(node.domain)
            version = opsets.get(domain, source.opsets.get(domain, 1))
            if (
                (domain, node.op_type, getattr(node, "overload", "")) not in source.functions
                and registry.find(domain, node.op_type, version) is None
                and not has_expansion(domain, node.op_type, version)
            ):
                full = f"{domain}.{node.op_type}" if domain else node.op_type
                first = node.name or (node.output[0] if node.output else "")
                unknown.setdefault(full, []).append(first)
    if unknown:
        listed = [f"{n} ({len(u)}x, first {u[0]!r})" for n, u in sorted(unknown.items())]
        raise nl.errors.FrontendError(
            f"ONNX model {source.name}",
            f"Niello has no translation of {', '.join(listed)}",
            received=f"operator set {source.opsets.get('', 1)}",
            advice="Replace them in the model; docs/onnx.md lists what is translated",
            operators={n: len(u) for n, u in unknown.items()},
        )
