"""The contract of every registered op, on every sample it declares, in every dtype it takes."""

from __future__ import annotations

import numpy as np
import pytest

from niello.autodiff.gradients import gradients
from niello.core.dtypes import ALL, DType, carrier
from niello.core.dtypes import dtype as dtype_of
from niello.core.errors import DTypeError, NielloError, NotDifferentiable, ShapeError
from niello.core.shapes import merge_shapes
from niello.core.types import TensorType
from niello.graph.evaluate import evaluate
from niello.graph.opdef import Trait, functions, refusal
from niello.graph.structural import Constant
from niello.graph.tensor import Tensor
from niello.kernel.interpret import interpret
from niello.passes import pipeline
from niello.passes.computation import Computation
from niello.passes.decompose import Decompose
from niello.passes.fold import Fold
from niello.passes.split_complex import SplitComplex, as_border
from niello.schedule.lower import lower_group
from tests.contract.contract_cases import (
    Case,
    cases,
    differentiable,
    mismatch,
    operations,
    registry,
    seed,
    unknown_forms,
)
from tests.contract.routine_runs import has_routines, run_operations

STEP = 1e-6  # of central differences in float64
DIRECTIONS = 2

each_op = pytest.mark.parametrize("name", operations())


def report(problems: list[str]) -> None:
    assert not problems, f"{len(problems)} problems\n" + "\n".join(problems[:12])


def compare(case: Case, expected: tuple[np.ndarray, ...], found: list[np.ndarray]) -> list[str]:
    sums = Trait.ELEMENTWISE not in case.op.traits
    texts = [
        mismatch(e, f, case.sample.tolerance, sums) for e, f in zip(expected, found, strict=True)
    ]
    return [f"{case}, output {i}: {t}" for i, t in enumerate(texts) if t is not None]


def test_the_comparison_notices() -> None:
    """A suite that cannot fail proves nothing."""
    right = np.array([1.0, np.nan, -np.inf], np.float32)
    assert mismatch(right, right.copy()) is None
    for i, wrong in ((0, 1.00001), (1, 0.0), (2, np.inf)):
        found = right.copy()
        found[i] = wrong
        assert mismatch(right, found), wrong
    assert mismatch(right, right.astype(np.float64)) and mismatch(right, right[None])
    assert mismatch(np.array([1, 2]), np.array([1, 3]))


@each_op
def test_has_samples_that_the_reference_takes(name: str) -> None:
    assert list(cases(name)), "an op needs a sample"
    for case in cases(name):
        for array in case.reference():
            assert isinstance(array, (np.ndarray, np.generic)), str(case)


@each_op
def test_infer_is_type_of_reference(name: str) -> None:
    problems = []
    for case in cases(name):
        expected = [TensorType(np.shape(a), np.asarray(a).dtype) for a in case.reference()]
        found = list(case.op.infer_all(*case.types))
        if found != expected:
            problems.append(f"{case}: inferred {found}, reference gives {expected}")
    report(problems)


@each_op
def test_infer_with_unknown_sizes(name: str) -> None:
    problems = []
    for case in cases(
        name, lambda sample, dtype: dtype in (sample.dtypes or registry()[name].dtypes)[:1]
    ):
        static = case.op.infer_all(*case.types)
        forms = list(unknown_forms(case.types))
        forms.append(tuple(TensorType(None, t.dtype) for t in case.types))
        for types in forms:
            try:
                found = case.op.infer_all(*types)
                for f, s in zip(found, static, strict=True):
                    merge_shapes(f.shape, s.shape, "compatible")
                    assert f.dtype is s.dtype
            except ShapeError as error:
                # Some ops need the rank, or a particular size; then they say so.
                if error.asked == "compatible" or not error.advice:
                    problems.append(f"{case} as {types}: {error}")
            except Exception as error:
                problems.append(f"{case} as {types}: {type(error).__name__}: {error}")
    report(problems)


