"""The order of kernels, copies and assignments, and which assignments happen in place.

A step is a stitched group or an effect (assign, ordered read). Edges say what must run before what:
data, control, and "readers of a variable's old value before its assignment".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from niello.core.dtypes import carrier
from niello.core.errors import GraphError
from niello.core.nodes import walk
from niello.graph.operation import Operation
from niello.graph.region import RegionOp
from niello.graph.structural import Assign, ReadVariable, VariableOp
from niello.graph.tensor import Tensor
from niello.kernel.ir import Kernel, Load, Param, Store
from niello.kernel.routine import Routine
from niello.schedule.access import is_routine
from niello.schedule.claims_operation import is_call
from niello.schedule.lower import Lowered, build_routine, lower_group, lower_scatter
from niello.schedule.stitch import Group, Stitcher, scatters


@dataclass(eq=False)
class Step:
    """Something that takes its turn: a kernel, or an assign or read of a variable, or a branch or
    loop."""

    number: int
    lowered: Lowered | None = None
    group: Group | None = None
    effect: Operation | None = None
    fill: bytes = b""  # what the result is filled with first, for kernels that combine into it
    before: set[Step] = field(default_factory=set)  # steps that must have run
    # Assignments this kernel makes by writing the variable's buffer: output tensor -> variable.
    in_place: dict[Tensor, Tensor] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return self.group.names if self.group is not None else (self.effect.name,)  # type: ignore[union-attr]

    @property
    def makes(self) -> tuple[Tensor, ...]:
        """Tensors that this step puts into memory of the arena or the results."""
        if self.group is not None:
            return tuple(t for t in self.group.outputs if t not in self.in_place)
        assert self.effect is not None
        return self.effect.outputs

    @property
    def reads(self) -> tuple[Tensor, ...]:
        """Tensors read from memory."""
        if self.effect is not None:
            inputs = self.effect.inputs
            return inputs if isinstance(self.effect.op, RegionOp) else inputs[-1:]
        assert self.lowered is not None
        return tuple(
            t
            for t, p in zip(self.lowered.tensors, self.lowered.kernel.params, strict=True)
            if not p.written
        )

    @property
    def writes_variables(self) -> tuple[str, ...]:
        """Names of the variables that an effect assigns."""
        op = self.effect.op if self.effect is not None else None
        if isinstance(op, RegionOp):
            return op.written
        return (op.variable,) if isinstance(op, Assign) else ()

    @property
    def reads_variables(self) -> tuple[str, ...]:
        """Names of the variables that ordered reads of an effect take."""
        op = self.effect.op if self.effect is not None else None
        if isinstance(op, RegionOp):
            return op.read
        return (op.variable,) if isinstance(op, ReadVariable) else ()


class Order:
    """Steps of a stitched computation, with their edges."""

    def __init__(self, stitcher: Stitcher, groups: Iterable[Group]) -> None:
        self.stitcher = stitcher
        self.targets = stitcher.computation.targets
        self.step_of: dict[Operation, Step] = {}
        self.steps: list[Step] = []
        self.snapshots: set[Tensor] = set()  # variables whose old value is copied first
        for g in groups:
            self._add(self._lowered(g))
        for o in stitcher.operations:
            if isinstance(o.op, (Assign, ReadVariable, RegionOp)):
                self._add(Step(o.number, effect=o))
        self._connect()
        self._protect_variables()

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        members = step.group.operations if step.group is not None else [step.effect]
        for o in members:
            assert o is not None
            self.step_of[o] = step

    def _lowered(self, group: Group) -> Step:
        inside = set(group.operations)
        is_view = self.stitcher.is_view
        name = kernel_name(group)
        if is_routine(group.operations[0]):
            return Step(group.number, build_routine(name, group.operations[0]), group)
        if is_call(group.operations[0]):
            read = self.stitcher.reads(group.operations[0])
            return Step(group.number, untold(name, read, group.outputs), group)
        if scatters(group.operations[0]):
            lowered, pattern = lower_scatter(name, group.operations[0], is_view)
            return Step(group.number, lowered, group, fill=pattern)
        lowered = lower_group(
            name, group.outputs, lambda o: o in inside or is_view(o), group.domains()
        )
        return Step(group.number, lowered, group)

    def _connect(self) -> None:
        for source, readers in self.stitcher.readers.items():
            before = self.step_of.get(source)
            for r in readers:
                after = self.step_of[r]
                if before is not None and before is not after:
                    after.before.add(before)

    # --- variables
    def _protect_variables(self) -> None:
        """Order readers of each variable's old value before its assignment, or copy it first.

        An ordered read (`variable.read()`) sees the assignments that it is ordered after, and
        comes before all others.
        """
        named = {
            o.op.variable: o.outputs[0]
            for o in self.stitcher.operations
            if isinstance(o.op, VariableOp)
        }
        assigns: dict[str, list[Step]] = {}
        ordered: dict[str, list[Step]] = {}
        for s in self.steps:
            for name in s.writes_variables:
                assigns.setdefault(name, []).append(s)
            for name in s.reads_variables:
                if name not in s.writes_variables:
                    ordered.setdefault(name, []).append(s)
        for writers in assigns.values():
            self._chain(writers)
        readers: dict[Tensor, list[Step]] = {named[n]: [] for n in assigns if n in named}
        for s in self.steps:
            for t in dict.fromkeys(s.reads):
                if t in readers:
                    readers[t].append(s)
        for name, writers in assigns.items():
            fresh = ordered.get(name, [])
            variable = named.get(name)
            if variable is not None:
                self._protect_old(variable, writers, _old(readers[variable], fresh), fresh)
            for w in writers:
                for r in fresh:
                    if not self.reaches(w, r):
                        w.before.add(r)
            if variable is None or variable in self.snapshots or len(writers) != 1:
                continue
            if isinstance(writers[0].effect.op, Assign):  # type: ignore[union-attr]
                self._assign_in_place(variable, writers[0], _old(readers[variable], fresh))

    def _protect_old(
        self, variable: Tensor, writers: list[Step], readers: list[Step], fresh: list[Step]
    ) -> None:
        """Order the readers of the old value before its assignments, or copy it first."""
        # An assignment may itself read the old value: of several, a later one needs a copy.
        pairs = [(w, r) for w in writers for r in readers if w is not r]
        # A loop that assigns the variable, or reads it in order, needs its old value all the time.
        both = any(
            isinstance(r.effect.op, RegionOp) and (r in writers or r in fresh)
            for r in readers
            if r.effect is not None
        )
        if both or any(self.reaches(w, r) for w, r in pairs):
            self.snapshots.add(variable)
            return
        for w, r in pairs:
            w.before.add(r)

    def _chain(self, writers: list[Step]) -> None:
        """Several assignments of one variable run in the order they were made, unless forced."""
        for first, second in pairwise(writers):
            if not self.reaches(second, first):
                second.before.add(first)

    def _assign_in_place(self, variable: Tensor, writer: Step, readers: list[Step]) -> None:
        """Let the kernel that computes the new value write it where the old one is."""
        assert writer.effect is not None
        value = writer.effect.inputs[1]
        producer = self.step_of.get(value.operation)
        if producer is None or producer.lowered is None or value not in producer.lowered.tensors:
            return
        taken = value in self.targets or value in producer.in_place or bool(producer.fill)
        others = [r for r in readers if r is not producer and r is not writer]
        if taken or any(self.reaches(producer, r) for r in others):
            return
        # What this assignment waits for (control dependencies) must then precede the kernel.
        waits = {s for s in writer.before if s is not producer} | set(others)
        if any(self.reaches(producer, s) for s in waits):
            return
        merged = overwrite(producer.lowered, value, variable)
        if merged is None:
            return
        producer.lowered = merged
        producer.in_place[value] = variable
        producer.before.update(waits)
        for s in self.steps:
            if writer in s.before:
                s.before.discard(writer)
                if s is not producer:
                    s.before.add(producer)
        self.steps.remove(writer)

    def reaches(self, a: Step, b: Step) -> bool:
        """Whether `b` must run after `a`."""
        stack, seen = [b], {b}
        while stack:
            s = stack.pop()
            if s is a:
                return True
            for p in s.before:
                if p not in seen:
                    seen.add(p)
                    stack.append(p)
        return False

    def sorted(self) -> list[Step]:
        """All steps, each after what it needs.

        Graph order, except that a step that frees at least as much memory as it takes runs as soon
        as it can: weight gradients free activations while the backward walk goes on.
        """
        waiting = {s: {b for b in s.before if b is not s} for s in self.steps}
        after: dict[Step, list[Step]] = {}
        for s, before in waiting.items():
            for b in before:
                after.setdefault(b, []).append(s)
        memory = _Memory(self.steps, self.targets)
        ready = [s for s in self.steps if not waiting[s]]
        result: list[Step] = []
        while ready:
            step = min(ready, key=lambda s: (memory.change(s) > 0, s.number))
            ready.remove(step)
            memory.run(step)
            result.append(step)
            for n in after.get(step, ()):
                waiting[n].discard(step)
                if not waiting[n]:
                    ready.append(n)
        if len(result) != len(self.steps):
            done = set(result)
            names = [n for s in self.steps if s not in done for n in s.names]
            raise GraphError("control dependencies", "they form a cycle", received=names)
        return result


def _old(readers: list[Step], fresh: list[Step]) -> list[Step]:
    """Those of a variable's readers that see it as it was when the run began."""
    regions = [s for s in fresh if isinstance(s.effect.op, RegionOp)]  # type: ignore[union-attr]
    return [s for s in readers if s not in fresh or s in regions]


