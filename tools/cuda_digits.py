"""The digit network on cuda against the cpu: `python -m tools.cuda_digits [steps]`."""

from __future__ import annotations

import sys
import time

import numpy as np

import niello as nl
from niello.cli.digits import network as digits

SIZE, BATCH = 28, 64


def losses(device: str, steps: int) -> tuple[list[float], float, float]:
    """Loss of each step, seconds to compile, and seconds of a step at the end."""
    model = digits.build(SIZE, seed=0)
    operations = digits.training_step(model)
    rng = np.random.default_rng(1)
    images = rng.standard_normal((8, BATCH, SIZE, SIZE, 1)).astype(np.float32)
    labels = np.eye(10, dtype=np.float32)[rng.integers(0, 10, (8, BATCH))]
    started = time.perf_counter()
    executable = model.graph.compile(
        {model.image: (BATCH, SIZE, SIZE, 1), model.label: (BATCH, 10)},
        [model.loss],
        operations,
        device=device,
    )
    compiled = time.perf_counter() - started
    found = []
    for step in range(steps):
        (loss,) = executable.run([images[step % 8], labels[step % 8]])
        found.append(float(loss))
    started = time.perf_counter()
    for step in range(20):
        (loss,) = executable.run([images[step % 8], labels[step % 8]])
    float(loss)
    nl.device(device).synchronize()
    if device == "cuda":
        print(executable)
        for command in executable.program.commands:
            kernel = getattr(command, "kernel", None)
            name = executable.program.kernels[kernel].name if kernel is not None else ""
            print("  ", type(command).__name__, name or getattr(command, "function", ""))
    return found, compiled, (time.perf_counter() - started) / 20


def main() -> int:
    """Print losses of both and compare them; 1 when they part."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    cuda, compiled, each = losses("cuda", steps)
    print(f"cuda: compiled in {compiled:.2f} s, {each * 1e3:.3f} ms a step")
    cpu, compiled, each = losses("cpu", steps)
    print(f"cpu: compiled in {compiled:.2f} s, {each * 1e3:.3f} ms a step")
    for step in sorted({0, 1, 2, 5, 10, 20, steps - 1}):
        if step < steps:
            print(f"step {step:3}: cuda {cuda[step]:.6f} cpu {cpu[step]:.6f}")
    # Rounding differs, and training makes differences grow: the beginning must agree closely.
    close = np.allclose(cuda[:10], cpu[:10], rtol=2e-3)
    falls = cuda[-1] < cuda[0]
    print(f"the first ten agree: {close}; the loss falls: {falls}")
    return 0 if close and falls else 1


if __name__ == "__main__":
    sys.exit(main())
