"""The inspection as text: graph, kernels with their stitched operations, memory plan."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

import niello as nl
from niello.cli.inspection.facts import operations, parameters, total_seconds
from niello.cli.inspection.model import Memory, Model
from niello.cli.inspection.words import data_size, milliseconds

ROWS = 16  # of the memory chart


def show(executable: nl.Executable, model: Model, console: Console) -> None:
    """Print everything."""
    console.rule("what goes in and out")
    for line in in_and_out(executable):
        console.print(Text(line))
    console.rule("graph, optimised")
    console.print(Text(executable.as_text("graph")))
    console.rule("kernels, in the order they run")
    console.print(kernels(model))
    console.rule("memory plan")
    for line in memory_chart(model.memory, model.arena_bytes, len(model.boxes)):
        console.print(Text(line))
    console.print(summary(executable, model))


def in_and_out(executable: nl.Executable) -> Iterator[str]:
    """Inputs, outputs, parameters and kinds of operations, a line each."""
    pairs = (
        ("input", zip(executable.input_names, executable.input_types, strict=True)),
        ("output", zip(executable.target_names, executable.output_types, strict=True)),
    )
    for word, listed in pairs:
        for name, kind in listed:
            yield f"{word:>10}  {name}: {kind}"
    held = parameters(executable)
    yield f"parameters  {held['count']:,} in {data_size(held['bytes'])}"
    counts = operations(executable).most_common()
    yield f"operations  {', '.join(f'{name} {n}' for name, n in counts) or 'none'}"


def summary(executable: nl.Executable, model: Model) -> str:
    """One line."""
    seconds = total_seconds(model)
    measured = "" if seconds is None else f"; {seconds * 1e3:.3f} ms in all commands"
    return (
        f"{len(executable.computation.graph.operations)} operations, "
        f"{len(executable.optimised.graph.operations)} after optimisation, in "
        f"{executable.kernel_count} kernels for {model.device}; arena "
        f"{data_size(model.arena_bytes)}; {data_size(model.bytes_moved)} moved in a run{measured}"
    )


def kernels(model: Model) -> Table:
    """One row for each command of the schedule."""
    timed = total_seconds(model) is not None
    table = Table("", "kernel", "stitched operations", "moves", *(["time"] if timed else []))
    for column in (table.columns[0], *table.columns[3:]):
        column.justify = "right"
    for box in model.boxes:
        inside = ", ".join(o.name for o in box.operations)
        writes = "".join(f" → {name}" for name in box.written)
        cells: list[str | Text] = [
            str(box.number),
            Text(box.title),
            Text(inside + writes),
            data_size(box.bytes),
        ]
        table.add_row(*cells, *([milliseconds(box.seconds)] if timed else []))
    return table


def memory_chart(plan: list[Memory], size: int, commands: int) -> Iterator[str]:
    """A row for a share of the arena, a column for a command; letters tell values apart."""
    if not size:
        yield "no intermediate values: the arena is empty"
        return
    rows = min(ROWS, len({m.offset for m in plan}) * 2)
    for row in range(rows):
        start, end = size * row / rows, size * (row + 1) / rows
        line = ""
        for column in range(commands):
            held = [
                (min(end, m.offset + m.bytes) - max(start, m.offset), i)
                for i, m in enumerate(plan)
                if m.first <= column <= m.last and m.offset < end and start < m.offset + m.bytes
            ]
            line += chr(ord("A") + max(held)[1] % 26) if held else "·"
        yield f"{data_size(start):>10}  {line}"
    yield f"{'command':>10}  {''.join(str(c % 10) for c in range(commands))}"
    for i, m in enumerate(plan[:26]):
        yield (
            f"{chr(ord('A') + i):>10}  {data_size(m.bytes)} at {m.offset}, "
            f"commands {m.first} to {m.last}"
        )
