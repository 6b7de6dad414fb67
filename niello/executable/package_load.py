"""An executable that comes from a package: machine code at once, everything else when asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from niello import backends
from niello.core.errors import CorruptFile, GraphError
from niello.executable.compile import passes_for
from niello.executable.executable import Executable, Play
from niello.executable.package_manifest import Function, Variant
from niello.executable.package_program import Stored
from niello.graph.tensor import ALIGNMENT
from niello.passes import pipeline
from niello.passes.check_indices import CheckIndices
from niello.passes.computation import Computation
from niello.runtime.buffer import Buffer
from niello.runtime.target import Device, Loaded, PackingLoaded
from niello.runtime.tensor_data import on_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from niello.executable.package import Package


class PackagedExecutable(Executable):
    """What `niello.load` returns where the package holds machine code for what was asked.

    The graph is read when somebody asks for it, weights when they are first used.
    """

    def __init__(
        self,
        package: Package,
        function: Function,
        variant: Variant,
        stored: Stored,
        device: Device,
        load_code: Callable[[], Loaded],
    ) -> None:
        self.package = package
        self.function = function
        self.variant = variant
        self.stored = stored
        self.scheduled = stored.scheduled
        self._load_code = load_code
        self._weights_lock = threading.Lock()
        self._running = 0
        self._here = False  # whether the constants are placed on the device
        self._unwanted = False  # whether to drop them when the last run ends
        self._start(
            load_code(),
            device,
            backends.backend(variant.device),
            variant.options,
            states=[package.variable(v.name) for v in self.scheduled.program.variables],
            names=(function.inputs, function.results),
        )
        self.index_checks = variant.checks
        if package.weights != "lazy":
            with self._weights_lock:
                self._bring()

    def __getattr__(self, name: str) -> Any:
        """Parts of an executable that need the graph."""
        if name == "graph":
            found: Any = self.package.graph
        elif name == "computation":
            found = self.package.computation(self.function)
        elif name == "resolved":
            found = self.computation
        elif name == "optimised":
            checks = CheckIndices() if self.options.check_indices else None
            passes = passes_for(self.input_types, self.options, self.backend, checks)
            found = pipeline.run(passes, self.computation)
        else:
            raise AttributeError(f"an executable has no attribute {name!r}")
        setattr(self, name, found)
        return found

    def __repr__(self) -> str:
        return (
            f"<Executable of {self.variant} from {self.package.path.name}: "
            f"{self.kernel_count} kernels, arena {self.arena_bytes} bytes>"
        )

    # --- weights
    def play(self, handles: list[Any], play: Play | None = None) -> None:
        """See Executable.play; the constants are brought to the device first."""
        with self._constants_here():
            super().play(handles, play)

    def purge_weights(self) -> None:
        """Give back the memory of the constants: copies on the device, packed forms, and mapped
        pages. The next run brings them back. Variables stay as they are.

        Runs that go on now finish first. Raises GraphError for a package loaded with
        weights="copied", whose weights are nowhere else.
        """
        if self.package.weights == "copied":
            raise GraphError(
                "purge_weights",
                "the weights were copied into memory and would be lost",
                received=repr(self),
                advice='Load the package with weights="mapped" or "lazy"',
            )
        with self._weights_lock:
            self._unwanted = True
            if not self._running:
                self._drop()

    @contextmanager
    def _constants_here(self) -> Iterator[None]:
        with self._weights_lock:
            self._bring()
            self._running += 1
        try:
            yield
        finally:
            with self._weights_lock:
                self._running -= 1
                if self._unwanted and not self._running:
                    self._drop()

    def _bring(self) -> None:
        if not self._here:
            packed = self.variant.packed and self.package.constant(self.variant.packed)
            self._constants, self._tail = place(
                self.scheduled.program.constants,
                self.loaded,
                self.device,
                packed if isinstance(packed, np.ndarray) else None,
                self.stored.absent,
            )
            self._here = True

    def _drop(self) -> None:
        self._unwanted = False
        if self._here:
            self.loaded = self._load_code()  # programs may hold constants in a form of their own
            self._constants, self._tail = [], []
            self._here = False
        self.package.release_pages()


def place(
    constants: Sequence[np.ndarray],
    loaded: Loaded,
    device: Device,
    packed: np.ndarray | None = None,
    absent: Set[int] = frozenset(),
) -> tuple[list[Buffer], list[Any]]:
    """Buffers to keep, and handles to play with. Devices with host memory read mapped constants
    where they are; those that the program has `packed`, or packs for itself, get no buffer.

    Raises CorruptFile where the code reads one of those that are `absent`.
    """
    taken: frozenset[int] = frozenset()
    host = cast(Any, device)
    if packed is not None and hasattr(loaded, "use_packed"):
        taken = cast(PackingLoaded, loaded).use_packed(packed)
    elif device.host_memory and hasattr(loaded, "take_constants"):
        addresses = [c.__array_interface__["data"][0] for c in constants]
        taken = cast(PackingLoaded, loaded).take_constants(addresses)
    if not absent <= taken:
        raise CorruptFile(
            "load",
            "the machine code reads constants that the package does not hold",
            received=f"{len(absent - taken)} of {len(constants)}",
            advice="Make it again",
        )
    buffers: list[Buffer] = []
    handles: list[Any] = []
    for n, constant in enumerate(constants):
        if n in taken:
            handles.append(0)
            continue
        inside = device.host_memory and constant.ctypes.data % ALIGNMENT == 0
        buffer = host.adopt(constant) if inside else on_device(constant, device).buffer
        buffers.append(buffer)
        handles.append(buffer.handle)
    return buffers, handles


def computation_of(graph: Any, function: Function) -> Computation:
    """A function of a package in its graph. Raises GraphError for names that are not there."""
    tensors = {t.name: t for o in graph.operations for t in o.outputs}
    operations = {o.name: o for o in graph.operations}

    def found(table: dict[str, Any], name: str) -> Any:
        if name not in table:
            raise GraphError(
                "load", f"the function {function.name} names what is not there", received=name
            )
        return table[name]

    return Computation(
        graph,
        tuple(found(tensors, n) for n in function.inputs),
        tuple(found(tensors, n) for n in function.targets),
        tuple(found(operations, n) for n in function.operations),
    )