@each_op
def test_kernel_is_reference(name: str) -> None:
    problems = []
    for case in cases(name):
        expected = case.reference()
        try:
            found = run_kernel(case)
        except Exception as error:
            problems.append(f"{case}: {type(error).__name__}: {error}")
            continue
        problems += compare(case, expected, found)
    report(problems)


def run_kernel(case: Case) -> list[np.ndarray]:
    """The op alone, lowered to one kernel and interpreted."""
    inputs, outputs = case.build()
    source = Computation(inputs[0].graph if inputs else outputs[0].graph, tuple(inputs), outputs)
    wanted = [t.dtype for t in source.targets]
    source = SplitComplex()(Decompose()(source))
    fed = dict(zip(source.inputs, map(as_border, case.arrays), strict=True))
    if has_routines(source):
        found = run_operations(source, fed)
        return [
            from_border(a, t, dtype)
            for a, t, dtype in zip(found, source.targets, wanted, strict=True)
        ]
    inside = lambda operation: Trait.STRUCTURAL not in operation.op.traits  # noqa: E731
    produced = {}
    computed = [t for t in dict.fromkeys(source.targets) if inside(t.operation)]
    if computed:
        lowered = lower_group("contract", computed, inside)
        buffers = [buffer_of(t, fed) for t in lowered.tensors]
        interpret(lowered.kernel, [as_carried(b) for b in buffers])
        produced = dict(zip(lowered.tensors, buffers, strict=True))
    return [
        from_border((produced[t] if t in produced else buffer_of(t, fed)), t, dtype)
        for t, dtype in zip(source.targets, wanted, strict=True)
    ]


def as_carried(buffer: np.ndarray) -> np.ndarray:
    """A buffer as kernels see it: bytes for storage types."""
    return buffer.view(carrier(dtype_of(buffer.dtype)).numpy)


def from_border(array: np.ndarray, tensor: Tensor, dtype: DType) -> np.ndarray:
    """A result in its own dtype: a complex one is computed as a real one twice as long."""
    shape = tensor.type.static_shape
    if not dtype.is_complex:
        return array.reshape(shape)
    return np.ascontiguousarray(array).reshape(-1).view(dtype.numpy).reshape(shape[:-1])


def buffer_of(tensor: Tensor, fed: dict[Tensor, np.ndarray]) -> np.ndarray:
    if tensor in fed:
        return np.ascontiguousarray(fed[tensor]).reshape(-1)
    if isinstance(tensor.operation.op, Constant):
        return np.ascontiguousarray(tensor.operation.op.reference()).reshape(-1)
    poison = np.full(tensor.type.elements, 7, tensor.dtype.numpy)
    return poison


@each_op
def test_passes_keep_the_value(name: str) -> None:
    problems = []
    for case in cases(name):
        inputs, outputs = case.build()
        source = Computation(outputs[0].graph, tuple(inputs), outputs)
        try:
            made = pipeline.run(pipeline.optimising(case.types), source)
            fed = dict(zip(made.inputs, map(as_border, case.arrays), strict=True))
            pairs = zip(evaluate(made.targets, fed), made.targets, outputs, strict=True)
            found = [from_border(a, t, old.dtype) for a, t, old in pairs]
        except Exception as error:
            problems.append(f"{case}: {type(error).__name__}: {error}")
            continue
        problems += compare(case, case.reference(), found)
    report(problems)


@each_op
def test_folding_is_reference(name: str) -> None:
    problems = []
    for case in cases(name):
        if not case.arrays:
            continue
        _, outputs = case.build(constant=True)
        made = Fold()(Computation(outputs[0].graph, (), outputs))
        if not all(isinstance(t.operation.op, Constant) for t in made.targets):
            problems.append(f"{case}: not folded")
            continue
        problems += compare(case, case.reference(), evaluate(made.targets))
    report(problems)


