"""Generated CUDA C++: run on the host against the interpreter, compiled by nvcc, and goldens."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cuda_on_host
import gpu_cases
import numpy as np
import pytest
from gpu_cases import Case

from niello.backends.cuda.render import TARGET, render
from niello.codegen.gpu.kernel import GpuKernel
from niello.kernel.ir import Kernel

_BATCH = 60  # kernels of one call of the host's compiler

needs_compiler = pytest.mark.skipif(
    cuda_on_host.compiler() is None, reason="no g++ to compile CUDA C++ for the host"
)
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")


def _run_all(
    cases: list[Case], folder: Path, rng: np.random.Generator | None, *, extreme: bool
) -> int:
    """Compare every case with the interpreter; how many there were. Without `rng` each has the
    inputs that _inputs_fit has seen."""
    problems = []
    for start in range(0, len(cases), _BATCH):
        batch = cases[start : start + _BATCH]
        rendered = [render(kernel) for _, kernel in batch]
        place = folder / str(start)
        place.mkdir()
        library = cuda_on_host.build(rendered, place)
        for n, ((name, kernel), made) in enumerate(zip(batch, rendered, strict=True)):
            numbers = np.random.default_rng(0) if rng is None else rng
            arrays = gpu_cases.inputs(kernel, numbers, extreme=extreme)
            want = gpu_cases.expected(kernel, arrays)
            cuda_on_host.run(library, n, made, arrays)
            problems += [f"{name} {x}" for x in gpu_cases.differences(kernel, arrays, want)]
    assert not problems, "\n".join(problems[:20])
    return len(cases)


@needs_compiler
@pytest.mark.parametrize("group", ["functions", "reductions", "stores"])
def test_host_run_with_extremes(group: str, tmp_path: Path, rng: np.random.Generator) -> None:
    cases = [c for c in getattr(gpu_cases, group)() if "mul_" not in c[0] or group != "reductions"]
    assert _run_all(cases, tmp_path, rng, extreme=group != "stores") > 20


@needs_compiler
def test_host_run_of_shapes(tmp_path: Path, rng: np.random.Generator) -> None:
    assert _run_all(gpu_cases.shapes(), tmp_path, rng, extreme=False) > 50


@needs_compiler
def test_host_run_of_samples(tmp_path: Path) -> None:
    cases = [c for c in gpu_cases.samples(23) if _inputs_fit(c[1])]
    assert _run_all(cases, tmp_path, None, extreme=False) > 100


def _inputs_fit(kernel: Kernel) -> bool:
    """Whether random inputs keep the kernel inside its buffers: not so for some gathers."""
    from niello.core.errors import CompilerBug

    try:
        gpu_cases.expected(kernel, gpu_cases.inputs(kernel, np.random.default_rng(0)))
    except CompilerBug:
        return False
    return True


@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_nvcc_accepts(architecture: str, tmp_path: Path) -> None:
    cases = [*gpu_cases.shapes()[::4], *gpu_cases.functions()[::40], *gpu_cases.stores()[::3]]
    text = tmp_path / "kernels.cu"
    text.write_text(_together([render(k) for _, k in cases]))
    done = subprocess.run(
        ["nvcc", "-cubin", f"-arch={architecture}", "-std=c++17", "-o", str(tmp_path / "out"),
         str(text)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:3000]


def _together(kernels: list[GpuKernel]) -> str:
    """Several sources in one translation unit: each in a namespace."""
    parts = []
    for n, kernel in enumerate(kernels):
        source = kernel.source.replace('extern "C" ', "")
        parts.append(f"namespace n{n} {{\n{source}}}\n")
    return "\n".join(parts)


def _named(cases: list[Case], name: str) -> Kernel:
    return next(k for n, k in cases if n == name)


@pytest.mark.parametrize(
    "name", ["softmax64x1000_0", "columns64x1000_0", "gelu_0", "turned100x70x33_0"]
)
def test_golden(name: str, golden: Callable[[str, str], None]) -> None:
    golden(render(_named(gpu_cases.shapes(), name)).source, f"{name}.cu")


def test_equal_kernels_give_equal_text() -> None:
    for name in ("softmax64x1000_0", "matmul64x64x64_0"):
        kernel = _named(gpu_cases.shapes(), name)
        assert render(kernel) == render(kernel)


def test_a_row_that_fits_registers_is_read_once() -> None:
    made = render(_named(gpu_cases.shapes(), "softmax64x1000_0"))
    (launch,) = made.launches
    team = 128  # 250 vectors of four: two for each thread
    assert launch.grid[0] * launch.block[0] == 64 * team
    assert made.source.count("(const float4*)(b0") == 2


def test_what_lies_across_is_read_through_tiles() -> None:
    made = render(_named(gpu_cases.shapes(), "turned_add_0"))
    assert made.notes[0].endswith("turned, 1 loads through tiles of 32x32")
    assert made.launches[0].shared_bytes == 32 * 33 * 4


def test_a_long_sum_is_split_over_blocks() -> None:
    made = render(_named(gpu_cases.shapes(), "argmax_long_0"))
    first, second = made.launches
    assert first.grid[0] > 16 and second.grid == (1, 1, 1)
    assert [a.scratch for a in second.arguments if a.scratch is not None] == [0]
    assert made.scratch[0] >= first.grid[0] * 4


def test_unrelated_stores_share_a_launch() -> None:
    made = render(gpu_cases.together())
    assert len(made.launches) == 1 and len(made.launches[0].arguments) == 10


def test_a_kernel_without_points_has_no_launch() -> None:
    from niello.core.dtypes import float32
    from niello.kernel.ir import Load, Param, Range, Store

    r = Range("i", 0)
    source, out = Param(0, float32, 0, False), Param(1, float32, 0, True)
    made = render(
        Kernel("empty", (source, out), (Store(out, (r,), r, Load(source, r, None), None, None),))
    )
    assert made.launches == () and made.source == ""


def test_names_are_identifiers_of_bounded_length() -> None:
    kernel = gpu_cases.together()
    made = render(Kernel("a name: with/everything " * 9, kernel.params, kernel.stores))
    entry = made.launches[0].entry
    assert entry.isidentifier() and len(entry) < 64


def test_blocks_keep_within_the_target() -> None:
    for _, kernel in gpu_cases.shapes():
        for launch in render(kernel).launches:
            assert launch.block[0] <= TARGET.most_threads
            assert launch.shared_bytes <= TARGET.shared_bytes
