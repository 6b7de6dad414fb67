"""A self-contained HTML page around the picture: pan, zoom, search, details, memory plan."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from pathlib import PurePath
from typing import Any

import niello as nl
from niello.cli.inspection import picture
from niello.cli.inspection.model import Model
from niello.cli.inspection.report import in_and_out, summary
from niello.cli.inspection.words import data_size, milliseconds, tensor_type

CHART_WIDTH, CHART_HEIGHT = 1000.0, 190.0
LEFT, BOTTOM = 62.0, 24.0

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main id="canvas">{picture}</main>
<svg id="overview" role="img" aria-label="the whole picture"></svg>
<nav id="tools"><button id="in" title="zoom in">+</button>
<button id="out" title="zoom out">&minus;</button>
<button id="fit" title="show everything">fit</button></nav>
<aside>
<h1>{name}</h1>
<p class="summary">{summary}</p>
<input id="search" type="search" placeholder="Search operations and kernels  ( / )"
 autocomplete="off"><span id="count"></span>
<div id="details"></div>
<details class="facts"><summary>inputs, outputs, parameters</summary>{facts}</details>
</aside>
<footer id="memory"><h2>Arena <span>bytes against commands; each block holds one value</span></h2>
{chart}</footer>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def page(executable: nl.Executable, model: Model) -> str:
    """The whole page. It loads nothing from elsewhere."""
    here = files(__package__)
    return PAGE.format(
        title=escape(f"{model.name} - Niello"),
        name=escape(model.name),
        style=(here / "page.css").read_text(),
        picture=picture.draw(model),
        summary=escape(summary(executable, model)),
        chart=memory_chart(model),
        facts="".join(f"<p>{escape(line)}</p>" for line in in_and_out(executable)),
        data=json.dumps(_data(model)).replace("</", "<\\/"),
        script=(here / "page.js").read_text(),
    )


def _data(model: Model) -> dict[str, Any]:
    """What the details show, by box number and operation name."""
    operations: dict[str, Any] = {}
    for box in model.boxes:
        for o in box.operations:
            for each in (o, *(t.operation for t in o.inputs)):
                operations.setdefault(each.name, _operation(each, model))
            operations[o.name].setdefault("box", box.number)
    for name, entry in operations.items():
        for source in entry["inputs"]:
            if source in operations:
                operations[source]["users"].append(name)
    boxes = [
        {
            "number": b.number, "title": b.title, "text": b.text, "written": b.written,
            "moves": data_size(b.bytes), "bytes": b.bytes, "hue": round(picture.hue(b.number)),
            "time": milliseconds(b.seconds), "seconds": b.seconds or 0,
            "operations": [o.name for o in b.operations],
        }
        for b in model.boxes
    ]  # fmt: skip
    return {"boxes": boxes, "operations": operations}


def _operation(operation: Any, model: Model) -> dict[str, Any]:
    file, _, line = operation.where.rpartition(":")
    return {
        "op": operation.op.name,
        "text": model.lines.get(operation.name, operation.name),
        "types": [tensor_type(t) for t in operation.outputs],
        "inputs": list(dict.fromkeys(t.operation.name for t in operation.inputs)),
        "users": [],
        "where": f"{PurePath(file).name}, line {line}" if file and model.source_lines else "",
    }


def memory_chart(model: Model) -> str:
    """The memory plan as an <svg>: offsets upwards, commands to the right."""
    columns, size = max(len(model.boxes), 1), max(model.arena_bytes, 1)
    across, up = (CHART_WIDTH - LEFT) / columns, (CHART_HEIGHT - BOTTOM) / size
    floor = CHART_HEIGHT - BOTTOM
    parts = [
        f'<svg class="chart" viewBox="0 0 {CHART_WIDTH:.0f} {CHART_HEIGHT:.0f}" '
        f'preserveAspectRatio="none" role="img" aria-label="memory plan">'
    ]
    for share in (0.0, 0.5, 1.0):
        y = floor - share * (floor - 8)
        parts.append(
            f'<line x1="{LEFT}" x2="{CHART_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{LEFT - 6}" y="{y + 3:.1f}" text-anchor="end">'
            f"{data_size(model.arena_bytes * share)}</text>"
        )
    up *= (floor - 8) / floor
    for m in model.memory:
        x, wide = LEFT + m.first * across, (m.last - m.first + 1) * across
        high = max(m.bytes * up, 1.0)
        y = floor - m.offset * up - high
        words = f"{data_size(m.bytes)} at {m.offset}, commands {m.first} to {m.last}"
        parts.append(
            f'<rect class="piece" data-box="{m.first}" x="{x + 0.5:.1f}" y="{y:.1f}" '
            f'width="{wide - 1:.1f}" height="{high:.1f}" '
            f'fill="hsl({picture.hue(m.first):.0f} 60% 74%)"><title>{words}</title></rect>'
        )
    step = max(1, columns // 30)
    for number in range(0, columns, step):
        x = LEFT + (number + 0.5) * across
        parts.append(f'<text x="{x:.1f}" y="{floor + 14}" text-anchor="middle">{number}</text>')
    return "".join([*parts, "</svg>"])
