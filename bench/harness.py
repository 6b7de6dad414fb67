"""Contenders for one piece of work, checked against each other, then timed in turns.

All contenders of a row live in one process. A round gives each of them a short block of calls, and
the round is repeated with another one starting, so that a noisy neighbour, a change of clock
frequency or a warm cache meets all of them alike. Figures are medians over all rounds.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NIELLO = "Niello"
TORCH_COMPILED = "PyTorch compiled"
TORCH_EAGER = "PyTorch eager"
JAX = "JAX"
ORT = "ONNX Runtime"
OPENVINO = "OpenVINO"
SCIPY = "SciPy"
COPY = "copy"
PEERS = (TORCH_COMPILED, TORCH_EAGER, JAX, ORT, OPENVINO)
UNSTITCHED = "Niello unstitched"

# Libraries keep their workers spinning for a while after a call; the next contender waits it out.
SETTLE_SECONDS = 0.005
SMALLEST_SAMPLE_SECONDS = 100e-6


class Missing(Exception):
    """The contender cannot take part here: its library, or a tool that it needs, is absent."""


@dataclass(frozen=True)
class Prepared:
    """A contender that is ready to run.

    `run` does the work once and returns when it is done. `outputs` does it from the initial state
    and returns what it computed, for comparison between contenders.
    """

    run: Callable[[], Any]
    outputs: Callable[[], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Contender:
    """One way to do the work. Several contenders of one peer compete for the peer's column."""

    peer: str
    variant: str
    make: Callable[[], Prepared]


@dataclass(frozen=True)
class Target:
    """Niello must take at most `1 / ratio` of the time (or size) of the best of `peers`."""

    ratio: float
    peers: tuple[str, ...]


@dataclass(frozen=True)
class Limit:
    """Niello's value itself must not exceed `most`, in the unit of the row."""

    most: float


@dataclass(frozen=True)
class Work:
    """A row of the table. `flops` and `bytes` are what the mathematics needs, not what is done."""

    name: str
    contenders: tuple[Contender, ...]
    flops: float = 0.0
    bytes: float = 0.0
    rtol: float = 1e-4
    atol: float = 1e-5
    targets: tuple[Target | Limit, ...] = ()
    unit: str = "ms"


@dataclass
class Entry:
    """What one contender reached; times in seconds, sizes in bytes."""

    peer: str
    variant: str
    status: str = "ok"
    note: str = ""
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def smallest(self) -> float:
        return min(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return first, third


@dataclass
class Row:
    """A piece of work with the entries of all its contenders."""

    topic: str
    work: Work
    entries: list[Entry]

    def best(self, peers: Iterable[str]) -> Entry | None:
        """The fastest entry, by median, among these peers."""
        names = set(peers)
        timed = [e for e in self.entries if e.status == "ok" and e.samples and e.peer in names]
        return min(timed, key=lambda entry: entry.median, default=None)


@dataclass(frozen=True)
class Plan:
    """How long to measure: each contender gets `block` seconds in each of `rounds` rounds.

    Topics that take long measure only the rows whose name contains `only`.
    """

    rounds: int = 11
    block: float = 0.06
    longest_block_calls: int = 200
    only: str = ""


QUICK = Plan(rounds=3, block=0.02)


def measure(topic: str, work: Work, plan: Plan, without: Iterable[str] = ()) -> Row:
    """Prepare, compare, then time all contenders of `work` except those named in `without`."""
    left_out = set(without)
    entries: list[Entry] = []
    ready: list[tuple[Entry, Prepared]] = []
    for contender in work.contenders:
        if contender.peer in left_out:
            continue
        entry = Entry(contender.peer, contender.variant)
        entries.append(entry)
        prepared = _prepare(contender, entry)
        if prepared is not None:
            ready.append((entry, prepared))
    ready = _agreeing(work, ready)
    _time_in_turns(ready, plan)
    return Row(topic, work, entries)


def _prepare(contender: Contender, entry: Entry) -> Prepared | None:
    try:
        return contender.make()
    except Missing as reason:
        entry.status, entry.note = "missing", str(reason)
    except Exception as error:  # a peer that fails must not hide the others
        entry.status, entry.note = "failed", _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _comparable(array: np.ndarray) -> np.ndarray:
    """A copy as float32; complex numbers as pairs."""
    array = np.asarray(array)
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], -1)
    return np.array(array, dtype=np.float32)


