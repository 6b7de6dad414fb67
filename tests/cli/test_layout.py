"""Layered drawings: edges point down, nothing overlaps, places are the best ones."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from niello.cli.inspection.layout import Spacing, layered, separated

SPACING = Spacing()


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[int, tuple[float, float]], list[tuple[int, int]]]:
    """Nodes with sizes, and edges from earlier to later ones."""
    count = draw(st.integers(1, 12))
    side = st.floats(5, 200)
    sizes = {n: (draw(side), draw(side)) for n in range(count)}
    pairs = list(itertools.combinations(range(count), 2))
    edges = draw(st.lists(st.sampled_from(pairs), max_size=30)) if pairs else []
    return sizes, edges


@settings(deadline=None, max_examples=80)
@given(graphs())
def test_layout(graph: tuple[dict[int, tuple[float, float]], list[tuple[int, int]]]) -> None:
    sizes, edges = graph
    found = layered(sizes, edges, SPACING)
    assert set(found.corners) == set(sizes)
    assert set(found.routes) == set(edges)
    rectangles = [(*found.corners[n], *sizes[n]) for n in sizes]
    for (x, y, w, h), (a, b, c, d) in itertools.combinations(rectangles, 2):
        apart = x + w <= a or a + c <= x or y + h <= b or b + d <= y
        assert apart
    for x, y, w, h in rectangles:
        assert x >= -1e-6 and y >= 0
        assert x + w <= found.width + 1e-6 and y + h <= found.height + 1e-6
    for (source, target), route in found.routes.items():
        heights = [y for _, y in route]
        assert heights == sorted(heights)
        assert heights[0] == found.corners[source][1] + sizes[source][1]
        assert heights[-1] == found.corners[target][1]


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0.5, 5)), min_size=2, max_size=6))
def test_separated_is_feasible_and_optimal(pairs: list[tuple[float, float]]) -> None:
    wanted, weights = [p for p, _ in pairs], [w for _, w in pairs]
    gaps = [3.0] * (len(pairs) - 1)
    found = np.array(separated(wanted, weights, gaps))
    assert np.all(np.diff(found) >= 3.0 - 1e-9)

    def cost(places: np.ndarray) -> float:
        return float(np.sum(np.array(weights) * (places - np.array(wanted)) ** 2))

    for step in np.random.default_rng(0).normal(size=(50, len(pairs))):
        other = found + 0.1 * step
        if np.all(np.diff(other) >= 3.0):
            assert cost(other) >= cost(found) - 1e-9


def test_a_chain_is_a_straight_line() -> None:
    found = layered(dict.fromkeys(range(5), (40.0, 20.0)), [(n, n + 1) for n in range(4)], SPACING)
    assert len({x for x, _ in found.corners.values()}) == 1


def test_nothing_to_draw() -> None:
    assert layered({}, []).corners == {}
