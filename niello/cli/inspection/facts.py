"""What `niello inspect` counts: inputs, outputs, parameters, operations, kernels, memory, time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import niello as nl
from niello.cli.inspection.model import SOURCES, Model


def facts(executable: nl.Executable, model: Model) -> dict[str, Any]:
    """All of it, as JSON holds it."""
    counts = operations(executable)
    return {
        "name": model.name,
        "device": model.device,
        "inputs": dict(zip(executable.input_names, map(str, executable.input_types), strict=True)),
        "outputs": dict(
            zip(executable.target_names, map(str, executable.output_types), strict=True)
        ),
        "parameters": parameters(executable),
        "operations": dict(counts.most_common()),
        "kernels": executable.kernel_count,
        "arena_bytes": executable.arena_bytes,
        "bytes_moved": executable.bytes_moved,
        "seconds": total_seconds(model),
        "commands": [
            {
                "name": b.title, "operations": [o.name for o in b.operations],
                "writes": b.written, "bytes": b.bytes, "seconds": b.seconds,
            }
            for b in model.boxes
        ],
    }  # fmt: skip


def operations(executable: nl.Executable) -> Counter[str]:
    """How many operations of each kind the graph has, before optimisation."""
    listed = executable.computation.reachable()
    return Counter(o.op.name for o in listed if o.op.name not in SOURCES)


def parameters(executable: nl.Executable) -> dict[str, int]:
    """Numbers that the model holds, and their bytes: constants and variables of the graph."""
    count = size = 0
    for o in executable.computation.reachable():
        if o.op.name in ("constant", "variable") and o.outputs[0].type.is_static:
            kind = o.outputs[0].type
            count += kind.elements
            size += kind.bytes
    return {"count": count, "bytes": size}


def total_seconds(model: Model) -> float | None:
    """The sum of what was measured, or None."""
    measured = [b.seconds for b in model.boxes if b.seconds is not None]
    return sum(measured) if measured else None
