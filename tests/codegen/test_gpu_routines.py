"""Routines as CUDA C++ and WGSL: run where they can be, against their interpretation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cuda_on_host
import gpu_cases
import numpy as np
import pytest
from routine_cases import Case, case, cases, large_scratch, running_mixtures, running_sums
from test_gpu_wgsl import Adapter, adapter  # noqa: F401  (a fixture)

from niello.backends.cuda.render import TARGET as CUDA
from niello.backends.cuda.render import render as render_cuda
from niello.backends.webgpu.render import TARGET
from niello.backends.webgpu.render import render as render_wgsl
from niello.core.dtypes import float32, float64, int32
from niello.core.errors import UnsupportedDtype
from niello.kernel.interpret import interpret
from niello.kernel.routine import Routine

needs_compiler = pytest.mark.skipif(
    cuda_on_host.compiler() is None, reason="no g++ to compile CUDA C++ for the host"
)


def _expected(made: Case) -> list[np.ndarray]:
    arrays = made.copies()
    interpret(made.routine, arrays)
    return arrays


def long_cases() -> list[Case]:
    """Scans of few teams that a GPU takes in segments: whole ones, and with a rest."""
    found = []
    for rows, n in ((1, 16384), (2, 20001)):
        sums = [((rows, n), int32)] * 2 + [((rows,), int32)]
        found.append(case(f"long_sums_{n}", running_sums, [((rows, n), int32)], sums))
        mixed = ((rows, n), float32)
        found.append(case(f"long_mixtures_{n}", running_mixtures, [mixed, mixed], [mixed]))
    return found


@needs_compiler
def test_cuda_on_the_host(tmp_path: Path) -> None:
    found = [*cases(), *long_cases()]
    rendered = [render_cuda(c.routine) for c in found]
    library = cuda_on_host.build(rendered, tmp_path)
    problems = []
    for n, (made, kernel) in enumerate(zip(found, rendered, strict=True)):
        arrays = made.copies()
        cuda_on_host.run(library, n, kernel, arrays)
        differences = gpu_cases.differences(made.routine, arrays, _expected(made))
        problems += [f"{made.name} {x}" for x in differences]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("made", [*cases(), *long_cases()], ids=lambda c: c.name)
def test_wgsl(made: Case, adapter: Adapter) -> None:  # noqa: F811
    arrays = made.copies()
    adapter.run(render_wgsl(made.routine), arrays)
    assert not list(gpu_cases.differences(made.routine, arrays, _expected(made)))


# --- the text alone


def _routine(name: str) -> Routine:
    return next(c.routine for c in cases() if c.name == name)


def test_a_team_is_a_block() -> None:
    kernel = render_cuda(_routine("row_sums_300"))
    (launch,) = kernel.launches
    assert launch.grid == (3, 1, 1) and launch.block == (256, 1, 1)
    assert [a.written for a in launch.arguments] == [False, True, True]


def test_long_scans_of_few_teams_are_split() -> None:
    """Each line in segments; with many lines, and for short ones, the teams suffice."""
    split = render_cuda(next(c for c in long_cases() if c.name == "long_sums_16384").routine)
    assert [x.grid[0] for x in split.launches] == [4, 1, 4] and len(split.scratch) == 2
    assert len(render_cuda(_routine("running_sums_2100")).launches) == 1


def test_large_scratch_goes_to_a_buffer() -> None:
    """Only where the memory of a workgroup does not hold it."""
    routine = case("large", large_scratch, [((2, 9000), float32)], [((2, 9000), float32)]).routine
    assert render_wgsl(routine).scratch == (-(-2 * 9000 * 4 // 256) * 256,)
    assert render_cuda(routine).scratch == ()


def test_teams_take_turns_with_scratch_buffers(tmp_path: Path) -> None:
    """The buffers are as large as the blocks that run at once need, not all teams."""
    made = case("turns", large_scratch, [((7, 5000), float32)], [((7, 5000), float32)])
    target = dataclasses.replace(TARGET, fill=3 * 256)
    kernel = render_wgsl(made.routine, target)
    assert kernel.launches[0].grid == (3, 1, 1)
    assert kernel.scratch == (-(-3 * 5000 * 4 // 256) * 256,)
    small = dataclasses.replace(CUDA, fill=3 * 256, shared_bytes=8 << 10)
    if cuda_on_host.compiler() is None:
        return
    again = render_cuda(made.routine, small)
    assert again.launches[0].grid == (3, 1, 1)
    arrays = made.copies()
    cuda_on_host.run(cuda_on_host.build([again], tmp_path), 0, again, arrays)
    assert not list(gpu_cases.differences(made.routine, arrays, _expected(made)))


def test_threads_agree_on_what_they_read() -> None:
    """WGSL wants to see that all threads take the same way to a barrier."""
    assert "workgroupUniformLoad(&u_i32[0])" in render_wgsl(_routine("collatz")).source
    assert "u_i32" not in render_cuda(_routine("collatz")).source


def test_wgsl_has_no_doubles() -> None:
    shaped = ((2, 8), float64)
    routine = case("doubles", running_sums, [shaped], [shaped, shaped, ((2,), float64)]).routine
    with pytest.raises(UnsupportedDtype, match="float64"):
        render_wgsl(routine)
    assert "double" in render_cuda(routine).source


def test_many_teams_make_rows_of_blocks() -> None:
    shaped = ((70001, 2), float32)
    routine = case("many", running_sums, [shaped], [shaped, shaped, ((70001,), float32)]).routine
    kernel = render_wgsl(routine)
    (launch,) = kernel.launches
    assert launch.grid[1] == 2 and "if (block < 70001)" in kernel.source
