"""Double buffering: the next batch is prepared while the last one is computed."""

from __future__ import annotations

import numpy as np

import niello as nl


def main() -> list[float]:
    """Returns the sum of each batch's softmax, which is its number of rows."""
    graph = nl.Graph("stream")
    x = graph.placeholder((256, 512), nl.float32, name="x")
    total = x.softmax(axis=-1).sum()
    exe = graph.compile({x: (256, 512)}, [total])

    random = np.random.default_rng(0)
    pending = []
    with exe.in_flight(2) as queue:  # at most two batches are unfinished
        for _ in range(6):
            batch = random.standard_normal((256, 512)).astype(np.float32)
            pending.append(queue.submit([batch]))
    sums = [float(np.asarray(p.result()[0])) for p in pending]
    print(sums)
    return sums


if __name__ == "__main__":
    main()
