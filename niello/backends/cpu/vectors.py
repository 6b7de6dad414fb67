"""Expressions of the kernel language as LLVM values: the heart of the CPU code generator.

A `Scope` says where code is being written: the values of the ranges, which range (if any) runs
over the lanes of vectors, how many lanes there are and which of them exist. An `Emitter` writes
expressions into one function: a node that does not depend on the lanes' range is a scalar, any
other a vector. Every node is written once per scope; what an outer scope wrote is found again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from niello.backends.cpu import render_functions, render_memory
from niello.backends.cpu.jit import CpuTarget
from niello.backends.cpu.llvm_text import Function, Value, constant, vector
from niello.backends.cpu.render_casts import convert
from niello.backends.cpu.render_codes import emit_codes, find_codes
from niello.backends.cpu.render_types import register_type
from niello.codegen.plan import Partial
from niello.core.dtypes import DType, bool_, float32, int32, int64, uint32
from niello.core.errors import CompilerBug
from niello.core.nodes import Node, walk
from niello.kernel.bounds import interval
from niello.kernel.ir import (
    ArgReduce,
    Bitcast,
    Cast,
    Const,
    Contract,
    Expr,
    Fn,
    Load,
    Param,
    Range,
    Reduce,
    free_ranges,
)


class Scope:
    """Values that hold at one place of the code.

    `ranges` gives each range its i64 value (of lane 0 for `vector`, the range over the lanes);
    `mask` (`<width x i1>`) tells the lanes that exist, None: all. `counted` tells the lanes that a
    reduction has not seen yet where vectors overlap. A child scope sees what its parents computed.
    """

    __slots__ = ("counted", "mask", "parent", "ranges", "scalars", "values", "vector", "width")

    def __init__(
        self,
        parent: Scope | None = None,
        ranges: Mapping[Range, Value] | None = None,
        *,
        vector: Range | None = None,
        width: int = 1,
        mask: Value | None = None,
    ) -> None:
        self.parent = parent
        self.ranges: dict[Range, Value] = dict(parent.ranges) if parent else {}
        self.ranges.update(ranges or {})
        self.vector: Range | None = vector
        self.width: int = width
        self.mask: Value | None = mask
        self.counted: Value | None = None
        if parent is not None and vector is None:
            self.vector, self.width = parent.vector, parent.width
            self.mask = parent.mask if mask is None else mask
            self.counted = parent.counted
        self.values: dict[Expr, Value] = {}
        self.scalars: dict[Expr, Value] = {}  # lane 0 of what depends on the lanes' range

    def without_lanes(self) -> Scope:
        """A scope inside this one where code is scalar, for what does not vary over the lanes."""
        made = Scope(self)
        made.vector, made.width, made.mask, made.counted = None, 1, None, None
        return made

    def find(self, expr: Expr) -> Value | None:
        """The value of an expression if it has been written here or further out."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.values.get(expr)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def find_scalar(self, expr: Expr) -> Value | None:
        """The value in lane 0 of an expression, if it has been written."""
        if not self.varies(expr):
            return self.find(expr)
        scope: Scope | None = self
        while scope is not None:
            found = scope.scalars.get(expr)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def varies(self, expr: Expr) -> bool:
        """Whether an expression may differ between lanes."""
        return self.vector is not None and self.vector in free_ranges(expr)


