"""Parts of tensors: strided slices, and putting a part back in its place (their gradient)."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.errors import AttributeValueError, DTypeError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, merge_shapes, show
from niello.core.types import TensorType
from niello.graph.opdef import Sample, Trait, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import as_operand
from niello.ops.movement import (
    LikeOp,
    Movement,
    apply,
    integer,
    integers,
    known_axis,
    sizes_tensor,
    tensor_of,
    zeros_like,
)

Bound = int | None


@frozen
class _Window:
    """One slice per listed axis, with Python's meaning of start, end and stride."""

    axes: tuple[int, ...]
    starts: tuple[Bound, ...]
    ends: tuple[Bound, ...]
    strides: tuple[int, ...]

    def parts(self, rank: int) -> dict[int, builtins.slice]:
        """The slice of each sliced axis."""
        return {
            known_axis("slice", axis, rank): builtins.slice(start, end, stride)
            for axis, start, end, stride in zip(
                self.axes, self.starts, self.ends, self.strides, strict=True
            )
        }

    def runs(self, shape: Sequence[int]) -> dict[int, range]:
        """The positions each sliced axis takes."""
        return {a: range(shape[a])[s] for a, s in self.parts(len(shape)).items()}

    def key(self, rank: int) -> tuple[builtins.slice, ...]:
        """For NumPy."""
        parts = self.parts(rank)
        return tuple(parts.get(a, builtins.slice(None)) for a in range(rank))

    def result(self, shape: Sequence[Dim]) -> list[Dim]:
        """The shape of the window of a tensor of `shape`."""
        sizes = list(shape)
        for axis, part in self.parts(len(shape)).items():
            size = shape[axis]
            if size is not None:
                sizes[axis] = len(range(size)[part])
            elif part != builtins.slice(None, None, 1) and part != builtins.slice(None, None, -1):
                sizes[axis] = _unknown_length(part)
        return sizes

    def specialised(self, shape: Sequence[int]) -> _Window:
        """The same window with non-negative axes and no more than is needed to say it."""
        runs = {
            a: r if len(r) else range(0)
            for a, r in self.runs(shape).items()
            if r != range(shape[a])
        }
        axes = tuple(sorted(runs))
        steps = tuple(runs[a].step for a in axes)
        # A negative stride that reaches position 0 ends "before it": None, as -1 is the last one.
        ends = tuple(r.stop if r.stop >= 0 else None for r in (runs[a] for a in axes))
        return _Window(axes, tuple(runs[a].start for a in axes), ends, steps)


def _unknown_length(part: builtins.slice) -> Dim:
    """Length of a slice of an axis of unknown size, in the cases where that can be told."""
    if part.start == -1 and part.stop is None and part.step == 1:
        return None  # 1, or 0 when the axis is empty
    empty = (
        part.step > 0
        and part.start is not None
        and part.stop is not None
        and (part.start >= 0) == (part.stop >= 0)
        and part.stop <= part.start
    )
    return 0 if empty else None


class Windowed(Movement):
    """Base of ops that address a strided window."""

    axes: tuple[int, ...]
    starts: tuple[Bound, ...]
    ends: tuple[Bound, ...]
    strides: tuple[int, ...]

    @property
    def window(self) -> _Window:
        return _Window(self.axes, self.starts, self.ends, self.strides)


@register
@frozen
class Slice(Windowed):
    axes: tuple[int, ...]
    starts: tuple[Bound, ...]
    ends: tuple[Bound, ...]
    strides: tuple[int, ...]
    name: ClassVar[str] = "slice"
    doc: ClassVar[str] = (
        "Every stride-th element from start up to end along the listed axes, with Python's meaning "
        "of negative and absent bounds. As ONNX Slice."
    )

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(None if x.shape is None else self.window.result(x.shape), x.dtype)

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        (x,) = inputs
        w = self.window.specialised(x.type.static_shape)
        return None if w == self.window else take(x, w)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x[self.window.key(x.ndim)]

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [place_like(gradients[0], inputs[0], self.window)]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        source = list(index)
        for axis, run in self.window.runs(x.shape).items():
            source[axis] = _at(k, run, index[axis])
        return x(*source)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(*bounds: Any, shape: tuple[int, ...] = (5, 4)) -> Sample:
            axes, starts, ends, strides = bounds
            return sample(real(*shape), axes=axes, starts=starts, ends=ends, strides=strides)

        return [
            one((0,), (1,), (4,), (1,)),
            one((0, 1), (0, -2), (None, None), (2, 1)),
            one((0,), (None,), (None,), (-1,)),
            one((-1, 0), (3, 4), (0, 0), (-1, -2)),
            one((0,), (1,), (100,), (3,)),
            one((0,), (4,), (2,), (1,)),
            one((1,), (0,), (2,), (1,), shape=(0, 4)),
            one((), (), (), ()),
        ]


