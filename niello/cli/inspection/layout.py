"""Layered drawing of directed acyclic graphs (Sugiyama, Tagawa and Toda 1981).

Nodes get layers, long edges get a bend in each layer that they cross, the order within layers is
improved by barycentres, and horizontal places minimise the squared distance to neighbours without
overlap (isotonic regression in each layer).
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

SWEEPS = 12  # over the order within layers
PLACING = 40  # over horizontal places
BEND_WIDTH = 6.0
BEND_PULL = 4.0  # bends pull harder than nodes, so that long edges are straight

Point = tuple[float, float]


@dataclass(frozen=True)
class Spacing:
    """Free space between nodes of a layer, and between layers."""

    across: float = 18.0
    along: float = 34.0


@dataclass(frozen=True)
class Layout:
    """Where things are: top left corners of nodes, points along each edge, and the whole size."""

    corners: Mapping[Hashable, Point]
    routes: Mapping[tuple[Hashable, Hashable], tuple[Point, ...]]
    width: float
    height: float


@dataclass(frozen=True)
class _Bend:
    """The place where an edge crosses a layer."""

    edge: tuple[Hashable, Hashable]
    layer: int


def layered(
    sizes: Mapping[Hashable, Point],
    edges: Sequence[tuple[Hashable, Hashable]],
    spacing: Spacing = Spacing(),
) -> Layout:
    """Places for nodes of the given (width, height), with all edges pointing down.

    The nodes' order is a topological one: edges go from earlier to later nodes.
    """
    if not sizes:
        return Layout({}, {}, 0.0, 0.0)
    edges = list(dict.fromkeys(e for e in edges if e[0] != e[1]))
    layers, links = _layers(sizes, edges)
    _reduce_crossings(layers, links)
    centres = _across(layers, links, sizes, spacing)
    heights = [max((sizes[n][1] for n in layer if n in sizes), default=0.0) for layer in layers]
    tops, y = [], 0.0
    for number, height in enumerate(heights):
        tops.append(y)
        crossing = len(links[number]) if number < len(links) else 0
        y += height + spacing.along + min(2.5 * crossing, spacing.along)
    corners = {
        node: (centres[node] - sizes[node][0] / 2, tops[i])
        for i, layer in enumerate(layers)
        for node in layer
        if node in sizes
    }
    routes = {edge: _route(edge, sizes, corners, centres, layers, tops, heights) for edge in edges}
    width = max(corners[n][0] + sizes[n][0] for n in sizes)
    bottom = max(corners[n][1] + sizes[n][1] for n in sizes)
    return Layout(corners, routes, width, bottom)


def _layers(
    sizes: Mapping[Hashable, Point], edges: Sequence[tuple[Hashable, Hashable]]
) -> tuple[list[list[Hashable]], list[list[tuple[Hashable, Hashable]]]]:
    """Nodes and bends of each layer, and the links from each layer to the next."""
    level: dict[Hashable, int] = dict.fromkeys(sizes, 0)
    users: dict[Hashable, list[Hashable]] = {}
    incoming: dict[Hashable, list[Hashable]] = {}
    for source, target in edges:
        users.setdefault(source, []).append(target)
        incoming.setdefault(target, []).append(source)
    for node in sizes:
        level[node] = max((level[s] + 1 for s in incoming.get(node, ())), default=0)
    for node in reversed(list(sizes)):  # sources move down to their first user
        if node not in incoming and node in users:
            level[node] = min(level[u] for u in users[node]) - 1
    layers: list[list[Hashable]] = [[] for _ in range(max(level.values()) + 1)]
    links: list[list[tuple[Hashable, Hashable]]] = [[] for _ in layers[:-1]]
    for node in sizes:
        layers[level[node]].append(node)
    for edge in edges:
        last = edge[0]
        for number in range(level[edge[0]] + 1, level[edge[1]]):
            bend = _Bend(edge, number)
            layers[number].append(bend)
            links[number - 1].append((last, bend))
            last = bend
        links[level[edge[1]] - 1].append((last, edge[1]))
    return layers, links


def _reduce_crossings(
    layers: list[list[Hashable]], links: list[list[tuple[Hashable, Hashable]]]
) -> None:
    """Order each layer by the mean place of its neighbours, down and up; keep the best found."""
    best, least = [list(layer) for layer in layers], _crossings(layers, links)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for i in range(1, len(layers)) if down else range(len(layers) - 2, -1, -1):
            fixed = {n: p for p, n in enumerate(layers[i - 1 if down else i + 1])}
            near: dict[Hashable, list[int]] = {}
            for a, b in links[i - 1 if down else i]:
                mine, other = (b, a) if down else (a, b)
                near.setdefault(mine, []).append(fixed[other])
            place = {
                n: sum(near[n]) / len(near[n]) if n in near else float(p)
                for p, n in enumerate(layers[i])
            }
            layers[i].sort(key=place.__getitem__)
        count = _crossings(layers, links)
        if count < least:
            best, least = [list(layer) for layer in layers], count
    layers[:] = best


def _crossings(layers: list[list[Hashable]], links: list[list[tuple[Hashable, Hashable]]]) -> int:
    """How many pairs of links cross (inversions between two orders)."""
    total = 0
    for i, between in enumerate(links):
        upper = {n: p for p, n in enumerate(layers[i])}
        lower = {n: p for p, n in enumerate(layers[i + 1])}
        ends = [e for _, e in sorted((upper[a], lower[b]) for a, b in between)]
        total += sum(a > b for p, a in enumerate(ends) for b in ends[p + 1 :])
    return total


def _across(
    layers: list[list[Hashable]],
    links: list[list[tuple[Hashable, Hashable]]],
    sizes: Mapping[Hashable, Point],
    spacing: Spacing,
) -> dict[Hashable, float]:
    """Horizontal centres."""
    width = {n: sizes[n][0] if n in sizes else BEND_WIDTH for layer in layers for n in layer}
    centres: dict[Hashable, float] = {}
    for layer in layers:
        x = 0.0
        for node in layer:
            centres[node] = x + width[node] / 2
            x += width[node] + spacing.across
    near: dict[Hashable, list[Hashable]] = {}
    chains: dict[tuple[Hashable, Hashable], list[Hashable]] = {}
    for between in links:
        for a, b in between:
            near.setdefault(a, []).append(b)
            near.setdefault(b, []).append(a)
    for node in width:
        if isinstance(node, _Bend):
            chains.setdefault(node.edge, list(node.edge)).append(node)
    for sweep in range(PLACING):
        # The bends of an edge want one place, so that it is a straight line.
        middle = {e: sum(centres[n] for n in chain) / len(chain) for e, chain in chains.items()}
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted, weights = [], []
            for node in layer:
                if isinstance(node, _Bend):
                    wanted.append(middle[node.edge])
                    weights.append(BEND_PULL)
                else:
                    places = [centres[n] for n in near.get(node, [node])]
                    wanted.append(sum(places) / len(places))
                    weights.append(1.0)
            gaps = [
                (width[a] + width[b]) / 2 + spacing.across for a, b in itertools.pairwise(layer)
            ]
            for node, x in zip(layer, separated(wanted, weights, gaps), strict=True):
                centres[node] = x
    left = min(centres[n] - width[n] / 2 for n in width)
    return {n: x - left for n, x in centres.items()}


def separated(
    wanted: Sequence[float], weights: Sequence[float], gaps: Sequence[float]
) -> list[float]:
    """Places nearest to the wanted ones (least squares) that keep their order and the gaps."""
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    blocks: list[list[float]] = []  # mean, weight, members: pooled where the order was violated
    for place, weight, offset in zip(wanted, weights, offsets, strict=True):
        block = [place - offset, weight, 1.0]
        while blocks and blocks[-1][0] > block[0]:
            mean, heavy, members = blocks.pop()
            total = heavy + block[1]
            block = [(mean * heavy + block[0] * block[1]) / total, total, members + block[2]]
        blocks.append(block)
    means = [mean for mean, _, members in blocks for _ in range(int(members))]
    return [m + o for m, o in zip(means, offsets, strict=True)]


def _route(
    edge: tuple[Hashable, Hashable],
    sizes: Mapping[Hashable, Point],
    corners: Mapping[Hashable, Point],
    centres: Mapping[Hashable, float],
    layers: list[list[Hashable]],
    tops: list[float],
    heights: list[float],
) -> tuple[Point, ...]:
    """From the source's bottom, through the bends, to the target's top."""
    source, target = edge
    points = [(centres[source], corners[source][1] + sizes[source][1])]
    for number in range(len(layers)):
        bend = _Bend(edge, number)
        if bend in centres:
            points += [
                (centres[bend], tops[number]),
                (centres[bend], tops[number] + heights[number]),
            ]
    points.append((centres[target], corners[target][1]))
    return tuple(points)
