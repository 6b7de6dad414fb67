"""Niello on a CUDA machine beside PyTorch and JAX: `python -m bench.cuda [row...]`.

All contenders of a row run in this process, in turns, on the same inputs in the device's memory.
Times are per call: calls are queued in short blocks, a block ends with a synchronisation, and the
median of the blocks counts. Results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BLOCK_SECONDS = 0.03
PAUSE_SECONDS = 0.04
ROUNDS = 9


@dataclass(frozen=True)
class Row:
    """One piece of work. `make` gives {contender: (call, result as NumPy or None)}."""

    name: str
    make: Callable[[Any], dict[str, tuple[Callable[[], Any], Any]]]
    bytes: float = 0.0
    flops: float = 0.0
    tolerance: float = 2e-2


def calls_per_block(call: Callable[[], Any], wait: Callable[[], Any]) -> int:
    """How many calls fill a block."""
    for _ in range(3):
        call()
    wait()
    started = time.perf_counter()
    for _ in range(3):
        call()
    wait()
    once = (time.perf_counter() - started) / 3
    return max(1, min(2000, int(BLOCK_SECONDS / max(once, 1e-6))))


def block(call: Callable[[], Any], wait: Callable[[], Any], count: int) -> float:
    """Seconds of a call, in a block of `count`. The pause before it lets the clocks recover."""
    time.sleep(PAUSE_SECONDS)
    call()
    wait()
    started = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - started) / count


class Bench:
    """What rows need: the device, PyTorch where it is installed, and how Niello runs."""

    def __init__(self, compiled: bool) -> None:
        import niello as nl

        self.nl = nl
        self.device = nl.device("cuda")
        self.compiled = compiled
        try:
            import torch
        except ImportError:
            torch = None
        self.torch = torch
        self.jax = _jax()
        self.started: Any = None  # what JAX is working on

    def wait(self) -> None:
        """Wait for everybody."""
        self.device.synchronize()
        if self.jax is not None:
            self.jax.block_until_ready(self.started)
        if self.torch is not None:
            self.torch.cuda.synchronize()

    def random(self, shape: tuple[int, ...], dtype: Any, scale: float = 1.0) -> Any:
        """Random values on the device, as a Niello value."""
        from niello.runtime.tensor_data import on_device

        rng = np.random.default_rng(len(shape))
        block = rng.standard_normal(1 << 20, np.float32) * np.float32(scale)
        size = int(np.prod(shape))
        full = np.resize(block, size) if size > block.size else block[:size]
        return on_device(full.reshape(shape).astype(dtype.numpy), self.device)

    def jax_array(self, value: Any) -> Any:
        """A value in JAX: the same memory, or a copy where JAX wants one."""
        return self.jax.numpy.from_dlpack(value)

    def executable(
        self, graph: Any, feeds: dict[Any, Any], targets: list[Any], **options: Any
    ) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
        """(call, result) of a graph on device values, results into memory that is kept."""
        types = {t: v.type for t, v in feeds.items()}
        exe = graph.compile(types, targets, device="cuda", **options)
        values = list(feeds.values())
        results = exe.run(values)
        print(f"    {exe}: {commands(exe)}", flush=True)
        return (
            lambda: exe.run(values, results=results),
            lambda: np.asarray(results[0]).astype(np.float32),
        )

    def torch_rows(
        self, function: Callable[..., Any], values: list[Any], modes: tuple[str, ...] = ("default",)
    ) -> dict[str, tuple[Callable[[], Any], Any]]:
        """PyTorch eager and compiled on the same memory."""
        torch = self.torch
        if torch is None:
            return {}
        given = [torch.from_dlpack(v) for v in values]
        rows = {"PyTorch eager": _torch_row(function, given)}
        if self.compiled:
            for mode in modes:
                made = torch.compile(function, mode=mode)
                name = "PyTorch compiled" + ("" if mode == "default" else f" {mode}")
                rows[name] = _torch_row(made, given)
        return rows


def _jax() -> Any:
    """JAX with a GPU, taking memory as it needs it; None where it is absent."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax

        jax.devices("gpu")
    except (ImportError, RuntimeError):
        return None
    return jax


def _torch_row(function: Callable[..., Any], given: list[Any]) -> tuple[Callable[[], Any], Any]:
    return (lambda: function(*given), lambda: function(*given).float().cpu().numpy())


def commands(executable: Any) -> str:
    """The commands of a run, for the log."""
    words = []
    for c in executable.program.commands[:12]:
        kernel = getattr(c, "kernel", None)
        words.append(
            getattr(c, "function", type(c).__name__.lower())
            if kernel is None
            else executable.program.kernels[kernel].name
        )
    more = len(executable.program.commands) - 12
    return ", ".join(words) + (f" and {more} more" if more > 0 else "")


def measure(row: Row, bench: Bench) -> dict[str, float]:
    """Milliseconds by contender; wrong results are said."""
    print(f"{row.name}", flush=True)
    counts: dict[str, int] = {}
    wanted = None
    contenders = row.make(bench)
    for name, (call, result) in contenders.items():
        try:
            value = None if result is None else (call(), result())[1]
            bench.wait()
            if value is not None:
                wanted = value if wanted is None else wanted
                scale = float(np.sqrt(np.mean(wanted.astype(np.float64) ** 2))) or 1.0
                error = float(np.abs(value - wanted).max()) / scale
                if not error <= row.tolerance:
                    print(f"    {name}: differs from the first by {error:.3g}", flush=True)
            counts[name] = calls_per_block(call, bench.wait)
        except Exception as error:
            print(f"    {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    times: dict[str, list[float]] = {name: [] for name in counts}
    for turn in range(ROUNDS):
        names = list(counts)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(block(contenders[name][0], bench.wait, counts[name]))
    found = {name: statistics.median(t) * 1e3 for name, t in times.items()}
    for name, value in found.items():
        rate = f" {row.bytes / value / 1e9:6.2f} TB/s" if row.bytes else ""
        rate += f" {row.flops / value / 1e9:7.1f} TFLOP/s" if row.flops else ""
        spread = (max(times[name]) - min(times[name])) / statistics.median(times[name])
        print(f"    {name:28} {value:9.4f} ms{rate}   spread {spread:.0%}", flush=True)
    return found


def main() -> int:
    """Measure the rows that were asked for, all by default."""
    from bench.cuda_catalogue import ROWS as CATALOGUE
    from bench.cuda_indexing import ROWS as INDEXING
    from bench.cuda_models import ROWS as MODELS
    from bench.cuda_resnet import ROWS as NETWORKS
    from bench.cuda_rows import ROWS as SINGLE

    rows = {**SINGLE, **NETWORKS, **MODELS, **CATALOGUE, **INDEXING}
    parser = argparse.ArgumentParser(prog="python -m bench.cuda", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="row", help=", ".join(rows))
    parser.add_argument("--without-compiled", action="store_true", help="no torch.compile")
    parser.add_argument("--without-jax", action="store_true")
    options = parser.parse_args()
    bench = Bench(not options.without_compiled)
    if options.without_jax:
        bench.jax = None
    table: dict[str, dict[str, float]] = {}
    out = os.environ.get("CUDA_SUITE_OUT")
    failed = False
    for key in options.rows or rows:
        try:
            table[key] = measure(rows[key], bench)
        except Exception as error:
            failed = True
            print(f"{key}: {type(error).__name__}: {str(error)[:600]}", flush=True)
        bench.wait()
        bench.device.release_memory()
        if bench.torch is not None:
            bench.torch.cuda.empty_cache()
        if out:
            (Path(out) / "bench.json").write_text(json.dumps(table, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
