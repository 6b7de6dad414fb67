"""Graphs of Niello as ONNX models, for inference elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.values import code_of
from niello.frontends.onnx.writer import Unwritable, Writer, writer_of

OPSET = 21
OLDEST = 18  # axes of reductions are inputs from here on
# Where ONNX has an operator for the wider type only. Integers wrap when they are cast back.
WIDER = {
    nl.bfloat16: nl.float32,
    nl.float16: nl.float32,
    nl.bool_: nl.int32,
    nl.int8: nl.int32,
    nl.int16: nl.int32,
    nl.uint8: nl.int32,
    nl.uint16: nl.int32,
    nl.uint32: nl.int64,
}
LARGEST = (1 << 31) - (1 << 20)  # a protobuf holds 2 GiB


def export(
    outputs: Mapping[str, nl.Tensor] | Sequence[nl.Tensor],
    path: str | os.PathLike[str] | None = None,
    *,
    inputs: Mapping[str, nl.Tensor] | None = None,
    opset: int = OPSET,
    name: str | None = None,
) -> Any:
    """Write what computes `outputs` as an ONNX model, and return the ModelProto.

    `outputs` are tensors of one graph, by name or in order. Placeholders become inputs, under
    their own names or those of `inputs`; variables become weights with the values that they hold
    now. With `path` the file is written too, at once or not at all.

    Raises FrontendError for operations that ONNX has no operator for, naming all of them, and for
    models beyond the 2 GiB that a file can hold.

    Example:
        >>> import niello as nl
        >>> from niello.frontends.onnx import export
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((2, 3), name="x")
        >>> model = export({"y": nl.softmax(x)})
        >>> [node.op_type for node in model.graph.node]
        ['Softmax', 'Identity']
    """
    named = _named(outputs)
    newest = _newest()
    if not OLDEST <= opset <= newest:
        raise nl.errors.FrontendError(
            "ONNX export", f"writes operator sets {OLDEST} to {newest}", received=opset
        )
    writer = Writer(opset)
    exporter = _Exporter(writer, {t: n for n, t in (inputs or {}).items()})
    for n in (*named, *(inputs or {})):
        writer.unique(n)
    exporter.write(_behind(named.values()))
    exporter.refuse()
    model = exporter.model(named, name or next(iter(named.values())).graph.name)
    if path is not None:
        _save(model, Path(path))
    return model


def _newest() -> int:
    from onnx.defs import onnx_opset_version

    return int(onnx_opset_version())


def _named(outputs: Mapping[str, nl.Tensor] | Sequence[nl.Tensor]) -> dict[str, nl.Tensor]:
    found = (
        dict(outputs)
        if isinstance(outputs, Mapping)
        else {f"output_{i}": t for i, t in enumerate(outputs)}
    )
    if not found or not all(isinstance(t, nl.Tensor) for t in found.values()):
        raise nl.errors.FrontendError(
            "ONNX export",
            "needs tensors, by name or in a list",
            received=repr(outputs)[:80],
            advice="Give the outputs of the graph: export({'y': y})",
        )
    return found


def _behind(tensors: Iterable[nl.Tensor]) -> list[nl.Operation]:
    """The operations that compute the tensors, in order."""
    seen: set[nl.Operation] = set()
    stack = [t.operation for t in tensors]
    while stack:
        o = stack.pop()
        if o not in seen:
            seen.add(o)
            stack.extend(t.operation for t in o.inputs)
    return sorted(seen, key=lambda o: o.number)


class _Exporter:
    """Writes operations, and those that they are made of."""

    def __init__(self, writer: Writer, inputs: Mapping[nl.Tensor, str]) -> None:
        self.writer = writer
        self.inputs: list[Any] = []
        self.names: dict[nl.Tensor, str] = {}
        self.unwritable: dict[str, list[str]] = {}
        self.problems: dict[str, str] = {}
        self._wanted = inputs
        writer.region = self.region

    def write(self, operations: Iterable[nl.Operation]) -> None:
        """Write operations, those that they depend on first."""
        for o in operations:
            if any(t not in self.names for t in o.outputs):
                self.operation(o, o.name)

    def operation(self, o: nl.Operation, label: str) -> None:
        """Write one operation, named `label`."""
        w = self.writer
        w.prefix = label.replace("/", ".")
        kind = o.op.name
        if kind == "placeholder":
            self.names[o.outputs[0]] = self.input(o.outputs[0])
        elif kind == "variable":
            value = o.outputs[0].value  # type: ignore[attr-defined]
            self.names[o.outputs[0]] = w.weight(value, label.replace("/", "."))
        elif any(t not in self.names for t in o.inputs):
            return  # behind something that cannot be written, which is noted
        elif not o.inputs and kind != "random_bits":
            for t, array in zip(o.outputs, o.op.reference_all(), strict=True):
                self.names[t] = w.weight(np.asarray(array).astype(t.dtype.numpy))
        else:
            self.computed(o, label)

    def computed(self, o: nl.Operation, label: str) -> None:
        """By the operation's writer, or by the operations that it is made of."""
        problem = "ONNX has no such operator"
        if writer_of(o.op.name) is not None:
            try:
                self.direct(o)
                return
            except Unwritable as error:
                problem = str(error)
        made = o.op.bare() is not None  # its own results are among its inputs
        if made or (o.op.has_decompose() and all(t.type.is_static for t in o.inputs)):
            self.decomposed(o, label)
        else:
            self.unwritable.setdefault(o.op.name, []).append(label)
            self.problems.setdefault(o.op.name, problem)

    def direct(self, o: nl.Operation, wide: bool = False) -> None:
        """By the operation's writer; in a wider type where ONNX's operators lack its own."""
        w, write = self.writer, writer_of(o.op.name)
        assert write is not None
        nodes, weights = len(w.nodes), len(w.weights)
        try:
            found = write(w, o, *(self.names[t] for t in o.inputs))
            lacking = w.lacking(w.nodes[nodes:], o)
        except Unwritable:
            del w.nodes[nodes:], w.weights[weights:]
            raise
        if lacking is None:
            listed = found if isinstance(found, tuple) else (found,)
            self.names.update(zip(o.outputs, listed, strict=True))
            return
        del w.nodes[nodes:], w.weights[weights:]
        kind = o.inputs[0].dtype
        if wide or kind not in WIDER:
            raise Unwritable(f"ONNX's {lacking} does not take {kind.name}")
        self.widened(o, kind, WIDER[kind])

    def widened(self, o: nl.Operation, kind: nl.DType, wider: nl.DType) -> None:
        """The same operation on a wider type, with casts around it."""
        w, inner = self.writer, nl.Graph()
        stands: list[nl.Tensor] = []
        for t in o.inputs:
            made = inner.placeholder(t.shape, wider if t.dtype is kind else t.dtype)
            self.names[made] = (
                self.names[t] if made.dtype is t.dtype else w.cast(self.names[t], wider)
            )
            stands.append(made)
        try:
            again = inner.add(o.op, stands)
        except nl.errors.NielloError as error:
            raise Unwritable(
                f"ONNX does not take {kind.name}, nor does Niello {wider.name}"
            ) from error
        self.direct(again, wide=True)
        for t, made in zip(o.outputs, again.outputs, strict=True):
            name = self.names[made]
            self.names[t] = name if t.dtype is made.dtype else w.cast(name, t.dtype)

    def decomposed(self, o: nl.Operation, label: str) -> None:
        """The operations that one is made of, in a graph of their own."""
        inner = nl.Graph()
        stands: list[nl.Tensor] = []
        for t in o.inputs:
            made = inner.placeholder(t.shape, t.dtype)
            self.names[made] = self.names[t]
            stands.append(made)
        found = o.op.decompose(*stands)
        results = found if isinstance(found, tuple) else (found,)
        for part in _behind(results):
            if any(t not in self.names for t in part.outputs):
                self.operation(part, f"{label}/{part.name}")
        for t, made in zip(o.outputs, results, strict=True):
            if made in self.names:
                self.names[t] = self.names[made]

    def region(self, region: Any, names: Sequence[str]) -> tuple[list[Any], list[str]]:
        """The nodes of a branch or loop body, for the names of its parameters, and its results."""
        kept, self.writer.nodes = self.writer.nodes, []
        label = self.writer.prefix
        try:
            for t, name in zip(region.parameters, names, strict=True):
                self.names[t] = name
            for t in (t for o in _behind(region.results) for t in o.outputs):
                if t not in region.parameters:  # written anew where a body is written twice
                    self.names.pop(t, None)
            for o in _behind(region.results):
                if any(t not in self.names for t in o.outputs):
                    self.operation(o, f"{label}/{o.name}")
            if any(t not in self.names for t in region.results):
                raise Unwritable("its body cannot be written")
            return self.writer.nodes, [self.names[t] for t in region.results]
        finally:
            self.writer.nodes = kept

    def input(self, t: nl.Tensor) -> str:
        """Declare an input of the model; its name."""
        name = self._wanted.get(t) or self.writer.unique(t.name)
        self.inputs.append(_info(name, t))
        return name

    def refuse(self) -> None:
        """Raise for everything that could not be written."""
        if self.unwritable:
            listed = [
                f"{n} ({len(u)}x, first {u[0]!r}: {self.problems[n]})"
                for n, u in sorted(self.unwritable.items())
            ]
            raise nl.errors.FrontendError(
                "ONNX export",
                f"cannot write {', '.join(listed)}",
                received=f"operator set {self.writer.opset}",
                advice="Leave these operations out of what is exported, or save a package",
                operators={n: len(u) for n, u in self.unwritable.items()},
            )

    def model(self, outputs: Mapping[str, nl.Tensor], name: str) -> Any:
        """The ModelProto."""
        from onnx import helper

        infos = []
        for n, t in outputs.items():
            self.writer.nodes.append(helper.make_node("Identity", [self.names[t]], [n], n))
            infos.append(_info(n, t))
        size = sum(len(p.raw_data) for p in self.writer.weights)
        if size > LARGEST:
            raise nl.errors.FrontendError(
                "ONNX export",
                "the weights do not fit into one file",
                received=f"{size} bytes",
                advice="Save a package instead",
            )
        graph = helper.make_graph(self.writer.nodes, name, self.inputs, infos, self.writer.weights)
        opsets = [helper.make_opsetid("", self.writer.opset)]
        version = helper.find_min_ir_version_for(opsets)
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=version, producer_name="niello"
        )


def _info(name: str, t: nl.Tensor) -> Any:
    from onnx import helper

    shape = t.shape
    sizes = (
        None if shape is None else [f"{name}_{i}" if d is None else d for i, d in enumerate(shape)]
    )
    return helper.make_tensor_value_info(name, code_of(t.dtype), sizes)


def _save(model: Any, path: Path) -> None:
    """Write beside the file, then take its place."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(model.SerializeToString())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
