"""Microseconds of every command of an executable on cuda: `python -m tools.cuda_profile`."""

from __future__ import annotations

import sys

import numpy as np

import niello as nl
from niello.executable.executable import Executable


def command_times(executable: Executable) -> list[tuple[str, float]]:
    """(name, seconds) of each command, measured alone on buffers of its own."""
    device = executable.device
    program = executable.program
    buffers = [device.allocate(max(size, 1)) for _, _, size in program.buffers()]
    for buffer in buffers:
        device.upload(buffer, 0, np.zeros(buffer.bytes, np.uint8))
    seconds = executable.loaded.command_seconds([b.handle for b in buffers])
    found = []
    for command, each in zip(program.commands, seconds, strict=True):
        kernel = getattr(command, "kernel", None)
        name = getattr(command, "function", type(command).__name__.lower())
        found.append((name if kernel is None else program.kernels[kernel].name, each))
    return found


def main() -> int:
    """The digit network's training step."""
    from niello.cli.digits import network

    model = network.build(28, seed=0)
    executable = model.graph.compile(
        {model.image: nl.TensorType((64, 28, 28, 1)), model.label: nl.TensorType((64, 10))},
        [model.loss],
        network.training_step(model),
        device="cuda",
    )
    rows = command_times(executable)
    for name, seconds in rows:
        print(f"{seconds * 1e6:9.1f} us  {name}")
    print(f"{sum(s for _, s in rows) * 1e6:9.1f} us  in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
