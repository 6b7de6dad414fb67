"""The graph as an SVG: a coloured box for each kernel, with its stitched operations inside."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from niello.cli.inspection.layout import Layout, Point, Spacing, layered
from niello.cli.inspection.model import SOURCES, Box, Model
from niello.cli.inspection.words import data_size, tensor_type

CHARACTER = 6.7  # width of a monospaced character of 11 pixels
HEADER = 26.0
PADDING = 12.0
MARGIN = 30.0
INSIDE = Spacing(across=10.0, along=16.0)
BETWEEN = Spacing(across=34.0, along=44.0)
GOLDEN_ANGLE = 137.508  # hues of neighbours differ

STYLE = """
.niello { font-family: ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
.niello text { font-size: 11px; fill: #1f2933; }
.niello .box > rect { stroke-width: 1.4; }
.niello .title { font-weight: 650; font-size: 12px; }
.niello .note { fill: #5b6673; font-size: 10px; }
.niello .op rect { fill: #ffffff; stroke: #9aa5b1; }
.niello .op .type, .niello .chip .type { fill: #6b7785; font-size: 9.5px;
  font-family: ui-monospace, Menlo, Consolas, monospace; }
.niello .op .name { font-weight: 600; }
.niello .chip rect { fill: #e8eef7; stroke: #7d9cc9; }
.niello .chip.constant rect { fill: #f1f1ee; stroke: #b8b6a8; }
.niello .chip.placeholder rect { fill: #dff3e4; stroke: #4c9a63; stroke-width: 1.6; }
.niello .chip.written rect { fill: #fdebd3; stroke: #d08a2e; }
.niello .edge { fill: none; stroke: #8894a3; stroke-width: 1.3; }
.niello .edge.inner { stroke: #a9b3bf; stroke-width: 1; }
"""


@dataclass
class _Cell:
    """Something drawn inside a box."""

    kind: str  # op, variable, constant or written
    label: str
    detail: str
    name: str  # of the operation or variable
    size: Point = (0.0, 0.0)


@dataclass
class _Drawn:
    """A box with the layout of its cells."""

    box: Box
    cells: dict[Hashable, _Cell] = field(default_factory=dict)
    inner: Layout = field(default_factory=lambda: Layout({}, {}, 0.0, 0.0))
    size: Point = (0.0, 0.0)


def hue(number: int) -> float:
    """The colour of a command, in degrees."""
    return (number * GOLDEN_ANGLE + 205) % 360


def draw(model: Model) -> str:
    """The whole picture as one <svg> element."""
    drawn = {f"box{b.number}": _inside(b) for b in model.boxes}
    inputs = {f"in:{o.name}": o for o in model.inputs}
    edges = list(_outer_edges(model))
    users = {a for a, _ in edges}
    sizes: dict[Hashable, Point] = {
        key: _chip_size(o.name, tensor_type(o.outputs[0]))
        for key, o in inputs.items()
        if key in users
    }
    sizes |= {key: d.size for key, d in drawn.items()}
    layout = layered(sizes, edges, BETWEEN)
    width, height = layout.width + 2 * MARGIN, layout.height + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="niello" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">',
        f"<title>{escape(model.name)}</title><style>{STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0.8 L7.4 4 L0 7.2 z" fill="#8894a3"/>'
        "</marker></defs>",
        f'<g id="scene" transform="translate({MARGIN} {MARGIN})">',
    ]
    for (source, target), points in layout.routes.items():
        parts.append(
            f'<path class="edge" data-from="{escape(str(source))}" data-to="{escape(str(target))}"'
            f' marker-end="url(#arrow)" d="{_curve(points)}"/>'
        )
    for key, corner in layout.corners.items():
        if key in drawn:
            parts += _box(drawn[key], corner)  # type: ignore[index]
        else:
            o = inputs[key]  # type: ignore[index]
            cell = _Cell("placeholder", o.name, tensor_type(o.outputs[0]), o.name, sizes[key])
            parts.append(_cell(cell, corner, str(key)))
    return "\n".join([*parts, "</g></svg>"])


# --- what goes where
def _outer_edges(model: Model) -> Iterator[tuple[Hashable, Hashable]]:
    """Edges between boxes and from placeholders, in schedule order."""
    made: dict[Any, int] = {}
    writer: dict[str, int] = {}
    for box in model.boxes:
        inside = set(box.operations)
        for t in itertools.chain.from_iterable(o.inputs for o in box.operations):
            if t.operation in inside:
                continue
            if t.operation.op.name == "placeholder":
                yield f"in:{t.operation.name}", f"box{box.number}"
            elif t.operation in made:
                yield f"box{made[t.operation]}", f"box{box.number}"
        for o in box.operations:
            made.setdefault(o, box.number)
        for name in box.written:
            if not box.operations and name in writer:
                yield f"box{writer[name]}", f"box{box.number}"
            writer[name] = box.number


def _inside(box: Box) -> _Drawn:
    """Cells of a box: its operations, the variables and constants they read, what it writes."""
    drawn = _Drawn(box)
    edges: list[tuple[Hashable, Hashable]] = []
    inside = set(box.operations)
    for o in box.operations:
        for t in o.inputs:
            source = t.operation
            if source in inside:
                edges.append((source.name, o.name))
            elif source.op.name in ("variable", "constant"):
                label = _constant(source) if source.op.name == "constant" else source.name
                _add(drawn, _Cell(source.op.name, label, tensor_type(t), source.name))
                edges.append((source.name, o.name))
        kinds = " ".join(tensor_type(t) for t in o.outputs)
        _add(drawn, _Cell("op", o.op.name, kinds, o.name))
    ends = [o.name for o in box.operations if not any(o.name == a for a, _ in edges)]
    for number, name in enumerate(box.written):
        key = f"written:{name}"
        _add(drawn, _Cell("written", f"write {name}", "", name), key)
        if ends:
            edges.append((ends[min(number, len(ends) - 1)], key))
    drawn.inner = layered({k: c.size for k, c in drawn.cells.items()}, edges, INSIDE)
    title = len(_title(box)) * 7.6 + 2 * PADDING
    note = len(_note(box)) * 5.6 + 20
    wide = max(drawn.inner.width + 2 * PADDING, title, note)
    drawn.size = (wide, drawn.inner.height + HEADER + 18 + PADDING)
    return drawn


def _add(drawn: _Drawn, cell: _Cell, key: Hashable | None = None) -> None:
    cell.size = _chip_size(cell.label, cell.detail)
    drawn.cells.setdefault(cell.name if key is None else key, cell)


def _chip_size(label: str, detail: str) -> Point:
    wide = max(len(label) * CHARACTER, len(detail) * 5.9) + 16
    return max(wide, 44.0), 32.0 if detail else 20.0


def _constant(operation: Any) -> str:
    array = operation.op.data.array
    same = array.size == 1 or (array.size and not any(array.strides))
    return f"{array.reshape(-1)[0]:.6g}" if same else "constant"


def _title(box: Box) -> str:
    return f"{box.number} · {box.title}"


def _note(box: Box) -> str:
    count = sum(o.op.name not in SOURCES for o in box.operations)
    words = f"{count} operation{'s' * (count != 1)}, " if count else ""
    return f"{words}{data_size(box.bytes)} moved"


# --- drawing
def _box(drawn: _Drawn, corner: Point) -> list[str]:
    box, (x, y), (width, height) = drawn.box, corner, drawn.size
    key, colour = f"box{box.number}", hue(box.number)
    parts = [
        f'<g class="box" id="{key}" data-box="{box.number}" '
        f'transform="translate({x:.1f} {y:.1f})">',
        f'<rect width="{width:.1f}" height="{height:.1f}" rx="9" fill="hsl({colour:.0f} 75% 96%)" '
        f'stroke="hsl({colour:.0f} 45% 55%)"/>',
        f'<text class="title" x="{PADDING}" y="18">{escape(_title(box))}</text>',
        f'<text class="note" x="{PADDING}" y="33">{escape(_note(box))}</text>',
        f'<g transform="translate({(width - drawn.inner.width) / 2:.1f} {HEADER + 18})">',
    ]
    for points in drawn.inner.routes.values():
        parts.append(f'<path class="edge inner" d="{_curve(points)}"/>')
    for cell_key, cell in drawn.cells.items():
        parts.append(_cell(cell, drawn.inner.corners[cell_key], f"{key}:{cell_key}"))
    return [*parts, "</g></g>"]


def _cell(cell: _Cell, corner: Point, key: str) -> str:
    width, height = cell.size
    kind = "op" if cell.kind == "op" else f"chip {cell.kind}"
    radius = 4 if cell.kind == "op" else 10
    middle = f'x="{width / 2:.1f}" text-anchor="middle"'
    detail = f'<text class="type" {middle} y="25">{escape(cell.detail)}</text>'
    return (
        f'<g class="{kind}" id="{escape(key)}" data-name="{escape(cell.name)}" '
        f'transform="translate({corner[0]:.1f} {corner[1]:.1f})">'
        f"<title>{escape(cell.name)} {escape(cell.detail)}</title>"
        f'<rect width="{width:.1f}" height="{height:.1f}" rx="{radius}"/>'
        f'<text class="name" {middle} y="14">{escape(cell.label)}</text>'
        f"{detail if cell.detail else ''}</g>"
    )


def _curve(points: Sequence[Point]) -> str:
    """Smooth between layers, straight across them."""
    (x, y), *rest = points
    parts = [f"M{x:.1f} {y:.1f}"]
    for nx, ny in rest:
        if abs(nx - x) < 0.5:
            parts.append(f"L{nx:.1f} {ny:.1f}")
        else:
            middle = (y + ny) / 2
            parts.append(f"C{x:.1f} {middle:.1f} {nx:.1f} {middle:.1f} {nx:.1f} {ny:.1f}")
        x, y = nx, ny
    return "".join(parts)