@each_op
def test_refused_dtypes(name: str) -> None:
    cls = registry()[name]
    case = next(iter(cases(name)))
    mains = [i for i, s in enumerate(case.sample.inputs) if getattr(s, "kind", "") == "main"]
    refused = [d for d in ALL if d not in cls.dtypes]
    for dtype in refused if mains else ():
        types = [TensorType(t.shape, dtype) if i in mains else t for i, t in enumerate(case.types)]
        with pytest.raises(DTypeError) as caught:
            case.op.infer_all(*types)
        assert caught.value.received is not None


def broadcasting_ops() -> list[str]:
    return [
        n
        for n in operations()
        if Trait.ELEMENTWISE in registry()[n].traits and len(registry()[n].samples()[0].inputs) > 1
    ]


@pytest.mark.parametrize("name", broadcasting_ops())
def test_shapes_that_do_not_broadcast(name: str) -> None:
    case = next(iter(cases(name)))
    shapes = [(2, 3), (4, 5), *[()] * len(case.types)]
    types = [TensorType(s, t.dtype) for s, t in zip(shapes, case.types, strict=False)]
    with pytest.raises(ShapeError) as caught:
        case.op.infer_all(*types)
    assert caught.value.received is not None and caught.value.advice


# --- gradients
def differentiable_ops() -> list[str]:
    return [n for n in operations() if refusal(registry()[n]) is None]


def directional(outputs: list[Tensor], feeds: dict, along: dict, seeds: list[np.ndarray]) -> float:
    """Change of sum(seed * output) per unit step along a direction, by central differences."""

    def total(sign: float) -> float:
        moved = {t: a + sign * STEP * along[t] if t in along else a for t, a in feeds.items()}
        found = evaluate(outputs, moved)
        # Elements with a seed of zero (those that are not finite) do not count.
        parts = [np.where(s == 0.0, 0.0, v) * np.conj(s) for v, s in zip(found, seeds, strict=True)]
        return float(sum(np.sum(p).real for p in parts))

    return (total(1.0) - total(-1.0)) / (2.0 * STEP)


def float_ones(tensors: list[Tensor]) -> list[Tensor]:
    return [t for t in tensors if t.dtype.is_inexact]


def gradient_sums(
    outputs: list[Tensor], seeds: list[np.ndarray], wanted: list[Tensor]
) -> list[Tensor]:
    """Gradients of sum(seed * output) over all outputs."""
    sums: dict[Tensor, Tensor] = {}
    for output, array in zip(outputs, seeds, strict=True):
        found = gradients(output, wanted, seed=output.graph.constant(array))
        for t in wanted:
            sums[t] = found[t] if t not in sums else sums[t] + found[t]
    return [sums[t] for t in wanted]


def random_seeds(rng: np.random.Generator, outputs: list[Tensor], feeds: dict) -> list[np.ndarray]:
    """Weights of the elements of the outputs; zero where a value is infinite or NaN."""
    values = evaluate(outputs, feeds)
    return [np.where(np.isfinite(v), random_like(rng, v, 0.5, 1.5), 0.0) for v in values]


def random_like(rng: np.random.Generator, like: np.ndarray, low: float, high: float) -> np.ndarray:
    found = rng.uniform(low, high, like.shape)
    return found + 1j * rng.uniform(low, high, like.shape) if like.dtype.kind == "c" else found


