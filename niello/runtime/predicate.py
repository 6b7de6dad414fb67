"""Predicate: a word of device memory that decides, when work runs, whether it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from niello.core.errors import AttributeValueError, DeviceError
from niello.runtime.target import Loaded
from niello.runtime.tensor_data import TensorData

WORD = 4


@dataclass(frozen=True, eq=False)
class Predicate:
    """A 32-bit integer, `offset` bytes into a value; zero skips what is encoded under it.

    It is read when the work runs, so an earlier command of the same command buffer may produce it.
    `offset` must be a multiple of 4. Raises AttributeValueError and DeviceError.

    Example:
        >>> import numpy as np
        >>> import niello as nl
        >>> flags = nl.TensorData.from_numpy(np.array([0, 7], np.int32))
        >>> [nl.Predicate(flags, offset).holds() for offset in (0, 4)]
        [False, True]
    """

    data: TensorData
    offset: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.data, TensorData):
            raise AttributeValueError(
                "Predicate",
                "the value must be a TensorData, whose memory can change until the work runs",
                received=type(self.data).__name__,
                advice="Make one with TensorData.from_numpy",
            )
        whole = isinstance(self.offset, int) and not isinstance(self.offset, bool)
        if not whole or self.offset < 0 or (self.data.offset + self.offset) % WORD:
            raise AttributeValueError(
                "Predicate", "the offset must be a multiple of 4 bytes", received=repr(self.offset)
            )
        if self.offset + WORD > self.data.nbytes:
            raise AttributeValueError(
                "Predicate",
                f"the value has {self.data.nbytes} bytes, too few for 4 at this offset",
                received=self.offset,
            )

    @property
    def handle(self) -> Any:
        """The handle of the buffer that holds the word."""
        return self.data.buffer.handle

    @property
    def place(self) -> int:
        """Bytes from the start of that buffer to the word."""
        return self.data.offset + self.offset

    def check_device(self, device: Any) -> None:
        """Raises DeviceError when the device cannot read the word where it is."""
        own = self.data.device
        if own is device or (own.host_memory and device.host_memory):
            return
        raise DeviceError(
            "Predicate",
            f"the work runs on {device.name}, which cannot read this memory",
            received=f"a value on {own.name}",
            advice=f"Move it first: value.to({device.name!r})",
        )

    def holds(self) -> bool:
        """Read the word now, after what was started before on its device."""
        device, word = self.data.device, np.empty(1, np.int32)
        device.download(self.data.buffer, self.place, word)
        return bool(word[0])

    def play(self, loaded: Loaded, handles: Sequence[Any]) -> None:
        """Play a program unless the word is zero.

        Without the host where the program can (`play_if`, see target.py); devices with host memory
        just read the word.
        """
        play_if = getattr(loaded, "play_if", None)
        if play_if is not None:
            play_if(handles, self.handle, self.place)
        elif self.holds():
            loaded.play(handles)
