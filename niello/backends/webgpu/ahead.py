"""WGSL without an adapter: for the limits that every WebGPU device has, browsers included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from niello.backends.webgpu import PORTABLE
from niello.backends.webgpu.image import pack
from niello.backends.webgpu.render import TARGET, render
from niello.core.errors import ConfigError
from niello.runtime.ahead import AheadDevice

if TYPE_CHECKING:
    from niello.runtime.commands import Program
    from niello.runtime.target import CompileOptions

LEVEL = "portable"


def open_ahead(level: str) -> AheadDevice:
    """The level "portable", the only one. Raises ConfigError."""
    if level != LEVEL:
        raise ConfigError(
            "target webgpu", "there is one level to compile ahead for", received=level,
            advice=f"Write webgpu:{LEVEL}, or webgpu for the adapter of this machine",
        )  # fmt: skip
    return AheadDevice("webgpu", level, (), translate, PORTABLE)


def translate(program: Program, options: CompileOptions) -> tuple[bytes, str]:
    """The image of a program, and its WGSL."""
    from niello.backends.webgpu.program import render_kernels

    kernels = render_kernels(program, lambda kernel: render(kernel, TARGET))
    return pack(kernels), "\n".join(k.source for k in kernels.values())
