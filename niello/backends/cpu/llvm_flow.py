"""Loops and branches of the LLVM text emitter, as context managers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from niello.backends.cpu.llvm_memory import Memory
from niello.backends.cpu.llvm_types import Operand, Value


@dataclass
class Loop:
    """A loop: ``index`` and ``carried`` inside, ``results`` after it; call ``next`` once."""

    index: Value
    carried: list[Value]
    results: list[Value] = field(default_factory=list)
    _next: list[Value] | None = None

    def next(self, values: Sequence[Value]) -> None:
        """Give the carried values of the next iteration."""
        if len(values) != len(self.carried):
            raise ValueError(f"loop carries {len(self.carried)} values, got {len(values)}")
        self._next = list(values)


class Counting:
    """A loop that counts from 0 in i64: ``index`` is valid inside and after it."""

    def __init__(self, function: ControlFlow, index: Value, done: str) -> None:
        self._function = function
        self._done = done
        self.index = index

    def leave_unless(self, condition: Value) -> None:
        """End the loop here, within an iteration, unless the condition (i1) holds."""
        go_on = self._function.block("go_on")
        self._function.cond_br(condition, go_on, self._done)
        self._function.enter(go_on)


class ControlFlow(Memory):
    """Adds structured control flow."""

    # --- control flow

    @contextmanager
    def for_range(
        self,
        start: Operand,
        stop: Operand,
        step: Operand = 1,
        *,
        unroll: int | None = None,
        vectorize: bool = True,
        name: str = "loop",
    ) -> Iterator[Value]:
        """``for i in range(start, stop, step)`` with i64 bounds and a positive step; yields ``i``.

        ``unroll=1`` forbids LLVM to unroll, ``unroll=n`` asks for n; ``vectorize=False`` forbids
        its vectoriser.
        """
        with self.loop(start, stop, step, unroll=unroll, vectorize=vectorize, name=name) as loop:
            yield loop.index

    @contextmanager
    def loop(
        self,
        start: Operand,
        stop: Operand,
        step: Operand = 1,
        carry: Sequence[Value] = (),
        *,
        unroll: int | None = None,
        vectorize: bool = True,
        name: str = "loop",
    ) -> Iterator[Loop]:
        """Loop with carried values: use ``loop.carried`` inside, give ``loop.next([...])``.

        After the loop, ``loop.results`` are the last values given (or ``carry`` if it never ran).
        """
        first, stop, step = self.as_value(start), self.as_value(stop), self.as_value(step)
        before = self.current
        body, done = self.block(name), self.block(f"{name}_end")
        entered = self.icmp("slt", first, stop)
        if entered.const == 1:
            self.br(body)
        else:
            self.cond_br(entered, body, done)
        self.enter(body)
        self._count += 1
        index = Value(f"%i{self._count}", first.type)
        phis = [index]
        for value in carry:
            self._count += 1
            phis.append(Value(f"%c{self._count}", value.type))
        top = self._block
        running = Loop(index, phis[1:])
        yield running
        if carry and running._next is None:
            raise ValueError("a loop with carried values needs loop.next(values)")
        following = running._next or []
        advanced = self.add(index, step, "nuw nsw ")
        latch = self.current
        number = None
        if unroll is not None or not vectorize:
            number = self.module._loop_metadata(unroll, vectorize)
        self.cond_br(self.icmp("slt", advanced, stop), body, done, number)
        heads = zip(phis, [first, *carry], [advanced, *following], strict=True)
        top.lines[:0] = [
            f"{p.text} = phi {p.type} [ {a.text}, %{before} ], [ {b.text}, %{latch} ]"
            for p, a, b in heads
        ]
        self.enter(done)
        for initial, last in zip(carry, following, strict=True):
            if entered.const == 1:
                running.results.append(last)
            else:
                running.results.append(self.phi(last.type, [(initial, before), (last, latch)]))

    @contextmanager
    def counting(self, name: str = "repeat") -> Iterator[Counting]:
        """A loop without an end of its own: leave it with ``leave_unless``."""
        before = self.current
        top, done = self.block(name), self.block(f"{name}_end")
        self.br(top)
        self.enter(top)
        self._count += 1
        index = Value(f"%n{self._count}", "i64")
        head = self._block
        yield Counting(self, index, done)
        following = self.add(index, 1, "nuw nsw ")
        phi = f"{index.text} = phi i64 [ 0, %{before} ], [ {following.text}, %{self.current} ]"
        head.lines[:0] = [phi]
        self.br(top)
        self.enter(done)

    @contextmanager
    def if_then(self, condition: Value) -> Iterator[None]:
        """Body runs only if the condition (i1) holds."""
        then, done = self.block("then"), self.block("endif")
        self.cond_br(condition, then, done)
        self.enter(then)
        yield
        self.br(done)
        self.enter(done)

    @contextmanager
    def if_else(self, condition: Value) -> Iterator[Branches]:
        """Two branches: ``with f.if_else(c) as b: with b.then(): ...; with b.otherwise(): ...``.

        Each branch may ``b.give([values])``; afterwards ``b.results`` are the chosen values.
        """
        branches = Branches(self)
        self.cond_br(condition, branches.labels[0], branches.labels[1])
        yield branches
        branches.finish()


class Branches:
    """The two branches of an ``if_else``."""

    def __init__(self, function: ControlFlow) -> None:
        self._function = function
        self.labels = (function.block("then"), function.block("else"))
        self._done = function.block("endif")
        self._given: list[tuple[list[Value], str]] = []
        self._pending: list[Value] = []
        self.results: list[Value] = []

    @contextmanager
    def then(self) -> Iterator[None]:
        """The branch where the condition holds; write it first."""
        yield from self._branch(0)

    @contextmanager
    def otherwise(self) -> Iterator[None]:
        """The other branch; write it second."""
        yield from self._branch(1)

    def _branch(self, which: int) -> Iterator[None]:
        self._function.enter(self.labels[which])
        self._pending = []
        yield
        self._given.append((self._pending, self._function.current))
        self._function.br(self._done)

    def give(self, values: Sequence[Value]) -> None:
        """Values that this branch hands out."""
        self._pending = list(values)

    def finish(self) -> None:
        """Join the branches."""
        function = self._function
        if len(self._given) != 2:
            raise ValueError(f"if_else needs both branches written, got {len(self._given)}")
        function.enter(self._done)
        (first, a), (second, b) = self._given
        self.results = [
            function.phi(x.type, [(x, a), (y, b)]) for x, y in zip(first, second, strict=True)
        ]
