"""What an operation must say about itself, and the registry of all operations.

An Op is a frozen dataclass whose fields are its attributes. Nothing of the contract is optional:
registration fails when a part is missing.

    infer       input types -> output types; raises ShapeError or DTypeError
    reference   NumPy arrays -> NumPy arrays: the meaning, the constant folder and the oracle
    grad        graph operations, or `not_differentiable("why")`
    lower       one output element as a kernel expression, or
    decompose   the same as other graph operations, or
    routine     all outputs by an imperative kernel (scans, sorts, recurrences)
    samples     inputs and attributes for tests and documentation
    doc         one sentence with shapes, units and the source of the definition
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from niello.core.dtypes import COMPLEX, FLOATS, DType
from niello.core.errors import CompilerBug, NotDifferentiable
from niello.core.types import TensorType

if TYPE_CHECKING:
    from niello.graph.tensor import Tensor
    from niello.kernel.build import Builder, Index, ScatterSpec, Value
    from niello.kernel.ir import Expr
    from niello.kernel.routine_build import Place, RoutineBuilder


class Trait(enum.Flag):
    """What generic code may know of an operation without knowing its name."""

    NONE = 0
    ELEMENTWISE = enum.auto()  # output element depends on the inputs' elements at the same index
    MOVEMENT = enum.auto()  # output element is one element of an input (or a fill value)
    REDUCTION = enum.auto()  # reduces `axes` of its first input; `keepdims` tells the shape
    WINDOW = enum.auto()  # reduces windows of its first input (pooling)
    CONTRACTION = enum.auto()  # sum of products
    CREATION = enum.auto()  # has no tensor inputs
    STATEFUL = enum.auto()  # reads or writes variables: never folded, shared or dropped silently
    COMMUTATIVE = enum.auto()  # the two inputs may be swapped
    SHAPE_ONLY = enum.auto()  # the last input is used only for its shape
    EXPENSIVE = enum.auto()  # evaluating an element again costs more than reading it back
    MANY_SOURCES = enum.auto()  # a movement whose elements come from different inputs (concat)
    LINEAR = enum.auto()  # a sum of inputs goes to the sum of outputs, so complex parts go alone
    STRUCTURAL = enum.auto()  # placeholder, constant, variable, read, assign


@dataclass(frozen=True)
class Spec:
    """A sample input: shape, range of values, and kind.

    kind "main" takes each dtype of the op, "bool", "index" (int32) or "float" (float32) are fixed;
    "distinct" is "main" with all values different (for ties in max, sort, ...).
    """

    shape: tuple[int, ...]
    low: float = -2.0
    high: float = 2.0
    kind: str = "main"


def real(*shape: int, low: float = -2.0, high: float = 2.0) -> Spec:
    """Random values of the op's dtype from low to high."""
    return Spec(shape, low, high)


def distinct(*shape: int, low: float = -2.0, high: float = 2.0) -> Spec:
    """Shuffled, evenly spaced values: no two are equal."""
    return Spec(shape, low, high, "distinct")


def indices(*shape: int, high: int) -> Spec:
    """Random int32 values from 0 to high - 1."""
    return Spec(shape, 0, high - 1, "index")


def booleans(*shape: int) -> Spec:
    return Spec(shape, 0, 1, "bool")


