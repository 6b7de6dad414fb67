"""What plans are made of, and how they are played: launches, direct commands, branches, loops.

Loops whose number of iterations is known are recorded as often. Where a value in memory decides,
everything before is submitted, and the host reads the word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from niello.backends.webgpu.memory import Handle

if TYPE_CHECKING:
    from niello.backends.webgpu.device import WebGpuDevice

Grid = tuple[int, int, int]

# Launches in one command buffer: a long loop is submitted in pieces.
MOST_LAUNCHES = 4096


@dataclass(frozen=True)
class Start:
    """A pipeline with its bindings; the grid is given, or read `at` these bytes of a buffer."""

    pipeline: Any
    group: Any
    grid: Grid
    grids: Any = None
    at: int = 0

    def play(self, playing: Playing) -> None:
        playing.launch(self)


@dataclass(frozen=True)
class Direct:
    """What the encoder does by itself, outside of compute passes."""

    record: Callable[[Any], None]

    def play(self, playing: Playing) -> None:
        playing.direct(self)


@dataclass(frozen=True)
class Choose:
    """One of two lists, by a word; neither where the word at `gate` is zero."""

    condition: Handle
    then: Sequence[Part]
    otherwise: Sequence[Part]
    gate: Handle | None

    def play(self, playing: Playing) -> None:
        if self.gate is None or playing.word(self.gate):
            playing.parts(self.then if playing.word(self.condition) else self.otherwise)


@dataclass(frozen=True)
class Repeat:
    """A list again and again. `first` gives the counter its first value, for so many iterations;
    `body` begins by moving it on. `done` stores how many there were.

    The rest is as in runtime/commands.py: the host reads `count` and `condition`.
    """

    first: Callable[[int], Sequence[Part]]
    body: Sequence[Part]
    trips: int | None
    count: Handle | None
    condition: Handle | None
    test: Sequence[Part]
    done: Callable[[int], Sequence[Part]] | None
    gate: Handle | None

    def play(self, playing: Playing) -> None:
        if self.gate is not None and not playing.word(self.gate):
            return
        bounds = [] if self.trips is None else [self.trips]
        if self.count is not None:
            bounds.append(max(playing.word(self.count), 0))
        total = min(bounds, default=None)
        playing.parts(self.first(total or 0))
        ran = 0
        while total is None or ran < total:
            playing.parts(self.test)
            if self.condition is not None and not playing.word(self.condition):
                break
            playing.parts(self.body)
            ran += 1
        if self.done is not None:
            playing.parts(self.done(ran))


Part = Start | Direct | Choose | Repeat


class Playing:
    """Records parts into command encoders, and submits them. Hold the device's lock."""

    def __init__(self, device: WebGpuDevice) -> None:
        self._device = device
        self._encoder: Any = None
        self._pass: Any = None
        self._pipeline: Any = None
        self._launches = 0

    def parts(self, parts: Sequence[Part]) -> None:
        """Play parts in order."""
        for part in parts:
            part.play(self)

    def launch(self, start: Start) -> None:
        """Add a launch to the current pass."""
        if self._pass is None:
            self._pass = self._recording().begin_compute_pass()
            self._pipeline = None
        run = self._pass
        if start.pipeline is not self._pipeline:
            run.set_pipeline(start.pipeline)
            self._pipeline = start.pipeline
        run.set_bind_group(0, start.group)
        if start.grids is None:
            run.dispatch_workgroups(*start.grid)
        else:
            run.dispatch_workgroups_indirect(start.grids, start.at)
        self._count()

    def direct(self, part: Direct) -> None:
        """Let the encoder do something between passes."""
        self._end_pass()
        part.record(self._recording())
        self._count()

    def word(self, handle: Handle) -> int:
        """A 32-bit word as it is after everything so far: waits for that."""
        self.submit()
        found = np.empty(1, np.int32)
        self._device.read(handle, found)
        return int(found[0])

    def submit(self) -> None:
        """Queue what is recorded."""
        self._end_pass()
        if self._encoder is not None:
            self._device.submit(self._encoder)
        self._encoder, self._launches = None, 0

    def _recording(self) -> Any:
        if self._encoder is None:
            self._encoder = self._device.gpu.create_command_encoder()
        return self._encoder

    def _end_pass(self) -> None:
        if self._pass is not None:
            self._pass.end()
        self._pass = None

    def _count(self) -> None:
        self._launches += 1
        if self._launches >= MOST_LAUNCHES:
            self.submit()
