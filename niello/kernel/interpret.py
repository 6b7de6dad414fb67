"""Runs a kernel with NumPy: slow, small and obviously right. The meaning of level 2.

Every value is an array with one named axis for each range it depends on; two values combine by
lining their axes up. Work that would take more memory than `BUDGET` is cut into blocks of the
outer ranges, in row-major order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from niello.core.dtypes import DType
from niello.core.errors import CompilerBug
from niello.core.nodes import walk
from niello.kernel.ir import (
    SCALAR_FUNCTIONS,
    ArgReduce,
    Bitcast,
    Cast,
    Const,
    Contract,
    Expr,
    Fn,
    Kernel,
    Load,
    Range,
    Reduce,
    Store,
    cast_array,
    free_ranges,
    reduce_identity,
)
from niello.kernel.routine import Routine
from niello.kernel.routine_interpret import interpret_routine
from niello.kernel.text import print_expr

Array = np.ndarray[Any, Any]
BUDGET = 64 * 2**20  # bytes that the intermediate values of one block may take, roughly

UFUNCS: dict[str, Any] = {
    "add": np.add,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def interpret(kernel: Kernel | Routine, buffers: Sequence[Array], *, budget: int = BUDGET) -> None:
    """Run `kernel` on flat arrays, one per parameter; written parameters change in place.

    Raises CompilerBug when an array does not fit its parameter, or when a load or store would
    leave its buffer.
    """
    if isinstance(kernel, Routine):
        interpret_routine(kernel, buffers)
        return
    _check_buffers(kernel, buffers)
    groups: dict[tuple[Range, ...], list[Store]] = {}
    for store in kernel.stores:
        groups.setdefault(store.ranges, []).append(store)
    with np.errstate(all="ignore"):
        for ranges, stores in groups.items():
            _Evaluator(kernel, buffers, budget).run(ranges, stores)


def evaluate(
    expr: Expr, ranges: Sequence[Range], buffers: Sequence[Array] = (), *, budget: int = BUDGET
) -> Array:
    """The values of an expression over all points of `ranges`, as an array of their extents."""
    evaluator = _Evaluator(Kernel("evaluate", (), ()), buffers, budget)
    with np.errstate(all="ignore"):
        return evaluator.full(evaluator.value(expr), tuple(ranges)).copy()


def _check_buffers(kernel: Kernel, buffers: Sequence[Array]) -> None:
    if len(buffers) != len(kernel.params):
        raise CompilerBug(
            f"kernel {kernel.name}",
            f"takes {len(kernel.params)} buffers",
            received=f"{len(buffers)} buffers",
        )
    for param, array in zip(kernel.params, buffers, strict=True):
        fits = array.ndim == 1 and array.size >= param.elements
        if not fits or array.dtype != param.dtype.numpy:
            raise CompilerBug(
                f"kernel {kernel.name}, buffer {param.slot}",
                f"needs a flat array of {param.elements} x {param.dtype.name}",
                received=f"{array.shape} of {array.dtype}",
            )


class _Value:
    """An array with named axes, in the order in which the evaluator met the ranges."""

    __slots__ = ("array", "axes")

    def __init__(self, axes: tuple[Range, ...], array: Array) -> None:
        self.axes = axes
        self.array = array


class _Evaluator:
    """Evaluates expressions for one block: `block` holds the part of a range being worked on."""

    def __init__(self, kernel: Kernel, buffers: Sequence[Array], budget: int) -> None:
        self.kernel = kernel
        self.buffers = buffers
        self.budget = budget
        self.block: dict[Range, tuple[int, int]] = {}
        self.memo: dict[Expr, _Value] = {}
        self.order: dict[Range, int] = {}

    # --- stores
    def run(self, ranges: tuple[Range, ...], stores: Sequence[Store]) -> None:
        """All stores over one set of ranges: per block, read everything, then write."""
        if any(r.extent == 0 for r in ranges):
            return
        for r in ranges:
            self.position(r)
        roots: list[Expr] = [e for s in stores for e in (s.index, s.value, s.gate) if e is not None]
        for _ in self.blocks(ranges, roots):
            computed = [
                (
                    s,
                    self.full(self.value(s.index), ranges),
                    self.full(self.value(s.value), ranges),
                    self.mask(s),
                )
                for s in stores
            ]
            for store, index, value, mask in computed:
                self.write(store, index, value, mask)

    def mask(self, store: Store) -> Array | None:
        return None if store.gate is None else self.full(self.value(store.gate), store.ranges)

    def write(self, store: Store, index: Array, value: Array, mask: Array | None) -> None:
        where = index.reshape(-1) if mask is None else index[mask]
        what = value.reshape(-1) if mask is None else value[mask]
        self.check_inside(store, where)
        target = self.buffers[store.param.slot]
        if store.combine is None:
            target[where] = what
        else:
            UFUNCS[store.combine].at(target, where, what)

    def check_inside(self, access: Store | Load, index: Array) -> None:
        if index.size and (index.min() < 0 or index.max() >= access.param.elements):
            raise CompilerBug(
                f"kernel {self.kernel.name}: {type(access).__name__} of buffer {access.param.slot}",
                f"an index is outside its {access.param.elements} elements",
                received=f"{index.min()} to {index.max()} for {print_expr(access.index)}",
            )

    # --- axes
    def position(self, r: Range) -> int:
        return self.order.setdefault(r, len(self.order))

    def extent(self, r: Range) -> int:
        start, stop = self.block.get(r, (0, r.extent))
        return stop - start

    def aligned(self, value: _Value, axes: tuple[Range, ...]) -> Array:
        """The array with an axis of size 1 for each of `axes` that it does not depend on."""
        if value.axes == axes:
            return value.array
        own = [r for r in axes if r in value.axes]
        array = value.array.transpose([value.axes.index(r) for r in own])
        return array.reshape([self.extent(r) if r in value.axes else 1 for r in axes])

    def full(self, value: _Value, axes: tuple[Range, ...]) -> Array:
        """The array broadcast to all of `axes`, in their order."""
        return np.broadcast_to(self.aligned(value, axes), [self.extent(r) for r in axes])

    def combine(self, function: Callable[..., Any], dtype: DType, *values: _Value) -> _Value:
        """Apply a NumPy function to values lined up with each other."""
        found = {r for v in values for r in v.axes}
        axes = tuple(sorted(found, key=self.position))
        result = np.asarray(function(*(self.aligned(v, axes) for v in values)))
        return _Value(axes, result.astype(dtype.numpy, copy=False))

    # --- blocks
    def cost(self, nodes: Iterable[tuple[Expr, frozenset[Range]]]) -> int:
        """Bytes of the values of `nodes` under the current blocks."""
        return sum(
            math.prod(self.extent(r) for r in free) * node.dtype.itemsize for node, free in nodes
        )

    def blocks(self, ranges: tuple[Range, ...], roots: Sequence[Expr]) -> Iterator[None]:
        """Visit all points of `ranges`, in row-major blocks whose values fit the budget."""
        wanted = frozenset(ranges)
        for root in roots:
            free_ranges(root)  # caches the answer of every node below in one walk
        nodes = [
            (n, free_ranges(n))
            for n in walk(roots)
            if isinstance(n, Expr) and free_ranges(n) & wanted
        ]
        yield from self.split(ranges, nodes)

    def split(
        self, ranges: tuple[Range, ...], nodes: list[tuple[Expr, frozenset[Range]]]
    ) -> Iterator[None]:
        whole = self.cost(nodes)
        if not ranges or whole <= self.budget:
            yield
            return
        first, rest = ranges[0], ranges[1:]
        self.block[first] = (0, 1)
        single = self.cost(nodes)
        slope = max(1, (whole - single) // max(1, first.extent - 1))
        size = max(1, min(first.extent, 1 + (self.budget - single) // slope))
        for start in range(0, first.extent, size):
            self.block[first] = (start, min(start + size, first.extent))
            self.forget(first)
            yield from self.split(rest, nodes)
        del self.block[first]
        self.forget(first)

    def forget(self, r: Range) -> None:
        """Drop what was computed for another block of `r`."""
        self.memo = {n: v for n, v in self.memo.items() if r not in free_ranges(n)}

    # --- expressions
    def value(self, root: Expr) -> _Value:
        stack = [root]
        while stack:
            node = stack[-1]
            if node in self.memo:
                stack.pop()
                continue
            missing = [c for c in _operands(node) if c not in self.memo]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            result = self.compute(node)
            self.memo[node] = result
        return self.memo[root]

    def compute(self, node: Expr) -> _Value:
        if isinstance(node, Const):
            return _Value((), np.asarray(node.value, node.dtype.numpy))
        if isinstance(node, Range):
            self.position(node)
            start, stop = self.block.get(node, (0, node.extent))
            return _Value((node,), np.arange(start, stop, dtype=np.int64))
        if isinstance(node, Fn):
            function = SCALAR_FUNCTIONS[node.name].numpy
            return self.combine(function, node.dtype, *(self.memo[a] for a in node.args))
        if isinstance(node, Load):
            return self.load(node)
        if isinstance(node, Cast):
            return self.combine(lambda x: convert(x, node.dtype), node.dtype, self.memo[node.x])
        if isinstance(node, Bitcast):
            pattern = np.ascontiguousarray(self.memo[node.x].array)
            shape = self.memo[node.x].array.shape  # ascontiguousarray makes 0-d arrays 1-d
            return _Value(self.memo[node.x].axes, pattern.view(node.dtype.numpy).reshape(shape))
        if isinstance(node, Reduce):
            return self.reduce(node)
        if isinstance(node, ArgReduce):
            return self.arg_reduce(node)
        if isinstance(node, Contract):
            return self.contract(node)
        raise CompilerBug(
            f"kernel {self.kernel.name}", "an unknown expression", received=repr(node)
        )

    def load(self, node: Load) -> _Value:
        buffer = self.buffers[node.param.slot]

        def read(index: Array, *gate: Array) -> Array:
            if not gate:
                self.check_inside(node, index)
                return buffer[index]
            open_, index = np.broadcast_arrays(gate[0], index)
            self.check_inside(node, index[open_])
            result = np.zeros(index.shape, buffer.dtype)
            result[open_] = buffer[index[open_]]
            return result

        inputs = [self.memo[c] for c in _operands(node)]
        return self.combine(read, node.dtype, *inputs)

    # --- reductions
    def trailing(self, value: _Value, ranges: tuple[Range, ...]) -> tuple[tuple[Range, ...], Array]:
        """The value with all points of `ranges` on one last axis, and the other axes."""
        kept = tuple(r for r in value.axes if r not in ranges)
        array = self.full(value, kept + ranges)
        points = math.prod(self.extent(r) for r in ranges)
        return kept, array.reshape([self.extent(r) for r in kept] + [points])

    def reduce(self, node: Reduce) -> _Value:
        ufunc, total = UFUNCS[node.op], None
        identity = np.asarray(reduce_identity(node.op, node.dtype), node.dtype.numpy)
        # Sums of float32 are kept in float64 here: the oracle should be the more exact side.
        wide = node.op == "add" and node.dtype.is_float
        dtype = np.dtype(np.float64) if wide else node.dtype.numpy
        for _ in self.blocks(node.ranges, [node.body]):
            kept, terms = self.trailing(self.value(node.body), node.ranges)
            part = _Value(kept, ufunc.reduce(terms, axis=-1, dtype=dtype, initial=identity))
            total = part if total is None else _Value(kept, ufunc(total.array, part.array))
        assert total is not None
        return _Value(total.axes, np.asarray(total.array).astype(node.dtype.numpy))

    def arg_reduce(self, node: ArgReduce) -> _Value:
        kept, terms = self.trailing(self.value(node.body), node.ranges)
        if terms.shape[-1] == 0:
            return _Value(kept, np.zeros(terms.shape[:-1], np.int64))
        choose = np.argmin if node.op == "min" else np.argmax
        return _Value(kept, np.asarray(choose(terms, axis=-1), np.int64))

    def contract(self, node: Contract) -> _Value:
        total: _Value | None = None
        for _ in self.blocks(node.ranges, [node.a, node.b]):
            part = self.product(node)
            if total is not None:
                part = _Value(part.axes, total.array + part.array)
            total = part
        assert total is not None
        return _Value(total.axes, np.asarray(total.array).astype(node.dtype.numpy, copy=False))

    def product(self, node: Contract) -> _Value:
        """The contraction over the current block, as a batch of matrix products."""
        a, b = self.value(node.a), self.value(node.b)
        summed = tuple(r for r in node.ranges if r in a.axes or r in b.axes)
        batch = tuple(r for r in a.axes if r in b.axes and r not in summed)
        rows = tuple(r for r in a.axes if r not in batch and r not in summed)
        columns = tuple(r for r in b.axes if r not in batch and r not in summed)

        def matrix(value: _Value, *groups: tuple[Range, ...]) -> Array:
            whole = self.full(value, tuple(r for g in groups for r in g))
            sizes = [math.prod(self.extent(r) for r in g) for g in groups]
            return convert(whole.reshape(sizes), node.dtype)

        left, right = matrix(a, batch, rows, summed), matrix(b, batch, summed, columns)
        repeats = math.prod(self.extent(r) for r in node.ranges if r not in summed)
        result = _matmul(left, right)
        if repeats != 1:
            result = result * np.asarray(repeats).astype(result.dtype)
        axes = batch + rows + columns
        array = result.reshape([self.extent(r) for r in axes])
        ordered = tuple(sorted(axes, key=self.position))
        return _Value(ordered, self.aligned(_Value(axes, array), ordered))


def _matmul(left: Array, right: Array) -> Array:
    """A batch of matrix products, in a type that NumPy has a fast and exact enough product for."""
    dtype = left.dtype
    if dtype.kind not in "iu":
        small = dtype.itemsize == 2  # half types: sums in float32
        product = np.matmul(left.astype(np.float32), right.astype(np.float32)) if small else None
        return np.asarray(np.matmul(left, right) if product is None else product.astype(dtype))
    if left.size and right.size:
        largest = [float(np.abs(x.astype(np.float64)).max()) for x in (left, right)]
        if largest[0] * largest[1] * left.shape[-1] < 2.0**53:  # float64 holds every sum exactly
            exact = np.matmul(left.astype(np.float64), right.astype(np.float64))
            return np.asarray(exact.astype(np.int64).astype(dtype))
    return np.asarray(np.matmul(left, right))


def convert(array: Array, dtype: DType) -> Array:
    """The meaning of a Cast."""
    return cast_array(array, dtype)


def _operands(node: Expr) -> tuple[Expr, ...]:
    """What must be evaluated before `node`; the bodies of reductions evaluate in blocks."""
    if isinstance(node, Fn):
        return node.args
    if isinstance(node, Load):
        return (node.index,) if node.gate is None else (node.index, node.gate)
    if isinstance(node, (Cast, Bitcast)):
        return (node.x,)
    return ()
