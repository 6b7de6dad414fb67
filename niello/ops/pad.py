"""Padding: constant, reflect, symmetric, edge and wrap, as NumPy's pad names them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import ALL, DType
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, show
from niello.core.types import TensorType
from niello.graph.opdef import Planes, Sample, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.coordinate import full_like
from niello.ops.define import check_dtype
from niello.ops.movement import Movement, apply, integers, known_axis, tensor_of
from niello.ops.slice import place_like, window

MODES = ("constant", "reflect", "symmetric", "edge", "wrap")
# Names of other libraries, and "antiperiodic", which wraps around with the sign changed.
ALIASES = {
    "zero": "constant",
    "replicate": "edge",
    "clamp": "edge",
    "circular": "wrap",
    "periodic": "wrap",
}
ANTIPERIODIC = "antiperiodic"


def _map(k: Builder, mode: str, i: Expr, size: int) -> Expr:
    """The position inside the axis that position `i`, inside or outside of it, shows."""
    if mode == "edge":
        return k.max(k.min(i, size - 1), 0)
    if mode == "wrap":
        return i % size
    # Positions mirrored in the first element (reflect), or in the border before it (symmetric).
    border = 0 if mode == "reflect" else -1
    low = k.where(i < 0, border - i, i)
    return k.where(low >= size, (2 * size - 2 - border) - low, low)


@register
@frozen
class Pad(Movement):
    before: tuple[int, ...]  # one for each axis
    after: tuple[int, ...]
    mode: str
    value: float
    name: ClassVar[str] = "pad"
    dtypes: ClassVar[tuple[DType, ...]] = ALL
    doc: ClassVar[str] = (
        "The tensor with elements added before and after along each axis: a constant, or its own "
        "by the modes reflect, symmetric, edge and wrap. As NumPy pad."
    )

    def infer(self, x: TensorType) -> TensorType:
        rank = len(self.before)
        if x.shape is None:
            return TensorType((None,) * rank, x.dtype)
        if len(x.shape) != rank:
            raise ShapeError(
                self.name,
                f"padding for {rank} axes does not fit rank {len(x.shape)}",
                received=show(x.shape),
                advice="Give one (before, after) pair for each axis",
            )
        sizes: list[Dim] = []
        for axis, (size, a, b) in enumerate(zip(x.shape, self.before, self.after, strict=True)):
            sizes.append(None if size is None else size + a + b)
            if size is not None:
                self._check(axis, size, max(a, b))
        return TensorType(sizes, x.dtype)

    def _check(self, axis: int, size: int, width: int) -> None:
        limit = {"reflect": max(size - 1, 0), "symmetric": size, "wrap": size}.get(self.mode)
        if self.mode == "edge" and size == 0:
            limit = 0
        if limit is not None and width > limit:
            raise ShapeError(
                self.name,
                f"{self.mode} padding of axis {axis}, of size {size}, can add at most {limit}",
                received=width,
                advice="Pad less, or use mode 'edge' or 'constant'",
                axis=axis,
            )

    def reference(self, x: np.ndarray) -> np.ndarray:
        widths = list(zip(self.before, self.after, strict=True))
        if self.mode == "constant":
            fill = np.asarray(self.value).astype(x.dtype)
            return np.pad(x, widths, constant_values=fill) if widths else x
        return np.pad(x, widths, mode=self.mode) if widths else x  # type: ignore[call-overload,no-any-return]

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        g = gradients[0]
        for axis, (before, after) in enumerate(zip(self.before, self.after, strict=True)):
            if before or after:
                g = self._unpad(g, axis, before, after)
        return [g]

    def _unpad(self, g: Tensor, axis: int, before: int, after: int) -> Tensor:
        """The gradient along one axis: the middle, plus the added parts where they came from."""
        middle: Tensor = g.slice([before], [-after or None], axes=[axis])
        if self.mode == "constant":
            return middle
        total = middle
        parts = [(g.slice([0], [before], axes=[axis]), True, before)]
        parts.append((g.slice([-after], [None], axes=[axis]), False, after))
        for part, first, width in parts:
            if not width:
                continue
            if self.mode in ("reflect", "symmetric"):
                part = part.slice([None], [None], [-1], axes=[axis])
            elif self.mode == "edge":
                part = part.sum(axis, True)
            start, end = self._origin(first, width)
            there = window("pad", [start], [end], None, [axis], g.rank)
            total = total + place_like(part, middle, there)
        return total

    def _origin(self, first: bool, width: int) -> tuple[int | None, int | None]:
        """Where along the axis the part added at the front (or at the end) was taken from."""
        if self.mode == "edge":
            return (0, 1) if first else (-1, None)
        if self.mode == "wrap":
            return (-width, None) if first else (0, width)
        skip = 1 if self.mode == "reflect" else 0
        return (skip, width + skip) if first else (-width - skip, -skip or None)

    def planes(self, z: Planes) -> Planes:
        without = dataclasses.replace(self, value=0.0)
        return Planes(apply(self, z.real), apply(without, z.imaginary))

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        return None if any(self.before) or any(self.after) else inputs[0]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        (x,) = inputs
        inside: list[Expr] = []
        source = list(index)
        for axis, (size, before, after) in enumerate(
            zip(x.shape, self.before, self.after, strict=True)
        ):
            if not before and not after:
                continue
            position = index[axis] - before
            if self.mode == "constant":
                source[axis] = position
                if before:
                    inside.append(position >= 0)
                if after:
                    inside.append(position < size)
            else:
                source[axis] = _map(k, self.mode, position, max(size, 1))
        if self.mode != "constant":
            return x(*source)
        return k.guarded(k.all_of(*inside), lambda: x(*source), self.value)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        def one(
            mode: str,
            before: tuple[int, ...],
            after: tuple[int, ...],
            *shape: int,
            value: float = 0.0,
        ) -> Sample:
            return sample(real(*shape), before=before, after=after, mode=mode, value=value)

        return [
            one("constant", (1, 0), (2, 3), 2, 3, value=1.0),
            one("constant", (0, 0), (0, 0), 2, 3),
            one("constant", (1, 1), (0, 1), 0, 3),
            one("constant", (), ()),
            one("reflect", (2, 1), (1, 2), 3, 4),
            one("symmetric", (3, 1), (1, 4), 3, 4),
            one("edge", (2, 0), (0, 3), 2, 3),
            one("edge", (2, 1), (3, 1), 1, 2),
            one("wrap", (1, 2), (2, 1), 2, 3),
            one("reflect", (0, 1), (0, 1), 0, 3),
        ]


def _pairs(x: Tensor, padding: Any, axes: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(before, after) for every axis, from a number, a pair, or a pair for each axis."""
    rank = x.rank
    given: list[tuple[int, ...]] = []
    if isinstance(padding, Iterable):
        listed = list(padding)
        if all(isinstance(p, Iterable) for p in listed):
            given = [integers("pad", p, "a width") for p in listed]
    if axes is not None:
        where = integers("pad", axes, "an axis")
    elif given:
        where = tuple(range(len(given)))
    else:
        where = tuple(range(rank or 0))
    if not given:
        pair = integers("pad", padding, "a width")
        given = [pair * 2 if len(pair) == 1 else pair] * len(where)
    if rank is None:
        if axes is not None or not given:
            raise ShapeError(
                "pad",
                "the rank of the tensor is unknown",
                received=str(x.type),
                advice="Give one (before, after) pair for each axis",
            )
        rank = len(given)
    if len(given) != len(where) or any(len(p) != 2 for p in given):
        raise AttributeValueError(
            "pad",
            "there must be one (before, after) pair for each padded axis",
            received=repr(padding),
            advice=f"Give {len(where)} pairs",
        )
    if axes is None and len(given) != rank:
        raise ShapeError(
            "pad",
            f"{len(given)} pairs do not fit rank {rank}",
            received=repr(padding),
            advice="Give a pair for each axis, or axes=",
        )
    full = {known_axis("pad", a, rank): p for a, p in zip(where, given, strict=True)}
    both = [full.get(a, (0, 0)) for a in range(rank)]
    return tuple(b for b, _ in both), tuple(a for _, a in both)


