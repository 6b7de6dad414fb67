"""Stitching: which operations become one kernel.

`may_fuse` decides what is legal, `gain` what is worth it; every refusal has a reason that the dump
shows. A group computes every operation it holds; what operations outside it need is stored, the
rest lives in registers. Views (movements) belong to no group: whoever reads them computes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from niello.core.dtypes import bool_
from niello.core.errors import CompilerBug
from niello.core.shapes import StaticShape
from niello.graph.opdef import Trait
from niello.graph.operation import Operation
from niello.graph.region import RegionOp
from niello.graph.structural import Assign, ReadVariable
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation
from niello.runtime.target import Limits
from niello.schedule.access import Access, Kind, Profile, Way, is_routine, profile
from niello.schedule.bends import bends, is_border
from niello.schedule.claims_operation import OperationCalls, is_call
from niello.schedule.codes import is_small, is_splat, narrows, unpacks, widens

# A row kernel works on `outer` rows in parallel: with fewer rows than this it would leave threads
# idle, unless the whole is so small that it does not matter.
MIN_PARALLEL_ROWS = 16
SMALL_ELEMENTS = 32768
# Time to compile grows with the square of a kernel's operations, and no kernel gains by more.
MOST_OPERATIONS = 256
MOST_REDUCTIONS = 16
# Computing an element again in each reader is accepted up to this cost (scalar operations).
CHEAP = 3.0
# A contraction reads its operands in place; computing them while packing pays only when cheap.
CHEAP_PROLOGUE = 16.0
# Up to this many (input element, output element) pairs a scatter is a sum over the inputs instead.
SMALL_SCATTER = 4096


@dataclass(frozen=True)
class Layout:
    """The iteration space of a group: `outer` rows of `row` elements, and its kind.

    `full` are tensors with outer x row elements, `per_row` those with one element for each row.
    `prologue` are operations evaluated where another one reads them, whatever their shape.
    """

    kind: Kind
    outer: int
    row: int
    full: frozenset[Operation] = frozenset()
    per_row: frozenset[Operation] = frozenset()
    prologue: frozenset[Operation] = frozenset()
    contractions: frozenset[Operation] = frozenset()


@dataclass(frozen=True)
class Refusal:
    """Why operations may not share a kernel."""

    reason: str


@dataclass(eq=False)
class Group:
    """Operations of one kernel, in graph order, and how they iterate."""

    operations: list[Operation]
    layout: Layout
    outputs: list[Tensor] = field(default_factory=list)
    parts: list[Group] = field(default_factory=list)  # of a horizontally stitched group

    @property
    def number(self) -> int:
        """Position in graph order, by the last operation."""
        return self.operations[-1].number

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(o.name for o in self.operations)

    def domains(self) -> tuple[StaticShape, ...]:
        """Shapes that outputs iterate over, by their number of elements.

        A contraction's results keep its shape, rows are (outer, row), and a pointwise kernel takes
        the shape of its first full-size operation.
        """
        layout = self.layout
        if layout.row > 1:
            return (layout.outer, layout.row), (layout.outer,)
        for o in self.operations:
            if o in layout.full and (o in layout.contractions or not layout.contractions):
                natural = o.op.domain(*(t.type for t in o.inputs))
                return (natural or o.outputs[0].type.static_shape,)
        return ()


def scatters(operation: Operation) -> bool:
    """Whether an operation runs as additions into its result rather than as a sum for each element.

    Half types are summed in float32, which their buffers cannot hold."""
    if not operation.op.has_scatter() or operation.outputs[0].dtype.is_half:
        return False
    points = max(t.type.elements for t in operation.inputs)
    return points * operation.outputs[0].type.elements > SMALL_SCATTER


class Stitcher:
    """Groups the operations of a computation for a back end's limits."""

    def __init__(
        self,
        computation: Computation,
        limits: Limits,
        *,
        fuse: bool = True,
        calls: OperationCalls | None = None,
    ) -> None:
        self.computation = computation
        self.limits = limits
        self.fuse = fuse
        self.calls = calls
        self.operations = computation.reachable()
        self.required = self._required()
        self.contracted = {
            t for o in self.operations if Trait.CONTRACTION in o.op.traits for t in o.inputs
        }
        self.structural = {
            t for o in self.operations if Trait.STRUCTURAL in o.op.traits for t in o.inputs
        }
        self.refusals: list[str] = []
        self.profiles: dict[Operation, Profile] = {}
        self.group_of: dict[Operation, Group] = {}
        self.views: dict[Operation, bool] = {}
        self.frontier = 0  # number of the operation that the walk has come to
        # For each operation that takes time: those that must run after it because they read it
        # (through views or directly), or by control; and the other way round.
        self.readers: dict[Operation, set[Operation]] = {}
        self.sources: dict[Operation, set[Operation]] = {}
        self._connect()

    def _required(self) -> set[Tensor]:
        """Tensors that must be in memory: targets and assigned values."""
        needed = set(self.computation.targets)
        for o in self.operations:
            if Trait.STATEFUL in o.op.traits or is_routine(o):
                needed.update(o.inputs)
            elif is_call(o):
                needed.update(self.reads(o))
        return needed

    def reads(self, operation: Operation) -> tuple[Tensor, ...]:
        """The tensors that an operation which a library runs needs in memory."""
        if self.calls is None:
            raise CompilerBug(operation.name, "has no kernel, and no library runs it")
        used = {*self.computation.targets, *(t for o in self.operations for t in o.inputs)}
        return self.calls.reads(operation, used)

    def is_view(self, operation: Operation) -> bool:
        """Something that nobody needs in memory: its readers compute it from its input."""
        found = self.views.get(operation)
        if found is None:
            found = self.views[operation] = self._may_be_view(operation)
        return found

    def _may_be_view(self, operation: Operation) -> bool:
        """Whether an operation is a view from the beginning; others are made so by `inline`.

        Movements, unless a contraction reads one that turns around (see bends.py); comparisons of
        one tensor with a constant (the mask of a ReLU): reading the tensor again costs less than
        writing and reading the mask beside it; a half type or bytes made wider, unless a
        contraction reads floats of them; and arithmetic on scalars (a learning rate that decays),
        which each reader does once.
        """
        if not self.fuse or any(t in self.required for t in operation.outputs):
            return False
        traits = operation.op.traits
        if Trait.MOVEMENT in traits:
            if operation.outputs[0] in self.contracted and self._wants_memory(operation):
                return False
            return Trait.MANY_SOURCES not in traits
        if Trait.ELEMENTWISE not in traits:
            return False
        if all(t.type.elements == 1 for t in (*operation.inputs, *operation.outputs)):
            return True
        made = operation.outputs[0]
        if widens(operation) or (made.dtype.is_float and unpacks(operation)):
            return made not in self.contracted
        if made.dtype.is_integer and unpacks(operation):
            return True
        if made.dtype is not bool_:
            return False
        return sum(not is_splat(t) for t in operation.inputs) == 1

    def _wants_memory(self, operation: Operation) -> bool:
        return bends(operation) or (self.limits.borders and is_border(operation))

    def is_anchor(self, operation: Operation) -> bool:
        """An operation that is computed by some group (neither structural nor a view)."""
        return Trait.STRUCTURAL not in operation.op.traits and not self.is_view(operation)

    def _connect(self) -> None:
        reached: dict[Operation, frozenset[Operation]] = {}
        for o in self.operations:
            before = [t.operation for t in o.inputs] + list(o.control_inputs)
            reach = frozenset().union(*(reached[p] for p in before if p in reached))
            if self.is_anchor(o) or isinstance(o.op, (Assign, ReadVariable, RegionOp)):
                self.sources[o] = set(reach)
                for s in reach:
                    self.readers.setdefault(s, set()).add(o)
                reach = frozenset((o,))
            reached[o] = reach

    def inline(self, operation: Operation) -> None:
        """Make a view of an operation: whoever reads it computes it, from what it reads."""
        self.views[operation] = True
        group = self.group_of.pop(operation)
        group.operations.remove(operation)
        del self.profiles[operation]
        readers = self.readers.pop(operation, set())
        sources = self.sources.pop(operation)
        for s in sources:
            self.readers[s].discard(operation)
            self.readers[s] |= readers
        for r in readers:
            self.sources[r].discard(operation)
            self.sources[r] |= sources

    # --- the walk
    def run(self) -> list[Group]:
        """Groups in graph order, with their outputs."""
        for o in self.operations:
            if not self.is_anchor(o):
                continue
            self.frontier = o.number
            self.profiles[o] = profile(o, self.is_view)
            alone = self.may_fuse([o])
            assert isinstance(alone, Layout)
            self.group_of[o] = Group([o], alone)
            if self.fuse and not o.control_inputs:
                self._grow(o)
        return self.finish()

    def finish(self) -> list[Group]:
        """The groups in graph order, with what each must store."""
        groups = sorted(set(self.group_of.values()), key=lambda g: g.number)
        for g in groups:
            g.outputs = self._outputs(g)
        return groups

    def _grow(self, operation: Operation) -> None:
        """Join the new operation with the groups it reads, most rewarding first."""
        reads = {
            self.group_of[a.tensor.operation]
            for a in self.profiles[operation].accesses
            if a.tensor.operation in self.group_of
        }
        for other in sorted(reads, key=lambda g: (-self.gain(g, operation), g.number)):
            mine = self.group_of[operation]
            other = self.group_of[other.operations[0]]  # it may have grown meanwhile
            if other is mine:
                continue
            joined = sorted({*mine.operations, *other.operations}, key=lambda o: o.number)
            verdict = self.may_fuse(joined)
            if isinstance(verdict, Layout) and self._makes_cycle(mine, other):
                verdict = Refusal("another kernel would have to run in between")
            if isinstance(verdict, Refusal):
                last = other.operations[-1].name
                self.refusals.append(f"{operation.name} not stitched to {last}: {verdict.reason}")
                continue
            group = Group(joined, verdict)
            for o in joined:
                self.group_of[o] = group

    def gain(self, group: Group, operation: Operation) -> int:
        """Bytes of the group's results that `operation` would not read from memory."""
        return sum(
            a.tensor.type.bytes
            for a in self.profiles[operation].accesses
            if self.group_of.get(a.tensor.operation) is group
        )

    def _makes_cycle(self, a: Group, b: Group) -> bool:
        """Whether a path between the two groups leads through a third one.

        Operations that the walk has yet to come to are in no group: no path leads back from them.
        """
        inside = {*a.operations, *b.operations}
        stack = [r for o in inside for r in self._next(o) if r not in inside]
        seen: set[Operation] = set()
        while stack:
            o = stack.pop()
            if o in inside:
                return True
            if o in seen or o.number > self.frontier:
                continue
            seen.add(o)
            group = self.group_of.get(o)
            # Whatever shares a kernel with `o` runs when it runs.
            for member in (o,) if group is None else group.operations:
                seen.add(member)
                stack.extend(self._next(member))
        return False

    def _next(self, operation: Operation) -> Iterable[Operation]:
        return self.readers.get(operation, ())

    def _outputs(self, group: Group) -> list[Tensor]:
        inside = set(group.operations)
        found = []
        for o in group.operations:
            outside = any(r not in inside for r in self.readers.get(o, ()))
            for t in o.outputs:
                needed = t in self.required or is_routine(o)
                if needed or (outside and self._read_outside(t, inside)):
                    found.append(t)
        return found

    def _read_outside(self, tensor: Tensor, inside: set[Operation]) -> bool:
        return (
            any(
                a.tensor is tensor
                for r in self.readers.get(tensor.operation, ())
                if r not in inside and r in self.profiles  # assignments have no profile
                for a in self.profiles[r].accesses
            )
            or tensor in self.structural
        )

    # --- legality
    def may_fuse(self, operations: list[Operation]) -> Layout | Refusal:
        """The common iteration space of the operations, or why there is none."""
        inside = set(operations)
        if any(is_routine(o) or is_call(o) for o in operations):
            if len(operations) > 1:
                return Refusal("a routine has a kernel of its own")
            elements = operations[0].outputs[0].type.elements
            return Layout(Kind.ROUTINE, elements, 1, frozenset(operations))
        profiles = [self.profiles[o] for o in operations]
        contractions = [o for o in operations if self.profiles[o].kind is Kind.CONTRACT]
        if len(contractions) > 1:
            return Refusal("two contractions cannot share a kernel")
        if len(operations) > 1 and any(scatters(o) for o in operations):
            return Refusal("a scatter has a kernel of its own")
        if len(operations) > 1:
            buffers = {
                a.tensor for p in profiles for a in p.accesses if a.tensor.operation not in inside
            }
            stored = sum(self._escapes(o, inside) for o in operations)
            if len(buffers) + stored > self.limits.max_buffers:
                return Refusal("too many buffers")
            reductions = sum(p.kind is Kind.REDUCE for p in profiles)
            if len(operations) > MOST_OPERATIONS or reductions > MOST_REDUCTIONS:
                return Refusal("too many operations")
            if sum(p.cost for p in profiles) > self.limits.max_nodes:
                return Refusal("the kernel would be too large")
        rows = {
            a.row
            for p in profiles
            for a in p.accesses
            if a.tensor.operation in inside and a.way in (Way.ROW_REDUCE, Way.ROW_BROADCAST)
        }
        if len(rows) > 1:
            return Refusal(f"rows of different lengths: {sorted(rows)}")
        return self._place(operations, inside, rows.pop() if rows else 1, contractions)

    def _place(
        self,
        operations: list[Operation],
        inside: set[Operation],
        row: int,
        contractions: list[Operation],
    ) -> Layout | Refusal:
        """Give each operation its place: computed where it is read, once per element, or once per
        row."""
        if contractions and row != 1:
            return Refusal("rows of a contraction's result are spread over tiles")
        prologue = self._prologues(operations, inside, contractions)
        if isinstance(prologue, Refusal):
            return prologue
        placed = [o for o in operations if o not in prologue]
        kinds = {self.profiles[o].kind for o in placed}
        kind = next(k for k in (Kind.CONTRACT, Kind.REDUCE, Kind.POINTWISE) if k in kinds)
        full: set[Operation] = set()
        per_row: set[Operation] = set()
        total = max(
            self.profiles[o].elements * (row if self._reduces_row(o, inside) else 1) for o in placed
        )
        outer = total // row
        for o in placed:
            elements = self.profiles[o].elements
            if self._reduces_row(o, inside):
                if elements != outer:
                    return Refusal("its rows are not the group's")
                per_row.add(o)
            elif elements == total and not (row > 1 and self.profiles[o].kind is Kind.REDUCE):
                full.add(o)
            elif elements == outer:
                per_row.add(o)
            else:
                return Refusal("results have different numbers of elements")
        if row > 1 and any(self._escapes(o, inside) for o in full):
            if outer < MIN_PARALLEL_ROWS and total > SMALL_ELEMENTS:
                return Refusal(f"{outer} rows of {row} elements would leave threads idle")
            if outer > 1 and row * 4 > self.limits.shared_bytes:
                return Refusal(f"a row of {row} elements does not fit fast memory")
        return Layout(
            kind,
            outer,
            row,
            frozenset(full),
            frozenset(per_row),
            frozenset(prologue),
            frozenset(contractions),
        )

    def _prologues(
        self, operations: list[Operation], inside: set[Operation], contractions: list[Operation]
    ) -> set[Operation] | Refusal:
        """Operations computed where another one reads them, at other offsets than their own."""
        prologue: set[Operation] = set()
        for o in reversed(operations):
            uses = [
                (r, a)
                for r in self.readers.get(o, ())
                if r in inside
                for a in self.profiles[r].accesses
                if a.tensor.operation is o
            ]
            elsewhere = any(a.way is Way.OTHER for _, a in uses)
            if elsewhere or (uses and all(r in prologue for r, _ in uses)):
                refusal = self._refuse_prologue(o, uses, inside, contractions)
                if refusal is not None:
                    return refusal
                prologue.add(o)
        return prologue

    def _reduces_row(self, operation: Operation, inside: set[Operation]) -> bool:
        return any(
            a.way is Way.ROW_REDUCE and a.tensor.operation in inside
            for a in self.profiles[operation].accesses
        )

    def _escapes(self, operation: Operation, inside: set[Operation]) -> bool:
        """Whether a result is needed outside the group."""
        return any(t in self.required for t in operation.outputs) or any(
            r not in inside for r in self.readers.get(operation, ())
        )

    def _refuse_prologue(
        self,
        o: Operation,
        uses: list[tuple[Operation, Access]],
        inside: set[Operation],
        contractions: list[Operation],
    ) -> Refusal | None:
        """Why `o` should not be evaluated wherever it is read, or None."""
        if self._escapes(o, inside):
            return Refusal("its result is also needed elsewhere")
        if self.profiles[o].kind is not Kind.POINTWISE:
            return Refusal("a reduction would be repeated for each element that reads it")
        if contractions and narrows(o):
            return Refusal("a contraction reads operands of half and byte types from memory")
        reuse = max(a.reuse for _, a in uses) * len(uses)
        cost = self.profiles[o].cost
        # Small integers are multiplied as they are: wider ones would only take more memory.
        small = contractions and all(is_small(t) for t in o.inputs)
        if contractions and not small and (cost > CHEAP_PROLOGUE or reuse > 1.0):
            return Refusal("a contraction reads it faster from memory")
        if not small and reuse > 1.0 and cost * reuse > CHEAP * len(uses):
            return Refusal(f"it would be computed {reuse:.0f} times")
        return None