def check_direction(case: Case, order: int) -> list[str]:
    rng = np.random.default_rng(seed(case.op.name, case.number, order))
    inputs, made = case.build()
    outputs, wanted = float_ones(list(made)), float_ones(inputs)
    feeds = dict(zip(inputs, case.arrays, strict=True))
    if not outputs or not wanted:
        return []
    for _ in range(order - 1):
        outputs = gradient_sums(outputs, random_seeds(rng, outputs, feeds), wanted)
    seeds = random_seeds(rng, outputs, feeds)
    found = evaluate(gradient_sums(outputs, seeds, wanted), feeds)
    problems = []
    for t, g in zip(wanted, found, strict=True):
        if g.shape != t.shape or g.dtype != t.dtype.numpy:
            problems.append(f"{case}: gradient {g.dtype}{g.shape} of {t.type}")
    if problems:
        return problems
    for _ in range(DIRECTIONS):
        along = {t: random_like(rng, feeds[t], -1.0, 1.0) for t in wanted}
        terms = [(np.conj(g) * along[t]).real for t, g in zip(wanted, found, strict=True)]
        exact = float(sum(np.sum(v) for v in terms))
        scale = 1.0 + float(sum(np.sum(np.abs(v)) for v in terms))
        near = directional(outputs, feeds, along, seeds)
        if not abs(exact - near) <= 2e-6 * scale * case.sample.tolerance:
            problems.append(f"{case}: derivative of order {order} is {near}, gradient says {exact}")
    return problems


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", differentiable_ops())
def test_gradient_is_finite_difference(name: str, order: int) -> None:
    problems = []
    for case in cases(name, differentiable):
        try:
            problems += check_direction(case, order)
        except Exception as error:
            problems.append(f"{case}: {type(error).__name__}: {error}")
    report(problems)


@pytest.mark.parametrize("name", differentiable_ops())
def test_gradient_with_unknown_sizes(name: str) -> None:
    """The gradient graph built for unknown sizes, then bound, is that of known sizes."""
    problems = []
    for case in cases(name, differentiable):
        inputs, made = case.build()
        outputs, wanted = float_ones(list(made)), float_ones(inputs)
        if not outputs or not wanted:
            continue
        seeds = [np.ones(t.type.static_shape, t.dtype.numpy) for t in outputs]
        expected = evaluate(
            gradient_sums(outputs, seeds, wanted), dict(zip(inputs, case.arrays, strict=True))
        )
        try:
            found = free_gradients(case)
        except ShapeError:
            continue  # the op needs these sizes (test_infer_with_unknown_sizes sees to the message)
        except NielloError as error:
            problems.append(f"{case}: {error}")
            continue
        problems += [
            f"{case}: {text}"
            for e, f in zip(expected, found, strict=True)
            if (text := mismatch(e, f))
        ]
    report(problems)


def free_gradients(case: Case) -> list[np.ndarray]:
    from niello.graph.graph import GraphDefinition

    graph = GraphDefinition()
    inputs = [graph.placeholder((None,) * a.ndim, a.dtype) for a in case.arrays]
    made = graph.add(case.op, inputs).outputs
    wanted, sums = float_ones(inputs), {}
    for output in float_ones(list(made)):
        seed = nl_ones(output) if output.dtype.is_complex else None
        for t, g in gradients(output, wanted, seed=seed).items():
            sums[t] = g if t not in sums else sums[t] + g
    source = Computation(graph, tuple(inputs), tuple(sums[t] for t in wanted))
    bound = pipeline.run(pipeline.optimising(case.types), source)
    fed = dict(zip(bound.inputs, map(as_border, case.arrays), strict=True))
    pairs = zip(evaluate(bound.targets, fed), bound.targets, wanted, strict=True)
    return [from_border(a, t, old.dtype) for a, t, old in pairs]


def nl_ones(like: Tensor) -> Tensor:
    """Ones of the type of a tensor whose sizes are not known."""
    return functions()["broadcast_like"](like.graph.constant(1, like.dtype), like)


@pytest.mark.parametrize("name", [n for n in operations() if refusal(registry()[n]) is not None])
def test_refused_gradient_says_why(name: str) -> None:
    case = next(iter(cases(name)))
    with pytest.raises(NotDifferentiable) as caught:
        case.op.grad((None,), (), ())
    assert refusal(type(case.op)) in str(caught.value)
    assert caught.value.fields["operation"] == name
