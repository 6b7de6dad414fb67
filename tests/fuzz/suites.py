"""The suites of random graphs by name: how a seed becomes a graph, and how it is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mixed_graphs
import random_graphs
import random_operations
from compare_runs import Way, disagreements, ways_of
from finite_differences import derivative_problem
from random_graphs import Case, random_case

import niello as nl
from niello.backends import backend
from niello.core.dtypes import carrier
from niello.graph.region import every_operation

LARGE_SIZES = (1, 2, 3, 16, 31, 64, 100, 129, 257, 300)
LARGE = 300_000  # elements


def mixed(seed: int, device: str | None) -> Case:
    """All operations, dtypes, regions and unknown sizes."""
    return mixed_graphs.mixed_case(seed, None if device is None else backend(device).limits.dtypes)


def plain(seed: int, device: str | None) -> Case:
    """Longer graphs of fewer operations; every third is smooth and has gradients."""
    return random_case(seed, 1 + seed % 23, gradients=seed % 3 == 2)


def special(seed: int, device: str | None) -> Case:
    """NaN, infinities and zeros of both signs."""
    return random_case(seed, 1 + seed % 12, special=True)


def large(seed: int, device: str | None) -> Case:
    """Tensors that are worth several threads, blocks and tiles."""
    with _large():
        return random_case(seed, 1 + seed % 10, gradients=seed % 3 == 2)


@contextmanager
def _large() -> Iterator[None]:
    changes = [
        (random_graphs, "SIZES", LARGE_SIZES),
        (random_graphs, "LARGEST", LARGE),
        (random_operations, "LARGEST", LARGE),
        (random_operations, "SIZES_OUT", (1, 7, 48, 100, 130, 257)),
    ]
    kept = [(module, name, getattr(module, name)) for module, name, _ in changes]
    try:
        for module, name, value in changes:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


SUITES: dict[str, Callable[[int, str | None], Case]] = {
    "mixed": mixed,
    "plain": plain,
    "special": special,
    "large": large,
}


@dataclass
class Outcome:
    """What a graph gave."""

    case: Case
    problems: list[str]
    differentiated: bool  # its gradients were compared with differences


def drawn(case: Case) -> set[str]:
    """Operations of a graph, regions included, as name:dtype of the first input (or output)."""
    found = set()
    for o in every_operation(case.graph):
        first = next(iter((*o.inputs, *o.outputs)), None)
        found.add(f"{o.op.name}:{first.dtype.name if first is not None else ''}")
    return found


def ways(suite: str, case: Case, device: str | None) -> list[Way]:
    """How the graph is run: on the cpu and the NumPy device, or on one other device."""
    if device is not None:
        return [
            (device, nl.CompileOptions()),
            (device, nl.CompileOptions(optimise=False)),
        ]
    if suite == "large":  # too large to interpret
        target = ("host", "avx2", "baseline")[case.seed % 3]
        return [
            ("cpu", nl.CompileOptions(threads=2, target=target)),
            ("cpu", nl.CompileOptions(threads=2, optimise=False)),
        ]
    return ways_of(case)


def _has_all(case: Case, device: str) -> bool:
    """Whether a device has the dtypes of all tensors of a graph."""
    held = backend(device).limits.dtypes
    tensors = (t for o in every_operation(case.graph) for t in o.outputs)
    return all(carrier(t.dtype.plane) in held for t in tensors)


def outcome(suite: str, seed: int, device: str | None = None) -> Outcome:
    """Build the graph of a seed and compare all ways to run it."""
    case = SUITES[suite](seed, device)
    case.driver = device is not None
    problems = disagreements(case, ways(suite, case, device))
    if device is not None and not _has_all(case, device):
        problems = [p for p in problems if "UnsupportedDtype" not in p]
    problem, compared = derivative_problem(case)
    return Outcome(case, problems + ([problem] if problem else []), compared)
