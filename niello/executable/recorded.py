"""A run of an executable that is checked and has its memory, to be played later (`encode`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from niello.runtime.predicate import Predicate
from niello.runtime.tensor_data import TensorData, on_device

if TYPE_CHECKING:
    from niello.executable.executable import Executable

Named = Callable[[Sequence[Any]], Any]


class Recorded:
    """Holds inputs and results until it is played. Made by `Executable.prepare`.

    `values` are inputs of the right types. `given` are the caller's results, or None. With
    `zeroed`, memory that the run may leave untouched starts as zeros, or as what the caller gave.
    """

    def __init__(
        self,
        executable: Executable,
        values: Sequence[Any],
        given: Sequence[Any] | None,
        named: Named,
        *,
        zeroed: bool,
    ) -> None:
        self._executable = executable
        device = executable.device
        if not device.host_memory:
            values = [
                v.to(device) if isinstance(v, TensorData) else on_device(v, device) for v in values
            ]
        handles = [_handle(v) for v in values]
        if given is not None:
            executable.check_results(given, handles)
        # Where the device writes, and the caller's arrays that are filled from there.
        there: list[Any] = []
        self._downloads: list[tuple[TensorData, np.ndarray]] = []
        for n, (size, kind) in enumerate(executable.result_sizes):
            wanted = None if given is None else given[n]
            if wanted is not None and (device.host_memory or _lives_on(wanted, device)):
                there.append(wanted)
                continue
            made = TensorData(device.allocate(size), kind)
            if zeroed and kind.bytes:
                start = np.zeros(kind.static_shape, kind.dtype.numpy) if wanted is None else wanted
                device.upload(made.buffer, 0, np.asarray(start))
            there.append(made)
            if wanted is not None:
                self._downloads.append((made, np.asarray(wanted)))
        self.results = named(there if given is None else given)
        self._keep = [*values, *there]
        self._handles = [*handles, *(_handle(t) for t in there)]

    def play(self, predicate: Predicate | None) -> None:
        """Run it once, unless the predicate is zero."""
        executable = self._executable
        handles = list(self._handles)
        if predicate is None:
            executable.play(handles)
        else:
            loaded = executable.loaded
            executable.play(handles, lambda known: predicate.play(loaded, known))
        for source, target in self._downloads:
            executable.device.download(source.buffer, source.offset, target)


def _handle(value: Any) -> Any:
    return value.handle if isinstance(value, TensorData) else value.ctypes.data


def _lives_on(value: Any, device: Any) -> bool:
    return isinstance(value, TensorData) and value.device is device
