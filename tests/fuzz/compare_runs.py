"""Runs a random case in every way there is and says where the results differ."""

from __future__ import annotations

import numpy as np
from random_graphs import Case

import niello as nl
from niello.graph.evaluate import evaluate
from niello.graph.operation import Operation
from niello.graph.tensor import Tensor
from niello.graph.text import print_operation
from niello.passes.computation import Computation

Way = tuple[str, nl.CompileOptions]
PERTURBATION = 1e-5
# Multiples of the rounding error of one operation, at the largest value that went in.
ALLOWED = 64.0


def ways_of(case: Case) -> list[Way]:
    """The cpu stitched and not, on one machine level of several, and the NumPy device."""
    target = ("host", "host", "avx2", "baseline")[case.seed % 4]
    threads = 1 + case.seed % 2
    return [
        ("cpu", nl.CompileOptions(threads=threads, target=target)),
        ("cpu", nl.CompileOptions(threads=threads, optimise=False)),
        ("numpy", nl.CompileOptions()),
    ]


def disagreements(case: Case, ways: list[Way] | None = None) -> list[str]:
    """One line for each result that is not what the reference says."""
    problems: list[str] = []
    with np.errstate(all="ignore"):
        _compare(case, ways_of(case) if ways is None else ways, problems)
    return problems


def _compare(case: Case, ways: list[Way], problems: list[str]) -> None:
    for device, options in ways:
        way = f"{device} {options}"
        try:
            values, variables = run(case, device, options)
        except Exception as error:
            problems.append(f"{way}: {type(error).__name__}: {error}")
            continue
        expected = case.final()
        for t, found in zip(case.targets, values, strict=True):
            if text := difference(case, t, found):
                problems.append(f"{way}: {t.name}: {text}")
        last = {variable: value for variable, value, _ in case.assigns}
        for variable, found in variables.items():
            if variable not in last:
                if not np.array_equal(expected[variable], found, equal_nan=True):
                    problems.append(f"{way}: {variable.name} changed though nothing assigns it")
            elif text := difference(case, last[variable], found):
                problems.append(f"{way}: new value of {variable.name}: {text}")


def run(
    case: Case, device: str, options: nl.CompileOptions
) -> tuple[list[np.ndarray], dict[nl.Variable, np.ndarray]]:
    """Values of the targets, and of all variables after the run."""
    for variable, array in case.initial.items():
        variable.value = array
    feeds = case.used_feeds()
    executable = case.graph.compile(
        {t: t.type for t in feeds},
        case.targets,
        case.operations,
        device=device,
        options=options,
    )
    values = [np.array(np.asarray(v)) for v in executable.run(list(feeds.values()))]
    variables = {v: v.value for v in case.initial}
    for variable, array in case.initial.items():
        variable.value = array
    # Again, on memory that holds the leftovers of the first run: the same bits.
    again = executable.run(list(feeds.values())) if device == "cpu" else values
    for first, second in zip(values, again, strict=True):
        if first.tobytes() != np.asarray(second).tobytes():
            raise AssertionError("a second run gives other bits")
    for variable, array in case.initial.items():
        if device == "cpu" and variable.value.tobytes() != variables[variable].tobytes():
            raise AssertionError(f"a second run leaves other bits in {variable.name}")
        variable.value = array
    return values, variables


def difference(case: Case, tensor: Tensor, found: np.ndarray) -> str:
    """Why `found` is not the value of `tensor`, or an empty string."""
    tensor = case.reads.get(tensor, tensor)
    expected = case.values[tensor]
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"{found.dtype}{list(found.shape)} instead of {expected.dtype}{list(expected.shape)}"
    if expected.dtype.kind != "f" or tensor in case.exact:
        same = np.array_equal(expected, found, equal_nan=expected.dtype.kind == "f")
        return "" if same else describe(expected, found)
    limit = tolerance(case, tensor)
    if np.allclose(found, expected, rtol=0.0, atol=limit, equal_nan=True):
        return ""
    limit += sensitivity(case, tensor)
    if np.allclose(found, expected, rtol=0.0, atol=limit, equal_nan=True):
        return ""
    return f"{describe(expected, found)} (allowed {limit:.1e})"


def describe(expected: np.ndarray, found: np.ndarray) -> str:
    wrong = ~np.isclose(found, expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    first = ""
    if wrong.any():
        where = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
        first = f"at {where} {found[where]} instead of {expected[where]}; "
    return f"{first}{int(wrong.sum())} of {wrong.size} elements differ"


def ancestors(tensor: Tensor) -> list[Operation]:
    needed: dict[Operation, None] = {}
    stack = [tensor.operation]
    while stack:
        operation = stack.pop()
        if operation not in needed:
            needed[operation] = None
            stack += [t.operation for t in operation.inputs]
    return sorted(needed, key=lambda o: o.number)


def tolerance(case: Case, tensor: Tensor) -> float:
    """Rounding errors of all operations below, as if none was amplified."""
    largest, terms, epsilon = 1.0, 0, np.finfo(tensor.dtype.numpy).eps
    for operation in ancestors(tensor):
        terms += 1
        for t in operation.outputs:
            value = case.values.get(t)
            if value is None or value.dtype.kind != "f" or value.size == 0:
                continue
            epsilon = max(epsilon, np.finfo(value.dtype).eps)
            finite = value[np.isfinite(value)]
            if finite.size:
                largest = max(largest, float(np.max(np.abs(finite))))
    return float(ALLOWED * epsilon * largest * (1 + terms / 8))


def sensitivity(case: Case, tensor: Tensor) -> float:
    """How much rounding errors may grow: by what a small change of everything fed does."""
    rng = np.random.default_rng(case.seed)
    worst, base = 0.0, case.values[tensor].astype(np.float64)
    sources = [o.outputs[0] for o in ancestors(tensor) if not o.inputs]
    epsilon = max(np.finfo(t.dtype.numpy).eps for t in sources if t.dtype.is_float)
    for _ in range(4):
        moved = {}
        for t in sources:
            value = case.values[t]
            if t.dtype.is_float:
                factor = 1.0 + PERTURBATION * rng.uniform(-1.0, 1.0, value.shape)
                value = np.asarray(value * factor).astype(value.dtype)
            moved[t] = value
        change = np.abs(evaluate([tensor], moved)[0].astype(np.float64) - base)
        worst = max(worst, float(np.max(change, where=np.isfinite(change), initial=0.0)))
    return ALLOWED * worst * epsilon / PERTURBATION


def listing(case: Case) -> str:
    """The operations that matter, one line each."""
    roots = (*case.targets, *(value for _, value, _ in case.assigns))
    source = Computation(case.graph, (), roots, tuple(case.operations))
    return "\n".join(print_operation(o) for o in source.reachable())
