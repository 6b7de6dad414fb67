"""Branches and loops as commands: the programs of regions, linked into the program around them.

A region is scheduled like any computation. What its program calls inputs, outputs, variables and
arena are then buffers of the program around it. The values that a loop carries are variables of
its body: what orders assignments, and makes them in place, serves both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from niello.graph.control_flow import If as Branch
from niello.graph.control_flow import Loop as Repeat
from niello.graph.graph import GraphDefinition
from niello.graph.operation import Operation
from niello.graph.structural import Assign, VariableOp
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation, Rebuild
from niello.passes.regions import computation_of
from niello.runtime.commands import (
    BufferRef,
    Command,
    Copy,
    Dispatch,
    Fill,
    If,
    Loop,
    Program,
    SliceCopy,
    Space,
)
from niello.schedule.memory import aligned

WORD = 4

Plan = Callable[[Computation], Program]
Place = Callable[[Tensor], BufferRef]
Move = Callable[[Tensor, BufferRef], list[Command]]
Map = Callable[[BufferRef], BufferRef]


@dataclass(frozen=True)
class Nested:
    """The program of a region. `carried` are names of the variables that stand for values carried
    from one iteration to the next."""

    program: Program
    carried: tuple[str, ...] = ()

    def variables(self) -> list[str]:
        """Names of the variables of the graph that it touches."""
        return [v.name for v in self.program.variables if v.name not in self.carried]


class Link:
    """What the programs of regions share with the program around them."""

    def __init__(
        self,
        kernel: Callable[[Program, int], int],
        constant: Callable[[Program, int], int],
        variable: Callable[[str], int],
    ) -> None:
        self.kernel = kernel
        self.constant = constant
        self.variable = variable

    def commands(
        self,
        nested: Nested,
        inputs: Sequence[BufferRef],
        outputs: Sequence[BufferRef],
        carried: Mapping[str, BufferRef],
        arena: int,
    ) -> tuple[Command, ...]:
        """The commands of a region on buffers of the program around it; its arena begins there."""
        program = nested.program

        def place(ref: BufferRef) -> BufferRef:
            if ref.space is Space.ARENA:
                return dataclasses.replace(ref, offset=ref.offset + arena)
            if ref.space is Space.CONSTANT:
                return dataclasses.replace(ref, index=self.constant(program, ref.index))
            if ref.space is Space.VARIABLE:
                name = program.variables[ref.index].name
                if name not in carried:
                    return dataclasses.replace(ref, index=self.variable(name))
                base = carried[name]
            else:
                base = (inputs if ref.space is Space.INPUT else outputs)[ref.index]
            return BufferRef(base.space, base.index, base.offset + ref.offset, ref.bytes)

        return tuple(self._moved(program, c, place) for c in program.commands)

    def _moved(self, program: Program, command: Command, place: Map) -> Command:
        """A command with its buffers elsewhere and its kernel renumbered."""
        new: dict[str, object] = {}
        for field in dataclasses.fields(command):
            value = getattr(command, field.name)
            if isinstance(value, BufferRef):
                new[field.name] = place(value)
            elif isinstance(value, tuple) and value and isinstance(value[0], BufferRef):
                new[field.name] = tuple(map(place, value))
            elif isinstance(value, tuple) and value and isinstance(value[0], Command):
                new[field.name] = tuple(self._moved(program, c, place) for c in value)
        if isinstance(command, Dispatch):
            new["kernel"] = self.kernel(program, command.kernel)
        return dataclasses.replace(command, **new)


class Frame:
    """An operation with regions: their programs, and the memory that they need while it runs."""

    def __init__(self, operation: Operation, plan: Plan, alignment: int) -> None:
        self.operation = operation
        self.alignment = alignment
        self.bytes = 0
        op = operation.op
        if isinstance(op, Branch):
            self.nested = [Nested(plan(computation_of(r))) for r in op.regions]
        else:
            assert isinstance(op, Repeat)
            self.nested = [loop_body(operation, op, plan)]
            if op.condition is not None:
                self.nested.append(Nested(plan(computation_of(op.condition))))
            parts = op.body_parts()
            self.counter = self._room(WORD)
            self.word = self._room(WORD)
            self.slices = [self._room(t.type.bytes) for t in parts.scanned]
            self.rows = [self._room(t.type.bytes) for t in op.body.results[op.carried :]]
        # Branches, and a loop's body and its condition, are never at work at the same time.
        self.arena = self._room(max(n.program.arena_bytes for n in self.nested))

    def _room(self, size: int) -> int:
        start = self.bytes
        self.bytes += aligned(size, self.alignment)
        return start

    def commands(self, base: int, place: Place, move: Move, link: Link) -> list[Command]:
        """The commands of the operation; the memory of the frame begins at `base` of the arena.

        `place` says where a tensor is, `move` gives the commands that bring one elsewhere.
        """
        if isinstance(self.operation.op, Branch):
            return [self._branch(base, place, link)]
        return self._loop(base, place, move, link)

    def _branch(self, base: int, place: Place, link: Link) -> Command:
        word, *captured = (place(t) for t in self.operation.inputs)
        outputs = [place(t) for t in self.operation.outputs]
        bodies = [link.commands(n, captured, outputs, {}, base + self.arena) for n in self.nested]
        return If(word, bodies[0], bodies[1], (self.operation.name,))

    def _loop(self, base: int, place: Place, move: Move, link: Link) -> list[Command]:
        operation, op = self.operation, self.operation.op
        assert isinstance(op, Repeat)
        parts = op.parts(operation.inputs)
        types = [t.type for t in operation.inputs]
        values = [place(t) for t in operation.outputs[: op.carried]]
        stacks = [place(t) for t in operation.outputs[op.carried : op.carried + op.stacked]]
        captured = [place(t) for t in parts.captured]
        counter = BufferRef(Space.ARENA, 0, base + self.counter, WORD)
        word = BufferRef(Space.ARENA, 0, base + self.word, WORD)
        ahead = [c for t, v in zip(parts.carried, values, strict=True) for c in move(t, v)]
        early = op.counted or op.condition is not None
        ahead += [Fill(s, bytes(1)) for s in stacks if early and s.bytes]
        arena = base + self.arena
        slices = self._rooms(base, self.slices, [t.type.bytes for t in op.body_parts().scanned])
        rows = self._rooms(base, self.rows, [t.type.bytes for t in op.body.results[op.carried :]])
        body: list[Command] = [
            SliceCopy(place(t), s, counter, s.bytes, 0)
            for t, s in zip(parts.scanned, slices, strict=True)
            if s.bytes
        ]
        names = dict(zip(self.nested[0].carried, values, strict=True))
        body += link.commands(self.nested[0], [counter, *slices, *captured], rows, names, arena)
        body += [
            SliceCopy(r, s, counter, 0, r.bytes)
            for r, s in zip(rows, stacks, strict=True)
            if r.bytes
        ]
        test: tuple[Command, ...] = ()
        if op.condition is not None:
            test = link.commands(self.nested[1], [*values, *captured], [word], {}, arena)
        loop = Loop(
            _straight(body, rows, stacks),
            counter,
            op.trips(types),
            None if parts.count is None else place(parts.count),
            None if op.condition is None else word,
            test,
            op.reverse,
            None if op.condition is None else place(operation.outputs[-1]),
            (operation.name,),
        )
        return [*ahead, loop]

    def _rooms(self, base: int, starts: Sequence[int], sizes: Sequence[int]) -> list[BufferRef]:
        return [
            BufferRef(Space.ARENA, 0, base + start, size)
            for start, size in zip(starts, sizes, strict=True)
        ]


def _straight(
    body: Sequence[Command], rows: Sequence[BufferRef], stacks: Sequence[BufferRef]
) -> tuple[Command, ...]:
    """A row that is only copied from elsewhere goes to its stack without the detour."""
    copies = [c for c in body if isinstance(c, Copy) and c.target in rows]
    direct = {
        c.target: c
        for c in copies
        if sum(c.target.overlaps(w) for other in body for w in other.writes) == 1
    }
    stacked = {c.source: c for c in body if isinstance(c, SliceCopy) and c.source in rows}
    found: list[Command] = []
    for command in body:
        if isinstance(command, Copy) and direct.get(command.target) is command:
            # Here and not at the end: what it copies may change in between.
            found.append(dataclasses.replace(stacked[command.target], source=command.source))
        elif not (isinstance(command, SliceCopy) and command.source in direct):
            found.append(command)
    return tuple(found)


def loop_body(operation: Operation, op: Repeat, plan: Plan) -> Nested:
    """The body with its carried values as variables, assigned at the end of each iteration."""
    source = computation_of(op.body)
    parts = op.body_parts()
    graph = op.body.graph
    names = _fresh(graph, operation.name, op.carried)
    variables = {
        t.operation: VariableOp(t.type, name) for t, name in zip(parts.carried, names, strict=True)
    }

    def visit(
        rebuild: Rebuild, inside: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        new = variables.get(inside)
        return None if new is None else rebuild.copy(inside, (), new).outputs

    made = Rebuild(source).run(visit)
    first = 1 + op.scanned
    held = made.inputs[first : first + op.carried]
    kept = (*made.inputs[:first], *made.inputs[first + op.carried :])
    assigned = [
        made.graph.add(Assign(name), (variable, value))
        for name, variable, value in zip(names, held, made.targets, strict=False)
        if value is not variable
    ]
    body = Computation(made.graph, kept, made.targets[op.carried :], (*made.operations, *assigned))
    return Nested(plan(body), names)


def _fresh(graph: GraphDefinition, name: str, count: int) -> tuple[str, ...]:
    """Names that no variable has."""
    prefix = f"{name} carries"
    while any(known.startswith(prefix) for known in graph.variable_states):
        prefix += "'"
    return tuple(f"{prefix} {i}" for i in range(count))
