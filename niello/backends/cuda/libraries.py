"""NVIDIA's libraries on a device: which are here, why one is not, and their calls as commands.

A library that is absent is no error: its claims are not used, `describe` says so, and generated
kernels do the work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from niello.core import config
from niello.core.errors import BackendUnavailable, UnsupportedOp
from niello.runtime.commands import LibraryCall
from niello.runtime.target import Claims

if TYPE_CHECKING:
    from niello.backends.cuda.device import CudaDevice
    from niello.backends.cuda.program import Play, Where


class Library(Protocol):
    """A loaded library."""

    version: str

    def refusal(self, command: LibraryCall) -> str:
        """Why the library cannot run a call; empty when it can."""

    def player(self, command: LibraryCall, buffers: Sequence[Where]) -> Play:
        """Queues the call."""

    def shares_workspace(self, command: LibraryCall) -> bool:
        """Whether the call works in memory that other calls of the library use too."""


def _cublaslt(device: CudaDevice) -> Library:
    from niello.backends.cuda.cublaslt import CublasLt

    return CublasLt(device)


def _cudnn(device: CudaDevice) -> Library:
    from niello.backends.cuda.cudnn import Cudnn

    return Cudnn(device)


def _cufft(device: CudaDevice) -> Library:
    from niello.backends.cuda.cufft import Cufft

    return Cufft(device)


def _recurrent(device: CudaDevice) -> Library:
    from niello.backends.cuda.cudnn_recurrent import Recurrent

    return Recurrent(device)


# By the first word of the functions of claims.
LIBRARIES: dict[str, tuple[str, Callable[[CudaDevice], Library]]] = {
    "cublaslt": ("cuBLASLt", _cublaslt),
    "cudnn": ("cuDNN", _cudnn),
    "cufft": ("cuFFT", _cufft),
    "cudnnrnn": ("cuDNN's recurrent layers", _recurrent),
}


class Libraries:
    """The libraries of a device, each loaded when it is first asked for."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._loaded: dict[str, Library] = {}
        self._absent: dict[str, str] = {}

    def get(self, key: str) -> Library | None:
        """A library, or None where it cannot be loaded."""
        found = self._loaded.get(key)
        if found is not None or key in self._absent:
            return found
        name, load = LIBRARIES[key]
        try:
            self._device.driver.activate()
            found = self._loaded[key] = load(self._device)
        except BackendUnavailable as error:
            self._absent[key] = error.problem
            if config.DEBUG.integer(0, 6) >= 1:
                print(f"niello: cuda runs without {name}: {error.problem}", file=sys.stderr)
        return found

    def describe(self) -> str:
        """What is here and what is not, for people."""
        words = []
        for key, (name, _) in LIBRARIES.items():
            found = self.get(key)
            absent = self._absent.get(key, "").splitlines()
            reason = absent[0] if absent else ""
            words.append(
                f"without {name} ({reason})" if found is None else f"{name} {found.version}"
            )
        return ", ".join(words)

    def usable(self, claims: Sequence[Claims]) -> tuple[Claims, ...]:
        """The claims whose libraries are here."""
        return tuple(c for c in claims if self.get(c.function.split(".")[0]) is not None)

    def refusal(self, command: LibraryCall) -> str:
        """Why a call cannot run here; empty when it can."""
        library = self.get(command.function.split(".")[0])
        return "the library is absent" if library is None else library.refusal(command)

    def player(self, command: LibraryCall, buffers: Sequence[Where]) -> Play:
        """Queues a library call. Raises UnsupportedOp where the library is absent."""
        key = command.function.split(".")[0]
        library = self.get(key) if key in LIBRARIES else None
        if library is None:
            raise UnsupportedOp(
                "cuda",
                f"{command.function} needs a library that is absent: "
                f"{self._absent.get(key, 'unknown')}",
                received=command.function,
                advice="Install niello[cuda], or compile the program again here",
            )
        return library.player(command, buffers)

    def shares(self, command: LibraryCall) -> str:
        """The name of what a call shares with others, so that they must not run at once."""
        key = command.function.split(".")[0]
        library = self.get(key)
        return key if library is not None and library.shares_workspace(command) else ""


def attributes_of(command: LibraryCall) -> dict[str, Any]:
    """The settings of a call by name."""
    return dict(command.attributes)
