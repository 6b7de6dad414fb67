"""How ops are written: operand conversion, and the factory for elementwise ops.

An elementwise op is one expression:

    tanh = elementwise(
        "tanh", FLOATS,
        numpy=np.tanh,
        scalar=lambda k, x: k.tanh(x),
        grad=lambda g, x, y: g * (1.0 - y * y),
        samples=[sample(real(2, 3))],
        doc="Hyperbolic tangent of each element.",
    )
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import DType, bool_, compute_dtype, promote
from niello.core.errors import DTypeError, GraphError
from niello.core.records import frozen
from niello.core.shapes import broadcast_shapes, row_major_strides
from niello.core.types import TensorType
from niello.graph import opdef
from niello.graph.graph import GraphDefinition
from niello.graph.opdef import Op, Sample, Trait, not_differentiable
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr


def graph_of(asked: str, *values: Any) -> GraphDefinition:
    """The graph of the first tensor among the operands. Raises GraphError when there is none."""
    for v in values:
        if isinstance(v, Tensor):
            return v.graph
        if isinstance(v, (list, tuple)):
            for inner in v:
                if isinstance(inner, Tensor):
                    return inner.graph
    raise GraphError(
        asked,
        "at least one operand must be a tensor of a graph",
        received=", ".join(type(v).__name__ for v in values),
        advice="Make constants with graph.constant",
    )


def operands(asked: str, *values: Any) -> list[Tensor]:
    """Operands as tensors of one graph and one dtype.

    Tensors and arrays promote (core.dtypes.promote); Python numbers take the others' dtype, except
    that a float beside integers makes them float32.
    """
    graph = graph_of(asked, *values)
    strong = [graph.as_tensor(v) for v in values if not isinstance(v, (bool, int, float, complex))]
    common = strong[0].dtype
    for t in strong[1:]:
        common = promote(common, t.dtype)
    for v in values:
        if isinstance(v, bool):
            continue
        if isinstance(v, complex):
            common = promote(common, dtypes.complex32)
            common = dtypes.complex64 if not strong[0].dtype.is_inexact else common
        elif isinstance(v, float) and not common.is_inexact:
            common = dtypes.float32
        elif isinstance(v, int) and common is bool_:
            common = dtypes.int32
    return [cast_to(graph.as_tensor(v, dtype=common), common) for v in values]


def cast_to(x: Tensor, dtype: DType) -> Tensor:
    """`x` in another dtype; the same tensor when it has it already."""
    return x if x.dtype is dtype else opdef.functions()["cast"](x, dtype)


def as_operand(asked: str, like: Tensor, value: Any) -> Tensor:
    """`value` as a tensor of the graph and, for a Python number, of the dtype of `like`."""
    return like.graph.as_tensor(value, dtype=like.dtype)


def check_dtype(asked: str, found: DType, allowed: Sequence[DType]) -> None:
    """Refuse a dtype that an op does not take."""
    if found not in allowed:
        raise DTypeError(
            asked,
            "this element type is not supported",
            received=found.name,
            advice=f"Use {', '.join(d.name for d in allowed)}, or cast first",
            dtype=found,
        )


def unbroadcast(gradient: Tensor, like: Tensor) -> Tensor:
    """Sum a gradient back to the shape of the operand that was broadcast."""
    if gradient.type.is_static and gradient.shape == like.shape:
        return gradient
    return opdef.functions()["sum_to_like"](gradient, like)  # type: ignore[no-any-return]


def half_as_float32(
    numpy: Callable[..., Any], arrays: Sequence[np.ndarray], result: np.dtype[Any] | None = None
) -> Any:
    """Evaluate `numpy` on arrays, half types in float32, rounding the result(s) back."""
    half = next((a.dtype for a in arrays if dtypes.is_narrow(a.dtype)), None)
    if half is None:
        return numpy(*arrays)
    full = np.dtype(np.complex64 if half.name == "complex32" else np.float32)
    wide = [a.astype(full) if a.dtype == half else a for a in arrays]
    found = numpy(*wide)

    def back(a: Any) -> Any:
        a = np.asarray(a)
        return a.astype(half) if a.dtype == full else a

    return tuple(back(a) for a in found) if isinstance(found, tuple) else back(found)


def broadcast_index(index: Index, shape: Sequence[int]) -> Index:
    """Index into an operand of `shape` that broadcasts against the output being indexed."""
    from niello.kernel import ir

    zero = ir.const(0, dtypes.int64)
    tail = index[len(index) - len(shape) :]
    return tuple(zero if size == 1 else i for i, size in zip(tail, shape, strict=True))


class Elementwise(Op):
    """Base of the ops that `elementwise` makes."""

    traits: ClassVar[Trait] = Trait.ELEMENTWISE
    numpy: ClassVar[Callable[..., Any]]
    scalar: ClassVar[Callable[..., Expr]]
    derivative: ClassVar[Callable[..., Any] | None]
    complex_form: ClassVar[Callable[..., Any] | None] = None
    result: ClassVar[str]  # "same", "bool", or "select" (as the second input; first is bool)
    made_samples: ClassVar[Sequence[Sample]]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def infer(self, *inputs: TensorType) -> TensorType:
        main = inputs[1:] if self.result == "select" else inputs
        for t in main:
            check_dtype(self.name, t.dtype, self.dtypes)
            if t.dtype is not main[0].dtype:
                raise DTypeError(
                    self.name,
                    "operands have different element types",
                    received=" and ".join(i.dtype.name for i in inputs),
                )
        if self.result == "select":
            check_dtype(self.name, inputs[0].dtype, (bool_,))
        shape = broadcast_shapes(self.name, *(t.shape for t in inputs))
        return TensorType(shape, bool_ if self.result == "bool" else main[0].dtype)

    def reference(self, *arrays: np.ndarray) -> np.ndarray:
        main = arrays[1] if self.result == "select" else arrays[0]
        wanted = np.dtype(bool) if self.result == "bool" else main.dtype
        call = type(self).numpy
        value = half_as_float32(lambda *a: call(*a, **self.attributes), arrays)
        return np.asarray(value).astype(wanted, copy=False)

    def grad(
        self,
        gradients: tuple[Tensor | None, ...],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> Sequence[Tensor | None]:
        derivative: Any = type(self).derivative
        found = derivative(gradients[0], *inputs, outputs[0], **self.attributes)
        parts = found if isinstance(found, tuple) else (found,)
        return [
            None if p is None else unbroadcast(p, x) for p, x in zip(parts, inputs, strict=True)
        ]

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        args = [x(*broadcast_index(index, x.shape)) for x in inputs]
        return type(self).scalar(k, *args, **self.attributes)

    def planes(self, *inputs: Any) -> Any:
        form: Any = type(self).complex_form
        return form(*inputs, **self.attributes)

    @classmethod
    def says_planes(cls) -> bool:
        return cls.complex_form is not None

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return cls.made_samples


def elementwise(
    name: str,
    dtypes_: Sequence[DType],
    *,
    numpy: Callable[..., Any],
    scalar: Callable[..., Expr],
    grad: Callable[..., Any] | str,
    samples: Sequence[Sample],
    doc: str,
    result: str = "same",
    attributes: Mapping[str, Any] | None = None,
    traits: Trait = Trait.NONE,
    planes: Callable[..., Any] | None = None,
    publish: bool = True,
) -> Callable[..., Tensor]:
    """Define and register an elementwise op, and return the function users call.

    `numpy(*arrays, **attributes)` is its meaning (half types arrive as float32), `scalar(k, *args,
    **attributes)` one element, `grad(g, *inputs, output, **attributes)` the gradient of each input
    as a tuple (a bare tensor for one input; None where there is none), or a string saying why there
    is none. `attributes` gives names and default values. `result` is "same", "bool" or "select".
    `planes(*inputs, **attributes)` makes the op of complex tensors out of real ones (Op.planes).
    """
    parameters = [
        p.name
        for p in list(inspect.signature(scalar).parameters.values())[1:]
        if p.name not in (attributes or {})
    ]
    settings = dict(attributes or {})
    body: dict[str, Any] = {
        "name": name,
        "dtypes": tuple(dtypes_),
        "traits": Trait.ELEMENTWISE | traits,
        "doc": doc,
        "numpy": staticmethod(numpy),
        "scalar": staticmethod(scalar),
        "derivative": None if isinstance(grad, str) else staticmethod(grad),
        "result": result,
        "made_samples": tuple(samples),
        "complex_form": None if planes is None else staticmethod(planes),
        "__module__": inspect.getmodule(scalar).__name__,  # type: ignore[union-attr]
        "__doc__": doc,
    }
    if isinstance(grad, str):
        body["grad"] = not_differentiable(grad)
    body["__annotations__"] = {key: type(value).__name__ for key, value in settings.items()}
    body.update(settings)
    title = "".join(word.capitalize() for word in name.split("_"))
    cls: Any = type(title, (Elementwise,), body)
    # A dataclass takes half a millisecond to make; without attributes there is nothing to hold.
    opdef.register(frozen(cls) if settings else cls)

    def call(*args: Any, name: str | None = None, **keywords: Any) -> Tensor:
        bound = signature.bind(*args, **keywords)
        bound.apply_defaults()
        values = [bound.arguments[p] for p in parameters]
        options = {k: bound.arguments[k] for k in settings}
        if result == "select":
            # The predicate is bool, or becomes so; the branches promote among themselves.
            branches = (
                operands(cls.name, *values[1:])
                if any(isinstance(v, Tensor) for v in values[1:])
                else [graph_of(cls.name, *values).as_tensor(v) for v in values[1:]]
            )
            graph = graph_of(cls.name, *values)
            tensors = [cast_to(graph.as_tensor(values[0]), bool_), *branches]
        else:
            tensors = operands(cls.name, *values)
        return tensors[0].graph.apply(cls(**options), *tensors, name=name)  # type: ignore[return-value]

    signature = inspect.Signature(
        [
            *(inspect.Parameter(p, inspect.Parameter.POSITIONAL_OR_KEYWORD) for p in parameters),
            *(
                inspect.Parameter(k, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=v)
                for k, v in settings.items()
            ),
        ]
    )
    call.__name__ = call.__qualname__ = name
    call.__doc__ = document(name, doc, parameters, cls.dtypes, result)
    call.__module__ = body["__module__"]
    call.__signature__ = signature  # type: ignore[attr-defined]
    return opdef.function(call) if publish else call


def document(
    name: str, doc: str, parameters: Sequence[str], allowed: Sequence[DType], result: str = "same"
) -> str:
    """Docstring of an elementwise function: its sentence, the rules all share, and an example."""
    kind = dtypes.float32 if dtypes.float32 in allowed else dtypes.int32
    kind = kind if kind in allowed else bool_
    made = bool_ if result == "bool" else kind
    size = len(parameters) - (result == "select")
    rules = "Elementwise, any shape."
    if size > 1:
        rules = "Operands broadcast like NumPy and promote to one dtype; numbers take the tensors'."
    names = "every dtype" if set(dtypes.ALL) <= set(allowed) else ", ".join(d.name for d in allowed)
    errors = "DTypeError for others" + ", ShapeError for shapes that do not broadcast" * (size > 1)
    arguments = ["x > 0"] * (result == "select") + ["x"] * size
    return f"""{doc}

    {rules}
    Takes {names}; raises {errors}.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((2, 3), nl.{kind.name}{"_" * (kind is bool_)})
        >>> nl.{name}({", ".join(arguments)}).type
        {made.name}[2, 3]
    """


def compute(x: Expr, dtype: DType) -> Expr:
    """Cast an element to the dtype kernels compute in for tensors of `dtype`."""
    from niello.kernel import ir

    return ir.cast(x, compute_dtype(dtype))


__all__ = [
    "Elementwise",
    "as_operand",
    "broadcast_index",
    "cast_to",
    "check_dtype",
    "compute",
    "document",
    "elementwise",
    "graph_of",
    "half_as_float32",
    "operands",
    "row_major_strides",
    "unbroadcast",
]