def _antiperiodic(
    x: Tensor, before: tuple[int, ...], after: tuple[int, ...], name: str | None
) -> Tensor:
    """Wrapped, with the sign changed as often as a position leaves the tensor along an axis."""
    check_dtype("pad", x.dtype, tuple(d for d in ALL if d.is_signed))
    signs = x.graph.constant(1, x.dtype).broadcast_like(x)
    for axis in range(len(before)):
        widths = [(0, 0)] * len(before)
        widths[axis] = (before[axis], after[axis])
        if any(widths[axis]):
            inside = pad(full_like(signs, 1), widths, value=-1)
            signs = pad(signs, widths, mode="wrap") * inside
    wrapped = apply(Pad(before, after, "wrap", 0 if x.dtype.is_integer else 0.0), x)
    return wrapped.multiply(signs, name=name)  # type: ignore[no-any-return]


@function
def pad(
    x: Tensor,
    padding: Any,
    *,
    mode: str = "constant",
    value: float = 0.0,
    axes: Any = None,
    name: str | None = None,
) -> Tensor:
    """`x` with elements added along its axes.

    `padding` holds one (before, after) pair for each axis (or for each of `axes`), or one pair or
    number for all. `mode` is "constant" (filled with `value`), "reflect" (mirrored, without the
    edge element), "symmetric" (mirrored, with it), "edge" (the last element repeated; also
    "replicate"), "wrap" (the other end continues; also "circular" and "periodic") or
    "antiperiodic" (the same, negated along each axis). Mirrored and wrapped parts must fit into
    the axis.

    Raises ShapeError for parts that do not, AttributeValueError for an unknown mode or a negative
    width. As NumPy's pad.

    Example:
        >>> import niello as nl
        >>> nl.pad(nl.Graph().placeholder((None, 3)), [(0, 0), (1, 1)], mode="reflect").shape
        (None, 5)
    """
    mode = ALIASES.get(mode, mode)
    if mode not in (*MODES, ANTIPERIODIC):
        raise AttributeValueError(
            "pad",
            "there is no such mode",
            received=repr(mode),
            advice=f"Use one of {', '.join((*MODES, ANTIPERIODIC, *ALIASES))}",
        )
    before, after = _pairs(tensor_of("pad", x), padding, axes)
    if any(w < 0 for w in (*before, *after)):
        raise AttributeValueError(
            "pad",
            "a width must not be negative",
            received=repr(padding),
            advice="Use slice to cut elements off",
        )
    if mode == ANTIPERIODIC:
        return _antiperiodic(x, before, after, name)
    fill: Any = value if x.dtype.is_float else int(value)
    return apply(Pad(before, after, mode, fill), x, name=name)
