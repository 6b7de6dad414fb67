"""Generated WGSL: run on an adapter against the interpreter where there is one, and goldens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gpu_cases
import numpy as np
import pytest
from gpu_cases import Case

from niello.backends.webgpu.render import TARGET, render
from niello.codegen.gpu.kernel import GpuKernel
from niello.core.dtypes import float32, float64
from niello.core.errors import CompilerBug, LimitExceeded, UnsupportedDtype
from niello.kernel.ir import Kernel, Load, Param, Range, Store, cast


class Adapter:
    """Plays rendered kernels through wgpu."""

    def __init__(self, wgpu: Any) -> None:
        self.wgpu = wgpu
        adapter = wgpu.gpu.request_adapter_sync(power_preference="high-performance")
        self.device = adapter.request_device_sync()

    def run(self, kernel: GpuKernel, arrays: Sequence[np.ndarray]) -> None:
        """Play the launches on flat arrays, one per parameter, changed in place."""
        usage = self.wgpu.BufferUsage.STORAGE | self.wgpu.BufferUsage.COPY_SRC
        held = [self._buffer(a, usage) for a in arrays]
        scratch = [self._buffer(np.full(n, 0xA5, np.uint8), usage) for n in kernel.scratch]
        if not kernel.launches:
            return
        module = self.device.create_shader_module(code=kernel.source)
        encoder = self.device.create_command_encoder()
        for launch in kernel.launches:
            bound = [
                held[a.slot] if a.slot is not None else scratch[a.scratch or 0]
                for a in launch.arguments
            ]
            self._encode(encoder, module, launch, bound)
        self.device.queue.submit([encoder.finish()])
        for array, buffer in zip(arrays, held, strict=True):
            raw = np.frombuffer(self.device.queue.read_buffer(buffer), np.uint8)
            array[...] = raw[: array.nbytes].view(array.dtype)

    def _buffer(self, array: np.ndarray, usage: int) -> Any:
        raw = np.zeros(max(16, -(-array.nbytes // 16) * 16), np.uint8)
        raw[: array.nbytes] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        return self.device.create_buffer_with_data(data=raw, usage=usage)

    def _encode(self, encoder: Any, module: Any, launch: Any, bound: list[Any]) -> None:
        stage = self.wgpu.ShaderStage.COMPUTE
        layout = self.device.create_bind_group_layout(entries=[
            {"binding": n, "visibility": stage, "buffer": {"type": "storage"}}
            for n in range(len(bound))
        ])  # fmt: skip
        pipeline = self.device.create_compute_pipeline(
            layout=self.device.create_pipeline_layout(bind_group_layouts=[layout]),
            compute={"module": module, "entry_point": launch.entry},
        )
        group = self.device.create_bind_group(layout=layout, entries=[
            {"binding": n, "resource": {"buffer": b, "offset": 0, "size": b.size}}
            for n, b in enumerate(bound)
        ])  # fmt: skip
        work = encoder.begin_compute_pass()
        work.set_pipeline(pipeline)
        work.set_bind_group(0, group)
        work.dispatch_workgroups(*launch.grid)
        work.end()


@pytest.fixture(scope="module")
def adapter() -> Iterator[Adapter]:
    wgpu = pytest.importorskip("wgpu", reason="wgpu is not installed")
    try:
        yield Adapter(wgpu)
    except RuntimeError as e:
        pytest.skip(f"no WebGPU adapter: {e}")


def _run_all(
    adapter: Adapter, cases: list[Case], rng: np.random.Generator, *, extreme: bool
) -> int:
    problems, count = [], 0
    for name, kernel in cases:
        arrays = gpu_cases.inputs(kernel, rng, extreme=extreme)
        try:
            made = render(kernel)
            want = gpu_cases.expected(kernel, arrays)
        except (UnsupportedDtype, CompilerBug):
            continue  # float64, or random indices that leave a buffer
        count += 1
        adapter.run(made, arrays)
        problems += [f"{name} {x}" for x in gpu_cases.differences(kernel, arrays, want)]
    assert not problems, "\n".join(problems[:20])
    return count


@pytest.mark.parametrize("group", ["functions", "reductions", "stores"])
def test_run_with_extremes(group: str, adapter: Adapter, rng: np.random.Generator) -> None:
    cases = [c for c in getattr(gpu_cases, group)() if "mul_" not in c[0] or group != "reductions"]
    assert _run_all(adapter, cases, rng, extreme=group != "stores") > 20


def test_run_of_shapes(adapter: Adapter, rng: np.random.Generator) -> None:
    assert _run_all(adapter, gpu_cases.shapes(), rng, extreme=False) > 50


def test_run_of_samples(adapter: Adapter, rng: np.random.Generator) -> None:
    # The stitcher keeps kernels of this device within its buffers; these were made for another one.
    cases = [c for c in gpu_cases.samples(23) if len(c[1].params) <= TARGET.most_buffers]
    assert _run_all(adapter, cases, rng, extreme=False) > 100


# --- the text alone


def _named(cases: list[Case], name: str) -> Kernel:
    return next(k for n, k in cases if n == name)


@pytest.mark.parametrize("name", ["softmax_half64x1000_0", "bytes_0", "turned100x70x33_0"])
def test_golden(name: str, golden: Callable[[str, str], None]) -> None:
    golden(render(_named(gpu_cases.shapes(), name)).source, f"{name}.wgsl")


def test_words_of_contiguous_bytes_belong_to_one_thread() -> None:
    source = render(_named(gpu_cases.shapes(), "bytes_0")).source
    assert "b2_set(" in source
    turned = render(_named(gpu_cases.stores(), "turned_uint8")).source
    assert "atomicOr(&b1" in turned and "b1_set(" not in turned


def test_float64_is_refused() -> None:
    r = Range("i", 4)
    source, out = Param(0, float64, 4, False), Param(1, float32, 4, True)
    store = Store(out, (r,), r, cast(Load(source, r, None), float32), None, None)
    with pytest.raises(UnsupportedDtype) as e:
        render(Kernel("wide", (source, out), (store,)))
    assert e.value.received == "float64"


def test_unrelated_stores_are_spread_over_launches_of_few_buffers() -> None:
    made = render(gpu_cases.together())
    assert len(made.launches) == 2
    assert all(len(x.arguments) <= TARGET.most_buffers for x in made.launches)


def test_too_many_buffers_for_one_store() -> None:
    r = Range("i", 4)
    params = [Param(n, float32, 4, n == 9) for n in range(10)]
    total = Load(params[0], r, None)
    for p in params[1:9]:
        total = total + Load(p, r, None)
    kernel = Kernel("many", tuple(params), (Store(params[9], (r,), r, total, None, None),))
    with pytest.raises(LimitExceeded) as e:
        render(kernel)
    assert e.value.received == "10 buffers"


def test_grids_keep_within_a_dimension() -> None:
    points = 70000 * 256
    r = Range("i", points)
    source, out = Param(0, float32, points, False), Param(1, float32, points, True)
    made = render(
        Kernel("long", (source, out), (Store(out, (r,), r, Load(source, r, None), None, None),))
    )
    x, y, z = made.launches[0].grid
    assert x <= 65535 and y == 2 and z == 1 and x * y * 256 >= points


def test_no_literal_is_infinite_or_nan() -> None:
    for name in ("max_row_float32_1000", "min_row_float32_7"):
        source = render(_named(gpu_cases.reductions(), name)).source
        assert not re.search(r"\b(inf|nan)", source)
        assert "nl_float(0x" in source
