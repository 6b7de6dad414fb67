"""A kernel that scatters many points, as the launches of several routines."""

from __future__ import annotations

from niello.codegen.gpu.c_style import CStyle
from niello.codegen.gpu.entry import Writer
from niello.codegen.gpu.kernel import GpuKernel
from niello.codegen.gpu.nests import inline_reduce
from niello.codegen.gpu.routine import render_several
from niello.codegen.gpu.scatter_sorted import steps_of
from niello.codegen.gpu.target import GpuTarget
from niello.codegen.transcendental import Native, expand
from niello.kernel.ir import Kernel


def render_scatter(
    kernel: Kernel, dialect: CStyle, target: GpuTarget, native: Native, write: Writer
) -> GpuKernel | None:
    """The launches, arguments as those of `render`; None for other kernels."""
    steps = steps_of(expand(kernel, native), target)
    if steps is None:
        return None
    return render_several(
        kernel.name, steps.routines, steps.scratch, dialect, target, write, inline_reduce
    )
