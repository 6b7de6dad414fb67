"""Windows of poolings: which input elements each output element sees, in kernels and in NumPy.

No ops here. `Sliding` windows have a kernel, strides, dilations and padding; `Adaptive` windows
divide the input evenly into a given number of them. Both answer the same questions, so that each
pooling op is written once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from niello.core.dtypes import int64
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Shape, show
from niello.core.types import TensorType
from niello.graph.opdef import record
from niello.kernel import ir
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.window import Window, inside

Sizes = tuple[int, ...]
Exprs = tuple[Expr, ...]
# What an average divides by: elements of the input, those and declared padding, or nothing.
COUNTS = ("inside", "padded", "none")
INDEX_MODES = (
    "spatial",
    "tensor",
    *(f"{kind}_{n}d" for kind in ("global", "local") for n in (1, 2, 3, 4)),
)


@record
@frozen
class Sliding:
    """Windows of a fixed kernel that move by strides."""

    kernel: Sizes
    window: Window

    def extents(self, sizes: Sizes) -> Sizes:
        """Elements of a window along each axis, padding included."""
        return self.kernel

    def output(self, asked: str, sizes: Shape) -> Shape:
        return self.window.output(asked, sizes, self.kernel)

    def read(self, k: Builder, position: Exprs, offset: Exprs, sizes: Sizes) -> tuple[Expr, Exprs]:
        """Input position that a window reads at an offset, and the condition that it exists."""
        before = self.window.before(sizes, self.kernel)
        source = self.window.source(position, offset, before)
        return inside(k, source, sizes), source

    def first(self, k: Builder, position: Exprs, sizes: Sizes) -> tuple[Expr | None, ...]:
        """The first offset of a window that lies in the input, where that is not always 0."""
        found: list[Expr | None] = []
        before = self.window.before(sizes, self.kernel)
        for o, s, d, p in zip(
            position, self.window.strides, self.window.dilations, before, strict=True
        ):
            found.append(k.max((p - o * s + (d - 1)) // d, 0) if p else None)
        return tuple(found)

    def apart(self) -> bool:
        """Windows do not overlap: at most one reads an element."""
        plain = zip(self.kernel, self.window.strides, self.window.dilations, strict=True)
        return all(n <= step and d == 1 for n, step, d in plain)

    def cover_extents(self, sizes: Sizes, outputs: Sizes) -> Sizes:
        """How many windows may read one element, along each axis; () where it is at most one."""
        return () if self.apart() else self.kernel

    def covering(
        self, k: Builder, position: Exprs, r: Exprs, sizes: Sizes, outputs: Sizes
    ) -> tuple[Expr, Exprs, Exprs]:
        """Window number `r` of those that read an element: a condition that it exists, the window,
        and the offset in it."""
        before = self.window.before(sizes, self.kernel)
        if self.apart():
            steps = self.window.strides
            starts = [i + p for i, p in zip(position, before, strict=True)]
            window = tuple(i // step for i, step in zip(starts, steps, strict=True))
            offset = tuple(i % step for i, step in zip(starts, steps, strict=True))
            tests = [w < n for w, n in zip(window, outputs, strict=True)]
            tests += [o < n for o, n in zip(offset, self.kernel, strict=True)]
            return k.all_of(*tests), window, offset
        there, window = self.window.covering(k, position, r, before, outputs)
        return there, window, r

    def count(self, position: Exprs, sizes: Sizes, counted: str) -> Expr | int:
        """Number of elements a window averages over."""
        pads = self.window.amounts(sizes, self.kernel)
        rows = zip(
            position, sizes, self.kernel, self.window.strides, self.window.dilations, pads,
            strict=True,
        )  # fmt: skip
        total: Expr | int = 1
        for o, size, n, step, d, (low, high) in rows:
            first = o * step - low
            bottom, top = (-low, size + high) if counted == "padded" else (0, size)
            count: Expr = ir.const(0, int64)
            for r in range(n):
                spot = first + r * d
                ok = ir.fn("and", ir.fn("le", bottom, spot), spot < top)
                count = count + ir.cast(ok, int64)
            total = count * total
        return total

    # --- for references
    def table(self, sizes: Sizes) -> list[np.ndarray]:
        """For each axis the input positions [output, offset] that windows read; some lie outside
        of the input."""
        outputs = self.output("pooling", sizes)
        before = self.window.before(sizes, self.kernel)
        return [
            np.arange(out)[:, None] * s + np.arange(n)[None] * d - p  # type: ignore[arg-type]
            for out, n, s, d, p in zip(
                outputs,
                self.kernel,
                self.window.strides,
                self.window.dilations,
                before,
                strict=True,
            )
        ]

    def limits(self, sizes: Sizes, counted: str) -> list[tuple[int, int]]:
        """The positions [low, high) of each axis that count in an average."""
        pads = self.window.amounts(sizes, self.kernel)
        padded = counted == "padded"
        return [
            (-low, n + high) if padded else (0, n)
            for n, (low, high) in zip(sizes, pads, strict=True)
        ]


def _ceil(a: Any, b: int) -> Any:
    return (a + (b - 1)) // b


@record
@frozen
class Adaptive:
    """Window o of m over n elements runs from floor(o * n / m) to ceil((o + 1) * n / m)."""

    outputs: Sizes

    def extents(self, sizes: Sizes) -> Sizes:
        return tuple(_ceil(n, m) + (n % m != 0) for n, m in zip(sizes, self.outputs, strict=True))

    def output(self, asked: str, sizes: Shape) -> Shape:
        if 0 in sizes:
            raise ShapeError(
                asked,
                "an axis of size 0 has no windows",
                received=show(sizes),
                advice="Pool another axis",
            )
        return self.outputs

    def read(self, k: Builder, position: Exprs, offset: Exprs, sizes: Sizes) -> tuple[Expr, Exprs]:
        source, tests = [], []
        for o, r, n, m in zip(position, offset, sizes, self.outputs, strict=True):
            source.append(o * n // m + r)
            if n % m:
                tests.append(source[-1] < _ceil((o + 1) * n, m))
        return k.all_of(*tests), tuple(source)

    def first(self, k: Builder, position: Exprs, sizes: Sizes) -> tuple[Expr | None, ...]:
        return (None,) * len(sizes)

    def apart(self) -> bool:
        """Windows may overlap."""
        return False

    def cover_extents(self, sizes: Sizes, outputs: Sizes) -> Sizes:
        return tuple(_ceil(m, n) + (m % n != 0) for n, m in zip(sizes, outputs, strict=True))

    def covering(
        self, k: Builder, position: Exprs, r: Exprs, sizes: Sizes, outputs: Sizes
    ) -> tuple[Expr, Exprs, Exprs]:
        windows, tests, offsets = [], [], []
        for i, c, n, m in zip(position, r, sizes, outputs, strict=True):
            window = i * m // n + c
            windows.append(window)
            offsets.append(i - window * n // m)
            if m % n:
                tests.append(window < _ceil((i + 1) * m, n))
        return k.all_of(*tests), tuple(windows), tuple(offsets)

    def count(self, position: Exprs, sizes: Sizes, counted: str) -> Expr | int:
        total: Expr | int = 1
        for o, n, m in zip(position, sizes, self.outputs, strict=True):
            total = (_ceil((o + 1) * n, m) - o * n // m) * total if n % m else total * (n // m)
        return total

    def table(self, sizes: Sizes) -> list[np.ndarray]:
        found = []
        for n, m, extent in zip(sizes, self.outputs, self.extents(sizes), strict=True):
            o = np.arange(m)[:, None]
            spots = o * n // m + np.arange(extent)[None]
            found.append(np.where(spots < _ceil((o + 1) * n, m), spots, -1))
        return found

    def limits(self, sizes: Sizes, counted: str) -> list[tuple[int, int]]:
        return [(0, n) for n in sizes]


@record
@frozen
class PoolSettings:
    """Windows over some axes of a tensor of a rank."""

    windows: Sliding | Adaptive
    axes: Sizes
    rank: int

    def pick(self, values: Any) -> tuple[Any, ...]:
        """The entries of the pooled axes."""
        return tuple(values[a] for a in self.axes)

    def place(self, values: Any, spatial: Sequence[Any]) -> tuple[Any, ...]:
        """`values` with other entries at the pooled axes."""
        found = list(values)
        for axis, value in zip(self.axes, spatial, strict=True):
            found[axis] = value
        return tuple(found)

    def output(self, asked: str, x: TensorType) -> TensorType:
        """The type of a pooled tensor. Raises ShapeError."""
        if x.shape is None:
            return TensorType(None, x.dtype)
        if len(x.shape) != self.rank:
            raise ShapeError(
                asked, f"the input must have {self.rank} dimensions", received=show(x.shape)
            )
        found = self.windows.output(asked, self.pick(x.shape))
        return TensorType(self.place(x.shape, found), x.dtype)

    # --- kernels
    def element(self, k: Builder, x: Value, index: Index, offset: Exprs, fill: Any) -> Expr:
        """What the window at `index` reads at an offset, `fill` in the padding."""
        there, source = self.windows.read(k, self.pick(index), offset, self.pick(x.shape))
        return k.guarded(there, lambda: x(*self.place(index, source)), fill)

    def over_window(self, k: Builder, op: str, x: Value, index: Index, fill: Any) -> Expr:
        """A reduction over the window at `index`."""
        extents = self.windows.extents(self.pick(x.shape))
        return k.reduce(op, extents, lambda *r: self.element(k, x, index, r, fill))

    def position(self, mode: str, shape: Sizes, index: Index, offset: Exprs, source: Exprs) -> Expr:
        """Flat index, in one of INDEX_MODES, of the element that a window reads at an offset."""
        from niello.kernel.build import ravel

        chosen = index_axes(mode, self.axes, self.rank)
        if mode.startswith("local"):
            zeros = (ir.const(0, int64),) * self.rank
            spots = self.place(zeros, offset)
            sizes = self.place((1,) * self.rank, self.windows.extents(self.pick(shape)))
        else:
            spots, sizes = self.place(index, source), shape
        return ravel([spots[a] for a in chosen], [sizes[a] for a in chosen])

    # --- references
    def stacked(self, x: np.ndarray, fill: Any) -> np.ndarray:
        """[window elements, *output shape]: what each window reads."""
        sizes = self.pick(x.shape)
        tables = self.windows.table(sizes)
        for axis, spots, size in reversed(list(zip(self.axes, tables, sizes, strict=True))):
            behind = axis - self.rank
            if size == 0:
                x = np.full((*x.shape[:behind], 1, *x.shape[x.ndim + behind + 1 :]), fill, x.dtype)
            taken = np.take(x, np.clip(spots, 0, max(size - 1, 0)), axis=behind)
            exists = ((spots >= 0) & (spots < size)).reshape(*spots.shape, *(1,) * (-behind - 1))
            x = np.moveaxis(np.where(exists, taken, np.asarray(fill, x.dtype)), behind, 0)
        elements = math.prod(x.shape[: len(self.axes)])
        return x.reshape(elements, *x.shape[len(self.axes) :])

    def sources(self, shape: Sizes) -> np.ndarray:
        """[window elements, *output shape]: flat input positions, -1 in the padding."""
        return self.stacked(np.arange(math.prod(shape)).reshape(shape), -1)

    def scattered(self, parts: np.ndarray, shape: Sizes) -> np.ndarray:
        """The transpose of `stacked`: adds up what each window has for its elements."""
        total = np.zeros(math.prod(shape) + 1, parts.dtype)
        np.add.at(total, self.sources(shape), parts)
        return total[:-1].reshape(shape)

    def winners(self, x: np.ndarray) -> np.ndarray:
        """Row-major offset in each window of its first maximum in the input."""
        wide = x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind not in "iu" else x
        low = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
        chosen = self.stacked(wide, low).argmax(axis=0)
        exists = self.sources(x.shape) >= 0
        padding = ~np.take_along_axis(exists, chosen[None], 0)[0]
        return np.where(padding, exists.argmax(axis=0), chosen)

    def positions(self, mode: str, shape: Sizes) -> np.ndarray:
        """[window elements, *output shape]: flat index in one of INDEX_MODES."""
        chosen = index_axes(mode, self.axes, self.rank)
        sources = np.maximum(self.sources(shape), 0)
        if mode.startswith("local"):
            extents = self.place((1,) * self.rank, self.windows.extents(self.pick(shape)))
            spots = np.indices(extents).reshape(self.rank, -1)
            flat = np.ravel_multi_index(
                tuple(spots[a] for a in chosen), tuple(extents[a] for a in chosen)
            )
            return np.broadcast_to(flat.reshape(-1, *(1,) * self.rank), sources.shape)
        if not sources.size:
            return sources
        spots = np.stack(np.unravel_index(sources, shape))
        return np.asarray(
            np.ravel_multi_index(tuple(spots[a] for a in chosen), tuple(shape[a] for a in chosen))
        )

    def counts(self, shape: Sizes, counted: str) -> np.ndarray:
        """How many elements each window averages over, at least 1; broadcasts to the output."""
        sizes = self.pick(shape)
        total = np.ones((1,) * self.rank, np.int64)
        limits = self.windows.limits(sizes, counted)
        for axis, spots, (low, high) in zip(
            self.axes, self.windows.table(sizes), limits, strict=True
        ):
            count = ((spots >= low) & (spots < high)).sum(axis=1)
            total = total * count.reshape(-1, *(1,) * (self.rank - axis - 1))
        return np.maximum(total, 1)


def index_axes(mode: str, axes: Sizes, rank: int) -> Sizes:
    """The axes that a flat index of a mode runs over."""
    if mode == "spatial":
        return axes
    last = rank if mode == "tensor" else int(mode[-2])
    return tuple(range(max(0, rank - last), rank))


def check_index_mode(asked: str, mode: Any) -> str:
    """One of INDEX_MODES. Raises AttributeValueError."""
    if mode not in INDEX_MODES:
        raise AttributeValueError(
            asked,
            "unknown index mode",
            received=repr(mode),
            advice=f"Use one of {', '.join(INDEX_MODES)}",
        )
    return str(mode)


def sample_settings() -> list[tuple[Sizes, PoolSettings]]:
    """(data shape, settings) that cover every attribute."""
    one, two, three = (1, 1), (2, 2), (3, 3)
    wide = ((1, 1), (0, 1))

    def sliding(axes: Sizes, rank: int, kernel: Sizes, window: Window) -> PoolSettings:
        return PoolSettings(Sliding(kernel, window), axes, rank)

    def adaptive(axes: Sizes, rank: int, outputs: Sizes) -> PoolSettings:
        return PoolSettings(Adaptive(outputs), axes, rank)

    last, middle = (2, 3), (1, 2)
    return [
        ((2, 4, 6, 3), sliding(middle, 4, two, Window(two, one, "valid"))),
        ((1, 2, 5, 5), sliding(last, 4, two, Window(two, one, "same"))),
        ((1, 2, 5, 6), sliding(last, 4, three, Window(one, one, wide))),
        ((1, 6, 5, 2), sliding(middle, 4, three, Window(two, one, "valid", True))),
        ((1, 7, 7, 2), sliding(middle, 4, two, Window((2, 3), two, "same_lower"))),
        ((1, 5, 5, 2), sliding(middle, 4, (1, 2), Window(two, one, wide))),
        ((2, 7, 3), sliding((1,), 3, (3,), Window((2,), (1,), "same"))),
        ((1, 2, 3, 4, 3), sliding((2, 3, 4), 5, (2, 2, 1), Window((1, 2, 1), (1,) * 3, "valid"))),
        ((2, 3, 2, 3), sliding((0, 1, 2, 3), 4, (2, 2, 1, 2), Window((1,) * 4, (1,) * 4, "same"))),
        ((0, 4, 4, 2), sliding(middle, 4, two, Window(two, one, "valid"))),
        ((1, 2, 7, 4), adaptive(last, 4, (3, 2))),
        ((2, 3, 2), adaptive((1,), 3, (5,))),
    ]
