"""`niello benchmark`: latency, throughput, memory and time per kernel, with a peer beside it."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

import niello as nl
from niello.cli.inspection.words import data_size
from niello.cli.models import peers
from niello.cli.models.convert import half_type, progress
from niello.cli.models.sources import Model, open_model
from niello.cli.models.values import assignments, feeds, files_of, sizes_of

PERCENTILES = (50, 90, 99)
KERNELS_SHOWN = 20
_FEWEST = 5  # runs that are measured, however long one takes


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    source: str
    inputs: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    function: str | None = None
    device: str | None = None
    seconds: float = 3.0
    warm_up: int = 3
    kernels: bool = True
    peer: bool = True
    half: str | None = None
    as_json: bool = False


@dataclass(frozen=True)
class Latency:
    """Times of single runs, in seconds."""

    name: str
    runs: int
    ready: float  # from the file to the end of the first run
    least: float
    mean: float
    percentiles: dict[int, float]

    @property
    def per_second(self) -> float:
        """Runs in a second, one after the other."""
        return 1.0 / self.mean


def run(options: Options, console: Console) -> int:
    """Measure and print."""
    said = Console(stderr=True) if options.as_json else console
    given = assignments(options.inputs)
    with progress(said) as step:
        step(f"reading {options.source}")
        started = time.perf_counter()
        model = open_model(options.source, function=options.function)
        files = files_of(model, given)
        step("compiling")
        compiling = nl.CompileOptions(autocast=half_type(options.half))
        executable = model.executable(
            options.device, compiling, sizes_of(model, files, options.shapes), files
        )
        values = feeds(executable, given, files)
        ordered = [values[n] for n in executable.input_names]
        nl.reset_peak_memory(executable.backend.name)
        play = _player(executable, ordered)
        play()
        ready = time.perf_counter() - started
        step("measuring")
        found = [measure("niello", play, options, ready)]
        memory = nl.memory_stats(executable.backend.name)
        if options.peer:
            step("measuring the peer")
            found += _peer(model, values, options)
        step("timing kernels")
        times = executable.time_commands() if options.kernels else []
    weights = sum(c.nbytes for c in executable.program.constants)
    facts = {
        "device": executable.backend.name,
        "threads": nl.thread_count(),
        "kernels": executable.kernel_count,
        "arena_bytes": executable.arena_bytes,
        "weight_bytes": weights,
        "peak_bytes": memory["peak"],
        "process_peak_bytes": _process_peak(),
        "bytes_moved": executable.bytes_moved,
    }
    if options.as_json:
        console.print_json(json.dumps(_as_json(facts, found, times)))
        return 0
    _print(facts, found, times, console)
    return 0


def _player(executable: nl.Executable, values: list[np.ndarray]) -> Callable[[], None]:
    """One run, until its results are there."""
    if executable.device.host_memory:
        return lambda: executable.run(values)
    there = [nl.TensorData.from_numpy(v).to(executable.device) for v in values]

    def play() -> None:
        executable.run(there)
        executable.device.synchronize()

    return play


def measure(name: str, play: Callable[[], Any], options: Options, ready: float) -> Latency:
    """Times of runs, for about as many seconds as the user gave."""
    for _ in range(options.warm_up):
        play()
    times: list[float] = []
    end = time.perf_counter() + options.seconds
    while len(times) < _FEWEST or time.perf_counter() < end:
        started = time.perf_counter()
        play()
        times.append(time.perf_counter() - started)
    percentiles = {p: float(np.percentile(times, p)) for p in PERCENTILES}
    return Latency(name, len(times), ready, min(times), float(np.mean(times)), percentiles)


def _peer(model: Model, values: Mapping[str, np.ndarray], options: Options) -> list[Latency]:
    """ONNX Runtime on the same model and values, where both are there."""
    if model.title != peers.ONNX or peers.onnx_runtime() is None:
        return []
    started = time.perf_counter()
    session = peers.Session(model.path)
    session.run(values)
    ready = time.perf_counter() - started
    version = peers.onnx_runtime().__version__
    return [measure(f"onnxruntime {version}", lambda: session.run(values), options, ready)]


def _process_peak() -> int:
    """The most memory that the process had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _as_json(facts: dict[str, Any], found: list[Latency], times: list[Any]) -> dict[str, Any]:
    latencies = [{**asdict(x), "per_second": x.per_second} for x in found]
    kernels = [
        {
            "name": t.name, "operations": list(t.operations), "seconds": t.seconds,
            "bytes": t.bytes, "flops": t.flops,
        }
        for t in times
    ]  # fmt: skip
    return {**facts, "latency": latencies, "commands": kernels}


def _print(facts: dict[str, Any], found: list[Latency], times: list[Any], console: Console) -> None:
    table = Table("", "runs", "least", *(f"{p} %" for p in PERCENTILES), "runs/s", "file to result")
    for column in table.columns[1:]:
        column.justify = "right"
    for x in found:
        table.add_row(
            x.name, str(x.runs), _ms(x.least), *(_ms(x.percentiles[p]) for p in PERCENTILES),
            f"{x.per_second:.1f}", _ms(x.ready),
        )  # fmt: skip
    console.print(table)
    for x in found[1:]:
        ratio = x.percentiles[50] / found[0].percentiles[50]
        console.print(f"Niello runs {ratio:.2f} times as fast as {x.name} (medians)")
    console.print(
        f"{facts['device']}, {facts['threads']} threads: {facts['kernels']} kernels, arena "
        f"{data_size(facts['arena_bytes'])}, weights {data_size(facts['weight_bytes'])}; peak "
        f"{data_size(facts['peak_bytes'])} on the device, "
        f"{data_size(facts['process_peak_bytes'])} in the process"
    )
    if times:
        console.print(kernel_table(times))


def kernel_table(times: list[Any]) -> Table:
    """The slowest commands, each with its share of the sum."""
    total = sum(t.seconds for t in times) or 1.0
    table = Table("kernel", "operations", "time", "share", "GB/s", "GFLOP/s")
    for column in table.columns[2:]:
        column.justify = "right"
    slowest = sorted(times, key=lambda t: -t.seconds)
    for t in slowest[:KERNELS_SHOWN]:
        table.add_row(
            Text(t.name), Text(", ".join(t.operations)[:80]), _ms(t.seconds),
            f"{t.seconds / total:.1%}", f"{t.gigabytes_per_second:.1f}",
            f"{t.gigaflops:.1f}" if t.flops else "",
        )  # fmt: skip
    rest = slowest[KERNELS_SHOWN:]
    if rest:
        left = sum(t.seconds for t in rest)
        table.add_row(f"{len(rest)} more", "", _ms(left), f"{left / total:.1%}", "", "")
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"
