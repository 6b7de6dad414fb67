"""Graph: what users build with and run."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from niello import autodiff, backends
from niello.core.config import OPTIMISE
from niello.core.errors import AttributeValueError, FeedError, GraphError
from niello.core.types import TensorType
from niello.executable import checkpoint
from niello.executable.compile import check, check_type, compile_graph
from niello.executable.executable import CompletionHandler, Executable, submit
from niello.executable.feed import fed_type, to_array
from niello.graph.graph import GraphDefinition
from niello.graph.operation import Operation
from niello.graph.tensor import Tensor
from niello.passes.autocast import Autocast, as_autocast
from niello.passes.computation import Computation
from niello.runtime.command_buffer import CommandBuffer
from niello.runtime.predicate import Predicate
from niello.runtime.target import CompileOptions
from niello.runtime.tensor_data import TensorData


@dataclass(frozen=True)
class CacheInfo:
    """The compiled executables a graph keeps: how many, how many at most, hits and misses."""

    size: int
    limit: int
    hits: int
    misses: int


class Graph(GraphDefinition):
    """A computation: build it with placeholders, variables and operations; run or compile it.

    `run` compiles once for each set of input types, targets and device, and keeps the latest
    `cache_limit` executables.

    Example:
        >>> import niello as nl
        >>> import numpy as np
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((None, 2), nl.float32, name="x")
        >>> y = (x * 2.0).sum(axes=-1)
        >>> np.asarray(graph.run({x: np.ones((3, 2), np.float32)}, [y])[y])
        array([4., 4., 4.], dtype=float32)
    """

    def __init__(self, name: str = "graph", *, cache_limit: int = 64) -> None:
        super().__init__(name)
        if cache_limit < 1:
            raise AttributeValueError(
                "Graph", "cache_limit must be at least 1", received=cache_limit
            )
        self.cache_limit = cache_limit
        self._autocast: Autocast | None = None
        self.check_indices = False  # of `run`, `encode`, and `compile` without options
        self._cache: OrderedDict[Hashable, Executable] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    # --- gradients
    def gradients(
        self,
        of: Tensor,
        with_respect_to: Tensor | Sequence[Tensor],
        *,
        seed: Tensor | None = None,
    ) -> dict[Tensor, Tensor]:
        """Gradient of the sum of `of` with respect to each listed tensor, as graph tensors.

        `seed` weights the elements of `of`. Gradients can be differentiated again. Raises
        NotDifferentiable and GraphError.
        """
        return autodiff.gradients(of, with_respect_to, seed=seed)

    # --- mixed precision
    @property
    def autocast(self) -> Autocast | None:
        """What runs in a half type, for `run`, `encode`, and `compile` without options; None (the
        default) for nothing. Set it with a half dtype or a `niello.precision.Autocast`."""
        return self._autocast

    @autocast.setter
    def autocast(self, value: Any) -> None:
        self._autocast = as_autocast(value)

    def _options(self) -> CompileOptions:
        return CompileOptions(autocast=self.autocast, check_indices=self.check_indices)

    # --- compiling
    def compile(
        self,
        feeds: Mapping[Tensor, TensorType | tuple[int, ...]] | None = None,
        targets: Sequence[Tensor] = (),
        target_operations: Sequence[Operation] = (),
        *,
        device: str | None = None,
        options: CompileOptions | None = None,
        callables: Mapping[str, Any] | None = None,
    ) -> Executable:
        """Compile for given input types.

        `feeds` maps placeholders to static TensorTypes (a bare shape takes the placeholder's
        dtype); the executable takes inputs in this order and returns `targets` in theirs.
        `target_operations` (assignments) are run for their effect. `device` is a back end's name.
        `callables` are what `niello.call` names: executables, whose inputs and targets count, or
        graphs, whose placeholders are inputs and whose results are the tensors that nothing in them
        reads. Variables of theirs are shared, not copied.
        """
        types: dict[Tensor, TensorType] = {}
        for t, f in (feeds or {}).items():
            self._check_feed(t)
            types[t] = f if isinstance(f, TensorType) else TensorType(f, t.dtype)
        return compile_graph(
            self,
            types,
            as_sequence(targets, "targets"),
            as_sequence(target_operations, "target_operations"),
            device,
            self._options() if options is None else options,
            callables,
        )

    # --- running
    def run(
        self,
        feeds: Mapping[Tensor, Any] | None = None,
        targets: Sequence[Tensor] = (),
        target_operations: Sequence[Operation] = (),
        *,
        results: Mapping[Tensor, Any] | None = None,
        device: str | None = None,
    ) -> dict[Tensor, TensorData]:
        """Run and return {target: value}; compiles when these input types are new.

        `feeds` maps placeholders to arrays (NumPy, TensorData, DLPack, lists). `results` maps
        targets to arrays that receive their values. Raises FeedError, GraphError, ShapeError
        before anything runs; variables keep their values when a run fails.
        """
        executable, arrays, given = self._asked(feeds, targets, target_operations, results, device)
        values = executable.run(arrays, results=given)
        return dict(zip(executable.targets, values, strict=True))

    def run_async(
        self,
        feeds: Mapping[Tensor, Any] | None = None,
        targets: Sequence[Tensor] = (),
        target_operations: Sequence[Operation] = (),
        *,
        results: Mapping[Tensor, Any] | None = None,
        device: str | None = None,
        completion_handler: CompletionHandler | None = None,
    ) -> Future[Any]:
        """Like `run`, but returns at once with a Future of the results.

        `completion_handler(results, error)` is called when the run ends; one of the two is None.
        """
        return submit(
            lambda: self.run(feeds, targets, target_operations, results=results, device=device),
            completion_handler,
        )

    def encode(
        self,
        command_buffer: CommandBuffer,
        feeds: Mapping[Tensor, Any] | None = None,
        targets: Sequence[Tensor] = (),
        target_operations: Sequence[Operation] = (),
        *,
        results: Mapping[Tensor, Any] | None = None,
        predicate: Predicate | None = None,
    ) -> dict[Tensor, TensorData]:
        """Record a run into a command buffer; the results are valid when it is completed.

        Compiles for the device of the buffer's queue when these input types are new. Feeds and
        results as in `run`; see CommandBuffer.encode for what must stay unchanged until then.

        Example:
            >>> import niello as nl
            >>> import numpy as np
            >>> graph = nl.Graph()
            >>> x = graph.placeholder((2,), name="x")
            >>> y = x + 1.0
            >>> buffer = nl.CommandBuffer(nl.CommandQueue())
            >>> out = graph.encode(buffer, {x: np.zeros(2, np.float32)}, [y])
            >>> buffer.commit()
            >>> buffer.wait_until_completed()
            >>> out[y].tolist()
            [1.0, 1.0]
        """
        device = command_buffer.queue.device.name
        executable, arrays, given = self._asked(feeds, targets, target_operations, results, device)
        values = command_buffer.encode(executable, arrays, given, predicate=predicate)
        return dict(zip(executable.targets, values, strict=True))

    def _asked(
        self,
        feeds: Mapping[Tensor, Any] | None,
        targets: Sequence[Tensor],
        target_operations: Sequence[Operation],
        results: Mapping[Tensor, Any] | None,
        device: str | None,
    ) -> tuple[Executable, list[Any], list[Any] | None]:
        """The executable of a run, its inputs and the caller's results, in their order."""
        wanted = as_sequence(targets, "targets")
        operations = as_sequence(target_operations, "target_operations")
        arrays = self._arrays({} if feeds is None else feeds)
        executable = self._cached(arrays, wanted, operations, device)
        given = None
        if results is not None:
            unknown = [str(t) for t in results if t not in executable.targets]
            if unknown or any(t not in results for t in executable.targets):
                raise FeedError(
                    "results",
                    "must give an array for each target and nothing else",
                    received=[getattr(t, "name", str(t)) for t in results],
                )
            given = [results[t] for t in executable.targets]
        return executable, list(arrays.values()), given

    def _check_feed(self, tensor: Any) -> None:
        if not isinstance(tensor, Tensor) or tensor.graph is not self:
            raise GraphError(
                "feeds",
                "the keys must be placeholders of this graph",
                received=repr(tensor),
                advice="Feed the tensors that graph.placeholder gave",
            )

    def _arrays(self, feeds: Mapping[Tensor, Any]) -> dict[Tensor, Any]:
        arrays: dict[Tensor, Any] = {}
        for t, value in feeds.items():
            self._check_feed(t)
            arrays[t] = value if isinstance(value, TensorData) else to_array(value, t.type, t.name)
        if len(arrays) > 1:  # one executable, in whatever order the feeds are listed
            arrays = dict(sorted(arrays.items(), key=lambda item: item[0].operation.number))
        return arrays

    def _cached(
        self,
        arrays: Mapping[Tensor, Any],
        targets: tuple[Tensor, ...],
        operations: tuple[Operation, ...],
        device: str | None,
    ) -> Executable:
        name = backends.default_name() if device is None else device
        kinds = tuple((t, a.shape, _dtype_key(a)) for t, a in arrays.items())
        try:
            key = (kinds, targets, operations, name, OPTIMISE.text(), self._options())
            with self._cache_lock:
                found = self._cache.get(key)
                if found is not None:
                    self._cache.move_to_end(key)
                    self._hits += 1
                    return found
        except TypeError:
            raise GraphError(
                "run",
                "targets must be tensors, and target operations operations",
                received=f"{targets!r} and {operations!r}",
            ) from None
        types = {t: fed_type(a, t.type, t.name) for t, a in arrays.items()}
        made = compile_graph(self, types, targets, operations, name, self._options())
        with self._cache_lock:
            self._misses += 1
            self._cache[key] = made
            while len(self._cache) > self.cache_limit:
                self._cache.popitem(last=False)
        return made

    def cache_info(self) -> CacheInfo:
        """How many executables `run` keeps, and how often it found one."""
        with self._cache_lock:
            return CacheInfo(len(self._cache), self.cache_limit, self._hits, self._misses)

    def cached_executables(self) -> tuple[Executable, ...]:
        """The executables that `run` keeps, least recently used first."""
        with self._cache_lock:
            return tuple(self._cache.values())

    def clear_cache(self) -> None:
        """Drop all executables that `run` keeps."""
        with self._cache_lock:
            self._cache.clear()

    # --- variables
    def save_variables(
        self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write the values of all variables to a safetensors file, atomically."""
        checkpoint.save_variables(path, self.variable_states, metadata)

    def load_variables(
        self, path: str | os.PathLike[str], *, strict: bool = True
    ) -> dict[str, str]:
        """Restore variables from a safetensors file; returns its metadata.

        Raises CorruptFile, and then leaves every variable as it was.
        """
        return checkpoint.load_variables(path, self.variable_states, strict=strict)


def as_sequence(value: Any, what: str) -> tuple[Any, ...]:
    """A user's list of targets. A single tensor must not be taken apart by iterating over it."""
    if isinstance(value, (Tensor, Operation, str)) or not isinstance(value, Iterable):
        raise GraphError(
            what,
            "takes a list",
            received=repr(value),
            advice=f"Write {what}=[...]",
        )
    return tuple(value)


def _dtype_key(value: Any) -> Hashable:
    """What two feeds of one type have in common; NumPy's own dtypes hash fastest."""
    return value.type.dtype.numpy if isinstance(value, TensorData) else value.dtype


__all__ = ["CacheInfo", "Computation", "Graph", "check", "check_type"]
