"""A compiled command list on a webgpu device: one command buffer for each run, unless a value in
memory decides what comes next.

What a run binds depends on its buffers: it is put together once for each set of buffers, and kept,
because the device's pool hands out what was dropped last.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from niello.backends.webgpu.image import pack
from niello.backends.webgpu.memory import Handle
from niello.backends.webgpu.plan import Plan, Planner
from niello.backends.webgpu.playing import Playing
from niello.codegen.gpu.kernel import Argument, GpuKernel
from niello.codegen.rows import replace
from niello.core.errors import CompilerBug, LimitExceeded
from niello.core.nodes import Node
from niello.kernel.ir import Kernel, Param
from niello.kernel.routine import Routine
from niello.runtime.commands import BufferRef, Dispatch, Program, walk

if TYPE_CHECKING:
    from niello.backends.webgpu.device import WebGpuDevice

# Plans kept for different sets of buffers.
PLANS = 32
SCRATCH_STEP = 256

# A kernel of the program, and the groups of slots that are one piece of memory.
Key = tuple[int, tuple[tuple[int, ...], ...]]


class WebGpuProgram:
    """A program loaded into a device. Several threads may play it; their runs take turns."""

    def __init__(
        self, device: WebGpuDevice, program: Program, kernels: dict[Key, GpuKernel]
    ) -> None:
        self.program = program
        self.kernels = kernels
        self.device = device
        self._arguments = sum(1 for _ in program.buffers())
        for command in walk(program.commands):
            if isinstance(command, Dispatch):
                check(command, kernels[key_of(program, command)], device.limits)
        device.build(list(kernels.values()))
        size = max((scratch_starts(k)[1] for k in kernels.values()), default=0)
        self.scratch = device.allocate(size) if size else None
        self._planner = Planner(self)
        self._plans: OrderedDict[tuple[object, ...], Plan] = OrderedDict()

    def play(self, handles: Sequence[Handle]) -> None:
        """Queue a run on one handle for each buffer (Program.buffers); returns when it is queued.

        Runs, uploads and downloads of the device happen in the order of the calls.
        """
        self._play(handles, None)

    def play_if(self, handles: Sequence[Handle], predicate: Handle, offset: int) -> None:
        """Queue a run that the device skips when the word at `offset` of a buffer is zero then."""
        self._play(handles, predicate + offset)

    def _play(self, handles: Sequence[Handle], gate: Handle | None) -> None:
        if len(handles) != self._arguments:
            raise CompilerBug(
                "play", f"the program takes {self._arguments} buffers", received=len(handles)
            )
        if not self.program.commands:
            return
        key = (*(h.key for h in handles), None if gate is None else gate.key)
        device = self.device
        with device.lock, device.guarded("run"):
            plan = self._plans.get(key)
            if plan is None:
                plan = self._plans[key] = self._planner.plan(handles, gate)
                if len(self._plans) > PLANS:
                    self._plans.popitem(last=False)
            playing = Playing(device)
            playing.parts(plan.parts)
            playing.submit()

    def image(self) -> bytes:
        """The WGSL of all kernels with their launches."""
        return pack(self.kernels)

    def source(self) -> str:
        """The generated WGSL."""
        return "\n".join(
            "".join(f"// {line}\n" for line in (k.name, *k.notes)) + k.source
            for k in self.kernels.values()
        )


def render_kernels(
    program: Program, render: Callable[[Kernel | Routine], GpuKernel]
) -> dict[Key, GpuKernel]:
    """The kernels that the commands of a program launch."""
    found: dict[Key, GpuKernel] = {}
    for command in walk(program.commands):
        if isinstance(command, Dispatch):
            key = key_of(program, command)
            if key not in found:
                found[key] = render(joined(program.kernels[key[0]], key[1]))
    return found


def key_of(program: Program, command: Dispatch) -> Key:
    """Which rendered kernel a command launches. WebGPU does not allow two bindings of the same
    memory where one is written: slots of one buffer become one binding."""
    params = program.kernels[command.kernel].params
    groups: dict[tuple[BufferRef, object], list[int]] = {}
    for slot, ref in enumerate(command.buffers):
        groups.setdefault((ref, params[slot].dtype), []).append(slot)
    return command.kernel, tuple(tuple(g) for g in groups.values() if len(g) > 1)


def joined(kernel: Kernel | Routine, groups: Sequence[Sequence[int]]) -> Kernel | Routine:
    """The kernel with each group of slots reached through the first of them."""
    if not groups:
        return kernel
    params = list(kernel.params)
    chosen: dict[Node, Node] = {}
    for group in groups:
        members = [kernel.params[slot] for slot in group]
        one = Param(
            group[0],
            members[0].dtype,
            max(p.elements for p in members),
            any(p.written for p in members),
        )
        params[group[0]] = one
        chosen |= dict.fromkeys(members, one)
    if isinstance(kernel, Routine):
        body = tuple(replace(s, chosen) for s in kernel.body)
        return dataclasses.replace(kernel, params=tuple(params), body=body)  # type: ignore[arg-type]
    stores = tuple(replace(s, chosen) for s in kernel.stores)
    return Kernel(kernel.name, tuple(params), stores)  # type: ignore[arg-type]


def scratch_starts(kernel: GpuKernel) -> tuple[list[int], int]:
    """Where each scratch buffer of a kernel begins in the program's, and the end of the last."""
    starts, position = [], 0
    for size in kernel.scratch:
        starts.append(position)
        position += -(-size // SCRATCH_STEP) * SCRATCH_STEP
    return starts, position


def bound_bytes(argument: Argument, command: Dispatch, kernel: GpuKernel) -> tuple[int, int]:
    """Which part of its buffer an argument of a launch is: first byte and number of bytes."""
    if argument.bytes is not None:
        return argument.offset, argument.bytes
    if argument.slot is None:
        return 0, kernel.scratch[argument.scratch or 0]
    return 0, command.buffers[argument.slot].bytes


def check(command: Dispatch, kernel: GpuKernel, limits: dict[str, int]) -> None:
    """Refuse launches beyond the device's limits. Raises LimitExceeded."""
    for launch in kernel.launches:
        sizes = [bound_bytes(a, command, kernel)[1] for a in launch.arguments]
        x, y, z = launch.block
        bounds = (
            ("max-storage-buffer-binding-size", max(sizes, default=0), "bytes of a buffer"),
            ("max-storage-buffers-per-shader-stage", len(sizes), "buffers"),
            ("max-compute-invocations-per-workgroup", x * y * z, "threads of a workgroup"),
            ("max-compute-workgroup-size-x", x, "threads along x"),
            ("max-compute-workgroup-storage-size", launch.shared_bytes, "shared bytes"),
            ("max-compute-workgroups-per-dimension", max(launch.grid), "workgroups"),
        )
        for name, used, what in bounds:
            if used > limits[name]:
                raise LimitExceeded(
                    f"webgpu kernel {kernel.name}",
                    f"a launch of this adapter takes at most {limits[name]} {what}",
                    received=used,
                    advice="Split the tensor, or run on a device that takes more",
                    limit=limits[name],
                    name=name,
                )
