"""Scatter: parts combined into data at indices, in every mode, and the functions users call.

Repeated indices are defined: their parts are combined in row-major order, so that with "set" the
last one stays. Sums and products of floats may be associated in another way than from left to
right, the same in every run. Indices outside (places.py) change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import ALL, COMPLEX, FLOATS, NUMBERS, DType, bool_, int32, int64
from niello.core.errors import AttributeValueError, DTypeError, UnsupportedOp
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import (
    IndexBounds,
    Planes,
    Sample,
    function,
    indices,
    not_differentiable,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.ops.coordinate import Coordinate, coordinate_like, ones_like, zeros_like
from niello.ops.define import as_operand, cast_to, check_dtype, graph_of, half_as_float32
from niello.ops.gather import OUTSIDE, Gather, Indexing, ScatterReduce, identity
from niello.ops.indexing import along, gather, index_operand
from niello.ops.movement import apply, integer, integers, known_axis, wide
from niello.ops.places import check_indices, check_parts
from niello.ops.select import where

MODES = ("set", "add", "sub", "mul", "div", "min", "max")
_UPDATE = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "min": np.minimum,
    "max": np.maximum,
}
# How the parts combine among themselves, before they meet the data.
_AMONG = {"add": "add", "sub": "add", "mul": "mul", "div": "mul", "min": "min", "max": "max"}


@register
@frozen
class Scatter(Indexing):
    mode: str
    axis: int
    batch_dims: int
    form: str
    name: ClassVar[str] = "scatter"
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "The first input with the parts of the third combined into it (set, add, sub, mul, div, "
        "min or max) at the indices of the second, in row-major order. As ONNX ScatterND and "
        "ScatterElements."
    )

    def infer(self, x: TensorType, index: TensorType, parts: TensorType) -> TensorType:
        if self.mode != "set":
            allowed = {"div": FLOATS, "add": (*NUMBERS, *COMPLEX), "sub": (*NUMBERS, *COMPLEX)}
            check_dtype(self.name, x.dtype, allowed.get(self.mode, NUMBERS))
        if parts.dtype is not x.dtype:
            raise DTypeError(
                self.name,
                "the updates have another element type than the data",
                received=f"{parts.dtype.name} for {x.dtype.name}",
                advice="Cast them first",
            )
        if x.shape is None:
            check_indices(self.name, None, index, None)
            return x
        found = self.layout(len(x.shape), index)
        check_indices(self.name, x.shape, index, found)
        if found is not None and index.shape is not None:
            check_parts(self.name, found.parts_shape(x.shape, index.shape), parts.shape)
        return x

    def index_bounds(self, *inputs: TensorType) -> Sequence[IndexBounds]:
        return self.bounds(1, *inputs[:2])

    def reference(self, x: np.ndarray, index: np.ndarray, parts: np.ndarray) -> np.ndarray:
        flat, inside = self.known(x.ndim, index).flat(x.shape, index)

        def result(x: np.ndarray, parts: np.ndarray) -> np.ndarray:
            out = x.reshape(-1).copy()
            if self.mode == "set":
                out[flat[inside]] = parts[inside]
            else:
                _UPDATE[self.mode].at(out, flat[inside], parts[inside])
            return out.reshape(x.shape)

        return np.asarray(half_as_float32(result, [x, parts]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        (g,) = gradients
        x, index, parts = inputs
        if self.mode in ("add", "sub"):
            back = self._gather(g, index)
            return [g, None, back if self.mode == "add" else -back]
        if self.mode == "set":
            wins = apply(ScatterWins(self.axis, self.batch_dims, self.form), index, x, parts)
            back = where(wins, self._gather(g, index), zeros_like(parts))
            return [apply(self, g, index, zeros_like(parts)), None, back]
        if self.mode in ("min", "max"):
            return self._extreme_grad(g, x, index, parts, outputs[0])
        product = self._with("mul", ones_like(x), index, parts)
        if self.mode == "div":
            return [g / product, None, -self._gather(g * outputs[0], index) / parts]
        return [g * product, None, self._product_grad(g, x, index, parts)]

    def planes(self, *inputs: Any) -> Any:
        """Complex numbers are set, added and subtracted part by part."""
        x, index, parts = inputs
        if self.mode not in ("set", "add", "sub"):
            raise UnsupportedOp(
                self.name,
                f"complex numbers are not scattered with mode {self.mode!r}",
                received=self.mode,
                advice="Use set, add or sub",
            )
        return Planes(
            apply(self, x.real, index, parts.real), apply(self, x.imaginary, index, parts.imaginary)
        )

    def _gather(self, x: Tensor, index: Tensor) -> Tensor:
        return apply(Gather(self.axis, self.batch_dims, self.form), x, index)

    def _with(self, mode: str, x: Tensor, index: Tensor, parts: Tensor) -> Tensor:
        return apply(Scatter(mode, self.axis, self.batch_dims, self.form), x, index, parts)

    def _extreme_grad(
        self, g: Tensor, x: Tensor, index: Tensor, parts: Tensor, y: Tensor
    ) -> Sequence[Tensor | None]:
        """All that equal the extreme share its gradient evenly."""
        kept, taken = x.equal(y), parts.equal(self._gather(y, index))
        hits = self._with("add", kept.cast(g.dtype), index, taken.cast(g.dtype))
        share = g / hits.maximum(1)
        mine = where(kept, share, zeros_like(x))
        return [mine, None, where(taken, self._gather(share, index), zeros_like(parts))]

    def _product_grad(self, g: Tensor, x: Tensor, index: Tensor, parts: Tensor) -> Tensor:
        """g times the product of all the others: right with zeros among the parts, too."""
        zero = parts.equal(0)
        others = where(zero, ones_like(parts), parts)
        zeros = self._with("add", zeros_like(x), index, zero.cast(g.dtype))
        most = self._with("mul", x, index, others)
        count = self._gather(zeros, index)
        alone = where(zero, count.equal(1), count.equal(0))
        return where(alone, self._gather(g * most, index) / others, zeros_like(parts))

    def decompose(self, x: Tensor, index: Tensor, parts: Tensor) -> Tensor:
        if self.mode == "set":
            return self._replaced(x, index, parts)
        op = ScatterReduce(
            _AMONG[self.mode], self.axis, self.batch_dims, self.form, x.type.static_shape
        )
        total, start = apply(op, wide(parts), index), wide(x)
        if self.mode in ("min", "max"):
            made = start.minimum(total) if self.mode == "min" else start.maximum(total)
        elif self.mode in ("add", "sub"):
            made = start + total if self.mode == "add" else start - total
        else:
            made = start * total if self.mode == "mul" else start / total
        return cast_to(made, x.dtype)

    def _replaced(self, x: Tensor, index: Tensor, parts: Tensor) -> Tensor:
        """Each element reads the last part that hits it: no part is moved twice."""
        shape, found = x.type.static_shape, self.layout(x.rank or 0, index.type)
        assert found is not None
        last = apply(_winner(found.form, self, shape, index), _numbers(found, index), index)
        if found.form == "along":
            rest = [
                (0, 0 if a == found.axis else whole - part)
                for a, (whole, part) in enumerate(zip(shape, parts.type.static_shape, strict=True))
            ]
            full = parts.pad(rest) if any(after for _, after in rest) else parts
            taken = apply(Gather(found.axis, found.batch, "along"), full, last)
            return where(last >= 0, taken, x)
        end = found.axis + found.chosen
        sizes = parts.type.static_shape
        rows = parts.reshape(
            (*sizes[: found.axis], int(np.prod(sizes[found.axis : end])), *sizes[end:])
        )
        taken = apply(Gather(found.axis, found.batch, "slices"), rows, last)
        indexed = shape[found.axis : found.axis + found.depth]
        after = len(shape) - found.axis - found.depth
        seen = last.reshape(
            (*shape[: found.batch], *[1] * (found.axis - found.batch), *indexed, *[1] * after)
        )
        return where((seen >= 0).broadcast_to(shape), taken, x)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(mode: str, *inputs: Any, form: str = "slices", axis: int = 0, batch: int = 0,
                dtypes: tuple[DType, ...] = NUMBERS) -> Sample:  # fmt: skip
            kinds = FLOATS if mode == "div" else dtypes
            return sample(*inputs, mode=mode, axis=axis, batch_dims=batch, form=form, dtypes=kinds)

        twice = np.array([1, 0, 1, -1], np.int32)
        points = np.array([[0, 1], [-2, 1], [1, -3], [2, 0]], np.int32)
        away = real(4, 3, low=1, high=3)
        return [
            one("set", real(5, 3), twice, real(4, 3), dtypes=(*ALL, *COMPLEX)),
            one("sub", real(5, 3), twice, real(4, 3), dtypes=COMPLEX),
            *(one(mode, real(3, 3, low=1, high=3), twice, away) for mode in MODES[1:]),
            one("set", real(5, 2), OUTSIDE, real(3, 2, 2)),
            one("set", real(2, 4, 3), twice, real(2, 4, 3), axis=1),
            one("set", real(2, 5, 3), indices(2, 4, high=5), real(2, 4, 3), axis=1, batch=1),
            one("add", real(2, 3, 5), indices(4, high=5), real(2, 3, 4), axis=-1),
            one("set", real(2, 3), points, real(4), form="points"),
            one("mul", real(2, 3), points, real(4, low=1, high=2), form="points"),
            one("set", real(3, 4), indices(2, 1, high=3), real(2, 4), form="points"),
            one("set", real(5, 3), OUTSIDE, real(3, 2), form="along"),
            one("max", real(5, 3), OUTSIDE, real(3, 2), form="along"),
            one("add", real(2, 3, 4), indices(2, 5, 4, high=3), real(2, 5, 4), form="along", axis=1,
                batch=1),
            one("set", real(3, 2), indices(0, high=3), real(0, 2)),
            one("set", real(0, 2), indices(3, high=3), real(3, 2)),
            one("set", real(3, 2), indices(high=3), real(2)),
        ]  # fmt: skip


def _winner(form: str, op: Indexing, shape: Sequence[int], index: Tensor) -> ScatterReduce:
    """What finds, for each indexed place, the number of the last part that hits it."""
    rank = len(shape)
    found = op.layout(rank, index.type)
    assert found is not None
    if form == "along":
        return ScatterReduce("max", found.axis, found.batch, "along", tuple(shape))
    places = (*shape[: found.batch], *shape[found.axis : found.axis + found.depth])
    return ScatterReduce("max", found.batch, found.batch, form, places)


def _numbers(found: Any, index: Tensor) -> Tensor:
    """The number of each index among those that are chosen together, in row-major order."""
    sizes = index.type.static_shape
    if found.form == "along":
        kind = int32 if sizes[found.axis] < 2**31 else int64
        return coordinate_like(index, found.axis, dtype=kind)
    lead, chosen = sizes[: found.batch], sizes[found.batch : found.batch + found.chosen]
    total = int(np.prod(chosen))
    op = Coordinate((*lead, total), len(lead), int32 if total < 2**31 else int64)
    numbers: Any = index.graph.apply(op)
    return numbers.reshape((*lead, *chosen))  # type: ignore[no-any-return]


@register
@frozen
class ScatterWins(Indexing):
    """Which parts of a scatter that sets are not overwritten by a later one."""

    axis: int
    batch_dims: int
    form: str
    name: ClassVar[str] = "scatter_wins"
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "True for each element of the third input that, set at the indices of the first, stays in "
        "data of the second's shape; only the shapes of the two matter."
    )
    grad = not_differentiable("its input holds indices")

    def infer(self, index: TensorType, x: TensorType, parts: TensorType) -> TensorType:
        found = None if x.shape is None else self.layout(len(x.shape), index)
        check_indices(self.name, x.shape, index, found)
        if found is not None and x.shape is not None and index.shape is not None:
            check_parts(self.name, found.parts_shape(x.shape, index.shape), parts.shape)
        return TensorType(parts.shape, bool_)

    def reference(self, index: np.ndarray, x: np.ndarray, parts: np.ndarray) -> np.ndarray:
        flat, inside = self.known(x.ndim, index).flat(x.shape, index)
        last: dict[int, int] = {}
        for number, (place, valid) in enumerate(zip(flat.flat, inside.flat, strict=True)):
            if valid:
                last[int(place)] = number
        out = np.zeros(parts.size, bool)
        out[list(last.values())] = True
        return out.reshape(parts.shape)

    def decompose(self, index: Tensor, x: Tensor, parts: Tensor) -> Tensor:
        shape, found = x.type.static_shape, self.layout(x.rank or 0, index.type)
        assert found is not None
        numbers = _numbers(found, index)
        op = _winner(found.form, self, shape, index)
        wins = op.gather(apply(op, numbers, index), index).equal(numbers)
        # Indices outside read 0, which is a number: they win nothing.
        ones = index.graph.constant(True, shape=op.shape)
        wins = wins.logical_and(op.gather(ones, index))
        if found.form == "along":
            return wins  # type: ignore[no-any-return]
        sizes, end = parts.type.static_shape, found.axis + found.chosen
        lead = [1] * (found.axis - found.batch)
        line = (*sizes[: found.batch], *lead, *sizes[found.axis : end], *[1] * len(sizes[end:]))
        return wins.reshape(line).broadcast_to(sizes)  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        twice = np.array([1, 0, 1, -1], np.int32)

        def one(*inputs: Any, form: str = "slices", axis: int = 0) -> Sample:
            return sample(*inputs, form=form, axis=axis, batch_dims=0, grad=False)

        return [
            one(twice, real(3, 2), real(4, 2)),
            one(OUTSIDE, real(5, 2), real(3, 2, 2)),
            one(twice, real(2, 3), real(2, 4), axis=1),
            one(OUTSIDE, real(5, 2), real(3, 2), form="along"),
            one(np.array([[0, 1], [1, 0], [0, 1]], np.int32), real(2, 2), real(3), form="points"),
        ]


def combined_gradient(
    op: ScatterReduce, g: Tensor, parts: Tensor, index: Tensor, y: Tensor
) -> Tensor:
    """The gradient of scatter_reduce for its parts."""
    if op.combine == "add":
        return op.gather(g, index)
    mode = Scatter(op.combine, op.axis, op.batch_dims, op.form)
    start = g.graph.constant(identity(op.combine, g.dtype.numpy), g.dtype, shape=op.shape)
    found = mode.grad((g,), (start, index, parts), (y,))[2]
    assert found is not None
    return found


# --- published
Data = Any  # a tensor, or the shape of data that hold the identity of the mode


def _scatter(
    asked: str,
    form: str,
    x: Data,
    indices: Any,
    updates: Any,
    axis: int,
    batch_dims: int,
    mode: str,
    name: str | None,
) -> Tensor:
    """Check what the three forms share, and apply the op."""
    if mode not in MODES:
        raise AttributeValueError(
            asked,
            "there is no such mode",
            received=repr(mode),
            advice=f"Use one of {', '.join(MODES)}",
        )
    graph = graph_of(asked, x, indices, updates)
    if not isinstance(x, Tensor):
        parts = graph.as_tensor(updates)
        check_dtype(asked, parts.dtype, ALL if mode == "set" else NUMBERS)
        start = 0 if mode == "set" else identity(_AMONG[mode], parts.dtype.numpy)
        sizes = integers(asked, x, "a size")
        x = graph.constant(np.asarray(start, parts.dtype.numpy), parts.dtype, shape=sizes)
    else:
        parts = as_operand(asked, x, updates)
    index = index_operand(asked, x, indices)
    if form == "along":
        index, axis = along(asked, x, indices, axis)
        batch_dims = axis
    where = known_axis(asked, axis, x.rank)
    batch = integer(asked, batch_dims, "the number of batch axes")
    if parts.rank == 0 and index.type.is_static and x.type.is_static:
        found = Scatter(mode, where, batch, form).layout(x.rank or 0, index.type)
        if found is not None:  # one number for all places
            wanted = found.parts_shape(x.type.static_shape, index.type.static_shape)
            parts = parts.broadcast_to(wanted) if wanted else parts
    return apply(Scatter(mode, where, batch, form), x, index, parts, name=name)


@function
def scatter(
    x: Data,
    indices: Any,
    updates: Any,
    axis: int = 0,
    *,
    batch_dims: int = 0,
    mode: str = "set",
    name: str | None = None,
) -> Tensor:
    """`x` with slices of `updates` written, or combined, where `gather` would have taken them.

    `updates` has the shape of `gather(x, indices, axis, batch_dims=batch_dims)`, or is one number.
    `mode` is "set", "add", "sub", "mul", "div" (floats only), "min" or "max". Where an index is
    repeated, its slices are combined in row-major order: the last one that is set stays, and sums
    of floats are the same in every run (GPUs may bracket them differently). Negative indices count
    from the end; slices for indices outside are dropped.

    A shape in place of `x` stands for data that hold the identity of the mode: 0 for set, add and
    sub, 1 for mul and div, the largest (smallest) value for min (max).

    Gradients: those of min and max go evenly to all that equal the result. Raises
    AttributeValueError for an unknown mode, DTypeError and ShapeError for tensors that do not fit.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> rows = g.placeholder((None,), nl.int32)
        >>> nl.scatter(g.placeholder((10, 4)), rows, g.placeholder((None, 4)), mode="add").shape
        (10, 4)
    """
    return _scatter("scatter", "slices", x, indices, updates, axis, batch_dims, mode, name)


@function
def scatter_nd(
    x: Data,
    indices: Any,
    updates: Any,
    *,
    batch_dims: int = 0,
    mode: str = "set",
    name: str | None = None,
) -> Tensor:
    """`x` with `updates` written, or combined, where `gather_nd` would have taken them.

    The last axis of `indices` holds the coordinates of a point or slice. Modes, repeated indices,
    indices outside and a shape in place of `x`: as `scatter`. As ONNX's ScatterND.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> points = g.placeholder((7, 2), nl.int32)
        >>> nl.scatter_nd((4, 5, 6), points, g.placeholder((7, 6)), mode="add").shape
        (4, 5, 6)
    """
    return _scatter("scatter_nd", "points", x, indices, updates, batch_dims, batch_dims, mode, name)


@function
def scatter_along_axis(
    x: Data,
    indices: Any,
    updates: Any,
    axis: int = -1,
    *,
    mode: str = "set",
    name: str | None = None,
) -> Tensor:
    """`x` with each element of `updates` written, or combined, at its index along `axis`.

    The counterpart of `gather_along_axis`: updates and indices have one shape, which along the
    other axes may be shorter than `x`. Modes, repeated indices, indices outside and a shape in
    place of `x`: as `scatter`. As PyTorch's scatter and ONNX's ScatterElements.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> index = g.placeholder((8, 3), nl.int32)
        >>> nl.scatter_along_axis(g.placeholder((8, 10)), index, g.placeholder((8, 3))).shape
        (8, 10)
    """
    return _scatter("scatter_along_axis", "along", x, indices, updates, axis, 0, mode, name)


@function
def put_along_axis(
    x: Tensor, indices: Any, values: Any, axis: int = -1, *, name: str | None = None
) -> Tensor:
    """`x` with `values` set at `indices` along `axis`; NumPy's name of `scatter_along_axis`.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.put_along_axis(g.placeholder((2, 3)), [[0], [2]], 1.0).shape
        (2, 3)
    """
    return scatter_along_axis(x, indices, values, axis, name=name)


@function
def index_add(
    x: Tensor, axis: int, indices: Any, updates: Any, *, alpha: Any = 1, name: str | None = None
) -> Tensor:
    """`x` with `alpha` times the slices of `updates` added at `indices` along `axis`.

    Repeated indices add up. As PyTorch's index_add; see `scatter`.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.index_add(g.placeholder((5, 3)), 0, [0, 4, 0], g.placeholder((3, 3))).shape
        (5, 3)
    """
    scaled = updates if isinstance(alpha, int) and alpha == 1 else updates * alpha
    return scatter(x, indices, scaled, axis, mode="add", name=name)


@function
def index_copy(
    x: Tensor, axis: int, indices: Any, updates: Any, *, name: str | None = None
) -> Tensor:
    """`x` with the slices of `updates` in place of those at `indices` along `axis`.

    Of repeated indices the last one stays. As PyTorch's index_copy; see `scatter`.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.index_copy(g.placeholder((5, 3)), 0, [0, 4], g.placeholder((2, 3))).shape
        (5, 3)
    """
    return scatter(x, indices, updates, axis, name=name)


@function
def index_fill(
    x: Tensor, axis: int, indices: Any, value: Any, *, name: str | None = None
) -> Tensor:
    """`x` with one value in the slices at `indices` along `axis`. As PyTorch's index_fill.

    Example:
        >>> import niello as nl
        >>> nl.index_fill(nl.Graph().placeholder((5, 3)), 0, [0, 4], 1.0).shape
        (5, 3)
    """
    filled = x.graph.as_tensor(value, dtype=x.dtype).broadcast_like(gather(x, indices, axis))
    return scatter(x, indices, filled, axis, name=name)
