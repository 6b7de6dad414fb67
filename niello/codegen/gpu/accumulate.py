"""Reductions: how one value joins an accumulator, and how a team combines its accumulators.

An accumulator is one register for a Reduce, and two for an ArgReduce: the best value and its
position, which is the largest integer before there is one. Of equal values the first wins, wherever
it was found, so that only the rounding of sums depends on how work is shared; and how it is shared
depends on the kernel and the target alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from niello.codegen.access import body_of
from niello.codegen.gpu.blocks import Scope, Val
from niello.codegen.gpu.expressions import Emitter
from niello.codegen.gpu.registers import Reg, register, register_of
from niello.core.dtypes import bool_
from niello.kernel.ir import ArgReduce, Expr, reduce_identity

_FRESH_BYTES = 8 << 10  # shared memory that reductions use before they wait for each other's


def identity(node: Expr) -> float | int | bool:
    """What the accumulator of a reduction begins with."""
    op = getattr(node, "op", "add")
    value = reduce_identity(op, body_of(node).dtype)
    return value  # type: ignore[no-any-return]


def position_register(node: Expr) -> Reg:
    """Where positions of an ArgReduce are held."""
    return register(node)


def nowhere(reg: Reg) -> int:
    """The position of an accumulator that holds nothing."""
    return 2**31 - 1 if reg is Reg.I32 else 2**63 - 1


@dataclass
class Accumulator:
    """The registers of one reduction in one thread."""

    node: Expr
    value: Val
    position: Val | None = None

    @property
    def parts(self) -> list[Val]:
        return [self.value] if self.position is None else [self.value, self.position]


def begin(em: Emitter, node: Expr, scope: Scope) -> Accumulator:
    """Variables that hold what a reduction begins with."""
    body = body_of(node)
    reg = register_of(body.dtype)
    value = em.variable(scope, reg, em.dialect.literal(identity(node), reg))
    if not isinstance(node, ArgReduce):
        return Accumulator(node, value)
    at = position_register(node)
    position = em.variable(scope, at, em.dialect.literal(nowhere(at), at), "p")
    return Accumulator(node, value, position)


def combine(em: Emitter, node: Expr, a: list[str], b: list[str]) -> list[str]:
    """Two accumulators as one, as texts."""
    dialect = em.dialect
    body = body_of(node)
    reg = register_of(body.dtype)
    op = getattr(node, "op", "add")
    if isinstance(node, ArgReduce):
        test = better(em, node, a, b)
        return [dialect.select(test, y, x) for x, y in zip(a, b, strict=True)]
    if body.dtype is bool_:
        name = {"add": "or", "mul": "and", "min": "and", "max": "or"}.get(op, op)
        return [dialect.boolean(name, [a[0], b[0]])]
    if op in ("min", "max"):
        return [dialect.least(op, reg, a[0], b[0])]
    text = dialect.scalar(op, body.dtype, reg, [a[0], b[0]])
    if body.dtype.is_integer and body.dtype.bits < 32:
        text = dialect.wrapped(text, body.dtype)
    return [text]


def better(em: Emitter, node: ArgReduce, a: list[str], b: list[str]) -> str:
    """Whether (value, position) `b` comes before `a`: NaN, then the value, then the position."""
    dialect = em.dialect
    reg = register_of(node.body.dtype)
    (x, at), (y, there) = a, b
    less = dialect.compare("lt", reg, *((y, x) if node.op == "min" else (x, y)))
    same = dialect.compare("eq", reg, x, y)
    earlier = dialect.compare("lt", position_register(node), there, at)
    if not reg.is_float:
        return f"({less} || ({same} && {earlier}))"
    nan_x, nan_y = dialect.is_nan(x, reg), dialect.is_nan(y, reg)
    tie = f"(({same} || ({nan_x} && {nan_y})) && {earlier})"
    return f"((({less} || {nan_y}) && !{nan_x}) || {tie})"


def join(em: Emitter, into: Accumulator, value: Val, position: Val | None, scope: Scope) -> None:
    """Let one more term join an accumulator, unless a guard says that it does not exist."""
    held = [p.text for p in into.parts]
    terms = [em.converted(value, into.value.reg).text]
    if position is not None and into.position is not None:
        terms.append(em.converted(position, into.position.reg).text)
    new = combine(em, into.node, held, terms)
    if len(new) > 1:
        test = better(em, into.node, held, terms)  # type: ignore[arg-type]
        lines = [f"{h} = {t};" for h, t in zip(held, terms, strict=True)]
        em.under([*em.guards(scope), test], lines, scope)
    else:
        em.under(em.guards(scope), [f"{held[0]} = {new[0]};"], scope)


@dataclass
class Team:
    """How the threads of a team exchange values.

    `size` threads share a unit; they are neighbours (`rows`), or `stride` apart. `thread` is the
    number of the thread in its block, of `threads`.
    """

    em: Emitter
    size: int
    rows: bool
    threads: int
    thread: str
    shared: dict[str, tuple[Reg, int]] = field(default_factory=dict)  # arrays that are declared
    dirty: bool = False

    @property
    def stride(self) -> int:
        return 1 if self.rows else self.threads // self.size

    def rank(self) -> str:
        """The number of the thread in its team, as text."""
        if self.size == 1:
            return "0"
        if self.rows:
            return (
                self.thread if self.size == self.threads else f"({self.thread} & {self.size - 1})"
            )
        return f"({self.thread} / {self.stride})"

    def place(self) -> str:
        """The number of the team in the block, as text."""
        if self.size == 1:
            return self.thread
        if self.rows:
            return "0" if self.size == self.threads else f"({self.thread} / {self.size})"
        return f"({self.thread} % {self.stride})"

    def combined(self, accumulators: list[Accumulator], scope: Scope) -> list[list[Val]]:
        """The registers of each reduction over the whole team, known to all of its threads."""
        if self.size == 1:
            return [a.parts for a in accumulators]
        found = []
        for a in accumulators:
            parts = a.parts
            if self.rows and self.em.dialect.has_shuffles:
                parts = self._shuffled(a.node, parts, min(self.size, 32), scope)
                if self.size > 32:
                    parts = self._across(a.node, parts, scope)
            elif self.rows:
                parts = self._tree(a.node, parts, scope)
            else:
                parts = self._columns(a.node, parts, scope)
            found.append(parts)
        return found

    def _named(self, parts: list[str], like: list[Val], scope: Scope) -> list[Val]:
        return [self.em.constant(scope, v.reg, text) for text, v in zip(parts, like, strict=True)]

    def _shuffled(self, node: Expr, parts: list[Val], size: int, scope: Scope) -> list[Val]:
        mask = size // 2
        while mask:
            others = self._named([self.em.dialect.shuffle(v, mask) for v in parts], parts, scope)
            # The lower thread comes first, so that both sides of a pair compute the same sum.
            texts = combine(self.em, node, [v.text for v in parts], [v.text for v in others])
            parts = self._named(texts, parts, scope)
            mask //= 2
        return parts

    def _arrays(self, parts: list[Val], elements: int, scope: Scope) -> list[str]:
        """Shared arrays for registers; waits until earlier contents are no longer needed."""
        used = sum(n * r.bytes for r, n in self.shared.values())
        need = sum(v.reg.bytes * elements for v in parts)
        dialect = self.em.dialect
        names = []
        if used + need <= _FRESH_BYTES or not self._reusable(parts, elements):
            for v in parts:
                name = self.em.name(f"shared{self.em.stage}_")
                self.shared[name] = (v.reg, elements)
                names.append(name)
            return names
        scope.block.add(dialect.barrier_line())
        return self._reusable(parts, elements)

    def _reusable(self, parts: list[Val], elements: int) -> list[str]:
        """Declared arrays that fit registers; none when some has no place."""
        names: list[str] = []
        for v in parts:
            fit = [
                n
                for n, (r, size) in self.shared.items()
                if n not in names and r is v.reg and size >= elements
            ]
            if not fit:
                return []
            names.append(fit[0])
        return names

    def _write(self, names: list[str], at: str, parts: list[Val], scope: Scope, test: str) -> None:
        lines = [f"{n}[{at}] = {v.text};" for n, v in zip(names, parts, strict=True)]
        self.em.under([test] if test else [], lines, scope)
        scope.block.add(self.em.dialect.barrier_line())

    def _across(self, node: Expr, parts: list[Val], scope: Scope) -> list[Val]:
        """Combine the warps of a team, each of which has agreed on a value."""
        warps = self.size // 32
        names = self._arrays(parts, self.threads // 32, scope)
        self._write(names, f"{self.thread} / 32", parts, scope, f"({self.thread} & 31) == 0")
        first = "0" if self.size == self.threads else f"{self.thread} / {self.size} * {warps}"
        own = (
            f"{first} + ({self.thread} & {warps - 1})"
            if first != "0"
            else f"({self.thread} & {warps - 1})"
        )
        read = self._named([f"{n}[{own}]" for n in names], parts, scope)
        return self._shuffled(node, read, warps, scope)

    def _tree(self, node: Expr, parts: list[Val], scope: Scope) -> list[Val]:
        """Combine through shared memory, halving the number of threads."""
        names = self._arrays(parts, self.threads, scope)
        self._write(names, self.thread, parts, scope, "")
        dialect = self.em.dialect
        half = self.size // 2
        rank = self.rank()
        while half:
            mine = [f"{n}[{self.thread}]" for n in names]
            others = [f"{n}[{self.thread} + {half}]" for n in names]
            texts = combine(self.em, node, mine, others)
            block = scope.block
            block.add(f"if ({rank} < {half}) {{")
            fresh = [self.em.name("v") for _ in names]
            for name, v, text in zip(fresh, parts, texts, strict=True):
                block.add("  " + dialect.constant_line(v.reg, name, text))
            for name, target in zip(fresh, mine, strict=True):
                block.add(f"  {target} = {name};")
            block.add("}")
            block.add(dialect.barrier_line())
            half //= 2
        first = f"{self.thread} - {rank}" if self.size < self.threads else "0"
        return self._named([f"{n}[{first}]" for n in names], parts, scope)

    def _columns(self, node: Expr, parts: list[Val], scope: Scope) -> list[Val]:
        """Combine threads that are a stride apart: each reads what all of its team have."""
        names = self._arrays(parts, self.threads, scope)
        self._write(names, self.thread, parts, scope, "")
        place = self.place()
        total: list[str] = []
        for k in range(self.size):
            texts = [f"{n}[{place} + {k * self.stride}]" for n in names]
            read = [v.text for v in self._named(texts, parts, scope)]
            if total:
                read = [
                    v.text for v in self._named(combine(self.em, node, total, read), parts, scope)
                ]
            total = read
        return [Val(t, v.reg) for t, v in zip(total, parts, strict=True)]


def result_of(em: Emitter, node: Expr, parts: list[Val]) -> Val:
    """The value of a reduction from its combined accumulator."""
    if not isinstance(node, ArgReduce):
        value = parts[0]
        return em.converted(value, register(node))
    return em.converted(parts[1], register(node))


def points_of(node: Expr) -> int:
    """How many terms a reduction has."""
    return math.prod(r.extent for r in node.ranges)  # type: ignore[attr-defined]
