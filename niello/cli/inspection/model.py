"""What a picture shows, taken from an executable: boxes of operations, edges, memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import niello as nl

# Operations that only bind a name to memory: drawn as labels, not as computations.
SOURCES = ("placeholder", "variable", "constant")


@dataclass
class Box:
    """A command of the schedule: a kernel with its operations, or a copy or fill."""

    number: int
    title: str
    operations: list[Any] = field(default_factory=list)  # of the optimised graph
    written: list[str] = field(default_factory=list)  # variables that it assigns
    bytes: int = 0
    text: str = ""  # the kernel in index notation
    seconds: float | None = None  # of the command run alone, where it was measured
    flops: int = 0  # of its contractions, where it was measured


@dataclass(frozen=True)
class Memory:
    """A piece of the arena: bytes, and the commands between which it holds a value."""

    offset: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Model:
    """All that the picture needs."""

    name: str
    device: str
    boxes: list[Box]
    inputs: list[Any]  # operations: the placeholders
    lines: dict[str, str]  # text form by operation name
    memory: list[Memory]
    arena_bytes: int
    bytes_moved: int
    source_lines: bool  # whether it helps to say where operations were made


def model_of(
    executable: nl.Executable, *, source_lines: bool = True, times: Sequence[Any] = ()
) -> Model:
    """Collect what is drawn; `times` are those of `executable.time_commands()`."""
    graph = executable.optimised.graph
    boxes = list(_boxes(executable))
    _add_views(graph, boxes)
    for box, time in zip(boxes, times, strict=False):
        box.seconds, box.flops = time.seconds, time.flops
    return Model(
        graph.name,
        executable.backend.name,
        boxes,
        [o for o in graph.operations if o.op.name == "placeholder"],
        executable.operation_texts(),
        arena_plan(executable),
        executable.arena_bytes,
        executable.bytes_moved,
        source_lines,
    )


def _boxes(executable: nl.Executable) -> Iterator[Box]:
    program = executable.program
    known = {o.name: o for o in executable.optimised.graph.operations}
    texts = executable.kernel_texts()
    nested = _nested_texts(executable)
    for number, command in enumerate(program.commands):
        variables = [
            program.variables[b.index].name for b in command.writes if b.space.value == "variable"
        ]
        size = sum(b.bytes for b in {*command.reads, *command.writes})
        index = getattr(command, "kernel", None)
        operations = [known[n] for n in getattr(command, "names", ()) if n in known]
        if number in nested:  # a branch or a loop: one box, its commands are the text
            title = " ".join((type(command).__name__.lower(), *command.names))  # type: ignore[attr-defined]
            yield Box(number, title, operations, variables, size, nested[number])
        elif index is None:
            title = getattr(command, "function", type(command).__name__.lower())
            yield Box(number, title, operations, variables, size, str(command))
        else:
            title = program.kernels[index].name
            yield Box(number, title, operations, variables, size, texts[index].strip())


def _nested_texts(executable: nl.Executable) -> dict[int, str]:
    """The lines of the schedule that describe a command with commands inside, by its number."""
    found: dict[int, list[str]] = {}
    number = -1
    for line in executable.as_text("schedule").splitlines():
        head = re.match(r"( {0,3}\d+)  (if|loop) ", line)
        if re.match(r" {0,3}\d+  ", line):
            number = int(line[:4]) if head else -1
        elif line.startswith("arena "):
            break
        if number >= 0:
            found.setdefault(number, []).append(line)
    return {n: "\n".join(lines) for n, lines in found.items()}


def _add_views(graph: Any, boxes: list[Box]) -> None:
    """Operations that became index maps belong to the first kernel that reads through them."""
    placed = {o for box in boxes for o in box.operations}
    for operation in reversed(graph.operations):
        if operation in placed or operation.op.name in SOURCES or not operation.outputs:
            continue
        for box in boxes:
            if any(t.operation is operation for o in box.operations for t in o.inputs):
                box.operations.append(operation)
                placed.add(operation)
                break
    for box in boxes:
        box.operations.sort(key=lambda o: o.number)


def arena_plan(executable: nl.Executable) -> list[Memory]:
    """When each piece of the arena holds a value: from its first write to its last use."""
    live: dict[tuple[int, int], list[int]] = {}
    found: list[Memory] = []

    def close(key: tuple[int, int]) -> None:
        first, last = live.pop(key)
        found.append(Memory(key[0], key[1], first, last))

    for number, command in enumerate(executable.program.commands):
        only_read = _only_read(command)
        for b in only_read:
            if (b.offset, b.bytes) in live:
                live[b.offset, b.bytes][1] = number
        for b in command.writes:
            if b.space.value != "arena":
                continue
            key = (b.offset, b.bytes)
            for other in [k for k in live if _overlap(k, key) and live[k][0] != number]:
                if other != key or b not in only_read:  # else an update in place
                    close(other)
            live.setdefault(key, [number, number])
    for key in list(live):
        close(key)
    return sorted(found, key=lambda m: (m.first, m.offset))


def _only_read(command: Any) -> list[Any]:
    """Arena buffers whose value a command uses (a dispatch lists what it writes as read too)."""
    written = getattr(command, "written", None)
    if written is None:
        found = list(command.reads)
    else:
        found = [b for b, w in zip(command.buffers, written, strict=True) if not w]
    return [b for b in found if b.space.value == "arena"]


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[0] + b[1] and b[0] < a[0] + a[1]
