"""Runs a random case in every way there is and says where the results differ."""

from __future__ import annotations

import numpy as np
from random_graphs import Case
from shaken_values import Shake, ancestors, as_wide, epsilon, least, values_of

import niello as nl
from niello.graph.operation import Operation
from niello.graph.structural import Placeholder, VariableOp
from niello.graph.tensor import Tensor
from niello.graph.text import print_operation
from niello.passes.computation import Computation

Way = tuple[str, nl.CompileOptions]
SOURCES = (Placeholder, VariableOp)
CLOSE = 1.0  # units in the last place that need no explanation
UNDERFLOW = 16.0  # smallest numbers that need none
ALLOWED = 2.0  # in the largest change that noise made
FEWEST_RUNS, MOST_RUNS = 4, 28  # with noise: until every difference is explained


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
                if expected[variable].tobytes() != found.tobytes():
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
        {t: nl.TensorType(a.shape, t.dtype) for t, a in feeds.items()},
        case.targets,
        case.operations,
        device=device,
        options=options,
        callables=case.callables,
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
    """Why `found` is not the value of `tensor`, or an empty string.

    Equal it must be where nothing rounds. Elsewhere it may be as far from the reference as noise of
    a few roundings in each operation carries the reference itself (shaken_values.py).
    """
    tensor = case.reads.get(tensor, tensor)
    expected = case.values[tensor]
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"{found.dtype}{list(found.shape)} instead of {expected.dtype}{list(expected.shape)}"
    a, b = as_wide(expected), as_wide(found)
    wrong = ~((a == b) | ((a != a) & (b != b)))
    if not wrong.any():
        return ""
    if tensor in case.exact:
        return describe(expected, found, wrong)
    if a.dtype.kind in "fc":
        with np.errstate(all="ignore"):
            near = CLOSE * epsilon(expected) * np.abs(a) + UNDERFLOW * least(expected)
            wrong &= ~(np.abs(a - b) <= near)
    if not wrong.any():
        return ""
    given = {o.outputs[0]: case.values[o.outputs[0]] for o in sources(tensor)}
    spread = Spread(as_wide(values_of([tensor], given, case.callables)[0]))
    for number in range(MOST_RUNS):
        shake = Shake(case.seed * MOST_RUNS + number, 1.0 + number % 4, case.driver)
        spread.add(as_wide(values_of([tensor], given, case.callables, shake)[0]))
        if number >= FEWEST_RUNS and not (still := wrong & ~spread.covers(a, b)).any():
            return ""
    return f"{describe(expected, found, still)} (noise moves it by {spread.text(still)})"


class Spread:
    """How far noise moved the elements of an array."""

    def __init__(self, base: np.ndarray) -> None:
        self.base = base
        self.most = np.zeros(base.shape)
        self.jumped = np.zeros(base.shape, bool)

    def add(self, moved: np.ndarray) -> None:
        with np.errstate(all="ignore"):
            change = np.abs(moved.astype(self.wide) - self.base.astype(self.wide))
        same = (moved == self.base) | ((moved != moved) & (self.base != self.base))
        finite = np.isfinite(change)
        self.jumped |= ~same & (~finite | (self.base.dtype.kind not in "fc"))
        change = np.where(finite, change, 0.0)
        self.most = np.maximum(self.most, change)

    @property
    def wide(self) -> type:
        return np.complex128 if self.base.dtype.kind == "c" else np.float64

    def covers(self, expected: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Where two values are no further apart than noise explains."""
        with np.errstate(all="ignore"):
            apart = np.abs(found.astype(self.wide) - expected.astype(self.wide))
        if self.base.dtype.kind not in "fc":
            return self.jumped
        return self.jumped | (apart <= ALLOWED * self.most)

    def text(self, where: np.ndarray) -> str:
        return f"{float(self.most[where].max(initial=0.0)):.1e}"


def sources(tensor: Tensor) -> list[Operation]:
    """Placeholders, variables and ordered reads behind a tensor."""
    return [o for o in ancestors([tensor]) if isinstance(o.op, SOURCES)]


def describe(expected: np.ndarray, found: np.ndarray, wrong: np.ndarray) -> str:
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    first = f"at {where} {found[where]} instead of {expected[where]}"
    return f"{first}; {int(wrong.sum())} of {wrong.size} elements differ"


def listing(case: Case) -> str:
    """The operations that matter, one line each."""
    roots = (*case.targets, *(value for _, value, _ in case.assigns))
    source = Computation(case.graph, (), roots, tuple(case.operations))
    return "\n".join(print_operation(o) for o in source.reachable())