def _agreeing(work: Work, ready: list[tuple[Entry, Prepared]]) -> list[tuple[Entry, Prepared]]:
    """Those whose results agree with the median of all; the others are marked and not timed."""
    results: list[tuple[Entry, Prepared, list[np.ndarray]]] = []
    for entry, prepared in ready:
        try:
            arrays = [_comparable(a) for a in prepared.outputs()]
        except Exception as error:  # reported in the table, with the contender's name
            entry.status, entry.note = "failed", _first_line(error)
            continue
        results.append((entry, prepared, arrays))
    judged = [arrays for entry, _, arrays in results if entry.peer != COPY and arrays]
    if not judged:
        return [(entry, prepared) for entry, prepared, _ in results]
    standard = _consensus(judged)
    agreeing = []
    for entry, prepared, arrays in results:
        if entry.peer != COPY:
            difference = disagreement(arrays, standard, work.rtol, work.atol)
            if difference:
                entry.status, entry.note = "wrong", difference
                continue
        agreeing.append((entry, prepared))
    return agreeing


def _consensus(judged: list[list[np.ndarray]]) -> list[np.ndarray]:
    """The elementwise median over contenders: one wrong contender cannot become the standard."""
    sound = [arrays for arrays in judged if all(np.isfinite(a).all() for a in arrays)] or judged
    shapes = [tuple(a.shape for a in arrays) for arrays in sound]
    common = max(set(shapes), key=shapes.count)
    alike = [arrays for arrays, shape in zip(sound, shapes, strict=True) if shape == common]
    return [np.median(np.stack(parts), axis=0) for parts in zip(*alike, strict=True)]


def disagreement(
    arrays: Sequence[np.ndarray], standard: Sequence[np.ndarray], rtol: float, atol: float
) -> str:
    """Empty when the arrays agree; else a sentence that names the worst difference."""
    if len(arrays) != len(standard):
        return f"returns {len(arrays)} arrays where others return {len(standard)}"
    for index, (got, wanted) in enumerate(zip(arrays, standard, strict=True)):
        if got.shape != wanted.shape:
            return f"result {index} has shape {got.shape} where others have {wanted.shape}"
        excess = np.abs(got - wanted) - (atol + rtol * np.abs(wanted))
        # A NaN must count as wrong, so the test is "not all within", never "any outside".
        if not np.all(excess <= 0):
            worst = float(np.max(np.abs(got - wanted)))
            return f"result {index} differs from the other contenders by up to {worst:.3g}"
    return ""


def _calls_per_sample(run: Callable[[], Any]) -> tuple[int, float]:
    """Calls to put into one sample so that the clock's own cost does not matter, and its time."""
    calls = 1
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        elapsed = time.perf_counter() - start
        if elapsed >= SMALLEST_SAMPLE_SECONDS or calls >= 1 << 16:
            return calls, elapsed
        calls *= 2


def _time_in_turns(ready: list[tuple[Entry, Prepared]], plan: Plan) -> None:
    schedule = []
    for entry, prepared in ready:
        for _ in range(3):
            prepared.run()
        calls, elapsed = _calls_per_sample(prepared.run)
        samples = max(2, min(plan.longest_block_calls, int(plan.block / max(elapsed, 1e-9))))
        schedule.append((entry, prepared.run, calls, samples))
    gc.collect()
    gc.disable()
    try:
        for number in range(plan.rounds):
            turn = number % max(1, len(schedule))
            for entry, run, calls, samples in schedule[turn:] + schedule[:turn]:
                time.sleep(SETTLE_SECONDS)
                run()
                entry.samples.extend(_block(run, calls, samples))
    finally:
        gc.enable()


def _block(run: Callable[[], Any], calls: int, samples: int) -> list[float]:
    times = []
    clock = time.perf_counter
    for _ in range(samples):
        start = clock()
        for _ in range(calls):
            run()
        times.append((clock() - start) / calls)
    return times
