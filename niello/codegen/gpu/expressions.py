"""Kernel expressions to lines of text: one name per value, each evaluated where it is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from niello.codegen.access import is_reduction
from niello.codegen.gpu.blocks import Lanes, Scope, Val
from niello.codegen.gpu.c_style import COMPARISONS, MODULAR, WRAPPING, CStyle
from niello.codegen.gpu.casts import bitcast_text, cast_text
from niello.codegen.gpu.registers import Reg, register, register_of
from niello.core.dtypes import bool_, float32, int64
from niello.core.errors import CompilerBug
from niello.kernel.bounds import affine, interval, is_multiple
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
    Store,
    const,
    fn,
    free_ranges,
    substitute,
)

Reducer = Callable[["Emitter", Expr, Scope], Val]
_TYPES = frozenset(("i32", "u32", "f32", "f16"))  # of WGSL, which no name may hide


class Emitter:
    """Writes expressions for one launch. `reduce` writes reductions that no team shares."""

    def __init__(
        self,
        dialect: CStyle,
        reduce: Reducer,
        stage: int = 0,
    ) -> None:
        self.dialect = dialect
        self.reduce = reduce
        self.stage = stage
        self.count = 0
        self.used: dict[Param, bool] = {}  # parameters met, and whether they are written

    # --- names and lines
    def name(self, stem: str = "v") -> str:
        """A name that is not in use."""
        self.count += 1
        found = f"{stem}{self.count}"
        return self.name(stem) if found in _TYPES else found

    def constant(self, scope: Scope, reg: Reg, text: str, stem: str = "v") -> Val:
        """A name for a value that stays."""
        name = self.name(stem)
        scope.block.add(self.dialect.constant_line(reg, name, text))
        return Val(name, reg)

    def variable(self, scope: Scope, reg: Reg, text: str, stem: str = "a") -> Val:
        """A name for a value that changes."""
        name = self.name(stem)
        scope.block.add(self.dialect.variable_line(reg, name, text))
        return Val(name, reg)

    def literal(self, value: int | float | bool, reg: Reg) -> Val:
        """A constant."""
        return Val(self.dialect.literal(value, reg), reg)

    def converted(self, value: Val, reg: Reg) -> Val:
        """The same integer in another register."""
        if value.reg is reg:
            return value
        return Val(self.dialect.convert(value.text, value.reg, reg), reg)

    # --- expressions
    def value(self, root: Expr, scope: Scope) -> Val:
        """The value of an expression at the point that a scope stands for."""
        stack = [root]
        while stack:
            node = stack[-1]
            if scope.find(node) is not None:
                stack.pop()
                continue
            missing = [x for x in self._operands(node, scope) if scope.find(x) is None]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            home = scope.home(free_ranges(node))
            home.values[node] = self._compute(node, home)
        found = scope.find(root)
        assert found is not None
        return found

    def _operands(self, node: Expr, scope: Scope) -> tuple[Expr, ...]:
        """What must be known before a node; reductions evaluate their own bodies."""
        if isinstance(node, Load):
            lanes = scope.lanes
            together = lanes is not None and self._together(
                node.param, node.index, node.gate, lanes
            )
            parts = [] if together else [node.index]
            return (*parts, node.gate) if node.gate is not None else tuple(parts)
        if isinstance(node, (Reduce, ArgReduce, Contract, Const, Range)):
            return ()
        return tuple(c for c in node.children if isinstance(c, Expr))

    def _together(self, param: Param, index: Expr, gate: Expr | None, lanes: Lanes) -> bool:
        """Whether the elements of all lanes are one access."""
        if param.dtype.itemsize * lanes.width < max(self.dialect.word_bytes, 2):
            return False
        if lanes.width == 1 or (gate is not None and lanes.axis in free_ranges(gate)):
            return False
        return adjacent(index, lanes.axis, lanes.width)

    def _compute(self, node: Expr, scope: Scope) -> Val:
        if isinstance(node, Range):
            return self._range(node, scope)
        if isinstance(node, Load):
            return self._load(node, scope)
        if is_reduction(node):
            return self.reduce(self, node, scope)
        if isinstance(node, Fn) and all(isinstance(a, Const) for a in node.args):
            # Languages may refuse constant expressions that overflow or are NaN.
            node = fn(node.name, *node.args)
        if isinstance(node, Const):
            return self.literal(node.value, register(node))
        if isinstance(node, Fn):
            args = [self._known(a, scope) for a in node.args]
            if node.name in ("add", "sub", "mul", "fma") and node.dtype is float32:
                args = [self._exact(node, a, v) for a, v in zip(node.args, args, strict=True)]
            reg, text = self._function(node, args)
        elif isinstance(node, Cast):
            x = self._known(node.x, scope)
            reg = register(node)
            text = cast_text(self.dialect, x.text, x.reg, node.x.dtype, node.dtype, reg)
        elif isinstance(node, Bitcast):
            x = self.converted(self._known(node.x, scope), register_of(node.x.dtype))
            text = bitcast_text(self.dialect, x.text, node.x.dtype, node.dtype)
            reg = register_of(node.dtype)
            if register(node) is not reg:
                text, reg = self.dialect.convert(text, reg, register(node)), register(node)
        else:
            raise CompilerBug("GPU code", "an unknown expression", received=repr(node))
        return self.constant(scope, reg, text)

    def _exact(self, node: Fn, term: Expr, value: Val) -> Val:
        """An argument of a sum or product, hidden where a rewriting would change the result.

        A sum that is added to another one must be rounded first: expansions of transcendental
        functions recover what it has lost. Zero times infinity is NaN, and -0 plus 0 is 0.
        """
        added = node.name in ("add", "sub") and isinstance(term, Fn)
        is_sum = added and term.name in ("add", "sub", "fma")  # type: ignore[attr-defined]
        if is_sum or (isinstance(term, Const) and term.value == 0):
            return Val(self.dialect.opaque(value.text), value.reg)
        return value

    def _known(self, node: Expr, scope: Scope) -> Val:
        found = scope.find(node)
        assert found is not None
        return found

    def _range(self, node: Range, scope: Scope) -> Val:
        found = scope.range_value(node)
        if found is None:
            raise CompilerBug("GPU code", "a range has no value here", received=repr(node))
        return self.converted(found, register(node))

    # --- scalar functions
    def _function(self, node: Fn, args: list[Val]) -> tuple[Reg, str]:
        dialect, name = self.dialect, node.name
        result = register(node)
        if name == "where":
            test, *sides = args
            yes, no = (self.converted(s, result).text for s in sides)
            return result, dialect.select(test.text, yes, no)
        dtype = node.args[0].dtype
        if dtype is bool_:
            return Reg.BOOL, dialect.boolean(name, [a.text for a in args])
        reg = self._common(node, args)
        texts = [self.converted(a, reg).text for a in args]
        if name in COMPARISONS:
            return Reg.BOOL, dialect.compare(name, reg, *texts)
        if name in ("min", "max"):
            text = dialect.least(name, reg, *texts)
        elif name in ("shl", "shr"):
            amount = node.args[1].value if isinstance(node.args[1], Const) else None
            text = dialect.shift(name, dtype, reg, texts[0], texts[1], amount)
        else:
            text = self._plain(node, reg, texts)
        if dtype.is_integer and dtype.bits < 32 and name in WRAPPING:
            text = dialect.wrapped(text, dtype)
        return result, text if result is reg else dialect.convert(text, reg, result)

    def _plain(self, node: Fn, reg: Reg, texts: list[str]) -> str:
        """A function of registers, in its cheapest form for what is known of the arguments."""
        name, dtype = node.name, node.args[0].dtype
        if name in ("floordiv", "floormod", "truncdiv", "truncmod") and dtype.is_integer:
            low, high = interval(node.args[1])
            positive = interval(node.args[0])[0] >= 0 and low > 0
            if positive:
                return self._unsigned(name, reg, texts)
            if low > 0 and low == high and name.startswith("floor"):
                return self.dialect.scalar(name + "_positive", dtype, reg, texts)
        if name == "popcount" and dtype.bits < 32:
            # Without the copies of the sign above the element.
            mask = self.dialect.literal((1 << dtype.bits) - 1, reg)
            texts = [self.dialect.scalar("and", dtype, reg, [texts[0], mask])]
        if reg is Reg.I32 and dtype is int64:
            # Index arithmetic that is known not to wrap.
            return self.dialect.scalar(
                name + "_exact" if name in _EXACT else name, dtype, reg, texts
            )
        return self.dialect.scalar(name, dtype, reg, texts)

    def _unsigned(self, name: str, reg: Reg, texts: list[str]) -> str:
        """A quotient or remainder of numbers that are not negative, by one that is positive."""
        dialect = self.dialect
        unsigned = {Reg.I32: Reg.U32, Reg.I64: Reg.U64}.get(reg, reg)
        a, b = (dialect.convert(t, reg, unsigned) for t in texts)
        text = dialect.scalar(
            "div_any" if name.endswith("div") else "mod_any", int64, unsigned, [a, b]
        )
        return dialect.convert(text, unsigned, reg)

    def _common(self, node: Fn, args: Sequence[Val]) -> Reg:
        """The register that a function of these arguments works in."""
        full = register_of(node.args[0].dtype)
        if full is not Reg.I64:
            return full
        if all(a.reg is Reg.I32 for a in args) and (
            node.dtype is bool_ or register(node) is Reg.I32
        ):
            return Reg.I64 if _sees_width(node) else Reg.I32
        if node.name in MODULAR and register(node) is Reg.I32:
            return Reg.I32
        return Reg.I64

    # --- memory
    def guards(self, scope: Scope) -> list[str]:
        """The conditions under which the scope's point exists."""
        found = []
        inner: Scope | None = scope
        while inner is not None:
            if inner.guard is not None:
                found.append(inner.guard)
            inner = inner.parent
        return found

    def subscript(self, index: Expr, scope: Scope) -> str:
        """The position of an element, as text."""
        return self.dialect.subscript(self.value(index, scope))

    def _load(self, node: Load, scope: Scope) -> Val:
        self.used.setdefault(node.param, False)
        reg = register_of(node.dtype)
        gates = self.guards(scope)
        if node.gate is not None:
            gates.append(self._known(node.gate, scope).text)
        lanes = scope.lanes
        if lanes is not None and self._together(node.param, node.index, node.gate, lanes):
            return self._load_lanes(node, lanes, gates)[scope.lane]
        text = self.dialect.load(node.param, self.dialect.subscript(self._known(node.index, scope)))
        narrow = register(node)
        if narrow is not reg:
            text, reg = self.dialect.convert(text, reg, narrow), narrow
        if not gates:
            return self.constant(scope, reg, text, "x")
        name = self.name("x")
        scope.block.add(self.dialect.gated_line(reg, name, self.dialect.all_of(gates), text))
        return Val(name, reg)

    def _load_lanes(self, node: Load, lanes: Lanes, gates: list[str]) -> list[Val]:
        """The elements of all lanes, read at once."""
        found = lanes.loaded.get(node)
        if found is not None:
            return found
        first = substitute(node.index, {lanes.axis: const(0, int64)})
        index = self.subscript(first, lanes.base)
        gate = self.dialect.all_of(gates) if gates else None
        lines, texts = self.dialect.load_lanes(node.param, index, lanes.width, self.name("w"), gate)
        for line in lines:
            lanes.base.block.add(line)
        reg = register_of(node.dtype)
        values = [self.constant(lanes.base, reg, t, "x") for t in texts]
        lanes.loaded[node] = values
        for scope, value in zip(lanes.scopes, values, strict=True):
            scope.values[node] = value
        return values

    # --- stores
    def store_all(self, stores: Sequence[Store], scopes: Sequence[Scope]) -> None:
        """At every scope: first all values, then all stores, under their gates."""
        found = []
        for scope in scopes:
            for s in stores:
                value = self.value(s.value, scope)
                gate = None if s.gate is None else self.value(s.gate, scope)
                found.append((s, scope, value, gate))
        done: set[tuple[Store, int]] = set()
        for s, scope, value, gate in found:
            lanes = scope.lanes
            if lanes is not None and self._together(s.param, s.index, s.gate, lanes):
                if (s, id(lanes)) not in done:
                    self._store_lanes(s, lanes)
                    done.add((s, id(lanes)))
                continue
            index = self.value(s.index, scope)
            tests = self.guards(scope) + scope.live + ([] if gate is None else [gate.text])
            self.store(
                s.param, index, self.converted(value, register_of(s.param.dtype)), tests, scope
            )

    def store(
        self, param: Param, index: Val, value: Val, tests: Sequence[str], scope: Scope
    ) -> None:
        """Write one element where all tests hold."""
        self.used[param] = True
        lines = self.dialect.store_lines(param, self.dialect.subscript(index), value.text)
        self.under(tests, lines, scope)

    def under(self, tests: Sequence[str], lines: Sequence[str], scope: Scope) -> None:
        """Lines that run where all tests hold."""
        if not tests:
            for line in lines:
                scope.block.add(line)
            return
        scope.block.add(f"if ({self.dialect.all_of(tests)}) {{")
        for line in lines:
            scope.block.add("  " + line)
        scope.block.add("}")

    def _store_lanes(self, s: Store, lanes: Lanes) -> None:
        """Write the elements of all lanes at once."""
        reg = register_of(s.param.dtype)
        values = [self.converted(self.value(s.value, x), reg).text for x in lanes.scopes]
        first = substitute(s.index, {lanes.axis: const(0, int64)})
        index = self.subscript(first, lanes.base)
        tests = self.guards(lanes.base) + lanes.scopes[0].live
        if s.gate is not None:
            tests.append(self.value(s.gate, lanes.base).text)
        self.used[s.param] = True
        lines = self.dialect.store_lanes(s.param, index, values, self.name("w"))
        self.under(tests, lines, lanes.base)


_EXACT = frozenset(("add", "sub", "mul", "neg"))


def adjacent(index: Expr, axis: Range, width: int) -> bool:
    """Whether the points of `axis` are neighbours that begin at a multiple of `width`."""
    key = ("adjacent", axis, width)
    known: bool | None = index.facts.get(key)
    if known is None:
        known = affine(index).stride(axis) == 1 and is_multiple(
            substitute(index, {axis: const(0, int64)}), width
        )
        index.facts[key] = known
    return known


def _sees_width(node: Fn) -> bool:
    """Whether a function of numbers that fit 32 bits still depends on the 64 that they have."""
    if node.name in ("shl", "shr"):
        amount = node.args[1]
        return not (isinstance(amount, Const) and 0 <= amount.value < 32)
    return node.name in ("popcount", "mulhi")