class _Memory:
    """Intermediate results alive while steps are put in order."""

    def __init__(self, steps: list[Step], targets: tuple[Tensor, ...]) -> None:
        self.made = {s: [t for t in s.makes if t not in targets] for s in steps}
        intermediate = {t for made in self.made.values() for t in made}
        self.reads = {s: [t for t in set(s.reads) if t in intermediate] for s in steps}
        self.readers: dict[Tensor, int] = {}
        for reads in self.reads.values():
            for t in reads:
                self.readers[t] = self.readers.get(t, 0) + 1

    def change(self, step: Step) -> int:
        """Bytes that more are alive after the step than before."""
        taken = sum(t.type.bytes for t in self.made[step])
        freed = sum(t.type.bytes for t in self.reads[step] if self.readers[t] == 1)
        return taken - freed

    def run(self, step: Step) -> None:
        for t in self.reads[step]:
            self.readers[t] -= 1


def untold(name: str, read: Iterable[Tensor], written: Iterable[Tensor]) -> Lowered:
    """The kernel of a library: what it reads and writes is known, what it does is not."""
    inputs = tuple(dict.fromkeys(read))
    tensors = (*inputs, *written)
    params = tuple(
        Param(slot, carrier(t.dtype), t.type.elements, slot >= len(inputs))
        for slot, t in enumerate(tensors)
    )
    return Lowered(Kernel(name, params, ()), tensors)


