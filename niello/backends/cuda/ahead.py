"""CUDA code without a GPU: kernels are rendered and compiled for a generation that is named.

Calls of vendor libraries depend on the libraries and the device that they run on. What is compiled
here uses generated kernels only; compiled on the GPU itself, a package uses the libraries too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from niello.backends.cuda import compile as nvrtc
from niello.codegen.gpu.kernel import GpuKernel
from niello.core.errors import ConfigError
from niello.runtime.ahead import AheadDevice
from niello.runtime.commands import Command, Dispatch, Program
from niello.runtime.target import CompileOptions


def open_ahead(level: str, render: Callable[[Any], GpuKernel]) -> AheadDevice:
    """The generation `level`, such as sm_90. Raises ConfigError, and BackendUnavailable where the
    compiler is not installed."""
    if not re.fullmatch(r"sm_\d{2,3}", level):
        raise ConfigError(
            "target cuda", "the level is a GPU generation", received=level,
            advice="For example cuda:sm_90",
        )  # fmt: skip
    nvrtc.compiler_version()

    def translate(program: Program, options: CompileOptions) -> tuple[bytes, str]:
        kernels = [render(program.kernels[n]) for n in dict.fromkeys(launched(program.commands))]
        sources = [k.source for k in kernels if k.launches]
        made = nvrtc.compile_sources(sources, level)
        cubins = dict(zip(map(nvrtc.digest_of, sources), made, strict=True))
        return nvrtc.pack(level, list(cubins.items())), "\n".join(sources)

    return AheadDevice("cuda", level, (level,), translate)


def launched(value: Any) -> Iterator[int]:
    """Numbers of the kernels that commands launch, nested commands included."""
    if isinstance(value, Dispatch):
        yield value.kernel
    elif isinstance(value, Command):
        yield from launched(tuple(vars(value).values()))
    elif isinstance(value, tuple):
        for item in value:
            yield from launched(item)
