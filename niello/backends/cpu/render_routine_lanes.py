"""Values inside a Spread: which differ between lanes, and how far apart their indices lie."""

from __future__ import annotations

from collections.abc import Mapping

from niello.backends.cpu.jit import CpuTarget
from niello.backends.cpu.llvm_text import Function, Value, lanes, vector
from niello.backends.cpu.vectors import Emitter, Scope
from niello.core.errors import CompilerBug
from niello.kernel.bounds import interval, is_multiple
from niello.kernel.ir import Cast, Const, Expr, Fn, Range, free_ranges, substitute
from niello.kernel.routine import Var


class LaneScope(Scope):
    """A scope of a routine: what varies over the lanes is known variable by variable."""

    __slots__ = ("emitter",)

    def __init__(
        self,
        emitter: LaneEmitter,
        parent: Scope | None = None,
        ranges: Mapping[Range, Value] | None = None,
        *,
        vector: Range | None = None,
        width: int = 1,
        mask: Value | None = None,
    ) -> None:
        super().__init__(parent, ranges, vector=vector, width=width, mask=mask)
        self.emitter = emitter

    def varies(self, expr: Expr) -> bool:
        """Whether an expression may differ between lanes."""
        return self.vector is not None and not free_ranges(expr).isdisjoint(self.emitter.varying)


class LaneEmitter(Emitter):
    """Writes expressions of routines."""

    def __init__(self, function: Function, target: CpuTarget) -> None:
        super().__init__(function, target, {}, _no_reduction)
        self.varying: set[Range] = set()
        self.cell_types: dict[str, str] = {}

    def vector_scope(
        self, parent: Scope, index: Var, base: Value, width: int, mask: Value | None
    ) -> LaneScope:
        """A scope for the iterations base ... base + width - 1 of a Spread."""
        self.varying.add(index)
        scope = LaneScope(self, parent, {index: base}, vector=index, width=width, mask=mask)
        scope.scalars[index] = base
        kind = vector("i64", width)
        scope.values[index] = self.f.add(self.f.splat(base, kind), self.f.iota(kind))
        return scope

    def _narrow(self, node: Expr, scope: Scope) -> Value:
        if isinstance(node, Var) and node is not scope.vector:
            return self.f.cast("trunc", self.value(node, scope), "i32")
        return super()._narrow(node, scope)


def _no_reduction(em: Emitter, node: Expr, scope: Scope) -> Value:
    raise CompilerBug("cpu renderer", "index notation in a routine", received=repr(node))


def any_lane(f: Function, mask: Value) -> Value:
    """Whether a condition holds in any lane."""
    width = lanes(mask.type)
    return mask if width == 1 else f.any_lane(mask, width)


def stride(index: Expr, scope: LaneScope) -> int | None:
    """How far apart the values of neighbouring lanes lie; None where that is not known.

    The first lane of a vector is a multiple of its width, so that quotients by multiples of the
    width are the same in all lanes, and remainders count with them.
    """
    if not scope.varies(index):
        return 0
    if isinstance(index, Var):
        return 1 if index is scope.vector else None
    if isinstance(index, Cast):
        low, high = interval(index.x) if not index.x.dtype.is_float else (0, 0)
        fits = index.x.dtype.is_integer and low > -(2**30) and high < 2**30
        return stride(index.x, scope) if fits else None
    if not isinstance(index, Fn):
        return None
    parts = [stride(a, scope) for a in index.args]
    if index.name in ("add", "sub", "mul", "neg", "where"):
        return _linear(index, parts)
    return _aligned(index, parts, scope)


def permuted(index: Expr, scope: LaneScope) -> tuple[Expr, int] | None:
    """For an index that is `first + lane ^ turn`: the expression of `first`, and `turn`.

    It is to be evaluated for lane 0, whose iteration is a multiple of the width."""
    if not isinstance(index, Fn) or not scope.varies(index):
        return None
    if index.name == "add":
        for n in (0, 1):
            own, other = index.args[n], index.args[1 - n]
            found = permuted(own, scope)
            if found is not None and not scope.varies(other):
                return found[0] + other, found[1]
        return None
    if index.name != "xor" or not isinstance(index.args[1], Const):
        return None
    x, turn = index.args[0], int(index.args[1].value)
    low = turn % scope.width
    assert isinstance(scope.vector, Var)
    if turn < 0 or low == 0 or stride(x, scope) != 1 or interval(x)[0] < 0:
        return None
    if not is_multiple(substitute(x, {scope.vector: scope.vector * scope.width}), scope.width):
        return None
    return x ^ (turn - low), low


def _linear(node: Fn, parts: list[int | None]) -> int | None:
    if any(p is None for p in parts):
        return None
    strides = [p for p in parts if p is not None]
    if node.name == "neg":
        return -strides[0]
    if node.name == "add":
        return strides[0] + strides[1]
    if node.name == "sub":
        return strides[0] - strides[1]
    if node.name == "where":
        return strides[1] if strides[0] == 0 and strides[1] == strides[2] else None
    for n, other in ((0, node.args[1]), (1, node.args[0])):
        if isinstance(other, Const):
            return strides[n] * int(other.value)
    return None


def _aligned(node: Fn, parts: list[int | None], scope: LaneScope) -> int | None:
    """Functions that do not mix the bits that count the lanes with others."""
    if parts != [1, 0] or node.dtype.bits != 64:
        return None
    x, other = node.args
    width = scope.width
    assert isinstance(scope.vector, Var)
    first = substitute(x, {scope.vector: scope.vector * width})
    if not is_multiple(first, width) or interval(x)[0] < 0:
        return None
    if node.name in ("or", "xor"):
        return 1 if is_multiple(other, width) and interval(other)[0] >= 0 else None
    if node.name == "shr" and isinstance(other, Const):
        return 0 if (1 << int(other.value)) % width == 0 else None
    if node.name == "and" and isinstance(other, Const):
        return 1 if other.value >= 0 and (int(other.value) + 1) % width == 0 else None
    if not is_multiple(other, width) or interval(other)[0] <= 0:
        return None
    if node.name in ("floordiv", "truncdiv"):
        return 0
    return 1 if node.name in ("floormod", "truncmod") else None
