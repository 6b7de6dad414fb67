"""Gradients and variables: fit a line to points by gradient descent."""

from __future__ import annotations

import numpy as np

import niello as nl


def main() -> tuple[float, float]:
    """Returns slope and offset; the points lie around 3 x - 1."""
    random = np.random.default_rng(0)
    xs = random.uniform(-1, 1, (256, 1)).astype(np.float32)
    ys = 3 * xs - 1 + random.normal(0, 0.05, xs.shape).astype(np.float32)

    graph = nl.Graph("line")
    x = graph.placeholder((None, 1), nl.float32, name="x")
    y = graph.placeholder((None, 1), nl.float32, name="y")
    slope = graph.variable(0.0, name="slope")
    offset = graph.variable(0.0, name="offset")
    loss = nl.mean_squared_error(slope * x + offset, y)

    gradients = graph.gradients(loss, [slope, offset])
    steps = [v.assign(nl.sgd(0.2, v, g)) for v, g in gradients.items()]
    for step in range(101):
        out = graph.run({x: xs, y: ys}, [loss], steps)
        if step % 20 == 0:
            print(f"step {step:3d}  loss {np.asarray(out[loss]):.5f}")

    print(f"y = {slope.value:.3f} x + {offset.value:.3f}")
    return float(slope.value), float(offset.value)


if __name__ == "__main__":
    main()
