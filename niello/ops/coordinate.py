"""Index ramps and what is made of them: coordinate, arange, linspace, eye, full, meshgrid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes as element_types
from niello.core.dtypes import ALL, FLOATS, NUMBERS, DType, compute_dtype, float32, int32
from niello.core.errors import AttributeValueError, GraphError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import as_shape, show
from niello.core.types import TensorType
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    function,
    not_differentiable,
    plain_function,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import check_dtype, operands
from niello.ops.movement import apply, integer, is_static, known_axis, tensor_of


def _ramp(shape: Sequence[int], axis: int, dtype: DType) -> np.ndarray:
    line = np.arange(shape[axis]).astype(dtype.numpy)
    return np.broadcast_to(line.reshape(-1, *[1] * (len(shape) - axis - 1)), shape).copy()


@register
@frozen
class Coordinate(Op):
    shape: tuple[int, ...]
    axis: int
    dtype: DType
    name: ClassVar[str] = "coordinate"
    traits: ClassVar[Trait] = Trait.CREATION
    dtypes: ClassVar[tuple[DType, ...]] = NUMBERS
    doc: ClassVar[str] = "The position of each element of a shape along an axis. As XLA's Iota."
    grad = not_differentiable("it has no inputs")

    def infer(self) -> TensorType:
        check_dtype(self.name, self.dtype, self.dtypes)
        known_axis(self.name, self.axis, len(self.shape))
        return TensorType(self.shape, self.dtype)

    def reference(self) -> np.ndarray:
        return _ramp(self.shape, self.axis, self.dtype)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        return k.cast(index[self.axis], compute_dtype(self.dtype))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(shape=(2, 3), axis=1, dtype=int32, grad=False),
            sample(shape=(4,), axis=0, dtype=float32, grad=False),
            sample(shape=(300, 2), axis=0, dtype=FLOATS[0], grad=False),
            sample(shape=(3, 2), axis=0, dtype=element_types.uint8, grad=False),
            sample(shape=(0, 2), axis=1, dtype=int32, grad=False),
        ]


@register
@frozen
class CoordinateLike(Op):
    axis: int
    dtype: DType
    name: ClassVar[str] = "coordinate_like"
    traits: ClassVar[Trait] = Trait.SHAPE_ONLY
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = "The position of each element along an axis; only the shape matters."
    grad = not_differentiable("positions do not depend on values")

    def infer(self, like: TensorType) -> TensorType:
        check_dtype(self.name, self.dtype, NUMBERS)
        if like.shape is not None:
            known_axis(self.name, self.axis, len(like.shape))
        return TensorType(like.shape, self.dtype)

    def reference(self, like: np.ndarray) -> np.ndarray:
        return _ramp(like.shape, known_axis(self.name, self.axis, like.ndim), self.dtype)

    def decompose(self, like: Tensor) -> Tensor:
        shape = like.type.static_shape
        op = Coordinate(shape, known_axis(self.name, self.axis, len(shape)), self.dtype)
        return like.graph.apply(op)  # type: ignore[return-value]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3), axis=-1, dtype=int32, grad=False),
            sample(real(2, 0), axis=0, dtype=float32, grad=False),
        ]


def coordinate_like(
    x: Tensor, axis: int, *, dtype: DType = int32, name: str | None = None
) -> Tensor:
    """The position of each element of `x` along `axis`."""
    where = known_axis("coordinate", axis, x.rank)
    if is_static(x):
        return x.graph.apply(Coordinate(x.type.static_shape, where, dtype), name=name)  # type: ignore[return-value]
    return apply(CoordinateLike(where, dtype), x, name=name)


def graph_for(asked: str, graph: Any) -> GraphDefinition:
    """The graph that a creation function was given. Raises GraphError for anything else."""
    if isinstance(graph, Tensor):
        return graph.graph
    if isinstance(graph, GraphDefinition):
        return graph
    raise GraphError(
        asked,
        "needs the graph that the new tensor belongs to",
        received=repr(graph),
        advice="Give graph=",
    )


def static_shape(asked: str, shape: Any) -> tuple[int, ...]:
    """A shape of known sizes. Raises ShapeError for others."""
    found = as_shape(shape, asked)
    if found is None or None in found:
        raise ShapeError(
            asked, "every size must be known", received=show(found), advice="Give integers"
        )
    return tuple(d for d in found if d is not None)


@plain_function
def coordinate(
    shape: Any,
    axis: int = 0,
    *,
    dtype: Any = int32,
    graph: Any = None,
    name: str | None = None,
) -> Tensor:
    """The position of each element along `axis`: 0, 1, 2 ... repeated over the other axes.

    `shape` is a list of sizes, with `graph`, or a tensor, whose shape is taken and may be unknown.
    Raises ShapeError for an axis that is not there. As XLA's Iota.

    Example:
        >>> import niello as nl
        >>> nl.coordinate((2, 3), axis=1, graph=nl.Graph()).type
        int32[2, 3]
    """
    kind = element_types.dtype(dtype)
    if isinstance(shape, Tensor):
        return coordinate_like(shape, axis, dtype=kind, name=name)
    sizes = static_shape("coordinate", shape)
    op = Coordinate(sizes, known_axis("coordinate", axis, len(sizes)), kind)
    return graph_for("coordinate", graph).apply(op, name=name)  # type: ignore[return-value]


@plain_function
def arange(
    start: Any,
    stop: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    graph: Any = None,
    name: str | None = None,
) -> Tensor:
    """Numbers from `start` (0 when only one is given) up to, without, `stop`, by `step`.

    int32 for integers, float32 for floats, unless `dtype` says otherwise. Raises
    AttributeValueError for a step of 0. As NumPy's arange.

    Example:
        >>> import niello as nl
        >>> nl.arange(2, 8, 3, graph=nl.Graph()).type
        int32[2]
    """
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise AttributeValueError("arange", "the step must not be 0", received=step)
    values = np.arange(start, stop, step)
    default = float32 if values.dtype.kind == "f" else int32
    kind = default if dtype is None else element_types.dtype(dtype)
    return graph_for("arange", graph).constant(values.astype(kind.numpy), name=name)


@plain_function
def linspace(
    start: float,
    stop: float,
    count: int,
    *,
    endpoint: bool = True,
    dtype: Any = float32,
    graph: Any = None,
    name: str | None = None,
) -> Tensor:
    """`count` evenly spaced numbers from `start` to `stop`, which is the last unless not
    `endpoint`.

    Raises AttributeValueError for a negative count. As NumPy's linspace.

    Example:
        >>> import niello as nl
        >>> nl.linspace(0.0, 1.0, 5, graph=nl.Graph()).type
        float32[5]
    """
    number = integer("linspace", count, "the count")
    if number < 0:
        raise AttributeValueError("linspace", "the count must not be negative", received=number)
    values = np.linspace(start, stop, number, endpoint=endpoint)
    kind = element_types.dtype(dtype).numpy
    return graph_for("linspace", graph).constant(values.astype(kind), name=name)


@plain_function
def eye(
    rows: int,
    columns: int | None = None,
    *,
    offset: int = 0,
    dtype: Any = float32,
    graph: Any = None,
    name: str | None = None,
) -> Tensor:
    """A matrix with ones on the diagonal that starts `offset` columns to the right, else zeros.

    Raises ShapeError for negative sizes. As NumPy's eye.

    Example:
        >>> import niello as nl
        >>> nl.eye(2, 3, graph=nl.Graph()).type
        float32[2, 3]
    """
    shape = static_shape("eye", (rows, rows if columns is None else columns))
    made = graph_for("eye", graph)
    row: Any = made.apply(Coordinate(shape, 0, int32))
    column: Any = made.apply(Coordinate(shape, 1, int32))
    ones = (column - row).equal(integer("eye", offset, "the offset"))
    return ones.cast(element_types.dtype(dtype), name=name)  # type: ignore[no-any-return]


@plain_function
def full(
    shape: Any, value: Any, *, dtype: Any = None, graph: Any = None, name: str | None = None
) -> Tensor:
    """A tensor of one value, which takes no memory of its own.

    float32 for a Python float, int32 for an int, unless `dtype` says otherwise. Raises ShapeError
    for unknown sizes. As NumPy's full.

    Example:
        >>> import niello as nl
        >>> nl.full((2, 3), 0.5, graph=nl.Graph()).type
        float32[2, 3]
    """
    sizes = static_shape("full", shape)
    return graph_for("full", graph).constant(value, dtype, shape=sizes, name=name)


@function
def full_like(x: Tensor, value: Any, *, dtype: Any = None, name: str | None = None) -> Tensor:
    """A tensor of one value in the shape, and unless said otherwise the dtype, of `x`.

    The values of `x` are not used; its sizes may be unknown. As NumPy's full_like.

    Example:
        >>> import niello as nl
        >>> nl.full_like(nl.Graph().placeholder((None, 3)), 7).type
        float32[?, 3]
    """
    kind = tensor_of("full_like", x).dtype if dtype is None else element_types.dtype(dtype)
    one = x.graph.constant(value, kind)
    if is_static(x):
        return x.graph.constant(value, kind, shape=x.type.static_shape, name=name)
    return one.broadcast_like(x, name=name)  # type: ignore[no-any-return]


@function
def zeros_like(x: Tensor, *, dtype: Any = None, name: str | None = None) -> Tensor:
    """Zeros in the shape, and unless said otherwise the dtype, of `x`. As NumPy's zeros_like.

    Example:
        >>> import niello as nl
        >>> nl.zeros_like(nl.Graph().placeholder((None, 3))).type
        float32[?, 3]
    """
    return full_like(x, 0, dtype=dtype, name=name)


@function
def ones_like(x: Tensor, *, dtype: Any = None, name: str | None = None) -> Tensor:
    """Ones in the shape, and unless said otherwise the dtype, of `x`. As NumPy's ones_like.

    Example:
        >>> import niello as nl
        >>> nl.ones_like(nl.Graph().placeholder((None, 3))).type
        float32[?, 3]
    """
    return full_like(x, 1, dtype=dtype, name=name)


@register
@frozen
class Meshgrid(Op):
    indexing: str
    name: ClassVar[str] = "meshgrid"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "Each vector repeated over the axes of the others: coordinates of a grid. As NumPy."
    )

    def axes(self, count: int) -> list[int]:
        """The axis of each vector."""
        order = list(range(count))
        if self.indexing == "xy" and count > 1:
            order[0], order[1] = 1, 0
        return order

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        for t in inputs:
            if t.rank not in (None, 1):
                raise ShapeError(
                    self.name,
                    "takes vectors",
                    received=show(t.shape),
                    advice="Flatten the tensor first",
                )
        sizes = [None if t.shape is None else t.shape[0] for t in inputs]
        axes = self.axes(len(inputs))
        shape = tuple(sizes[axes.index(a)] for a in range(len(inputs)))
        return tuple(TensorType(shape, t.dtype) for t in inputs)

    def reference(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(np.meshgrid(*arrays, indexing=self.indexing))  # type: ignore[call-overload]

    def grad(
        self,
        gradients: Sequence[Tensor | None],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> Sequence[Tensor | None]:
        axes = self.axes(len(inputs))
        return [
            None if g is None else g.sum([a for a in axes if a != own])
            for g, own in zip(gradients, axes, strict=True)
        ]

    def decompose(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        axes = self.axes(len(inputs))
        shape = self.infer(*(t.type for t in inputs))[0].static_shape
        return tuple(
            t.reshape([-1 if a == own else 1 for a in range(len(inputs))]).broadcast_to(shape)
            if t.type.elements
            else t.graph.constant(0, t.dtype, shape=shape)
            for t, own in zip(inputs, axes, strict=True)
        )

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2), real(3), indexing="ij"),
            sample(real(2), real(3), real(4), indexing="xy"),
            sample(real(2), real(0), indexing="ij"),
            sample(real(3), indexing="xy"),
        ]


@plain_function
def meshgrid(*vectors: Any, indexing: str = "xy", name: str | None = None) -> list[Tensor]:
    """Coordinates of the grid that vectors span: each repeated over the axes of the others.

    With `indexing` "ij" axis n of every result belongs to vector n; with "xy" (NumPy's default) the
    first two are exchanged. Raises ShapeError for what is no vector. As NumPy's meshgrid.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> [t.shape for t in nl.meshgrid(g.placeholder((2,)), g.placeholder((3,)), indexing="ij")]
        [(2, 3), (2, 3)]
    """
    if indexing not in ("xy", "ij"):
        raise AttributeValueError(
            "meshgrid", "indexing is 'xy' or 'ij'", received=repr(indexing), advice="Use 'ij'"
        )
    listed = operands("meshgrid", *vectors)
    found = listed[0].graph.apply(Meshgrid(indexing), *listed, name=name)
    return list(found) if isinstance(found, tuple) else [found]
