"""Compile the digit training step once and print the seconds: `python -m bench.cold LIBRARY`.

Run in a fresh interpreter with empty caches. The import of the library is not counted; building
the graph, differentiating it, compiling it and, where a library compiles late, the first step are.
"""

from __future__ import annotations

import json
import sys
import time

from bench import machine


def main() -> None:
    """Print {"seconds": s} for niello, torch or jax."""
    machine.claim_two_cores()
    library = sys.argv[1]

    from bench.digits import JaxStep, NielloStep, TorchStep
    from bench.libraries import import_niello, import_peer

    module = import_niello() if library == "niello" else import_peer(library)
    if library == "jax":
        module.devices()
    start = time.perf_counter()
    if library == "niello":
        NielloStep(module)
    elif library == "jax":
        JaxStep(module)()
    else:
        TorchStep(module, "functional", channels_last=True)()
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
