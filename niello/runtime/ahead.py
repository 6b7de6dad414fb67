"""Compiling for devices that are not here: for packages that run elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from niello.core.errors import DeviceError
from niello.runtime.commands import Program
from niello.runtime.device import HostDevice
from niello.runtime.target import CompileOptions, Limits

# A program to its image and generated source.
Translate = Callable[[Program, CompileOptions], tuple[bytes, str]]


class AheadDevice(HostDevice):
    """Stands for a kind of device while code is made for it. Buffers are host memory, so that
    everything up to a run works; a run raises DeviceError.

    `needs` is what a machine must have to run the code (see CodeDevice), `limits` those of the
    level where they are not those of the back end's record.
    """

    compiles_only = True

    def __init__(
        self,
        name: str,
        level: str,
        needs: tuple[str, ...],
        translate: Translate,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(name)
        self.level = level
        self.limits = limits
        self._needs = needs
        self._translate = translate

    def describe(self) -> str:
        """One line."""
        return f"{self.name}: compiles for {self.level} and runs nothing"

    def compile(self, program: Program, options: CompileOptions) -> AheadProgram:
        """Machine code for the whole command list."""
        return AheadProgram(self, program, *self._translate(program, options))

    def load(self, program: Program, options: CompileOptions, image: bytes) -> AheadProgram:
        """The program with machine code that was made earlier."""
        return AheadProgram(self, program, image, "")

    def code_needs(self, options: CompileOptions) -> tuple[str, ...]:
        """What a machine must have to run the code."""
        return self._needs

    def lacks(self, needs: Sequence[str]) -> tuple[str, ...]:
        """Everything: nothing runs here."""
        return tuple(needs)


class AheadProgram:
    """Code for another machine."""

    def __init__(self, device: AheadDevice, program: Program, image: bytes, source: str) -> None:
        self.program = program
        self._device = device
        self._image = image
        self._source = source

    def play(self, handles: Sequence[Any]) -> None:
        """Raises DeviceError."""
        raise DeviceError(
            f"{self._device.name}:{self._device.level}",
            "this executable was compiled ahead for another machine",
            received="a run",
            advice="Save it, and load the package there",
        )

    def image(self) -> bytes:
        """The machine code."""
        return self._image

    def source(self) -> str:
        """The generated code as text."""
        return self._source
