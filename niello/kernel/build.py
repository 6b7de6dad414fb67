"""The builder that `Op.lower` calls: expressions of one output element.

`k` carries the naming of bound ranges, so that lowering the same operation twice at the same index
gives the same (interned) node, and the stack of gates, so that loads under a condition do not
touch memory where it is false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from niello.core.dtypes import DType, bool_, int64
from niello.core.errors import CompilerBug
from niello.kernel import ir
from niello.kernel.ir import Expr, Param, Range

Index = tuple[Expr, ...]


class Value:
    """An input of an operation being lowered: call it with an index to get that element.

    `shape` and `dtype` describe the tensor; the elements have `element_dtype`, which is float32
    where the tensor is a half type.
    """

    __slots__ = ("_element", "dtype", "shape")

    def __init__(
        self, shape: Sequence[int], dtype: DType, element: Callable[[Index], Expr]
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self._element = element

    def __call__(self, *index: Any) -> Expr:
        if len(index) != len(self.shape):
            raise CompilerBug(
                "Value",
                f"an element of rank {len(self.shape)} was asked with another rank",
                received=len(index),
            )
        return self._element(tuple(i if isinstance(i, Expr) else ir.const(i, int64) for i in index))

    def flat(self, offset: Expr) -> Expr:
        """The element at a row-major offset."""
        return self(*unravel(offset, self.shape))


@dataclass(frozen=True)
class ScatterSpec:
    """How an op adds values into its output, as an alternative to its `lower`.

    The output starts as `initial`; then, for every point of `extents`, `value(*ranges)` is
    combined by `combine` into the element at `target(*ranges)`, where `inside(*ranges)` holds.
    Several points may hit one element. Values have the dtype that half types are computed in, and
    must be accumulated in it.
    """

    extents: tuple[int, ...]
    target: Callable[..., Index]
    inside: Callable[..., Expr]
    value: Callable[..., Expr]
    combine: str = "add"
    initial: Any = 0


class Builder:
    """Builds expressions for one operation. `scope` names its bound ranges uniquely."""

    def __init__(self, scope: str = "r", gates: list[Expr] | None = None) -> None:
        self.scope = scope
        self.gates: list[Expr] = [] if gates is None else gates
        self._count = 0

    # --- leaves
    def const(self, value: Any, dtype: DType) -> Expr:
        return ir.const(value, dtype)

    def index(self, value: int) -> Expr:
        """An index literal."""
        return ir.const(value, int64)

    def load(self, param: Param, offset: Expr) -> Expr:
        """An element of a buffer, under the gates in force."""
        gate: Expr | None = None
        for g in self.gates:
            gate = g if gate is None else ir.fn("and", gate, g)
        if isinstance(gate, ir.Const):
            if not gate.value:
                return ir.const(0, param.dtype)
            gate = None
        return ir.Load(param, offset, gate)

    # --- scalar functions: k.exp(x), k.where(c, a, b), k.fn("pow", a, b) ...
    def fn(self, name: str, *args: Any) -> Expr:
        return ir.fn(name, *args)

    def __getattr__(self, name: str) -> Callable[..., Expr]:
        plain = name.rstrip("_")
        if plain not in ir.SCALAR_FUNCTIONS:
            raise AttributeError(name)
        return lambda *args: ir.fn(plain, *args)

    def cast(self, x: Expr, dtype: DType) -> Expr:
        return ir.cast(x, dtype)

    def bitcast(self, x: Expr, dtype: DType) -> Expr:
        return ir.bitcast(x, dtype)

    def all_of(self, *conditions: Expr) -> Expr:
        """The conjunction of conditions; true when there are none."""
        result: Expr = ir.const(True, bool_)
        for c in conditions:
            result = ir.fn("and", result, c)
        return result

    # --- conditions
    @contextmanager
    def gate(self, condition: Expr) -> Iterator[None]:
        """Loads made inside read nothing where `condition` is false."""
        self.gates.append(condition)
        try:
            yield
        finally:
            self.gates.pop()

    def guarded(self, condition: Expr, then: Callable[[], Expr], otherwise: Any) -> Expr:
        """`then()` where the condition holds, else `otherwise`; `then` may index out of bounds
        where it does not hold."""
        with self.gate(condition):
            value = then()
        return ir.fn("where", condition, value, otherwise)

    # --- reductions: `body` receives the bound ranges
    def ranges(self, extents: Sequence[int]) -> tuple[Range, ...]:
        made = tuple(Range(f"{self.scope}_{self._count + i}", e) for i, e in enumerate(extents))
        self._count += len(made)
        return made

    def reduce(self, op: str, extents: Sequence[int], body: Callable[..., Expr]) -> Expr:
        """`op` (add mul min max and or xor) of `body(*ranges)` over all points of `extents`."""
        ranges = self.ranges(extents)
        value = body(*ranges)
        return ir.Reduce(op, ranges, value) if ranges else value

    def arg_reduce(self, op: str, extents: Sequence[int], body: Callable[..., Expr]) -> Expr:
        """Row-major int64 position of the first minimum or maximum over `extents`."""
        ranges = self.ranges(extents)
        return ir.ArgReduce(op, ranges, body(*ranges)) if ranges else self.index(0)

    def contract(
        self,
        extents: Sequence[int],
        a: Callable[..., Expr],
        b: Callable[..., Expr],
        dtype: DType,
    ) -> Expr:
        """Sum over `extents` of `a(*ranges) * b(*ranges)`, accumulated in `dtype`."""
        ranges = self.ranges(extents)
        return ir.Contract(ranges, a(*ranges), b(*ranges), dtype)


def ravel(index: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """Row-major offset of an index."""
    offset: Expr = ir.const(0, int64)
    step = 1
    for position, size in zip(reversed(index), reversed(shape), strict=True):
        offset = position * step + offset
        step *= size
    return offset


def unravel(offset: Expr, shape: Sequence[int]) -> Index:
    """Index of a row-major offset (which must lie inside the shape)."""
    index: list[Expr] = []
    step = 1
    for axis in range(len(shape) - 1, -1, -1):
        size = shape[axis]
        part = offset if step == 1 else offset // step
        # The leading axis needs no remainder: the offset is inside the shape.
        outermost = all(s == 1 for s in shape[:axis])
        index.append(ir.const(0, int64) if size == 1 else part if outermost else part % size)
        step *= size
    return tuple(reversed(index))