class Emitter:
    """Writes expressions into one function.

    `pointers` gives the address of each buffer (Param) that expressions load from. `reduce` is
    called for a Reduce, ArgReduce or Contract that no scope knows the value of.
    """

    def __init__(
        self,
        function: Function,
        target: CpuTarget,
        pointers: Mapping[Param, Value],
        reduce: Callable[[Emitter, Expr, Scope], Value],
    ) -> None:
        self.f = function
        self.target = target
        self.pointers = dict(pointers)
        self._reduce = reduce
        self.nontemporal = False  # whether vectors are stored around the caches
        self.ahead: Callable[[Sequence[Scope]], None] | None = None  # written into loops of rows
        # Buffers of one row that hold a vector for each point when lanes run over the rows.
        self.row_params: set[Param] = set()
        # Partial results of all threads: address of the first thread's, bytes to the next one's.
        self.partial_pointers: dict[Param, Value] = {}
        self.partial_step: Value | None = None
        self.partial_threads: Value | None = None
        # What needs reductions that a phase of the nest will find, with those: see `expect`.
        self._awaited: dict[Node, frozenset[Node]] = {}

    # --- values

    def value(self, expr: Expr, scope: Scope) -> Value:
        """The value of an expression: a vector if it varies over the lanes, else a scalar."""
        found = scope.find(expr)
        return found if found is not None else self._evaluate(expr, scope, True)

    def scalar(self, expr: Expr, scope: Scope) -> Value:
        """The value of an expression in lane 0."""
        found = scope.find_scalar(expr)
        return found if found is not None else self._evaluate(expr, scope, False)

    def lanes(self, expr: Expr, scope: Scope) -> Value:
        """The value of an expression in all lanes of the scope, the same where it does not vary."""
        return self.widen(self.value(expr, scope), scope)

    def widen(self, value: Value, scope: Scope) -> Value:
        """A scalar in all lanes of the scope; a vector stays."""
        if scope.width == 1 or scope.vector is None or value.type[0] == "<":
            return value
        return self.f.splat(value, vector(value.type, scope.width))

    def hoist(self, exprs: Iterable[Expr], scope: Scope, inner: Iterable[Range]) -> None:
        """Write now, outside of loops over `inner`, what of `exprs` they do not change."""
        seen: set[tuple[Expr, frozenset[Range]]] = set()
        stack = [(e, frozenset(inner)) for e in exprs]
        while stack:
            node, bound = stack.pop()
            # Only these matter below: whole sets would make one visit for each order of nesting.
            bound = bound & free_ranges(node)
            if (node, bound) in seen or isinstance(node, (Const, Range)):
                continue
            seen.add((node, bound))
            if bound.isdisjoint(free_ranges(node)) and not self._waits(node, scope):
                if scope.find(node) is None:
                    self._evaluate(node, scope, True)
            elif isinstance(node, Load):
                stack += [(e, bound) for e in _loads_inside(node.index)]
                if node.gate is not None:
                    stack.append((node.gate, bound))
            else:
                if isinstance(node, (Reduce, ArgReduce, Contract)):
                    bound = bound | frozenset(node.ranges)
                stack += [(c, bound) for c in node.children if isinstance(c, Expr)]

    def expect(self, planned: Iterable[Expr], roots: Iterable[Expr]) -> None:
        """Phases will find the reductions `planned` in `roots`: hoisting must not do so before."""
        wanted = frozenset(planned)
        self._awaited = {}
        for node in walk(roots) if wanted else ():
            below = [self._awaited[c] for c in node.children if c in self._awaited]
            own = [frozenset((node,))] if node in wanted else []
            if below or own:
                self._awaited[node] = frozenset().union(*below, *own)

    def _waits(self, expr: Expr, scope: Scope) -> bool:
        """Whether an expression needs a reduction that its phase has not found yet."""
        awaited = self._awaited.get(expr)
        if awaited is None or scope.find(expr) is not None:
            return False
        return any(scope.find(n) is None for n in awaited)  # type: ignore[arg-type]

    def _evaluate(self, expr: Expr, scope: Scope, wide: bool) -> Value:
        find = scope.find if wide else scope.find_scalar
        stack = [expr]
        while stack:
            node = stack[-1]
            if find(node) is not None:
                stack.pop()
                continue
            pending = [c for c in _operands(node) if find(c) is None]
            if pending:
                stack.extend(pending)
                continue
            stack.pop()
            varies = scope.varies(node)
            made = self._compute(node, scope, find, wide and varies)
            (scope.values if wide or not varies else scope.scalars)[node] = made
        found = find(expr)
        assert found is not None
        return found

    def _compute(
        self, node: Expr, scope: Scope, find: Callable[[Expr], Value | None], wide: bool
    ) -> Value:
        if isinstance(node, Const):
            return constant(node.value, register_type(node.dtype))
        if isinstance(node, Load):
            return render_memory.load(self, node, scope, wide)
        if isinstance(node, _COMPOSED):
            return self._reduce(self, node, scope)
        if wide and is_narrow(node):
            return self.f.cast("sext", self.narrow(node, scope), "i64")
        if isinstance(node, Range):
            return self._range(node, scope, wide)
        known = [value for c in _operands(node) if (value := find(c)) is not None]
        return self._apply(node, self._aligned(known), scope, wide)

    def _aligned(self, values: Sequence[Value]) -> list[Value]:
        """The values with scalars spread over the lanes of the vectors among them."""
        shape = next((v.type for v in values if v.type[0] == "<"), None)
        if shape is None:
            return list(values)
        count = _count(shape)
        return [v if v.type[0] == "<" else self.f.splat(v, vector(v.type, count)) for v in values]

    def _apply(self, node: Expr, operands: Sequence[Value], scope: Scope, wide: bool) -> Value:
        if isinstance(node, Cast):
            x, source = operands[0], node.x.dtype
            if wide and is_narrow(node.x):
                x = self.f.cast("trunc", x, "i32")
                if node.dtype.is_float:
                    # Values fit 32 bits, and that conversion is an instruction everywhere.
                    return convert(self.f, self.target, x, _INT32, node.dtype)
                x = operands[0]
            return convert(self.f, self.target, x, source, node.dtype)
        if isinstance(node, Bitcast):
            return self._bitcast(operands[0], node.x.dtype, node.dtype)
        if not isinstance(node, Fn):
            raise CompilerBug("cpu renderer", "no such expression", received=type(node).__name__)
        codes = find_codes(node)
        if codes is not None:
            return emit_codes(self.f, self.target, codes, operands[0])
        return self.function(node.name, node.args, list(operands), scope, wide)

    def function(
        self, name: str, args: Sequence[Expr], values: list[Value], scope: Scope, wide: bool
    ) -> Value:
        """A scalar function of values that have been written."""
        dtype = args[0].dtype
        if name in render_functions.LIBRARY_FUNCTIONS and dtype is float32:
            return self.transcendental(name, values)
        if name in _DIVISIONS:
            if dtype.is_float:
                if name != "truncmod":
                    return render_functions.float_floor_divide(
                        self.f, self.target, name, dtype, values[0], values[1]
                    )
            else:
                plain = interval(args[0])[0] >= 0 and interval(args[1])[0] > 0
                return render_functions.divide(
                    self.f, name, dtype, values[0], values[1], plain=plain
                )
        if wide and dtype is int64 and name in _COMPARISONS and all(map(is_narrow, args)):
            values = [self.widen(self.narrow(a, scope), scope) for a in args]
            return render_functions.emit_function(self.f, self.target, name, _INT32, values)
        return render_functions.emit_function(self.f, self.target, name, dtype, values)

    def transcendental(self, name: str, values: Sequence[Value]) -> Value:
        """A float32 function that no instruction computes: a call of our own expansion."""
        from niello.backends.cpu.render_transcendental import function_name

        symbol = function_name(self.f.module, self.target, name, values[0].type)
        return self.f.call(symbol, values[0].type, list(values), declare=False)

    def _range(self, node: Range, scope: Scope, wide: bool) -> Value:
        try:
            base = scope.ranges[node]
        except KeyError:
            raise CompilerBug(
                "cpu renderer", "a range is used outside of its loop", received=node.name
            ) from None
        if not wide:
            return base
        whole = vector("i64", scope.width)
        return self.f.add(self.f.splat(base, whole), self.f.iota(whole))

    def _bitcast(self, x: Value, source: DType, wanted: DType) -> Value:
        if source is bool_:
            x = self.f.cast("zext", x, "i8")
        if wanted is bool_:
            return self.f.icmp("ne", x, constant(0, x.type))
        element = register_type(wanted)
        result = element if x.type[0] != "<" else vector(element, _count(x.type))
        return self.f.bitcast(x, result) if result != x.type else x

    # --- 32-bit index arithmetic

    def narrow(self, node: Expr, scope: Scope) -> Value:
        """An int64 expression that fits 32 bits (is_narrow) as i32, in lanes if it varies."""
        if not scope.varies(node):
            return self.f.cast("trunc", self.value(node, scope), "i32")
        known = scope.scalars.get((node, 32))  # type: ignore[call-overload]
        if known is not None:
            return known  # type: ignore[no-any-return]
        made = self._narrow(node, scope)
        scope.scalars[(node, 32)] = made  # type: ignore[index]
        return made

    def _narrow(self, node: Expr, scope: Scope) -> Value:
        f, whole = self.f, vector("i32", scope.width)
        if isinstance(node, Range):
            base = f.cast("trunc", scope.ranges[node], "i32")
            return f.add(f.splat(base, whole), f.iota(whole))
        if isinstance(node, Cast):
            x = self.value(node.x, scope)
            return f.cast("zext" if node.x.dtype.kind in ("uint", "bool") else "sext", x, "i32")
        assert isinstance(node, Fn)
        values = [
            self.value(a, scope) if a.dtype is bool_ else self.narrow(a, scope) for a in node.args
        ]
        values = [self.widen(v, scope) for v in values]
        if node.name in _DIVISIONS:
            a, b = node.args
            plain = interval(a)[0] >= 0 and interval(b)[0] > 0
            return render_functions.divide(f, node.name, _INT32, *values, plain=plain)
        return render_functions.emit_function(f, self.target, node.name, _INT32, values)


