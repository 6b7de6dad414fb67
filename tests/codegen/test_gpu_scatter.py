"""Scatters of many points on GPUs: sorted, or by atomic operations, against their references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cuda_on_host
import numpy as np
import pytest
from test_gpu_wgsl import Adapter, adapter  # noqa: F401  (a fixture)

import niello as nl
from niello.backends.cuda.render import render as render_cuda
from niello.backends.webgpu.render import render as render_wgsl
from niello.core import dtypes
from niello.core.dtypes import DType, float16, float32, float64, int32, int64
from niello.kernel.ir import Kernel
from niello.ops.gather import ScatterReduce
from niello.schedule.lower import lower_scatter

Made = tuple[Kernel, list[np.ndarray], np.ndarray]
needs_compiler = pytest.mark.skipif(
    cuda_on_host.compiler() is None, reason="no g++ to compile CUDA C++ for the host"
)


def _made(
    parts: np.ndarray, index: np.ndarray, shape: tuple[int, ...], combine: str, form: str = "slices"
) -> Made:
    """The kernel of a scatter, its buffers with the result filled, and what is expected."""
    op = ScatterReduce(combine, 0, 0, form, shape)
    graph = nl.Graph()
    inputs = [graph.placeholder(a.shape, dtypes.dtype(a.dtype)) for a in (parts, index)]
    operation = graph.add(op, inputs)
    lowered, pattern = lower_scatter("scattered", operation, lambda o: o is operation)
    start = np.frombuffer(pattern, parts.dtype)
    feeds = dict(zip(inputs, (parts, index), strict=True))
    buffers = [
        feeds[t].reshape(-1) if t in feeds else np.resize(start, int(np.prod(shape)))
        for t in lowered.tensors
    ]
    return lowered.kernel, [b.copy() for b in buffers], op.reference(parts, index).reshape(-1)


def _parts(dtype: DType, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return (rng.integers(-400, 400, shape) / (1 if dtype.is_integer else 8)).astype(dtype.numpy)


def _index(count: int, below: int, *, hot: int = 0, dtype: type = np.int32) -> np.ndarray:
    """Random places, some outside; the first `hot` hit the same one."""
    found = np.random.default_rng(6).integers(-below - 3, below + 3, count).astype(dtype)
    found[:hot] = 2
    return found


CASES: dict[str, Callable[[], Made]] = {
    "elements": lambda: _made(_parts(float32, 5000), _index(5000, 900), (900,), "add"),
    "one_element": lambda: _made(_parts(float32, 7000), np.full(7000, 3), (9,), "add"),
    "hot_element": lambda: _made(_parts(float32, 6500), _index(6500, 70, hot=4700), (70,), "add"),
    "products": lambda: _made(
        np.sign(_parts(float32, 1500) + 0.5), _index(1500, 300), (300,), "mul"
    ),
    "many_rows": lambda: _made(_parts(float32, 2049), _index(2049, 70_000), (70_000,), "add"),
    "doubles": lambda: _made(_parts(float64, 1100), _index(1100, 50), (50,), "add"),
    "wide_integers": lambda: _made(_parts(int64, 1100), _index(1100, 50), (50,), "add"),
    "integers": lambda: _made(_parts(int32, 3000), _index(3000, 50), (50,), "add"),
    "rows": lambda: _made(_parts(float32, 1500, 40), _index(1500, 90), (90, 40), "add"),
    "odd_rows": lambda: _made(_parts(float32, 1300, 3), _index(1300, 200), (200, 3), "add"),
    "hot_rows": lambda: _made(_parts(float32, 3000, 33), _index(3000, 9, hot=2500), (9, 33), "add"),
    "largest": lambda: _made(_parts(float32, 3000), _index(3000, 300), (300,), "max"),
    "smallest_rows": lambda: _made(_parts(float32, 1200, 64), _index(1200, 30), (30, 64), "min"),
    "points": lambda: _made(
        _parts(float32, 1200), _index(2400, 12).reshape(1200, 2), (12, 12), "add", "points"
    ),
    "along": lambda: _made(
        _parts(float32, 600, 4), _index(2400, 20).reshape(600, 4), (20, 4), "add", "along"
    ),
}


def _nan() -> Made:
    parts = _parts(float32, 2000)
    parts[::50] = np.nan
    parts[1::50] = -np.inf
    return _made(parts, _index(2000, 60), (60,), "min")


CASES["smallest_with_nan"] = _nan


def _same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@needs_compiler
def test_cuda_on_the_host(tmp_path: Path) -> None:
    made = {name: case() for name, case in CASES.items()}
    rendered = [render_cuda(kernel) for kernel, _, _ in made.values()]
    assert all(len(k.launches) != 1 or "atomic" in k.source for k in rendered)
    library = cuda_on_host.build(rendered, tmp_path)
    for n, (name, (_, buffers, expected)) in enumerate(made.items()):
        cuda_on_host.run(library, n, rendered[n], buffers)
        try:
            _same(buffers[-1], expected)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@pytest.mark.parametrize("name", [n for n in CASES if n != "doubles"])
def test_wgsl(name: str, adapter: Adapter) -> None:  # noqa: F811
    kernel, buffers, expected = CASES[name]()
    adapter.run(render_wgsl(kernel), buffers)
    _same(buffers[-1], expected)


def test_float_sums_use_no_atomic_addition() -> None:
    """Their order would show in the result; integers in any order give the same."""
    kernel, _, _ = CASES["rows"]()
    assert "atomicAdd(&b" not in render_cuda(kernel).source
    whole, _, _ = CASES["integers"]()
    assert "atomicAdd(&b" in render_cuda(whole).source
    assert len(render_cuda(whole).launches) == 1


def test_few_points_are_walked() -> None:
    kernel, _, _ = _made(_parts(float32, 40, 8), _index(40, 30), (30, 8), "add")
    rendered = render_cuda(kernel)
    assert len(rendered.launches) == 1 and not rendered.scratch


def test_halves_are_walked() -> None:
    """Sums of halves are made in float32 before they come here."""
    kernel, _, _ = _made(_parts(float16, 1200), _index(1200, 30), (30,), "max")
    assert len(render_cuda(kernel).launches) == 1
