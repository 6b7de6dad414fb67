"""The table on the terminal and the JSON file of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.harness import COPY, NIELLO, PEERS, SCIPY, UNSTITCHED, Entry, Limit, Row, Target

SCALES = {"s": 1.0, "ms": 1e3, "µs": 1e6, "MiB": 1.0 / (1 << 20)}
COLUMNS = (NIELLO, *PEERS, SCIPY, UNSTITCHED, COPY)


def show(rows: Sequence[Row], peak: float | None, console: Console) -> None:
    """Print one table per topic, then what is missing, failed or wrong."""
    for topic in dict.fromkeys(row.topic for row in rows):
        _show_topic(topic, [row for row in rows if row.topic == topic], peak, console)
    for line in problems(rows):
        console.print(line, highlight=False, markup=False)
    if peak:
        console.print(f"peak of the multiply-add units, two threads: {peak / 1e9:.0f} GFLOP/s")


def _show_topic(topic: str, rows: list[Row], peak: float | None, console: Console) -> None:
    used = {entry.peer for row in rows for entry in row.entries}
    columns = [name for name in COLUMNS if name in used]
    table = Table(title=topic, caption="median (quartiles); x: time of the best peer / Niello's")
    table.add_column("work", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    for name in ("x best peer", "rate", "of limit", "target"):
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        cells = [_cell(row, name) for name in columns]
        cells += [_ratio(row), _rate(row), _of_limit(row, peak), _targets(row)]
        table.add_row(f"{row.work.name} [dim]({row.work.unit})[/dim]", *cells)
    console.print(table)


def _number(value: float, unit: str) -> str:
    scaled = value * SCALES[unit]
    return f"{scaled:.4g}" if scaled < 1000 else f"{scaled:.0f}"


def _cell(row: Row, peer: str) -> str:
    entry = row.best((peer,))
    if entry is None:
        states = [e.status for e in row.entries if e.peer == peer]
        return f"[red]{states[0]}[/red]" if states else "-"
    text = _number(entry.median, row.work.unit)
    if len(entry.samples) > 1:
        low, high = (_number(value, row.work.unit) for value in entry.quartiles)
        text += f"\n[dim]{low}..{high}[/dim]"
    return text + (f"\n[dim]{entry.variant}[/dim]" if entry.variant else "")


def _judged(row: Row) -> Entry | None:
    """The entry whose rate is shown: Niello's, or the best peer's when Niello was left out."""
    return row.best((NIELLO,)) or row.best(PEERS) or row.best((COPY,))


def _ratio(row: Row) -> str:
    own, best = row.best((NIELLO,)), row.best((*PEERS, SCIPY))
    if own is None or best is None:
        return "-"
    # On a shared machine the smallest times are the ones that a neighbour disturbed least.
    smallest = min(e.smallest for e in row.entries if e.peer in PEERS and e.samples)
    own_smallest = min(e.smallest for e in row.entries if e.peer == NIELLO and e.samples)
    text = f"{best.median / own.median:.2f}x"
    if len(own.samples) > 1:
        text += f"\n[dim]{smallest / own_smallest:.2f}x of minima[/dim]"
    return text


def _rate(row: Row) -> str:
    entry = _judged(row)
    if entry is None:
        return "-"
    if row.work.flops:
        return f"{row.work.flops / entry.median / 1e9:.0f} GFLOP/s"
    if row.work.bytes:
        return f"{row.work.bytes / entry.median / 1e9:.1f} GB/s"
    return "-"


def _of_limit(row: Row, peak: float | None) -> str:
    entry, copy = _judged(row), row.best((COPY,))
    if entry is None:
        return "-"
    if row.work.flops and peak:
        return f"{row.work.flops / entry.median / peak:.0%} of peak"
    if copy is not None and entry.peer != COPY:
        return f"{copy.median / entry.median:.0%} of copy"
    return "-"


def verdicts(row: Row) -> list[tuple[Target | Limit, float | None, bool | None]]:
    """Each target with what was reached; None where it cannot be judged."""
    own = row.best((NIELLO,))
    found: list[tuple[Target | Limit, float | None, bool | None]] = []
    for target in row.work.targets:
        if isinstance(target, Limit):
            value = own.median * SCALES[row.work.unit] if own else None
            found.append((target, value, None if value is None else value <= target.most))
            continue
        best = row.best(target.peers)
        ratio = best.median / own.median if own and best else None
        found.append((target, ratio, None if ratio is None else ratio >= target.ratio))
    return found


def _targets(row: Row) -> str:
    lines = []
    for target, value, met in verdicts(row):
        if isinstance(target, Limit):
            text = f"<= {target.most:g} {row.work.unit}"
        else:
            against = "best" if len(target.peers) > 1 else target.peers[0]
            text = f">= {target.ratio:g}x {against}"
            text += f": {value:.2f}" if value is not None else ""
        colour = {True: "green", False: "red", None: "dim"}[met]
        mark = {True: "met", False: "missed", None: "not judged"}[met]
        lines.append(f"[{colour}]{text} {mark}[/{colour}]")
    return "\n".join(lines) or "-"


def problems(rows: Sequence[Row]) -> list[str]:
    """A line per reason why a contender is missing, failed, or computed something else."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in rows:
        for entry in row.entries:
            if entry.status != "ok":
                variant = f" ({entry.variant})" if entry.variant else ""
                places = found.setdefault((entry.status, entry.peer, entry.note), {})
                places[row.work.name + variant] = None
    lines = []
    for (status, peer, note), places in found.items():
        first, *others = places
        where = f"{first} and {len(others)} more" if others else first
        lines.append(f"{status}: {peer}: {note} [{where}]")
    return lines


def as_json(rows: Sequence[Row], peak: float | None, machine: dict[str, object]) -> dict[str, Any]:
    """Everything that was measured, in seconds and bytes."""
    return {
        "format": 1,
        "machine": machine,
        "matrix_peak_flops": peak,
        "rows": [_row_json(row) for row in rows],
    }


def _row_json(row: Row) -> dict[str, Any]:
    work = row.work
    return {
        "topic": row.topic,
        "work": work.name,
        "unit": "bytes" if work.unit == "MiB" else "seconds",
        "flops": work.flops,
        "bytes": work.bytes,
        "targets": [
            {**asdict(target), "reached": value, "met": met} for target, value, met in verdicts(row)
        ],
        "entries": [_entry_json(entry) for entry in row.entries],
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {
        "peer": entry.peer,
        "variant": entry.variant,
        "status": entry.status,
        "note": entry.note,
        "samples": len(entry.samples),
    }
    if entry.samples:
        first, third = entry.quartiles
        found |= {"min": entry.smallest, "q1": first, "median": entry.median, "q3": third}
    return found


def write(path: Path, content: dict[str, Any]) -> None:
    """Write the JSON file, making its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
