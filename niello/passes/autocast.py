"""Mixed precision: contractions of float32 tensors compute in a half type.

Variables, reductions, losses, normalisations and optimiser arithmetic stay in float32 (the
variables are the master weights). A contraction that runs in half gets casts on its inputs and one
on its result; the stitcher makes them part of the neighbouring kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from niello.core.dtypes import DType, dtype, float32
from niello.core.errors import AttributeValueError, DTypeError, GraphError, NielloError
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import Trait, registry
from niello.graph.operation import Operation
from niello.graph.region import every_operation
from niello.graph.tensor import Tensor
from niello.passes.computation import Computation, Rebuild, is_pure
from niello.passes.decompose import Keeps

HALF = "half"  # inputs are cast to the half type, results back to float32
FOLLOW = "follow"  # like HALF when all float32 inputs come from half tensors, else like KEEP
KEEP = "keep"  # stays as it is
CHOICES = (HALF, FOLLOW, KEEP)

# The first trait that an operation has decides; what has none of them is kept.
BY_TRAIT = (
    (Trait.CONTRACTION, HALF),
    (Trait.MOVEMENT, FOLLOW),
)

Choices = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Autocast:
    """Which float32 operations run in `dtype`, a half type.

    By default contractions do, and movements (reshape, transpose) of their results. `ops` changes
    that by the name of the op ("matmul", "exp"), `operations` by the name of a single operation of
    the graph; values are "half", "keep" or "follow" (half where the inputs are half already).

    Raises DTypeError for another dtype and AttributeValueError for unknown ops and choices.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> graph.autocast = nl.precision.Autocast(nl.bfloat16, ops={"convolution": "keep"})
    """

    dtype: DType
    ops: Any = field(default=())
    operations: Any = field(default=())

    def __post_init__(self) -> None:
        kind = dtype(self.dtype)
        if not kind.is_half:
            raise DTypeError(
                "autocast",
                "the dtype must be a half type",
                received=kind.name,
                advice="Use float16 or bfloat16",
                dtype=kind,
            )
        object.__setattr__(self, "dtype", kind)
        for name in ("ops", "operations"):
            object.__setattr__(self, name, _choices(getattr(self, name)))
        unknown = [n for n, _ in self.ops if n not in registry()]
        if unknown:
            raise AttributeValueError(
                "autocast",
                "there is no such op",
                received=repr(unknown[0]),
                advice="Name operations of a graph in `operations`",
            )

    def choice(self, operation: Operation) -> str:
        """What the policy says of an operation: "half", "keep" or "follow"."""
        found = dict(self.operations).get(operation.name) or dict(self.ops).get(operation.op.name)
        if found is not None:
            return found
        for trait, choice in BY_TRAIT:
            if trait in operation.op.traits:
                return choice
        return KEEP

    def check(self, graph: GraphDefinition) -> None:
        """Raises GraphError when an operation that is named is not in the graph."""
        if not self.operations:
            return
        known = {o.name for o in every_operation(graph)}
        missing = [n for n, _ in self.operations if n not in known]
        if missing:
            raise GraphError(
                "autocast",
                "the graph has no operation of this name",
                received=repr(missing[0]),
                advice="Names are those of Operation.name; measure again if the graph has changed",
            )

    def __call__(self, source: Computation) -> Computation:
        return Rebuild(source, self).run(_Caster(self).visit)


class _Caster:
    def __init__(self, policy: Autocast) -> None:
        self.policy = policy
        self.made: dict[Tensor, Tensor] = {}  # float32 tensor to its half cast

    def visit(
        self, rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
    ) -> Sequence[Tensor] | None:
        if not is_pure(operation) or not any(t.dtype is float32 for t in inputs):
            return None
        choice = self.policy.choice(operation)
        if choice == FOLLOW:
            choice = HALF if self._follows(operation, inputs) else KEEP
        if choice == KEEP:
            return None
        cast = [self.half(t) for t in inputs]
        try:
            made = rebuild.copy(operation, cast)
        except NielloError as error:
            raise DTypeError(
                f"autocast of {operation.name}",
                f"{operation.op.name} does not take {self.policy.dtype.name}: {error.problem}",
                received=" and ".join(t.dtype.name for t in cast),
                advice=f'Say "{KEEP}" for it in the policy',
                where=operation.where,
            ) from error
        pairs = zip(made.outputs, operation.outputs, strict=True)
        return [self.back(new, old.type) for new, old in pairs]

    def half(self, tensor: Tensor) -> Tensor:
        if tensor.dtype is not float32:
            return tensor
        source = self._source(tensor)
        if source is not None:
            return source
        if tensor not in self.made:
            self.made[tensor] = opdef.functions()["cast"](tensor, self.policy.dtype)
        return self.made[tensor]

    def back(self, tensor: Tensor, wanted: TensorType) -> Tensor:
        if tensor.dtype is wanted.dtype:
            return tensor
        return opdef.functions()["cast"](tensor, wanted.dtype)  # type: ignore[no-any-return]

    def _source(self, tensor: Tensor) -> Tensor | None:
        """The half tensor that a float32 tensor is a cast of."""
        operation = tensor.operation
        if isinstance(operation.op, registry()["cast"]):
            (source,) = operation.inputs
            if source.dtype is self.policy.dtype:
                return source
        return None

    def _follows(self, operation: Operation, inputs: Sequence[Tensor]) -> bool:
        """Half costs no precision: the inputs have it already, and fill values are exact in it."""
        kind = self.policy.dtype.numpy
        values = [v for v in operation.op.attributes.values() if isinstance(v, float)]
        with np.errstate(over="ignore"):
            exact = all(float(np.float32(v).astype(kind)) == v or v != v for v in values)
        wide = [t for t in inputs if t.dtype is float32]
        return exact and all(self._source(t) is not None for t in wide)


@dataclass(frozen=True)
class AutocastWhole:
    """Float32 operations that are about to be decomposed compute in half where the device then runs
    them whole; the contractions that they are made of would be cast anyway."""

    policy: Autocast
    keeps: Keeps

    def __call__(self, source: Computation) -> Computation:
        used = {*source.targets, *(t for o in source.reachable() for t in o.inputs)}
        caster = _Caster(self.policy)

        def visit(
            rebuild: Rebuild, operation: Operation, inputs: tuple[Tensor, ...]
        ) -> Sequence[Tensor] | None:
            wanted = operation.op.half_inputs
            named = (
                (dict(self.policy.operations), operation.name),
                (
                    dict(self.policy.ops),
                    operation.op.name,
                ),
            )
            if KEEP in [choices.get(name) for choices, name in named]:
                return None
            if not wanted or any(inputs[n].dtype is not float32 for n in wanted):
                return None
            cast = [caster.half(t) if n in wanted else t for n, t in enumerate(inputs)]
            made = rebuild.copy(operation, cast)
            pairs = list(zip(made.outputs, operation.outputs, strict=True))
            if not self.keeps(made, [new for new, old in pairs if old in used]):
                return None
            return [caster.back(new, old.type) for new, old in pairs]

        return Rebuild(source, self).run(visit)


def _choices(given: Choices) -> tuple[tuple[str, str], ...]:
    pairs = given.items() if isinstance(given, Mapping) else given
    found = tuple(sorted((str(name), choice) for name, choice in pairs))
    wrong = [choice for _, choice in found if choice not in CHOICES]
    if wrong:
        raise AttributeValueError(
            "autocast", f"a choice is one of {', '.join(CHOICES)}", received=repr(wrong[0])
        )
    return found


def as_autocast(value: Any) -> Autocast | None:
    """None, an Autocast, or the default one for anything that names a half dtype."""
    return value if value is None or isinstance(value, Autocast) else Autocast(value)
