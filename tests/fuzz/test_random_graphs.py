"""Random graphs: optimised = not optimised = NumPy device = reference.

NIELLO_FUZZ_GRAPHS=N tries N seeds instead of the few hundred of a normal run,
`NIELLO_FUZZ_FIRST` says where they start.
"""

from __future__ import annotations

import os

import pytest
import random_graphs
import random_operations
from compare_runs import disagreements, listing
from random_graphs import Case, random_case

import niello as nl

GRAPHS = int(os.environ.get("NIELLO_FUZZ_GRAPHS", "300"))
FIRST = int(os.environ.get("NIELLO_FUZZ_FIRST", "0"))
CHUNK = 20


def case_of(seed: int) -> Case:
    """Every third graph is smooth and has gradients; sizes go from tiny to two dozen operations."""
    return random_case(seed, 1 + seed % 23, gradients=seed % 3 == 2)


@pytest.mark.parametrize("start", range(FIRST, FIRST + GRAPHS, CHUNK))
def test_every_way_gives_the_same(start: int) -> None:
    problems = []
    for seed in range(start, min(start + CHUNK, FIRST + GRAPHS)):
        case = case_of(seed)
        found = disagreements(case)
        if found:
            problems.append(f"seed {seed}:\n" + "\n".join(found[:6]) + f"\n{listing(case)}")
    assert not problems, f"{len(problems)} graphs\n" + "\n\n".join(problems[:3])


@pytest.mark.parametrize("start", range(FIRST, FIRST + GRAPHS // 4, CHUNK))
def test_nan_and_infinity_go_the_same_way(start: int) -> None:
    problems = []
    for seed in range(start, start + CHUNK):
        case = random_case(seed, 1 + seed % 12, special=True)
        found = disagreements(case)
        if found:
            problems.append(f"seed {seed}:\n" + "\n".join(found[:6]) + f"\n{listing(case)}")
    assert not problems, f"{len(problems)} graphs\n" + "\n\n".join(problems[:3])


@pytest.mark.parametrize("start", range(FIRST, FIRST + GRAPHS // 3, CHUNK))
def test_larger_graphs_on_two_threads(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that are worth several threads, blocks and tiles; without the NumPy device."""
    monkeypatch.setattr(random_graphs, "SIZES", (1, 2, 3, 16, 31, 64, 100, 129, 257, 300))
    for module in (random_graphs, random_operations):
        monkeypatch.setattr(module, "LARGEST", 300_000)
    monkeypatch.setattr(random_operations, "SIZES_OUT", (1, 7, 48, 100, 130, 257))
    problems = []
    for seed in range(start, start + CHUNK):
        case = random_case(seed, 1 + seed % 10, gradients=seed % 3 == 2)
        target = ("host", "avx2", "baseline")[seed % 3]
        ways = [
            ("cpu", nl.CompileOptions(threads=2, target=target)),
            ("cpu", nl.CompileOptions(threads=2, optimise=False)),
        ]
        found = disagreements(case, ways)
        if found:
            problems.append(f"seed {seed}:\n" + "\n".join(found[:6]) + f"\n{listing(case)}")
    assert not problems, f"{len(problems)} graphs\n" + "\n\n".join(problems[:3])
