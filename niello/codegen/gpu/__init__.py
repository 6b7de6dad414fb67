"""Code generation that the GPU back ends share: kernels to launches of blocks of threads."""

from niello.codegen.gpu.kernel import Argument, GpuKernel, Launch

__all__ = ["Argument", "GpuKernel", "Launch"]
