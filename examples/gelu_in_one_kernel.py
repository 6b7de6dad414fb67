"""Eight operations, one kernel: stitching needs no help from the user."""

from __future__ import annotations

import math

import numpy as np

import niello as nl


def main() -> int:
    """Build GeLU from primitives, compile it, and count the kernels."""
    graph = nl.Graph("gelu")
    x = graph.placeholder((1024, 1024), nl.float32, name="x")
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    y = 0.5 * x * (1.0 + inner.tanh())

    exe = graph.compile({x: (1024, 1024)}, [y])
    print(exe)
    print(exe.as_text("kernels"))

    values = np.linspace(-3, 3, 1024 * 1024, dtype=np.float32).reshape(1024, 1024)
    found = np.asarray(exe.run([values])[0])
    print(f"gelu(3) = {found[-1, -1]:.6f}")
    return exe.kernel_count


if __name__ == "__main__":
    main()
