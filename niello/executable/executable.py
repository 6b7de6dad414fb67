"""Executable: a compiled computation, run by position or by name, at once or later."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from typing import Any

import numpy as np

from niello.core.errors import FeedError, GraphError
from niello.core.types import TensorType
from niello.executable.describe import commands_text, kernels_text
from niello.graph.graph import GraphDefinition
from niello.graph.tensor import Tensor, VariableState
from niello.passes.computation import Computation
from niello.runtime import profiler
from niello.runtime.buffer import Buffer
from niello.runtime.commands import Program, Space
from niello.runtime.in_flight import InFlight
from niello.runtime.target import Backend, CompileOptions, Device, Loaded
from niello.runtime.tensor_data import TensorData
from niello.schedule.program import Scheduled

CompletionHandler = Callable[[Any, BaseException | None], None]

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
        self.optimised = optimised
        self.scheduled = scheduled
        self.loaded = loaded
        self.device = device
        self.backend = backend
        self.options = options
        program = scheduled.program
        self._types = program.inputs
        self._dtypes = [t.dtype.numpy for t in program.inputs]
        self._shapes = [t.static_shape for t in program.inputs]
        self._outputs = program.outputs
        self._output_bytes = [max(t.bytes, 1) for t in program.outputs]
        self._constants = [_resident(device, c) for c in program.constants]
        self._states: list[VariableState] = [
            graph.variable_states[v.name] for v in program.variables
        ]
        # One order for everybody, so that runs that share variables cannot deadlock.
        self._locks = [s.lock for s in sorted(self._states, key=id)]
        self._tail = [b.handle for b in self._constants]
        self._arenas: deque[Buffer] = deque()

    # --- what it is
    @property
    def program(self) -> Program:
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
        return self._types

    @property
    def output_types(self) -> tuple[TensorType, ...]:
        return self._outputs

    @property
    def kernel_count(self) -> int:
        """Kernels launched by one run."""
        from niello.runtime.commands import Dispatch

        return sum(isinstance(c, Dispatch) for c in self.program.commands)

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

    # --- running
    def run(
        self, inputs: Any = (), *, results: Sequence[Any] | None = None
    ) -> Any:
        """Run with values for the inputs, by position or by name; blocks until done.

        `inputs`: a sequence in the order of `self.inputs`, which gives a list of TensorData in the
        order of `self.targets`; or a mapping from tensors (or their names), which gives a dict by
        target tensor (or name). Values are NumPy arrays, TensorData, DLPack tensors, or nested
        lists; contiguous arrays are read in place.
        `results`: arrays or TensorData of the right types that receive the values.

        Raises FeedError for values that do not fit, before anything runs.
        """
        if isinstance(inputs, Mapping):
            return self._run_named(inputs, results)
        count = len(self._types)
        if len(inputs) != count:
            raise FeedError(
                "run", f"takes {count} inputs", received=f"{len(inputs)}",
                advice=f"They are {', '.join(t.name for t in self.inputs) or 'none'}",
            )
        handles: list[Any] = []
        keep: list[Any] = []
        for i in range(count):
            value = inputs[i]
            if (
                type(value) is not np.ndarray
                or value.dtype != self._dtypes[i]
                or value.shape != self._shapes[i]
                or not value.flags.c_contiguous
            ):
                value = self._feed(i, value)
                keep.append(value)
            handles.append(
                value.__array_interface__["data"][0] if type(value) is np.ndarray else value.handle
            )
        made = self._allocate() if results is None else self._given(results, handles)
        for r in made:
            handles.append(r.buffer.handle + r.offset if r.offset else r.buffer.handle)
        self._play(handles)
        return made

    def _allocate(self) -> list[TensorData]:
        allocate = self.device.allocate
        return [
            TensorData(allocate(size), t)
            for size, t in zip(self._output_bytes, self._outputs, strict=True)
        ]

    def _play(self, handles: list[Any]) -> None:
        watching = profiler.active()
        started = time.perf_counter() if watching is not None else 0.0
        try:
            arena = self._arenas.pop()
        except IndexError:
            arena = self.device.allocate(max(self.program.arena_bytes, 1))
        try:
            if self._states:
                with ExitStack() as stack:
                    for lock in self._locks:
                        stack.enter_context(lock)
                    handles += [s.array.__array_interface__["data"][0] for s in self._states]
                    self.loaded.play([*handles, *self._tail, arena.handle])
            else:
                self.loaded.play([*handles, *self._tail, arena.handle])
        finally:
            self._arenas.append(arena)
        if watching is not None:
            watching.add(
                self.graph.name, started, time.perf_counter() - started, bytes=self.bytes_moved
            )

    def _feed(self, i: int, value: Any) -> Any:
        """A value for input `i` as a contiguous array or TensorData of exactly its type."""
        wanted = self._types[i]
        name = self.inputs[i].name
        if isinstance(value, TensorData):
            found = value.type
        else:
            value = to_array(value, wanted)
            found = TensorType(value.shape, value.dtype)
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
        return np.ascontiguousarray(value)

    def _given(self, results: Sequence[Any], inputs: list[Any]) -> list[TensorData]:
        """Check the caller's result buffers: type, layout, and that they overlap nothing."""
        if len(results) != len(self._outputs):
            raise FeedError("run", f"takes {len(self._outputs)} results", received=len(results))
        made: list[TensorData] = []
        spans = [
            (h, h + t.bytes) for h, t in zip(inputs, self._types, strict=True) if isinstance(h, int)
        ]
        for target, wanted, given in zip(self.targets, self._outputs, results, strict=True):
            if isinstance(given, np.ndarray):
                if not (given.flags.c_contiguous and given.flags.writeable):
                    raise FeedError(
                        f"result {target.name}", "must be a writable C-contiguous array",
                        received=f"strides {given.strides}, writeable {given.flags.writeable}",
                    )
                given = TensorData.from_numpy(given, copy=False)
            if not isinstance(given, TensorData) or given.type != wanted:
                raise FeedError(
                    f"result {target.name}", f"must be {wanted}",
                    received=repr(given.type) if isinstance(given, TensorData) else type(given).__name__,
                )
            start = given.handle
            if isinstance(start, int):
                end = start + wanted.bytes
                if any(start < high and low < end for low, high in spans):
                    raise FeedError(
                        f"result {target.name}", "overlaps an input or another result",
                        received=f"bytes {start:#x} to {end:#x}", advice="Use separate memory",
                    )
                spans.append((start, end))
            made.append(given)
        return made

    def _run_named(self, inputs: Mapping[Any, Any], results: Sequence[Any] | None) -> Any:
        by_name = all(isinstance(k, str) for k in inputs) and (bool(inputs) or not self.inputs)
        known: dict[Any, Any] = {(t.name if by_name else t): t for t in self.inputs}
        unknown = [str(k) for k in inputs if k not in known]
        missing = [t.name for k, t in known.items() if k not in inputs]
        if unknown or missing:
            raise FeedError(
                "run",
                f"the inputs are {', '.join(t.name for t in self.inputs) or 'none'}",
                received=[str(getattr(k, 'name', k)) for k in inputs],
                missing=missing,
                superfluous=unknown,
            )
        found = self.run([inputs[k] for k in known], results=results)
        return {
            (t.name if by_name else t): value for t, value in zip(self.targets, found, strict=True)
        }

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

    def in_flight(self, depth: int = 2) -> InFlight[Any]:
        """A queue that keeps up to `depth` runs unfinished (double buffering)."""
        return InFlight(self.run, depth)