def _at(k: Builder, run: range, position: Expr) -> Expr:
    """The element of `run` at `position`."""
    if run.step < 0:
        return k.index(run.start) - position * -run.step
    return position * run.step + run.start


def window(
    asked: str, starts: Any, ends: Any, strides: Any, axes: Any, rank: int | None
) -> _Window:
    """Check and normalise what a user says of a window."""
    first, last = _bounds(asked, starts, "a start"), _bounds(asked, ends, "an end")
    steps = (1,) * len(first) if strides is None else integers(asked, strides, "a stride")
    where = tuple(range(len(first))) if axes is None else integers(asked, axes, "an axis")
    if not len(first) == len(last) == len(steps) == len(where):
        raise AttributeValueError(
            asked,
            "starts, ends, strides and axes differ in number",
            received=f"{len(first)} starts, {len(last)} ends, {len(steps)} strides, "
            f"{len(where)} axes",
            advice="Give one of each for each sliced axis",
        )
    if 0 in steps:
        raise AttributeValueError(asked, "a stride must not be 0", received=list(steps))
    where = tuple(known_axis(asked, a, rank) for a in where)
    if len(set(where)) != len(where):
        raise ShapeError(asked, "an axis is given twice", received=list(where))
    return _Window(where, first, last, steps)


def _bounds(asked: str, value: Any, what: str) -> tuple[Bound, ...]:
    listed = value if isinstance(value, Iterable) else (value,)
    return tuple(None if v is None else integer(asked, v, what) for v in listed)


@function
def slice(
    x: Tensor,
    starts: Any,
    ends: Any,
    strides: Any = None,
    *,
    axes: Any = None,
    name: str | None = None,
) -> Tensor:
    """Every stride-th element of `x` from start up to (without) end, along each of `axes`.

    Bounds mean what they mean in Python: negative ones count from the end, None leaves a side open,
    positions outside are cut off; strides may be negative. `axes` defaults to the first ones.
    Bounds may be tensors, as the sizes of `reshape` (`dynamic_slice` takes any start).
    Raises AttributeValueError for a stride of 0 and ShapeError for unknown axes. As ONNX Slice.

    Example:
        >>> import niello as nl
        >>> nl.slice(nl.Graph().placeholder((5, 4)), [4], [None], [-2], axes=[0]).shape
        (3, 4)
    """
    bounds = [sizes_tensor("slice", b) for b in (starts, ends, strides)]
    if any(b is not None for b in bounds):
        from niello.ops.by_value import slice_by

        return slice_by(x, [starts, ends, strides], bounds, axes, name)
    w = window("slice", starts, ends, strides, axes, tensor_of("slice", x).rank)
    return take(x, w, name=name)


def take(x: Tensor, w: _Window, *, name: str | None = None) -> Tensor:
    """The window `w` of `x`."""
    if x.type.is_static:
        w = w.specialised(x.type.static_shape)
        if not w.axes and name is None:
            return x
    return apply(Slice(w.axes, w.starts, w.ends, w.strides), x, name=name)


