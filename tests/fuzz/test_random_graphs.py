"""Random graphs: optimised = not optimised = NumPy device = reference.

NIELLO_FUZZ_GRAPHS=N tries N seeds instead of the few hundred of a normal run,
`NIELLO_FUZZ_FIRST` says where they start. The suites are in suites.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest
from compare_runs import listing
from nightly import replay
from suites import outcome

GRAPHS = int(os.environ.get("NIELLO_FUZZ_GRAPHS", "300"))
FIRST = int(os.environ.get("NIELLO_FUZZ_FIRST", "0"))
CHUNK = 20


def report(suite: str, seeds: Iterable[int]) -> None:
    """Fails with the graphs of the seeds that give different results."""
    problems = []
    for seed in seeds:
        found = outcome(suite, seed)
        if found.problems:
            lines = [replay(suite, seed, None), *found.problems[:6], listing(found.case)]
            problems.append("\n".join(lines))
    assert not problems, f"{len(problems)} graphs\n" + "\n\n".join(problems[:3])


@pytest.mark.parametrize("start", range(FIRST, FIRST + GRAPHS // 2, CHUNK))
def test_every_way_gives_the_same(start: int) -> None:
    report("plain", range(start, min(start + CHUNK, FIRST + GRAPHS // 2)))


@pytest.mark.parametrize("start", range(FIRST, FIRST + GRAPHS // 4, CHUNK))
def test_nan_and_infinity_go_the_same_way(start: int) -> None:
    report("special", range(start, start + CHUNK))


@pytest.mark.parametrize("start", range(FIRST, FIRST + GRAPHS // 3, CHUNK))
def test_larger_graphs_on_two_threads(start: int) -> None:
    """Tensors that are worth several threads, blocks and tiles; without the NumPy device."""
    report("large", range(start, start + CHUNK))
