"""The command list of a computation: every tensor gets a place, every step its command."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from niello.graph.region import RegionOp
from niello.graph.structural import Assign, Constant, Placeholder, ReadVariable, VariableOp
from niello.graph.tensor import Tensor
from niello.kernel.ir import Kernel
from niello.kernel.routine import Routine
from niello.passes.computation import Computation
from niello.runtime.commands import (
    BufferRef,
    Command,
    Copy,
    Dispatch,
    Fill,
    Program,
    Space,
    Variable,
)
from niello.runtime.target import Limits
from niello.schedule.claims import Claims
from niello.schedule.horizontal import stitch_siblings, stitch_sinks
from niello.schedule.memory import ALIGNMENT, Lifetime, Waits, lower_bound, place
from niello.schedule.order import Order, Step
from niello.schedule.recompute import recompute
from niello.schedule.regions import Frame, Link
from niello.schedule.stitch import Stitcher


@dataclass(frozen=True)
class Scheduled:
    """A program, and what the scheduler can say about it."""

    program: Program
    refusals: tuple[str, ...]
    arena_lower_bound: int


def schedule(
    computation: Computation, limits: Limits, *, fuse: bool = True, claims: Claims | None = None
) -> Scheduled:
    """Commands and kernels for a computation whose types are static.

    `claims` are what the device's libraries run.
    """
    calls = None if claims is None else claims.operations
    stitcher = Stitcher(computation, limits, fuse=fuse, calls=calls)
    groups = stitcher.run()
    if fuse:
        groups = recompute(stitcher, groups)
    if claims is not None:
        groups = claims.take(stitcher, groups)
    order = Order(stitcher, groups)
    if fuse:
        stitch_siblings(order, limits)
        stitch_sinks(order, limits)
    inside: list[str] = []

    def plan(region: Computation) -> Program:
        found = schedule(region, limits, fuse=fuse, claims=claims)
        inside.extend(found.refusals)
        return found.program

    frames = {
        step: Frame(step.effect, plan, limits.buffer_alignment)
        for step in order.steps
        if step.effect is not None and isinstance(step.effect.op, RegionOp)
    }
    assembly = Assembly(
        computation, order, frames, claims, limits.buffer_alignment, limits.apart_bytes
    )
    refusals = [*stitcher.refusals, *inside]
    if claims is not None:
        refusals += [*claims.refusals, *claims.operations.refusals]
    return Scheduled(assembly.program(), tuple(dict.fromkeys(refusals)), assembly.lower_bound)


class Assembly:
    """Places of tensors, and the commands made from ordered steps."""

    def __init__(
        self,
        computation: Computation,
        order: Order,
        frames: Mapping[Step, Frame],
        claims: Claims | None = None,
        alignment: int = ALIGNMENT,
        apart_bytes: int = 0,
    ) -> None:
        self.alignment = alignment
        self.apart_bytes = apart_bytes
        self.computation = computation
        self.claims = claims
        self.order = order
        self.frames = frames
        self.steps = order.sorted()
        self.where: dict[Tensor, BufferRef] = {}
        self.constants: list[np.ndarray] = []
        self.variables: list[Tensor] = []
        self.inner_variables: list[Variable] = []  # that only regions touch
        self.kernels: dict[tuple[object, ...], int] = {}
        self.listed: list[Kernel | Routine] = []
        self.lifetimes: list[Lifetime] = []
        self.lower_bound = 0
        self._sources()
        self._results()
        self.arena_bytes = self._arena()

    # --- places
    def _sources(self) -> None:
        for i, t in enumerate(self.computation.inputs):
            self.where[t] = BufferRef(Space.INPUT, i, 0, t.type.bytes)
        for o in self.order.stitcher.operations:
            if isinstance(o.op, VariableOp):
                ref = BufferRef(Space.VARIABLE, len(self.variables), 0, o.outputs[0].type.bytes)
                self.variables.append(o.outputs[0])
                self.where.setdefault(o.outputs[0], ref)
        named = {t.operation.op.variable for t in self.variables}  # type: ignore[attr-defined]
        for frame in self.frames.values():
            for nested in frame.nested:
                for v in nested.program.variables:
                    if v.name not in named and v.name not in nested.carried:
                        named.add(v.name)
                        self.inner_variables.append(v)

    def _all_variables(self) -> tuple[Variable, ...]:
        own = (Variable(t.operation.op.variable, t.type) for t in self.variables)  # type: ignore[attr-defined]
        return (*own, *self.inner_variables)

    def _constant(self, tensor: Tensor) -> BufferRef:
        op = tensor.operation.op
        if not tensor.type.elements:  # no step makes it, and a kernel may still name it
            array = np.zeros(tensor.type.static_shape, tensor.dtype.numpy)
        else:
            assert isinstance(op, Constant)
            array = np.ascontiguousarray(op.data.array)
        index = self._add_constant(array)
        ref = BufferRef(Space.CONSTANT, index, 0, tensor.type.bytes)
        self.where[tensor] = ref
        return ref

    def _add_constant(self, array: np.ndarray) -> int:
        self.constants.append(array)
        return len(self.constants) - 1

    def _add_kernel(self, kernel: Kernel | Routine) -> int:
        """The number of a kernel; equal ones have the same."""
        key = kernel.structure
        if key not in self.kernels:
            self.kernels[key] = len(self.listed)
            self.listed.append(kernel)
        return self.kernels[key]

    def _link(self) -> Link:
        """How the programs of regions become part of this one."""
        names = [v.name for v in self._all_variables()]
        constants: dict[tuple[int, int], int] = {}

        def constant(program: Program, index: int) -> int:
            key = (id(program), index)
            if key not in constants:
                constants[key] = self._add_constant(program.constants[index])
            return constants[key]

        return Link(lambda p, n: self._add_kernel(p.kernels[n]), constant, names.index)

    def _results(self) -> None:
        """Outputs are computed where the caller gets them, in-place assignments in the variable."""
        for i, t in enumerate(self.computation.targets):
            computed = t.operation in self.order.step_of and not isinstance(
                t.operation.op, ReadVariable
            )
            if computed and t not in self.where:
                self.where[t] = BufferRef(Space.OUTPUT, i, 0, t.type.bytes)
        for step in self.steps:
            for value, variable in step.in_place.items():
                self.where[value] = self.where[variable]

    def _arena(self) -> int:
        """Offsets for everything that has no other place, by lifetime."""
        last: dict[Tensor, int] = {}
        first: dict[Tensor, int] = dict.fromkeys(self.order.snapshots, 0)
        for position, step in enumerate(self.steps):
            for t in step.reads:
                last[t] = position
            for t in self._made(step):
                if t not in self.where:
                    first[t] = position
        for i, t in enumerate(self.computation.targets):
            if t in first:  # ordered reads that are fetched: copied out at the end
                last[t] = len(self.steps) + i
        self.lifetimes = [
            Lifetime(t, t.type.bytes, start, max(last.get(t, start), start))
            for t, start in first.items()
        ]
        self.lifetimes += [
            Lifetime(step, self.frames[step].bytes, position, position)
            for position, step in enumerate(self.steps)
            if step in self.frames
        ]
        self.lower_bound = lower_bound(self.lifetimes, self.alignment)
        offsets, total = place(self.lifetimes, self.alignment)
        if total <= self.apart_bytes:
            found = place(self.lifetimes, self.alignment, self._waits().together)
            if found[1] <= self.apart_bytes:
                offsets, total = found
        for t in first:
            self.where[t] = BufferRef(Space.ARENA, 0, offsets[t], t.type.bytes)
        self.bases = {step: offsets[step] for step in self.frames}
        return total

    def _waits(self) -> Waits:
        """Which steps wait for which, by what they read, and which touch a result."""
        makers: dict[Tensor, int] = {}
        users: dict[Hashable, list[int]] = {t.key: [t.first] for t in self.lifetimes}
        waits = []
        for position, step in enumerate(self.steps):
            waits.append([makers[t] for t in step.reads if t in makers])
            for t in step.reads:
                users.setdefault(t, []).append(position)
            makers |= dict.fromkeys(self._made(step), position)
        for item in self.lifetimes:
            users[item.key].append(item.last)  # beyond the steps where it is fetched
        return Waits(waits, users)

    def _made(self, step: Step) -> list[Tensor]:
        if step.group is not None:
            return step.group.outputs
        assert step.effect is not None
        return list(step.effect.outputs)

    def place_of(self, tensor: Tensor) -> BufferRef:
        found = self.where.get(tensor)
        return self._constant(tensor) if found is None else found

    # --- commands
    def program(self) -> Program:
        commands: list[Command] = []
        link = self._link()
        for t in self.computation.inputs:
            assert isinstance(t.operation.op, Placeholder)
        for t in self.variables:
            if t in self.order.snapshots:
                source = BufferRef(Space.VARIABLE, self.variables.index(t), 0, t.type.bytes)
                commands += _copy(source, self.where[t])
            elif t in self.computation.targets:
                commands += self._deliver(t)
        for step in self.steps:
            if step in self.frames:
                frame, base = self.frames[step], self.bases[step]
                commands += frame.commands(base, self.place_of, self._move, link)
            elif step.effect is not None:
                commands += self._effect(step)
            else:
                commands += self._dispatch(step)
        for t in dict.fromkeys(self.computation.targets):
            if t not in self.variables or t in self.order.snapshots:
                commands += self._deliver(t)
        return Program(
            kernels=tuple(self.listed),
            commands=tuple(commands),
            inputs=tuple(t.type for t in self.computation.inputs),
            outputs=tuple(t.type for t in self.computation.targets),
            variables=self._all_variables(),
            constants=tuple(self.constants),
            arena_bytes=self.arena_bytes,
        )

    def _deliver(self, tensor: Tensor) -> list[Command]:
        """Copy a target to each output that it was not computed into."""
        commands: list[Command] = []
        for i, t in enumerate(self.computation.targets):
            target = BufferRef(Space.OUTPUT, i, 0, t.type.bytes)
            if t is tensor and self.where.get(t) != target:
                commands += self._move(tensor, target)
        return commands

    def _effect(self, step: Step) -> list[Command]:
        operation = step.effect
        assert operation is not None
        if isinstance(operation.op, Assign):
            index = self.variables.index(operation.inputs[0])
            target = BufferRef(Space.VARIABLE, index, 0, operation.inputs[0].type.bytes)
            return self._move(operation.inputs[1], target)
        variable = operation.inputs[0]
        index = self.variables.index(variable)
        source = BufferRef(Space.VARIABLE, index, 0, variable.type.bytes)
        return _copy(source, self.where[operation.outputs[0]])

    def _move(self, tensor: Tensor, target: BufferRef) -> list[Command]:
        op = tensor.operation.op
        if isinstance(op, Constant) and op.data.is_splat and tensor.type.elements:
            pattern = np.ascontiguousarray(op.data.array.reshape(-1)[:1]).tobytes()
            return [Fill(target, pattern)] if target.bytes else []
        return _copy(self.place_of(tensor), target)

    def _dispatch(self, step: Step) -> list[Command]:
        assert step.lowered is not None and step.group is not None
        kernel = step.lowered.kernel
        if not any(p.elements for p in kernel.params if p.written):
            return []
        call = None if self.claims is None else self.claims.call(step.group)
        if call is not None:
            return [call.command(tuple(self.place_of(t) for t in call.tensors), step.group.names)]
        filled: list[Command] = []
        if step.fill:
            filled = [Fill(self.place_of(t), step.fill) for t in step.group.outputs]
        return [
            *filled,
            Dispatch(
                self._add_kernel(kernel),
                tuple(self.place_of(t) for t in step.lowered.tensors),
                tuple(p.written for p in kernel.params),
                step.group.names,
            ),
        ]


def _copy(source: BufferRef, target: BufferRef) -> list[Command]:
    return [Copy(source, target)] if target.bytes and source != target else []