@register
@frozen
class Place(Movement):
    """The way back of a slice: zeros of `shape`, with the input in a window of it."""

    shape: tuple[int, ...]
    part: tuple[int, ...]  # the shape of the input
    starts: tuple[int, ...]
    strides: tuple[int, ...]
    name: ClassVar[str] = "place"
    doc: ClassVar[str] = (
        "Zeros of a shape, with the input's element i at start + i * stride: the gradient of slice."
    )

    def runs(self) -> list[range]:
        """The positions that the input takes along each axis."""
        return [
            range(start, start + size * stride, stride)
            for size, start, stride in zip(self.part, self.starts, self.strides, strict=True)
        ]

    def infer(self, x: TensorType) -> TensorType:
        merge_shapes(x.shape, self.part, self.name)
        for run, size in zip(self.runs(), self.shape, strict=True):
            if len(run) and (min(run) < 0 or max(run) >= size):
                raise ShapeError(
                    self.name,
                    "the part does not fit into the whole",
                    received=f"{show(self.part)} into {show(self.shape)}",
                    advice=f"It starts at {list(self.starts)} and goes by {list(self.strides)}",
                )
        return TensorType(self.shape, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        out = np.zeros(self.shape, x.dtype)
        if self.shape and x.size:
            out[np.ix_(*self.runs())] = x
        return out if self.shape else x

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        runs = [run if len(run) else range(0) for run in self.runs()]
        w = _Window(
            tuple(range(len(runs))),
            tuple(run.start for run in runs),
            tuple(run.stop if run.stop >= 0 else None for run in runs),
            tuple(run.step for run in runs),
        )
        return [take(gradients[0], w)]

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        whole = self.part == self.shape and all(s == 1 for s in self.strides)
        return inputs[0] if whole else None

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        inside: list[Expr] = []
        source = list(index)
        for axis, (run, whole) in enumerate(zip(self.runs(), self.shape, strict=True)):
            if run != range(whole):
                source[axis] = _position(k, index[axis], run, whole, inside)
        return k.guarded(k.all_of(*inside), lambda: x(*source), 0)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3), shape=(4, 3), part=(2, 3), starts=(1, 0), strides=(1, 1)),
            sample(real(2, 3), shape=(4, 6), part=(2, 3), starts=(1, 0), strides=(2, 2)),
            sample(real(2, 3), shape=(4, 7), part=(2, 3), starts=(3, 5), strides=(-1, -2)),
            sample(real(0, 3), shape=(4, 3), part=(0, 3), starts=(0, 0), strides=(1, 1)),
            sample(real(2, 3), shape=(2, 3), part=(2, 3), starts=(0, 0), strides=(1, 1)),
        ]


def _position(k: Builder, i: Expr, run: range, whole: int, inside: list[Expr]) -> Expr:
    """Where in `run` the position `i` is; appends the conditions under which it is in it."""
    if len(run) == 0:
        inside.append(k.all_of(i < 0))
        return k.index(0)
    low, high, step = min(run), max(run), abs(run.step)
    if low > 0:
        inside.append(i >= low)
    if high < whole - 1:
        inside.append(i <= high)
    distance = i - run.start if run.step > 0 else k.index(run.start) - i
    if step == 1 or len(run) == 1:
        if len(run) == 1 and low == 0 and high == whole - 1:
            return k.index(0)
        return distance
    inside.append((distance % step).eq(0))
    return distance // step


@register
@frozen
class PlaceLike(LikeOp):
    axes: tuple[int, ...]
    starts: tuple[Bound, ...]
    ends: tuple[Bound, ...]
    strides: tuple[int, ...]
    name: ClassVar[str] = "place_like"
    doc: ClassVar[str] = (
        "Zeros in the shape of the second input, with the first in the window: gradient of slice."
    )

    def _window(self) -> _Window:
        return _Window(self.axes, self.starts, self.ends, self.strides)

    def infer(self, x: TensorType, like: TensorType) -> TensorType:
        if like.is_static and x.shape is not None:
            wanted = self._window().result(like.static_shape)
            if len(wanted) != len(x.shape) or any(
                d is not None and d != w for d, w in zip(x.shape, wanted, strict=True)
            ):
                raise ShapeError(
                    self.name,
                    "the part does not have the shape of the window",
                    received=show(x.shape),
                    advice=f"The window has {show(tuple(wanted))}",
                )
        return TensorType(like.shape, x.dtype)

    def reference(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        out = np.zeros(like.shape, x.dtype)
        out[self._window().key(like.ndim)] = x
        return out

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        return [take(gradients[0], self._window()), None]

    def decompose(self, x: Tensor, like: Tensor) -> Tensor:
        return _place(x, like.type.static_shape, self._window())

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 4), real(5, 4), axes=(0,), starts=(1,), ends=(3,), strides=(1,)),
            sample(real(3, 4), real(5, 4), axes=(0,), starts=(None,), ends=(None,), strides=(-2,)),
            sample(real(5, 1), real(5, 4), axes=(-1,), starts=(-1,), ends=(None,), strides=(1,)),
            sample(real(0, 4), real(5, 4), axes=(0,), starts=(3,), ends=(3,), strides=(1,)),
        ]


