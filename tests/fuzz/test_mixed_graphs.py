"""Random graphs of every registered operation: optimised = not optimised = NumPy device =
reference, and gradients = differences. `make nightly` runs thousands of them (nightly.py)."""

from __future__ import annotations

import numpy as np
import pytest
from compare_runs import difference
from finite_differences import derivative_problem
from mixed_graphs import mixed_case
from mixed_operations import focus_names
from nightly import main, replay
from random_graphs import Case
from shaken_values import JUMPING, LOGARITHMS, STILL, as_wide, is_whole
from shrink import shrunk
from suites import outcome
from test_random_graphs import FIRST, GRAPHS, report

import niello as nl
from niello.core.dtypes import dtype as dtype_of
from niello.graph.opdef import registry
from niello.graph.region import every_operation

CHUNK = 20


@pytest.mark.parametrize("start", range(FIRST, FIRST + GRAPHS, CHUNK))
def test_every_way_gives_the_same(start: int) -> None:
    report("mixed", range(start, min(start + CHUNK, FIRST + GRAPHS)))


def test_every_registered_operation_is_drawn() -> None:
    """One turn of the seeds draws all of them, none left out."""
    drawn: set[str] = set()
    for seed in range(len(focus_names())):
        case = mixed_case(seed)
        assert case.focus == focus_names()[seed], f"seed {seed} draws no {focus_names()[seed]}"
        drawn |= {o.op.name for o in every_operation(case.graph)}
    assert drawn == set(registry())


def test_what_rounds_nothing_is_registered() -> None:
    assert set(registry()) >= STILL | JUMPING | LOGARITHMS


@pytest.mark.parametrize(
    "name", ["eigh_factor", "svd", "qr_factor", "lu_factor", "solve", "determinant", "fourier"]
)
def test_where_errors_spread(name: str) -> None:
    """Kept by the module of an operation, which may move."""
    assert is_whole(registry()[name](**registry()[name].samples()[0].attributes))


def altered(rng: np.random.Generator, array: np.ndarray) -> np.ndarray | None:
    """The array with one element wrong: by a thousandth of the largest, by a sixth in half types,
    or by one; None where there is nothing to change."""
    kind, found = dtype_of(array.dtype), np.array(array)
    if not array.size or kind.is_storage:
        return None
    at = tuple(int(rng.integers(n)) for n in array.shape)
    if not kind.is_inexact:
        found[at] = not found[at] if kind is nl.bool_ else found[at] ^ found.dtype.type(1)
        return found
    wide = as_wide(array)
    if not np.isfinite(wide[at]):
        return None
    largest = float(np.abs(wide[np.isfinite(wide)]).max()) or 1.0
    found[at] = np.asarray(wide[at] + largest * (0.17 if kind.plane.is_half else 1e-3)).astype(
        array.dtype
    )
    return found


def test_the_comparison_notices() -> None:
    """Allowances that pass anything would find nothing."""
    noticed, missed = 0, []
    for seed in range(0, 285, 3):
        case, rng = mixed_case(seed), np.random.default_rng(seed)
        for t in case.targets:
            if (wrong := altered(rng, case.values[case.reads.get(t, t)])) is None:
                continue
            if difference(case, t, wrong):
                noticed += 1
            else:
                missed.append(f"{seed}: {t}")
    assert noticed > 200
    precise = [m for m in missed if "float16" not in m and "complex32" not in m]
    assert not precise and len(missed) <= noticed / 50, missed


def chain() -> Case:
    """A graph of four operations with a gradient."""
    graph = nl.Graph("chain")
    x = graph.placeholder((3,), nl.float64)
    steps = [x]
    for name in ("tanh", "exp", "sin", "square"):
        steps.append(getattr(steps[-1], name)())
    case = Case(0, graph, targets=[steps[-1]])
    case.feeds[x] = np.array([0.5, -1.0, 2.0])
    value = case.feeds[x]
    for t, function in zip(steps, (lambda v: v, np.tanh, np.exp, np.sin, np.square), strict=True):
        case.values[t] = value = function(value)
    case.derivative = (steps[-1], graph.gradients(steps[-1], [x]))
    return case


def test_a_wrong_gradient_is_noticed() -> None:
    case = chain()
    assert derivative_problem(case) == ("", True)
    of, found = case.derivative
    case.derivative = (of, {x: g * 1.001 for x, g in found.items()})
    assert "differences say" in derivative_problem(case)[0]


def test_a_failing_graph_is_made_small() -> None:
    """What the reference expects is wrong: one operation stays, fed with what made it."""
    case = chain()
    case.values[case.targets[0]] = case.values[case.targets[0]] + 0.5
    small = shrunk(case, [("cpu", nl.CompileOptions())])
    assert [o.op.name for o in small.graph.operations] == ["placeholder", "square"]
    (fed,) = small.feeds.values()
    np.testing.assert_array_equal(fed, np.sin(np.exp(np.tanh([0.5, -1.0, 2.0]))))


def test_the_nightly_run(tmp_path, capsys) -> None:
    """A few graphs through worker processes; then one by the command that a failure prints."""
    assert (
        main(["--graphs", "20", "--workers", "1", "--suite", "mixed", "--out", str(tmp_path)]) == 0
    )
    said = capsys.readouterr().out
    assert "20 of 20" in said and "0 failed" in said
    command = replay("mixed", 7, None).split()[2:]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert "every way gives the same" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_outcomes_repeat() -> None:
    """A seed is a graph: the same operations and values each time."""
    first, second = outcome("mixed", 12), outcome("mixed", 12)
    assert not first.problems and not second.problems
    names = [[o.name for o in found.case.graph.operations] for found in (first, second)]
    assert names[0] == names[1]
    for a, b in zip(first.case.targets, second.case.targets, strict=True):
        assert first.case.values[a].tobytes() == second.case.values[b].tobytes()
