"""Gradients of gradients: Newton's method finds the minimum of log(cosh(x - 2)) + x**2 / 10."""

from __future__ import annotations

import numpy as np

import niello as nl


def main() -> float:
    """Returns the place of the minimum."""
    graph = nl.Graph("newton")
    x = graph.variable(0.5, nl.float32, name="x")
    value = ((x - 2.0).cosh()).log() + x * x / 10.0
    slope = graph.gradients(value, [x])[x]
    curvature = graph.gradients(slope, [x])[x]
    step = x.assign(x - slope / curvature)

    for _ in range(6):
        out = graph.run(targets=[value, slope], target_operations=[step])
        print(f"value {np.asarray(out[value]):.6f}  slope {np.asarray(out[slope]):+.6f}")
    print(f"minimum at {x.value:.6f}")
    return float(x.value)


if __name__ == "__main__":
    main()
