"""Commands over the buffers of one run, ready to be recorded.

A predicated command is launched with a grid that the device makes itself: a small kernel before it
writes the sizes, or zeros where the word in memory is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from niello.backends.webgpu.byte_kernels import (
    copy_parameters,
    count_parameters,
    fill_parameters,
    gate_parameters,
    grid_of,
    slice_parameters,
    words_touched,
)
from niello.backends.webgpu.memory import Handle, Window, window
from niello.backends.webgpu.playing import Choose, Direct, Grid, Part, Repeat, Start
from niello.core.errors import DeviceError, UnsupportedOp
from niello.runtime.buffer import Buffer
from niello.runtime.commands import (
    BufferRef,
    Command,
    Copy,
    Dispatch,
    Fill,
    If,
    Loop,
    SliceCopy,
    walk,
)

if TYPE_CHECKING:
    from niello.backends.webgpu.program import WebGpuProgram


@dataclass(frozen=True)
class Plan:
    """The parts of a run in order. `keep` are buffers that must live as long."""

    parts: Sequence[Part]
    keep: tuple[Any, ...]


class Planner:
    """Makes plans of a program."""

    def __init__(self, owner: WebGpuProgram) -> None:
        self._owner = owner
        self._device = owner.device
        self._most = owner.device.limits["max-compute-workgroups-per-dimension"]
        self._alignment = owner.device.limits["min-storage-buffer-offset-alignment"]

    def plan(self, handles: Sequence[Handle], gate: Handle | None) -> Plan:
        """The commands over these buffers; all are skipped where the word at `gate` is zero."""
        return _Making(self, self._owner, handles, gate).plan()


class _Making:
    def __init__(
        self,
        planner: Planner,
        owner: WebGpuProgram,
        handles: Sequence[Handle],
        gate: Handle | None,
    ) -> None:
        self.owner = owner
        self.program = owner.program
        self.device = owner.device
        self.handles = handles
        self.gate = gate
        self.most = planner._most
        self.alignment = planner._alignment
        self.parts: list[Part] = []  # of the list of commands that is being planned
        self.grids = self._room_for_grids()
        self.next_grid = 0

    def plan(self) -> Plan:
        """All commands."""
        return Plan(self._list(self.program.commands), (self.grids,))

    def _list(self, commands: Sequence[Command]) -> list[Part]:
        """The parts of a list of commands."""
        around, self.parts = self.parts, []
        for command in commands:
            self._command(command)
        made, self.parts = self.parts, around
        return made

    def _room_for_grids(self) -> Any:
        """Three words for each launch that may be switched off."""
        count = 0
        for c in walk(self.program.commands):
            if isinstance(c, (If, Loop)):
                continue  # the host decides, and what it does for that is not switched off
            if self.gate is not None or getattr(c, "predicate", None) is not None:
                count += len(self._kernel(c).launches) if isinstance(c, Dispatch) else 1
        if not count:
            return None
        usage = self.device.wgpu.BufferUsage
        return self.device.gpu.create_buffer(
            size=-(-count * 12 // 16) * 16, usage=usage.STORAGE | usage.INDIRECT
        )

    def _kernel(self, command: Dispatch) -> Any:
        from niello.backends.webgpu.program import key_of

        return self.owner.kernels[key_of(self.program, command)]

    def _place(self, ref: BufferRef) -> Handle:
        return self.handles[self.program.argument(ref.space, ref.index)] + ref.offset

    def _window(self, handle: Handle, size: int) -> Window:
        """What is bound for a kernel: it must begin where the device can bind."""
        found, inside = window(handle, size, self.alignment)
        if inside:
            raise DeviceError(
                "webgpu run",
                f"values must begin at multiples of {self.alignment} bytes of their buffer",
                received=f"offset {handle.offset}",
                advice="Copy the value: value.copy()",
            )
        return found

    # --- commands
    def _command(self, command: Command) -> None:
        flags = [self.gate] if self.gate is not None else []
        predicate = getattr(command, "predicate", None)
        if predicate is not None:
            flags.append(self._place(predicate))
        if isinstance(command, Dispatch):
            self._dispatch(command, flags)
        elif isinstance(command, Copy):
            self._copy(command, flags)
        elif isinstance(command, Fill):
            self._fill(command, flags)
        elif isinstance(command, SliceCopy):
            self._copy_slice(command, flags)
        elif isinstance(command, If):
            self._branch(command)
        elif isinstance(command, Loop):
            self._loop(command)
        else:
            raise UnsupportedOp(
                "webgpu",
                "no such command on this device",
                received=type(command).__name__,
                advice="Compile for another device",
            )

    def _dispatch(self, command: Dispatch, flags: list[Handle]) -> None:
        from niello.backends.webgpu.device import STORAGE
        from niello.backends.webgpu.program import bound_bytes, scratch_starts

        kernel = self._kernel(command)
        starts, _ = scratch_starts(kernel)
        for launch in kernel.launches:
            windows = []
            for argument in launch.arguments:
                offset, size = bound_bytes(argument, command, kernel)
                if argument.slot is None:
                    scratch = self.owner.scratch
                    assert isinstance(scratch, Buffer)
                    place = scratch.handle + starts[argument.scratch]
                else:
                    place = self._place(command.buffers[argument.slot])
                windows.append(self._window(place + offset, size))
            bindings = (STORAGE,) * len(windows)
            pipeline = self.device.pipeline(kernel.source, launch.entry, bindings)
            self._start(pipeline, self.device.bind(bindings, windows), launch.grid, flags)

    def _copy(self, command: Copy, flags: list[Handle]) -> None:
        source, target = self._place(command.source), self._place(command.target)
        size = command.target.bytes
        if not size:
            return
        whole = (source.offset | target.offset | size) % 4 == 0
        if whole and not flags and source.block is not target.block:
            buffers = (source.block.buffer, source.offset, target.block.buffer, target.offset)
            self.parts.append(Direct(lambda e: e.copy_buffer_to_buffer(*buffers, size)))
            return
        for at, part in self._parts(size):
            to, start = window(target + at, part, self.alignment)
            what, first = window(source + at, part, self.alignment)
            parameters = copy_parameters(start, part, first)
            pipeline, group = self.device.bind_bytes("copy", [to, what], parameters)
            self._start(pipeline, group, grid_of(words_touched(start, part), self.most), flags)

    def _parts(self, size: int) -> list[tuple[int, int]]:
        """(offset, bytes) of what one binding each can cover, wherever it begins."""
        step = self.device.target.piece_bytes // 2
        return [(at, min(step, size - at)) for at in range(0, size, step)]

    def _fill(self, command: Fill, flags: list[Handle]) -> None:
        target, size = self._place(command.target), command.target.bytes
        if not size:
            return
        if not any(command.pattern) and not flags and (target.offset | size) % 4 == 0:
            buffer, offset = target.block.buffer, target.offset
            self.parts.append(Direct(lambda e: e.clear_buffer(buffer, offset, size)))
            return
        for at, part in self._parts(size):
            to, start = window(target + at, part, self.alignment)
            parameters = fill_parameters(start, part, command.pattern)
            pipeline, group = self.device.bind_bytes("fill", [to], parameters)
            self._start(pipeline, group, grid_of(words_touched(start, part), self.most), flags)

    # --- branches and loops
    def _branch(self, command: If) -> None:
        then, otherwise = self._list(command.then), self._list(command.otherwise)
        self.parts.append(Choose(self._place(command.condition), then, otherwise, self.gate))

    def _loop(self, command: Loop) -> None:
        counter = self._place(command.counter)
        step = -1 if command.reverse else 1
        around, self.parts = self.parts, []
        self._count(counter, step)
        ahead, self.parts = self.parts, around
        count = None if command.count is None else self._place(command.count)
        condition = None if command.condition is None else self._place(command.condition)
        store = None
        if command.iterations is not None:
            store = partial(self._word, self._place(command.iterations))
        self.parts.append(
            Repeat(
                lambda total: self._word(counter, total if command.reverse else -1),
                [*ahead, *self._list(command.body)],
                command.trips,
                count,
                condition,
                self._list(command.test),
                store,
                self.gate,
            )
        )

    def _word(self, place: Handle, value: int) -> list[Part]:
        """The parts that store a 32-bit word."""
        to, start = window(place, 4, self.alignment)
        parameters = fill_parameters(start, 4, value.to_bytes(4, "little", signed=True))
        return [Start(*self.device.bind_bytes("fill", [to], parameters), (1, 1, 1))]

    def _count(self, counter: Handle, step: int) -> None:
        to, start = window(counter, 4, self.alignment)
        pair = self.device.bind_bytes("count", [to], count_parameters(start // 4, step))
        self._start(*pair, (1, 1, 1), [])

    def _copy_slice(self, command: SliceCopy, flags: list[Handle]) -> None:
        size = command.bytes
        if not size:
            return
        to, start = window(self._place(command.target), command.target.bytes, self.alignment)
        what, first = window(self._place(command.source), command.source.bytes, self.alignment)
        index, at = window(self._place(command.index), 4, self.alignment)
        steps = (command.target_step, command.source_step)
        parameters = slice_parameters(start, size, first, steps, at // 4)
        pipeline, group = self.device.bind_bytes("slice", [to, what, index], parameters)
        self._start(pipeline, group, grid_of(size // 4 + 2, self.most), flags)

    def _start(self, pipeline: Any, group: Any, grid: Grid, flags: list[Handle]) -> None:
        if not flags:
            self.parts.append(Start(pipeline, group, grid))
            return
        slot = self.next_grid
        self.next_grid += 3
        first, word = window(flags[0], 4, self.alignment)
        second, other = window(flags[-1], 4, self.alignment)
        parameters = gate_parameters(word // 4, other // 4, slot, grid)
        grids = (self.grids, 0, self.grids.size)
        gate, bound = self.device.bind_bytes("gate", [grids, first, second], parameters)
        self.parts.append(Start(gate, bound, (1, 1, 1)))
        self.parts.append(Start(pipeline, group, grid, self.grids, 4 * slot))