@dataclass(frozen=True)
class Sample:
    """Inputs (Spec or NumPy array) and attributes on which an op is tested and documented.

    `dtypes` restricts the op's dtypes; `grad` is False where finite differences make no sense;
    `tolerance` multiplies the test's tolerance.
    """

    inputs: tuple[Any, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[DType, ...] | None = None
    grad: bool = True
    tolerance: float = 1.0


def sample(
    *inputs: Any,
    dtypes: tuple[DType, ...] | None = None,
    grad: bool = True,
    tolerance: float = 1.0,
    **attributes: Any,
) -> Sample:
    """A Sample, with the op's attributes as keywords."""
    return Sample(inputs, attributes, dtypes, grad, tolerance)


@dataclass(frozen=True)
class IndexBounds:
    """Input number `input` of an op holds indices: from -size to size - 1.

    With `points`, its last axis holds one coordinate for each of `sizes`; otherwise there is one
    size, for all elements.
    """

    input: int
    sizes: tuple[int, ...]
    points: bool = False


class Op:
    """Base of operations. Subclasses are frozen dataclasses, final, decorated with `@register`."""

    name: ClassVar[str]
    traits: ClassVar[Trait]
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        # Without a docstring a dataclass makes one from its signature, which takes longer than all
        # else that it makes.
        if cls.__doc__ is None:
            cls.__doc__ = cls.doc or cls.__name__

    # Inputs whose values decide shapes (ops/by_value.py): `decompose` needs to know them.
    value_inputs: ClassVar[tuple[int, ...]] = ()

    # Inputs that contractions inside a composite operation read: mixed precision makes halves of
    # them where a library runs the operation whole.
    half_inputs: ClassVar[tuple[int, ...]] = ()

    def infer(self, *inputs: TensorType) -> TensorType | tuple[TensorType, ...]:
        raise CompilerBug(self.name, "the contract lacks infer")

    def reference(self, *arrays: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        raise CompilerBug(self.name, "the contract lacks reference")

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        """Gradient with respect to each input; None where an input has none (an index, say).

        `gradients[i]` is None when nothing depends on output i.
        """
        raise CompilerBug(self.name, "the contract lacks grad")

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        """Element `index` of output number `output`; `inputs[n](*index)` is an input's element.

        Elements of half types arrive, and are returned, as float32."""
        raise CompilerBug(self.name, "the contract lacks lower")

    def decompose(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The same outputs made of other operations; input types are static when called."""
        raise CompilerBug(self.name, "the contract lacks decompose")

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        """Statements that compute all outputs (`r.outputs`) from the inputs, which are whole,
        contiguous tensors; see kernel/routine_build.py. Nothing is stitched into a routine."""
        raise CompilerBug(self.name, "the contract lacks routine")

    def planes(self, *inputs: Any) -> Any:
        """The op on complex tensors, as operations on real ones: a complex input arrives as Planes,
        and a complex output is given as Planes. Ops that are LINEAR, MOVEMENT or CONTRACTION need
        not say (see passes/split_complex.py)."""
        raise CompilerBug(self.name, "has no form for complex tensors")

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        raise CompilerBug(cls.name, "the contract lacks samples")

    # --- hints: correct without them, faster with them
    def canonical(self, *inputs: Tensor) -> Tensor | None:
        """An equal, simpler tensor (an input itself, or new operations on `inputs[0].graph`), or
        None. Types are static when called. Must be exact for every value, NaN and -0 included."""
        return None

    def scatter(self, k: Builder, *inputs: Value) -> ScatterSpec | None:
        """The single output as additions (or other combinations) into a filled buffer: used in
        place of `lower` where that would visit every input element for each output element."""
        return None

    def index_bounds(self, *inputs: TensorType) -> Sequence[IndexBounds]:
        """Which inputs hold indices, and what they may be (CompileOptions.check_indices). Types
        are static when called."""
        return ()

    def domain(self, *inputs: TensorType) -> tuple[int, ...] | None:
        """The natural iteration space of the output when it is not the output's shape: a shape
        with as many elements, such as groups apart from the channels inside them."""
        return None

    def bare(self) -> tuple[Op, int] | None:
        """For an operation whose last inputs are its own results, made by other operations: the
        operation without them, which a library may run instead, and how many they are."""
        return None

    # --- derived
    @classmethod
    def has_lower(cls) -> bool:
        return cls.lower is not Op.lower

    @classmethod
    def has_decompose(cls) -> bool:
        return cls.decompose is not Op.decompose

    @classmethod
    def has_routine(cls) -> bool:
        return cls.routine is not Op.routine

    @classmethod
    def has_planes(cls) -> bool:
        """Whether the op is for complex tensors too, where its dtypes reach floats."""
        parts = Trait.LINEAR | Trait.MOVEMENT | Trait.CONTRACTION
        return cls.says_planes() or bool(cls.traits & parts)

    @classmethod
    def says_planes(cls) -> bool:
        """Whether the op says itself how it works on complex tensors."""
        return cls.planes is not Op.planes

    @classmethod
    def has_scatter(cls) -> bool:
        return cls.scatter is not Op.scatter

    @property
    def attributes(self) -> dict[str, Any]:
        """Attribute names and values, in declaration order."""
        cls: Any = type(self)
        if not dataclasses.is_dataclass(cls):
            return {}
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(cls)}

    def infer_all(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """`infer`, always as a tuple."""
        found = self.infer(*inputs)
        return found if isinstance(found, tuple) else (found,)

    def reference_all(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """`reference`, always as a tuple, without NumPy's warnings."""
        with np.errstate(all="ignore"):
            found = self.reference(*arrays)
        return found if isinstance(found, tuple) else (found,)


@dataclass(frozen=True)
class Planes:
    """A complex tensor as two real ones of the same shape and dtype; `pairs`, where it is there
    already, holds both along a last axis of two."""

    real: Tensor
    imaginary: Tensor
    pairs: Tensor | None = None


T = TypeVar("T", bound=Op)
F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

_registry: dict[str, type[Op]] = {}


def register(cls: type[T]) -> type[T]:
    """Class decorator: check that the contract is complete and make the op known by its name."""
    missing = [
        part for part in ("infer", "reference", "grad") if getattr(cls, part) is getattr(Op, part)
    ]
    if cls.samples.__func__ is Op.samples.__func__:  # type: ignore[attr-defined]
        missing.append("samples")
    if not cls.doc:
        missing.append("doc")
    computed = cls.has_lower() or cls.has_decompose() or cls.has_routine() or cls.says_planes()
    if not (computed or Trait.STRUCTURAL in cls.traits):
        missing.append("lower, decompose or routine")
    if missing:
        raise CompilerBug(f"operation {cls.name}", f"the contract lacks {', '.join(missing)}")
    if cls.has_planes() and set(FLOATS) <= set(cls.dtypes):
        cls.dtypes = (*cls.dtypes, *(d for d in COMPLEX if d not in cls.dtypes))
    if cls.name in _registry:
        raise CompilerBug(f"operation {cls.name}", "is registered twice")
    _registry[cls.name] = cls
    return cls


def registry() -> Mapping[str, type[Op]]:
    """All registered operations by name."""
    return _registry


_records: dict[str, type[Any]] = {}


def record(cls: type[R]) -> type[R]:
    """Class decorator: a frozen dataclass that ops use as an attribute (see graph/text.py)."""
    if cls.__name__ in _records:
        raise CompilerBug(f"record {cls.__name__}", "is registered twice")
    _records[cls.__name__] = cls
    return cls


def records() -> Mapping[str, type[Any]]:
    """Registered attribute records by class name."""
    return _records


def not_differentiable(why: str) -> Callable[..., Any]:
    """A `grad` that refuses, saying why."""

    def grad(self: Op, gradients: Any, inputs: Any, outputs: Any) -> Any:
        raise NotDifferentiable(
            "gradients",
            f"operation {self.name} has no gradient: {why}",
            operation=self.name,
            advice="Stop the gradient before it, or use a differentiable operation",
        )

    grad.refuses = why  # type: ignore[attr-defined]
    return grad


def refusal(cls: type[Op]) -> str | None:
    """Why an op has no gradient, or None when it has one."""
    return getattr(cls.grad, "refuses", None)


# --- functions that users call: niello.<name>(...) and tensor.<name>(...)
_functions: dict[str, Callable[..., Any]] = {}
_methods: dict[str, Callable[..., Any]] = {}


def function(f: F) -> F:
    """Decorator: publish as `niello.<name>` and, its first argument being a tensor, as a method of
    Tensor."""
    if f.__name__ in _functions:
        raise CompilerBug(f"function {f.__name__}", "is published twice")
    _functions[f.__name__] = f
    _methods[f.__name__] = f
    return f


def plain_function(f: F) -> F:
    """Decorator: publish as `niello.<name>` only (concat, random_uniform, ...)."""
    if f.__name__ in _functions:
        raise CompilerBug(f"function {f.__name__}", "is published twice")
    _functions[f.__name__] = f
    return f


def functions() -> Mapping[str, Callable[..., Any]]:
    """All published functions by name."""
    return _functions


def methods() -> Mapping[str, Callable[..., Any]]:
    """Published functions that are also methods of Tensor."""
    return _methods