def kernel_name(group: Group) -> str:
    """Kind, up to three op names and the output shape, at most 60 characters."""
    ops = list(dict.fromkeys(o.op.name for o in group.operations))
    words = ops if len(ops) <= 3 else [*ops[:2], ops[-1]]
    shape = "x".join(str(d) for d in group.outputs[0].type.static_shape) if group.outputs else ""
    return f"{'_'.join(words)}_{shape or 'scalar'}"[:60]


def overwrite(lowered: Lowered, value: Tensor, variable: Tensor) -> Lowered | None:
    """The kernel with the variable's buffer as the buffer of `value`; None where a point of the
    kernel reads other points of the variable than the one it writes."""
    kernel = lowered.kernel
    if isinstance(kernel, Routine):
        return None if variable in lowered.tensors else lowered
    out = lowered.tensors.index(value)
    target = next((s for s in kernel.stores if s.param.slot == out), None)
    if target is None:  # nothing is stored into a tensor without elements
        return None
    if variable not in lowered.tensors:
        return lowered
    old = kernel.params[lowered.tensors.index(variable)]
    if old.written or old.dtype is not target.param.dtype:
        return None
    for store in kernel.stores:
        for node in walk([store]):
            if not isinstance(node, Load) or node.param is not old:
                continue
            same_point = node.index is target.index and store.ranges == target.ranges
            if not same_point or node.gate is not None:
                return None
    return merge_params(lowered, old, target.param)


def merge_params(lowered: Lowered, old: Param, new: Param) -> Lowered:
    """Drop parameter `old`, loading from `new` instead, and number the rest again."""
    from niello.core.nodes import Node, transform

    kept = [p for p in lowered.kernel.params if p is not old]
    memo: dict[Node, Node] = {}
    params = []
    for slot, p in enumerate(kept):
        params.append(Param(slot, p.dtype, p.elements, p.written))
        memo[p] = params[-1]
    memo[old] = memo[new]
    stores = tuple(transform(s, lambda n: n, memo) for s in lowered.kernel.stores)
    assert all(isinstance(s, Store) for s in stores)
    tensors = tuple(
        t for t, p in zip(lowered.tensors, lowered.kernel.params, strict=True) if p is not old
    )
    kernel = Kernel(lowered.kernel.name, tuple(params), stores)  # type: ignore[arg-type]
    return Lowered(kernel, tensors)