_COMPOSED = (Reduce, ArgReduce, Contract, Partial)
_INT32 = int32
_DIVISIONS = ("truncdiv", "truncmod", "floordiv", "floormod")
_COMPARISONS = ("lt", "le", "eq", "ne")
_NARROW_FUNCTIONS = frozenset(("add", "sub", "mul", "neg", "min", "max", "where", *_DIVISIONS))


def is_narrow(expr: Expr) -> bool:
    """Whether an int64 expression and all it is computed from fit 32 bits."""
    known: bool | None = expr.facts.get("narrow")
    if known is None:
        known = expr.facts["narrow"] = _is_narrow(expr)
    return known


def _is_narrow(expr: Expr) -> bool:
    if expr.dtype is not int64:
        return False
    low, high = interval(expr)
    if low < -(2**31) or high >= 2**31:
        return False
    if isinstance(expr, (Range, Const)):
        return True
    if isinstance(expr, Cast):
        return (
            not expr.x.dtype.is_float and expr.x.dtype.bits <= 32 and expr.x.dtype is not (uint32)
        )
    if isinstance(expr, Fn) and expr.name in _NARROW_FUNCTIONS:
        return all(a.dtype is bool_ or is_narrow(a) for a in expr.args)
    return False


def _operands(node: Expr) -> tuple[Expr, ...]:
    """Sub-expressions whose values a node is computed from, in the same lanes."""
    if isinstance(node, Fn):
        codes = find_codes(node)
        return node.args if codes is None else (codes.x,)
    if isinstance(node, (Cast, Bitcast)):
        return (node.x,)
    return ()


def _loads_inside(expr: Expr) -> list[Expr]:
    """The outermost loads and reductions inside an index expression."""
    found: list[Expr] = []
    stack = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, (Load, Reduce, ArgReduce, Contract)):
            found.append(node)
        elif isinstance(node, (Fn, Cast, Bitcast)):
            stack.extend(_operands(node))
    return found


def _count(type: str) -> int:
    return int(type[1 : type.index(" ")])
