"""Executable: a compiled computation, run by position or by name, at once or later."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from niello.core.errors import FeedError, GraphError, IndexOutOfRange
from niello.core.types import TensorType
from niello.executable.constants import place_constants
from niello.executable.describe import commands_text, kernels_text
from niello.executable.feed import fed_type, to_array
from niello.executable.recorded import Recorded
from niello.graph.graph import GraphDefinition
from niello.graph.tensor import Tensor, VariableState
from niello.passes.check_indices import IndexCheck, raise_for
from niello.passes.computation import Computation
from niello.runtime import profiler
from niello.runtime.buffer import Buffer
from niello.runtime.command_buffer import CommandBuffer
from niello.runtime.commands import Dispatch, Program, walk
from niello.runtime.in_flight import InFlight
from niello.runtime.predicate import Predicate
from niello.runtime.target import Backend, CompileOptions, Device, Loaded, RemoteDevice
from niello.runtime.tensor_data import TensorData, on_device
from niello.schedule.program import Scheduled

if TYPE_CHECKING:
    from niello.executable.timing import CommandTime

CompletionHandler = Callable[[Any, BaseException | None], None]
Play = Callable[[list[Any]], None]

STAGES = ("input", "graph", "schedule", "kernels", "source")


class Executable:
    """A graph compiled for given input types and a device. Made by `Graph.compile`.

    Safe to run from several threads at once; runs that touch the same variables take turns.
    """

    def __init__(
        self,
        graph: GraphDefinition,
        computation: Computation,
        optimised: Computation,
        scheduled: Scheduled,
        loaded: Loaded,
        device: Device,
        backend: Backend,
        options: CompileOptions,
    ) -> None:
        self.graph = graph
        self.computation = computation
        self.resolved = computation  # without calls: what `compile_graph` says it is
        self.optimised = optimised
        self.scheduled = scheduled
        program = scheduled.program
        self._start(
            loaded,
            device,
            backend,
            options,
            states=[optimised.graph.variable_states[v.name] for v in program.variables],
            names=tuple(
                tuple(t.name for t in g) for g in (computation.inputs, computation.targets)
            ),
        )
        self._constants, self._tail = place_constants(program.constants, loaded, device)

    def _start(
        self,
        loaded: Loaded,
        device: Device,
        backend: Backend,
        options: CompileOptions,
        *,
        states: list[VariableState],
        names: tuple[tuple[str, ...], ...],
    ) -> None:
        """What runs need, but for the constants; `scheduled` is there already."""
        self.loaded = loaded
        self.device = device
        self.backend = backend
        self.options = options
        self.input_names, self.target_names = names
        program = self.scheduled.program
        self._types = program.inputs
        self._dtypes = [t.dtype.numpy for t in program.inputs]
        self._shapes = [t.static_shape for t in program.inputs]
        # Behind the targets a program may report on its indices (passes/check_indices.py).
        visible = len(self.target_names)
        self._reports = program.outputs[visible:]
        self.index_checks: tuple[IndexCheck, ...] = ()
        self._outputs = program.outputs[:visible]
        self._input_bytes = [t.bytes for t in program.inputs]
        self.result_sizes = [(max(t.bytes, 1), t) for t in self._outputs]
        self._out_dtypes = [t.dtype.numpy for t in self._outputs]
        self._out_shapes = [t.static_shape for t in self._outputs]
        self._states = states
        # One order for everybody, so that runs that share variables cannot deadlock.
        self._locks = [s.lock for s in sorted(states, key=id)]
        self._constants, self._tail = [], []
        self._arenas: deque[Buffer] = deque()

    # --- what it is
    def rename_results(self, names: Sequence[str]) -> None:
        """Call the results by other names than those of the target tensors: where `run` is given
        names, in error messages, and in packages. Raises GraphError."""
        if len(names) != len(self.target_names) or len(set(names)) != len(names):
            raise GraphError(
                "rename_results",
                f"takes {len(self.target_names)} different names",
                received=list(names),
            )
        self.target_names = tuple(names)

    @property
    def runs_here(self) -> bool:
        """False for what was compiled ahead for another machine, such as cuda:sm_90."""
        return self.backend.runs and not getattr(self.device, "compiles_only", False)

    def operation_texts(self) -> dict[str, str]:
        """Each operation of the optimised graph as text, by name."""
        from niello.graph.text import print_operation

        return {o.name: print_operation(o) for o in self.optimised.graph.operations}

    def kernel_texts(self) -> list[str]:
        """Each kernel of the program in index notation."""
        from niello.kernel.text import print_kernel

        return [print_kernel(k) for k in self.program.kernels]

    def time_commands(self, repeats: int = 5) -> list[CommandTime]:
        """The best time of each command, run alone on zeros: name, operations, seconds, bytes,
        and floating point operations of contractions. Variables keep their values."""
        from niello.executable.timing import time_commands

        return time_commands(self, repeats)

    @property
    def program(self) -> Program:
        """The command list and kernels."""
        return self.scheduled.program

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Placeholders in the order `run` takes their values."""
        return self.computation.inputs

    @property
    def targets(self) -> tuple[Tensor, ...]:
        """Tensors in the order `run` returns their values."""
        return self.computation.targets

    @property
    def input_types(self) -> tuple[TensorType, ...]:
        """Types of the inputs, in the order of `inputs`."""
        return self._types

    @property
    def output_types(self) -> tuple[TensorType, ...]:
        """Types of the results, in the order of `targets`."""
        return self._outputs

    @property
    def kernel_count(self) -> int:
        """Kernels launched by one run, each counted once that is in a branch or a loop."""
        return sum(isinstance(c, Dispatch) for c in walk(self.program.commands))

    @property
    def arena_bytes(self) -> int:
        """Memory for intermediate results of one run."""
        return self.program.arena_bytes

    @property
    def bytes_moved(self) -> int:
        """Bytes that the commands of one run read and write."""
        return self.program.bytes_moved()

    def as_text(self, stage: str = "schedule") -> str:
        """The computation at a stage: "input", "graph" (optimised), "schedule" (commands and
        memory), "kernels" (index notation) or "source" (generated code)."""
        if stage in ("input", "graph"):
            from niello.graph.text import print_graph

            source = self.computation if stage == "input" else self.optimised
            return print_graph(source.graph)
        if stage == "schedule":
            return commands_text(self.scheduled)
        if stage == "kernels":
            return kernels_text(self.program)
        if stage == "source":
            return self.loaded.source()
        raise GraphError("as_text", f"a stage is one of {', '.join(STAGES)}", received=repr(stage))

    def __repr__(self) -> str:
        return (
            f"<Executable of {self.graph.name!r} for {self.backend.name}: "
            f"{self.kernel_count} kernels, arena {self.arena_bytes} bytes>"
        )

    def save(self, path: str | os.PathLike[str], *, append: bool = False, **options: Any) -> None:
        """Write a package: graph, weights, command list and machine code; see `niello.save`.

        With `append`, the package at `path` gets this executable's target, or its input types, in
        addition to what it holds.
        """
        from niello.executable.package import save

        save(path, self, append=append, **options)

    # --- running
    def run(self, inputs: Any = (), *, results: Sequence[Any] | None = None) -> Any:
        """Run with values for the inputs, by position or by name; blocks until done.

        `inputs`: a sequence in the order of `self.inputs`, which gives a list of TensorData in the
        order of `self.targets`; or a mapping from tensors (or their names), which gives a dict by
        target tensor (or name). Values are NumPy arrays, TensorData, DLPack tensors, or nested
        lists; contiguous arrays are read in place.
        `results`: arrays or TensorData of the right types that receive the values and are returned.

        Raises FeedError for values that do not fit, before anything runs.
        """
        if isinstance(inputs, Mapping):
            return self._run_named(inputs, results)
        if len(inputs) != len(self._types):
            raise self._wrong_count(inputs)
        if not self.device.host_memory:
            return self._run_remote(inputs, results)
        handles: list[Any] = []
        keep: list[Any] = []
        for value, dtype, shape in zip(inputs, self._dtypes, self._shapes, strict=True):
            if (
                type(value) is not np.ndarray
                or value.dtype != dtype
                or value.shape != shape
                or not value.flags.c_contiguous
            ):
                value = self._feed(len(handles), value)
                keep.append(value)
            handles.append(
                value.__array_interface__["data"][0] if type(value) is np.ndarray else value.handle
            )
        if results is None:
            allocate = self.device.allocate
            made: Any = []
            for size, kind in self.result_sizes:
                buffer = allocate(size)
                handles.append(buffer.handle)
                made.append(TensorData(buffer, kind))
        else:
            made = results
            handles += self.check_results(results, handles)
        self.play(handles)
        return made

    def _wrong_count(self, inputs: Sequence[Any]) -> FeedError:
        return FeedError(
            "run",
            f"takes {len(self._types)} inputs",
            received=f"{len(inputs)}",
            advice=f"They are {', '.join(self.input_names) or 'none'}",
        )

    def _run_remote(self, inputs: Sequence[Any], results: Sequence[Any] | None) -> Any:
        """The same on a device whose memory the host cannot see: values move there, results stay
        there unless the caller gave arrays."""
        fed = [self._feed(i, value) for i, value in enumerate(inputs)]
        values = [
            v.to(self.device) if isinstance(v, TensorData) else on_device(v, self.device)
            for v in fed
        ]
        made = [TensorData(self.device.allocate(size), kind) for size, kind in self.result_sizes]
        if results is not None:
            self.check_results(results, [])
        given = made if results is None else results
        there = [
            g if isinstance(g, TensorData) and g.device is self.device else m
            for g, m in zip(given, made, strict=True)
        ]
        self.play([v.handle for v in (*values, *there)])
        for g, t in zip(given, there, strict=True):
            if g is not t:
                target = g if isinstance(g, np.ndarray) else g.numpy()
                self.device.download(t.buffer, t.offset, target)
        return given

    def play(self, handles: list[Any], play: Play | None = None) -> None:
        """Play with the handles of checked inputs and results, followed by those that the
        executable adds; `play` stands in for that of the loaded program."""
        play = self.loaded.play if play is None else play
        if self._reports:
            play = self._checked(handles, play)
        # Each concurrent run has an arena of its own; what a run leaves behind serves the next.
        try:
            arena = self._arenas.pop()
        except IndexError:
            arena = self.device.allocate(max(self.program.arena_bytes, 1))
        watching = profiler.active()
        started = time.perf_counter() if watching is not None else 0.0
        try:
            if self._states:
                self._play_locked(handles, arena, play)
            else:
                handles += self._tail
                handles.append(arena.handle)
                play(handles)
        finally:
            self._arenas.append(arena)
        if watching is not None:
            watching.add(
                self.graph.name, started, time.perf_counter() - started, bytes=self.bytes_moved
            )

    def _checked(self, handles: list[Any], play: Play) -> Play:
        """A play that raises IndexOutOfRange when an index was outside, and then gives variables
        the values back that they had before. Adds the handle of the report."""
        (kind,) = self._reports
        made = TensorData(self.device.allocate(kind.bytes), kind)
        self.device.upload(made.buffer, 0, np.full(kind.static_shape, -1, kind.dtype.numpy))
        handles.append(made.handle)

        def play_and_look(known: list[Any]) -> None:
            before = [s.read() for s in self._states]
            play(known)
            try:
                raise_for(made.numpy(), self.index_checks)
            except IndexOutOfRange:
                for state, value in zip(self._states, before, strict=True):
                    state.write(value)
                raise

        return play_and_look

    def _play_locked(self, handles: list[Any], arena: Buffer, play: Play) -> None:
        """Runs that share variables take turns."""
        with ExitStack() as stack:
            for lock in self._locks:
                stack.enter_context(lock)
            handles += self._variable_handles()
            play([*handles, *self._tail, arena.handle])

    def _variable_handles(self) -> list[Any]:
        if self.device.host_memory:
            return [s.to_host().__array_interface__["data"][0] for s in self._states]
        return [resident(s, self.device).buffer.handle for s in self._states]

    def _feed(self, i: int, value: Any) -> Any:
        """A value for input `i` as a contiguous array or TensorData of exactly its type."""
        wanted = self._types[i]
        name = self.input_names[i]
        if not isinstance(value, TensorData):
            shared = None
            if not self.device.host_memory and hasattr(value, "__dlpack_device__"):
                shared = cast(RemoteDevice, self.device).import_dlpack(value)
            value = to_array(value, wanted, name) if shared is None else shared
        found = value.type if isinstance(value, TensorData) else fed_type(value, wanted, name)
        if found != wanted:
            raise FeedError(
                f"feed {name}",
                f"the executable was compiled for {wanted}",
                received=repr(found),
                advice="Convert the value, or compile for its type",
                tensor=name,
            )
        if isinstance(value, TensorData):
            return value.numpy() if self.device.host_memory else value
        return np.ascontiguousarray(value, wanted.dtype.numpy)  # in native byte order

    def check_results(self, results: Sequence[Any], inputs: list[Any]) -> list[Any]:
        """Handles of the caller's results, after checking type, layout and overlap."""
        if len(results) != len(self._outputs):
            raise FeedError("run", f"takes {len(self._outputs)} results", received=len(results))
        handles: list[Any] = []
        for i, given in enumerate(results):
            if type(given) is np.ndarray:
                fits = given.dtype == self._out_dtypes[i] and given.shape == self._out_shapes[i]
                flags = given.flags
                if fits and flags.c_contiguous and flags.writeable:
                    handles.append(given.__array_interface__["data"][0])
                    continue
            elif (
                isinstance(given, TensorData)
                and given.type == self._outputs[i]
                and given.buffer.writable
            ):
                handles.append(given.handle)
                continue
            raise FeedError(
                f"result {self.target_names[i]}",
                f"must be a writable C-contiguous array of {self._outputs[i]}",
                received=f"{type(given).__name__} {getattr(given, 'dtype', '')}"
                f"{list(getattr(given, 'shape', ()))}",
                advice="Make it with numpy.empty of that shape and dtype",
            )
        if self.device.host_memory:
            self._refuse_overlap(inputs, handles)
        return handles

    def _refuse_overlap(self, inputs: list[int], results: list[int]) -> None:
        taken = list(zip(inputs, self._input_bytes, strict=True))
        for i, (start, (size, _)) in enumerate(zip(results, self.result_sizes, strict=True)):
            for other, length in taken:
                if start < other + length and other < start + size:
                    raise FeedError(
                        f"result {self.target_names[i]}",
                        "overlaps an input or another result",
                        received=f"bytes {start:#x} to {start + size:#x}",
                        advice="Use separate memory",
                    )
            taken.append((start, size))

    def _run_named(self, inputs: Mapping[Any, Any], results: Sequence[Any] | None) -> Any:
        values, named = self._by_position(inputs)
        return named(self.run(values, results=results))

    def _by_position(
        self, inputs: Mapping[Any, Any]
    ) -> tuple[list[Any], Callable[[Sequence[Any]], dict[Any, Any]]]:
        """Inputs given by tensor or name in the order of `run`, and what names results alike."""
        by_name = all(isinstance(k, str) for k in inputs) and (bool(inputs) or not self._types)
        known: dict[Any, str] = dict(
            zip(self.input_names if by_name else self.inputs, self.input_names, strict=True)
        )
        unknown = [str(k) for k in inputs if k not in known]
        missing = [name for k, name in known.items() if k not in inputs]
        if unknown or missing:
            raise FeedError(
                "run",
                f"the inputs are {', '.join(self.input_names) or 'none'}",
                received=[str(getattr(k, "name", k)) for k in inputs],
                missing=missing,
                superfluous=unknown,
            )
        keys: Sequence[Any] = self.target_names if by_name else self.targets
        return [inputs[k] for k in known], lambda found: dict(zip(keys, found, strict=True))

    def run_async(
        self,
        inputs: Any = (),
        *,
        results: Sequence[Any] | None = None,
        completion_handler: CompletionHandler | None = None,
    ) -> Future[Any]:
        """Start a run and return at once; the Future's `result()` is what `run` would return.

        `completion_handler(results, error)` is called when it ends, on another thread; one of the
        two is None. Runs start in the order they were asked for.
        """
        return submit(lambda: self.run(inputs, results=results), completion_handler)

    def encode(
        self,
        command_buffer: CommandBuffer,
        inputs: Any = (),
        *,
        results: Sequence[Any] | None = None,
        predicate: Predicate | None = None,
    ) -> Any:
        """Record a run into a command buffer; see CommandBuffer.encode."""
        return command_buffer.encode(self, inputs, results, predicate=predicate)

    def prepare(
        self, inputs: Any = (), results: Sequence[Any] | None = None, *, zeroed: bool = False
    ) -> Recorded:
        """A run that is checked and has memory for its results, to be played later.

        With `zeroed`, results that the caller did not give start as zeros. Raises what `run` does.
        """
        named: Callable[[Sequence[Any]], Any] = list
        if isinstance(inputs, Mapping):
            inputs, named = self._by_position(inputs)
        if len(inputs) != len(self._types):
            raise self._wrong_count(inputs)
        values = [self._feed(i, value) for i, value in enumerate(inputs)]
        return Recorded(self, values, results, named, zeroed=zeroed)

    def in_flight(self, depth: int = 2) -> InFlight[Any]:
        """A queue that keeps up to `depth` runs unfinished (double buffering)."""
        return InFlight(self.run, depth)


@dataclass(frozen=True)
class RemoteVariable:
    """A variable's value in a device's memory."""

    device: Device
    buffer: Buffer
    type: TensorType

    def to_numpy(self) -> np.ndarray:
        return TensorData(self.buffer, self.type).numpy()


def resident(state: VariableState, device: Device) -> RemoteVariable:
    """The variable in the memory of a device, moved there when it is not. Hold its lock."""
    if state.remote is None or state.remote.device is not device:
        value = on_device(state.to_host(), device)
        state.remote = RemoteVariable(device, value.buffer, value.type)
    return state.remote  # type: ignore[no-any-return]


@cache
def _runner() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="niello-run")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_runner.cache_clear)


def submit(run: Callable[[], Any], handler: CompletionHandler | None) -> Future[Any]:
    """Queue a run; deliver its results or its error to the handler and the future."""
    future = _runner().submit(run)
    if handler is not None:

        def deliver(done: Future[Any]) -> None:
            error = CancelledError() if done.cancelled() else done.exception()
            handler(None if error is not None else done.result(), error)

        future.add_done_callback(deliver)
    return future
