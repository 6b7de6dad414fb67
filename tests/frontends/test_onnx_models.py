"""Trained models of the data folder, against ONNX Runtime.

They are not part of the project: without the folder (NIELLO_DATA, or shared/data beside the
checkout) or without ONNX Runtime these tests are skipped.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the package onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

import niello as nl  # noqa: E402
from niello.frontends.onnx import export, load  # noqa: E402

DATA = Path(os.environ.get("NIELLO_DATA", Path(__file__).parents[3] / "shared" / "data"))
KINDS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True)
class Expected:
    """How a model is fed, and how far it may be from ONNX Runtime, as a part of the largest value.

    Sizes that the model leaves open are 1, or as in `shapes`. `scale` multiplies normal numbers.
    Values that are quantized on the way may fall on either side of a step, and 26 layers spread
    that: such models have a bound on the `mean` error, too.
    """

    file: str
    tolerance: float = 1e-5
    mean: float = 1e-5
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    scale: float = 1.0
    slow: bool = False


MODELS = [
    Expected("onnx/dtln_1"),
    Expected("onnx/gtcrn_simple", slow=True),
    Expected("onnx/magika_fast_v2_1"),
    Expected("onnx/mnist", scale=80.0),
    Expected("onnx/mnist_opt_wonnx", scale=80.0),
    Expected("onnx/silero_vad", shapes={"input": (1, 576), "state": (2, 1, 128)}, scale=0.1),
    Expected("onnx/silero_vad_op18_ifless", shapes={"input": (1, 576), "state": (2, 1, 128)}),
    Expected("onnx/squeezenet1.0_fp16", tolerance=6e-3, mean=1e-4, scale=60.0),
    Expected("onnx/style_candy_nc16_256_onnxjs", scale=60.0),
    Expected("onnx/style_candy_winml", tolerance=5e-5, mean=5e-5, scale=60.0, slow=True),
    Expected("onnx/style_la_muse_winml", tolerance=5e-5, mean=5e-5, scale=60.0, slow=True),
    Expected("onnx/style_mosaic_nc8_256", scale=60.0),
    Expected("onnx/style_mosaic_winml", tolerance=5e-5, mean=5e-5, scale=60.0, slow=True),
    Expected("onnx/ten_vad"),
    Expected("onnx/tract_byte_sb_bidi_lstm", shapes={"input": (2, 58)}),
    Expected("onnx/ultraface_RFB-320"),
    Expected("onnx/ultraface_slim-320"),
    Expected("onnx/yolo_fastestv2"),
    Expected("onnx_derived/mnist_int8_qdq", tolerance=0.01, mean=1e-2, scale=80.0),
    Expected("onnx_derived/mnist_int8_qop", tolerance=0.01, mean=1e-2, scale=80.0),
    Expected("onnx_derived/mnist_op13", scale=80.0),
    Expected("onnx_derived/squeezenet1.0_fp32_op13", scale=60.0),
    Expected("onnx_derived/squeezenet1.0_int8_qdq", tolerance=0.2, mean=1e-3, scale=60.0),
    Expected("onnx_derived/squeezenet1.0_int8_qop", tolerance=0.2, mean=1e-3, scale=60.0),
    Expected("onnx_derived/super_resolution_core_op18", shapes={"input_y": (1, 1, 64, 64)}),
    Expected("onnx_derived/ultraface_RFB-320_int8_qdq", tolerance=0.02, mean=1e-3),
]


def session(path: Path) -> Any:
    """ONNX Runtime on one thread; integer kernels as the model says, not fused by its optimiser."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if "int8" in path.name:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(inputs: list[Any], how: Expected) -> dict[str, np.ndarray]:
    """Random inputs, the same each time."""
    draw = np.random.default_rng(0)
    made = {}
    for i in inputs:
        shape = how.shapes.get(i.name, [d if isinstance(d, int) else 1 for d in i.shape])
        kind = np.dtype(KINDS[i.type])
        if i.name == "sr":
            made[i.name] = np.array(16000, kind)
        elif kind.kind == "f":
            made[i.name] = (draw.standard_normal(shape) * how.scale).astype(kind)
        else:
            made[i.name] = draw.integers(0, 200, shape).astype(kind)
    return made


@pytest.mark.parametrize(
    "how",
    [pytest.param(m, marks=pytest.mark.slow if m.slow else (), id=m.file) for m in MODELS],
)
def test_matches_onnx_runtime(how: Expected) -> None:
    path = DATA / f"{how.file}.onnx"
    if not path.exists():
        pytest.skip(f"{how.file}.onnx is not in {DATA}; set NIELLO_DATA to the data folder")
    peer = session(path)
    given = feeds(peer.get_inputs(), how)
    expected = peer.run(None, given)
    found = load(path).run(given)
    assert list(found) == [o.name for o in peer.get_outputs()]
    for wanted, value in zip(expected, found.values(), strict=True):
        array = np.asarray(value)
        assert array.dtype == wanted.dtype
        assert array.shape == wanted.shape
        largest = np.abs(wanted.astype(np.float64)).max()
        error = np.abs(array.astype(np.float64) - wanted.astype(np.float64))
        assert error.max() <= how.tolerance * max(largest, 1e-3)
        assert error.mean() <= how.mean * max(largest, 1e-3)


EXPORTED = (
    "onnx/gtcrn_simple",
    "onnx/magika_fast_v2_1",
    "onnx/ultraface_slim-320",
    "onnx_derived/mnist_int8_qdq",
    "onnx_derived/mnist_op13",
    "onnx_derived/super_resolution_core_op18",
)


@pytest.mark.parametrize("how", [m for m in MODELS if m.file in EXPORTED], ids=lambda m: m.file)
def test_exported_models_run_in_onnx_runtime(how: Expected, tmp_path: Path) -> None:
    path = DATA / f"{how.file}.onnx"
    if not path.exists():
        pytest.skip(f"{how.file}.onnx is not in {DATA}; set NIELLO_DATA to the data folder")
    peer = session(path)
    given = feeds(peer.get_inputs(), how)
    imported = load(path).specialise({n: tuple(a.shape) for n, a in given.items()})
    again = tmp_path / path.name
    try:
        export(imported.outputs, again, inputs=imported.inputs)
    except nl.errors.FrontendError as error:
        pytest.fail(str(error))
    kept = {n: given[n] for n in (i.name for i in session(again).get_inputs())}
    for wanted, found in zip(peer.run(None, given), session(again).run(None, kept), strict=True):
        largest = max(float(np.abs(wanted).max()), 1e-3)
        assert np.abs(found - wanted).max() <= how.tolerance * largest