def _place(x: Tensor, shape: Sequence[int], w: _Window) -> Tensor:
    runs = w.runs(shape)
    starts = tuple(runs[a].start if a in runs and len(runs[a]) else 0 for a in range(len(shape)))
    strides = tuple(runs[a].step if a in runs else 1 for a in range(len(shape)))
    if x.shape == tuple(shape) and all(s == 1 for s in strides):
        return x
    return apply(Place(tuple(shape), x.type.static_shape, starts, strides), x)


def place_like(x: Tensor, like: Tensor, w: _Window) -> Tensor:
    """Zeros in the shape of `like`, with `x` in its window `w`."""
    if like.type.is_static and x.type.is_static:
        return _place(x, like.type.static_shape, w)
    return apply(PlaceLike(w.axes, w.starts, w.ends, w.strides), x, like)


@register
@frozen
class SliceUpdate(Windowed):
    axes: tuple[int, ...]
    starts: tuple[Bound, ...]
    ends: tuple[Bound, ...]
    strides: tuple[int, ...]
    name: ClassVar[str] = "slice_update"
    traits: ClassVar[Trait] = Trait.MOVEMENT | Trait.MANY_SOURCES
    doc: ClassVar[str] = "The first input with the second written into a strided window of it."

    def infer(self, x: TensorType, update: TensorType) -> TensorType:
        if x.dtype is not update.dtype:
            raise DTypeError(
                self.name,
                "the update has another element type",
                received=f"{x.dtype.name} and {update.dtype.name}",
            )
        if x.shape is not None and update.shape is not None:
            wanted = self.window.result(x.shape)
            if len(wanted) != len(update.shape) or any(
                None not in (a, b) and a != b for a, b in zip(wanted, update.shape, strict=True)
            ):
                raise ShapeError(
                    self.name,
                    "the update does not have the shape of the window",
                    received=show(update.shape),
                    advice=f"The window has {show(tuple(wanted))}",
                )
        return x

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        x, update = inputs
        w = self.window.specialised(x.type.static_shape)
        if w == self.window:
            return None
        return apply(SliceUpdate(w.axes, w.starts, w.ends, w.strides), x, update)

    def reference(self, x: np.ndarray, update: np.ndarray) -> np.ndarray:
        out = x.copy()
        out[self.window.key(x.ndim)] = update
        return out

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        part = take(gradients[0], self.window)
        return [apply(self, gradients[0], zeros_like(inputs[1])), part]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        x, update = inputs
        inside: list[Expr] = []
        source = list(index)
        for axis, run in self.window.runs(x.shape).items():
            source[axis] = _position(k, index[axis], run, x.shape[axis], inside)
        return k.guarded(k.all_of(*inside), lambda: update(*source), x(*index))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(5, 4), real(2, 4), axes=(0,), starts=(1,), ends=(3,), strides=(1,)),
            sample(
                real(5, 4),
                real(3, 2),
                axes=(0, 1),
                starts=(None, 0),
                ends=(None, 4),
                strides=(-2, 2),
            ),
            sample(real(5, 4), real(0, 4), axes=(0,), starts=(3,), ends=(3,), strides=(1,)),
            sample(real(2), real(2), axes=(), starts=(), ends=(), strides=()),
        ]


@function
def slice_update(
    x: Tensor,
    update: Any,
    starts: Any,
    ends: Any,
    strides: Any = None,
    *,
    axes: Any = None,
    name: str | None = None,
) -> Tensor:
    """`x` with `update` in place of the window that `slice` with the same bounds takes.

    The update must have the shape and dtype of the window. Raises ShapeError otherwise.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.slice_update(g.placeholder((5,)), g.placeholder((2,)), [1], [3]).shape
        (5,)
    """
    w = window("slice_update", starts, ends, strides, axes, tensor_of("slice_update", x).rank)
    new = as_operand("slice_update", x, update)
    return apply(SliceUpdate(w.axes, w.starts, w.ends, w.strides), x, new, name=name)