def to_array(value: Any, wanted: TensorType) -> np.ndarray:
    """A NumPy array of what the user fed; plain Python numbers take the wanted dtype."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, TensorData):
        return value.numpy()
    if hasattr(value, "__dlpack__") and not isinstance(value, np.generic):
        return TensorData.from_dlpack(value).numpy()
    if isinstance(value, np.generic) or hasattr(value, "__array__"):
        return np.asarray(value)
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype == object or not np.can_cast(array.dtype, wanted.dtype.numpy, "unsafe"):
        raise FeedError(
            "feed", "the value is not an array of numbers", received=type(value).__name__
        )
    if array.dtype.kind == "f" and not wanted.dtype.is_float:
        return array
    return array.astype(wanted.dtype.numpy)


def _resident(device: Device, array: np.ndarray) -> Buffer:
    """A constant in the device's memory."""
    buffer = device.allocate(max(array.nbytes, 1))
    view = np.frombuffer(array.tobytes(), np.uint8)
    from niello.core.dtypes import uint8

    buffer.array(uint8, (array.nbytes,))[...] = view
    return buffer  # type: ignore[no-any-return]


@cache
def _runner() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="niello-run")


def submit(run: Callable[[], Any], handler: CompletionHandler | None) -> Future[Any]:
    """Queue a run; deliver its results or its error to the handler and the future."""
    future = _runner().submit(run)
    if handler is not None:
        def deliver(done: Future[Any]) -> None:
            error = done.exception()
            handler(None if error is not None else done.result(), error)

        future.add_done_callback(deliver)
    return future


def arena_space() -> Space:
    return Space.ARENA
