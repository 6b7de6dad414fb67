"""Sliding windows: layouts, strides, dilation and padding, shared by convolution and pooling.

No ops here; `Window` is the attribute record and its arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from niello.core.dtypes import bool_
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, Shape, show
from niello.graph.opdef import record
from niello.kernel import ir
from niello.kernel.build import Builder
from niello.kernel.ir import Expr

Pairs = tuple[tuple[int, int], ...]
PADDING_WORDS = ("valid", "same", "same_lower")


@record
@frozen
class Layout:
    """Axis letters of a tensor, such as "NHWC": N batch, C channels, the rest spatial."""

    letters: str

    @property
    def batch(self) -> int:
        return self.letters.index("N")

    @property
    def channel(self) -> int:
        return self.letters.index("C")

    @property
    def spatial(self) -> tuple[int, ...]:
        return tuple(i for i, c in enumerate(self.letters) if c not in "NC")

    def pick(self, values: Any) -> tuple[Any, Any, tuple[Any, ...]]:
        """(batch, channel, spatial...) entries of a shape or index in this layout."""
        return (
            values[self.batch],
            values[self.channel],
            tuple(values[i] for i in self.spatial),
        )

    def build(self, batch: Any, channel: Any, spatial: Iterable[Any]) -> tuple[Any, ...]:
        """A shape or index in this layout."""
        result: list[Any] = [None] * len(self.letters)
        result[self.batch], result[self.channel] = batch, channel
        for axis, value in zip(self.spatial, spatial, strict=True):
            result[axis] = value
        return tuple(result)


def spatial_pair(value: Any, rank: int, asked: str, what: str, lowest: int = 1) -> tuple[int, ...]:
    """An int, or one int per spatial axis, checked."""
    listed = tuple(value) if isinstance(value, Iterable) else (value,) * rank
    try:
        found = tuple(operator.index(v) for v in listed)
    except TypeError:
        found = ()
    if len(found) != rank or any(v < lowest for v in found):
        raise AttributeValueError(
            asked,
            f"{what} must be an integer of at least {lowest}, or {rank} of them",
            received=repr(value),
        )
    return found


def as_padding(value: Any, rank: int, asked: str) -> str | Pairs:
    """ "same", "same_lower", "valid", an int, one int per axis, or (before, after) per axis."""
    if isinstance(value, str):
        if value.lower() not in PADDING_WORDS:
            raise AttributeValueError(
                asked,
                f"padding must be one of {', '.join(PADDING_WORDS)}, or numbers",
                received=repr(value),
            )
        return value.lower()
    listed = tuple(value) if isinstance(value, Iterable) else (value,) * rank
    pairs = tuple(tuple(p) if isinstance(p, Iterable) else (p, p) for p in listed)
    try:
        found = tuple((operator.index(a), operator.index(b)) for a, b in pairs)
    except (TypeError, ValueError):
        found = ()
    if len(found) != rank or any(a < 0 or b < 0 for a, b in found):
        raise AttributeValueError(
            asked,
            f"padding must be a word, an integer, or {rank} integers or (before, after) pairs",
            received=repr(value),
        )
    return found


@record
@frozen
class Window:
    """Strides, dilations and padding over the spatial axes. `ceil` rounds output sizes up."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: str | Pairs
    ceil: bool = False

    def before(self, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
        """Padding before each spatial axis, for known input sizes."""
        return tuple(low for low, _ in self.amounts(sizes, kernel))

    def amounts(self, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> Pairs:
        """Padding (before, after) of each spatial axis. Source of "same": TensorFlow's rule."""
        if not isinstance(self.padding, str):
            return self.padding
        if self.padding == "valid":
            return ((0, 0),) * len(sizes)
        pairs = []
        for size, k, s, d in zip(sizes, kernel, self.strides, self.dilations, strict=True):
            out = -(-size // s)
            total = max((out - 1) * s + (k - 1) * d + 1 - size, 0)
            low = total // 2 if self.padding == "same" else total - total // 2
            pairs.append((low, total - low))
        return tuple(pairs)

    def output(self, asked: str, sizes: Shape, kernel: Shape) -> Shape:
        """Output sizes; unknown where the input size or kernel is."""
        result: list[Dim] = []
        for axis, (size, k) in enumerate(zip(sizes, kernel, strict=True)):
            s, d = self.strides[axis], self.dilations[axis]
            if size is None or (k is None and self.padding not in ("same", "same_lower")):
                result.append(None)
            elif self.padding in ("same", "same_lower"):
                result.append(-(-size // s))
            else:
                assert k is not None
                result.append(self._explicit(asked, axis, size, k, s, d, sizes, kernel))
        return tuple(result)

    def _explicit(
        self, asked: str, axis: int, size: int, k: int, s: int, d: int, sizes: Shape, kernel: Shape
    ) -> int:
        low, high = (0, 0) if isinstance(self.padding, str) else self.padding[axis]
        span = size + low + high - ((k - 1) * d + 1)
        if span < 0:
            raise ShapeError(
                asked,
                f"the window does not fit axis {axis} of the padded input",
                received=f"sizes {show(sizes)}, kernel {show(kernel)}, padding {self.padding}",
                advice="Pad more, or use a smaller kernel or dilation",
            )
        count = span // s + 1
        # Rounding up must not make a window that starts in the padding after the input.
        if self.ceil and span % s and count * s < size + low:
            count += 1
        return count

    # --- index arithmetic of kernels
    def source(
        self, position: tuple[Expr, ...], offset: tuple[Expr, ...], before: tuple[int, ...]
    ) -> tuple[Expr, ...]:
        """Input position that window `position` reads at kernel `offset`."""
        return tuple(
            o * s + r * d - p
            for o, r, s, d, p in zip(
                position, offset, self.strides, self.dilations, before, strict=True
            )
        )

    def covering(
        self,
        k: Builder,
        position: tuple[Expr, ...],
        offset: tuple[Expr, ...],
        before: tuple[int, ...],
        outputs: tuple[int, ...],
    ) -> tuple[Expr, tuple[Expr, ...]]:
        """The window that reads input `position` at kernel `offset`: a condition that there is
        one, and where it is."""
        tests: list[Expr] = []
        windows: list[Expr] = []
        for i, r, s, d, p, size in zip(
            position, offset, self.strides, self.dilations, before, outputs, strict=True
        ):
            start = i + p - r * d
            window = start if s == 1 else start // s
            tests += [ir.fn("le", 0, start), window < size]
            if s > 1:
                tests.append((start % s).eq(0))
            windows.append(window)
        return k.all_of(*tests), tuple(windows)


def inside(k: Builder, position: tuple[Expr, ...], sizes: tuple[int, ...]) -> Expr:
    """Condition that a position lies inside the input."""
    tests: list[Expr] = []
    for i, size in zip(position, sizes, strict=True):
        tests += [ir.fn("le", 0, i), i < size]
    return k.all_of(*tests) if tests else ir.const(True, bool_)


def visit_windows(
    padded: np.ndarray,
    window: Window,
    kernel: tuple[int, ...],
    outputs: tuple[int, ...],
    axes: tuple[int, ...],
    visit: Callable[[tuple[int, ...], tuple[slice, ...]], None],
) -> None:
    """For references: call `visit(kernel offset, slices of the padded input)` for each offset; the
    slices pick, for every window, the element it reads there."""
    for offset in np.ndindex(*kernel):
        slices: list[slice] = [slice(None)] * padded.ndim
        for axis, r, s, d, o in zip(
            axes, offset, window.strides, window.dilations, outputs, strict=True
        ):
            start = r * d
            slices[axis] = slice(start, start + (o - 1) * s + 1 if o else start, s)
        visit(offset, tuple(slices))
