"""ML programs written by coremltools, against what its operators are defined to give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

from niello.frontends.coreml import load  # noqa: E402
from niello.frontends.coreml.blobs import unpack  # noqa: E402

RNG = np.random.default_rng(3)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
IMAGE = RNG.standard_normal((1, 2, 6, 6)).astype(np.float32)


def saved(body: Callable[..., Any], shape: tuple[int, ...], where: Path, **options: Any) -> Any:
    """A model of a program with an input x, written as a package and read again."""
    made = mb.program(input_specs=[mb.TensorSpec(shape=shape)], **options)(body)
    model = ct.convert(
        made,
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
        minimum_deployment_target=options.get("opset_version", ct.target.iOS15),
    )
    path = where / "m.mlpackage"
    model.save(str(path))
    return load(path)


CASES: dict[str, tuple[Callable[[Any], Any], np.ndarray, Callable[[Any], Any]]] = {
    "arithmetic": (
        lambda x: mb.sub(x=mb.mul(x=x, y=2.0), y=mb.exp(x=x), name="y"),
        X,
        lambda x: 2 * x - np.exp(x),
    ),
    "linear": (
        lambda x: mb.linear(x=x, weight=np.eye(3, 4, dtype=np.float32), name="y"),
        X,
        lambda x: x[..., :3],
    ),
    "reshape and transpose": (
        lambda x: mb.transpose(x=mb.reshape(x=x, shape=[4, -1]), perm=[1, 0], name="y"),
        X,
        lambda x: x.reshape(4, 6).T,
    ),
    "slice": (
        lambda x: mb.slice_by_index(
            x=x, begin=[0, 2, 1], end=[0, 0, 4], stride=[1, 1, 2],
            begin_mask=[True, False, False], end_mask=[True, False, False],
            squeeze_mask=[False, True, False], name="y",
        ),
        X,
        lambda x: x[:, 2, 1:4:2],
    ),
    "concat": (
        lambda x: mb.concat(values=[x, mb.relu(x=x)], axis=1, name="y"),
        X,
        lambda x: np.concatenate([x, np.maximum(x, 0)], 1),
    ),
    "reduce": (
        lambda x: mb.reduce_log_sum_exp(x=x, axes=[-1], keep_dims=True, name="y"),
        X,
        lambda x: np.log(np.exp(x).sum(-1, keepdims=True)),
    ),
    "layer norm": (
        lambda x: mb.layer_norm(x=x, axes=[-1], epsilon=1e-3, name="y"),
        X,
        lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3),
    ),
    "gather": (
        lambda x: mb.gather(x=x, indices=np.int32([2, 0]), axis=1, name="y"),
        X,
        lambda x: x[:, [2, 0]],
    ),
    "top k": (lambda x: mb.topk(x=x, k=2, axis=-1, name="y")[0], X,
              lambda x: -np.sort(-x, -1)[..., :2]),
    "pad": (
        lambda x: mb.pad(x=x, pad=[1, 0, 0, 2], mode="constant", constant_val=3.0, name="y"),
        X,
        lambda x: np.pad(x, ((0, 0), (1, 0), (0, 2)), constant_values=3),
    ),
    "convolution": (
        lambda x: mb.conv(
            x=x, weight=np.ones((3, 2, 1, 1), np.float32), strides=[2, 2], name="y"
        ),
        IMAGE,
        lambda x: np.repeat(x.sum(1, keepdims=True)[..., ::2, ::2], 3, 1),
    ),
    "average pool": (
        lambda x: mb.avg_pool(
            x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", name="y"
        ),
        IMAGE,
        lambda x: x.reshape(1, 2, 3, 2, 3, 2).mean((3, 5)),
    ),
    "space to batch": (
        lambda x: mb.space_to_batch(x=x, block_shape=[2, 2], paddings=[[0, 0], [0, 0]], name="y"),
        IMAGE,
        lambda x: (
            x.reshape(1, 2, 3, 2, 3, 2).transpose(3, 5, 0, 1, 2, 4).reshape(4, 2, 3, 3)
        ),
    ),
    "upsample": (
        lambda x: mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=2, scale_factor_width=2, name="y"
        ),
        IMAGE,
        lambda x: x.repeat(2, 2).repeat(2, 3),
    ),
    "cond": (
        lambda x: mb.cond(
            pred=mb.greater(x=mb.reduce_sum(x=x), y=0.0),
            _true_fn=lambda: mb.relu(x=x), _false_fn=lambda: mb.square(x=x), name="y",
        ),
        X,
        lambda x: np.maximum(x, 0) if x.sum() > 0 else x * x,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, tmp_path: Path) -> None:
    body, x, formula = CASES[name]
    model = saved(body, x.shape, tmp_path)
    found = model.run({"x": x})
    assert len(found) == 1
    np.testing.assert_allclose(next(iter(found.values())).numpy(), formula(x), rtol=2e-5, atol=2e-5)


def test_states_go_on_from_run_to_run(tmp_path: Path) -> None:
    @mb.program(
        input_specs=[mb.TensorSpec((2,)), mb.StateTensorSpec((2,), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def counter(x: Any, total: Any) -> Any:
        after = mb.add(x=mb.cast(x=mb.read_state(input=total), dtype="fp32"), y=x)
        mb.coreml_update_state(state=total, value=mb.cast(x=after, dtype="fp16"))
        return mb.identity(x=after, name="y")

    made = ct.convert(
        counter, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32,
        skip_model_load=True, minimum_deployment_target=ct.target.iOS18,
    )  # fmt: skip
    made.save(str(tmp_path / "m.mlpackage"))
    model = load(tmp_path / "m.mlpackage")
    x = np.array([1, 2], np.float32)
    sums = [next(iter(model.run({"x": x}).values())).numpy().tolist() for _ in range(3)]
    assert sums == [[1, 2], [2, 4], [3, 6]]
    model.reset_states()
    assert next(iter(model.run({"x": x}).values())).numpy().tolist() == [1, 2]


def test_lstm_in_both_directions(tmp_path: Path) -> None:
    w, r, b = (RNG.standard_normal(s).astype(np.float32) for s in ((12, 2), (12, 3), (12,)))
    zeros = np.zeros((1, 6), np.float32)

    def body(x: Any) -> Any:
        return mb.lstm(
            x=x, initial_h=zeros, initial_c=zeros, weight_ih=w, weight_hh=r, bias=b,
            weight_ih_back=w, weight_hh_back=r, bias_back=b, direction="bidirectional",
            output_sequence=True, name="y",
        )[0]  # fmt: skip

    x = RNG.standard_normal((4, 1, 2)).astype(np.float32)
    found = next(iter(saved(body, x.shape, tmp_path).run({"x": x}).values())).numpy()

    def line(steps: np.ndarray) -> np.ndarray:
        h, c, rows = np.zeros(3), np.zeros(3), []
        for step in steps:
            i, f, o, z = np.split(w @ step + r @ h + b, 4)
            c = c / (1 + np.exp(-f)) + np.tanh(z) / (1 + np.exp(-i))
            h = np.tanh(c) / (1 + np.exp(-o))
            rows.append(h)
        return np.array(rows)

    wanted = np.concatenate([line(x[:, 0]), line(x[::-1, 0])[::-1]], 1)
    np.testing.assert_allclose(found[:, 0], wanted, rtol=2e-5, atol=2e-5)


def test_palettized_weights(tmp_path: Path) -> None:
    indices = RNG.integers(0, 4, (64, 32)).astype(np.uint8)
    table = np.array([-1.0, 0.0, 0.5, 2.0], np.float32)

    def body(x: Any) -> Any:
        weight = mb.constexpr_lut_to_dense(
            indices=indices.astype(types.np_uint2_dtype), lut=table.reshape(1, 1, 4, 1)
        )
        return mb.linear(x=x, weight=weight, name="y")

    model = saved(body, (3, 32), tmp_path, opset_version=ct.target.iOS18)
    x = RNG.standard_normal((3, 32)).astype(np.float32)
    found = next(iter(model.run({"x": x}).values())).numpy()
    np.testing.assert_allclose(found, x @ table[indices].T, rtol=1e-4, atol=1e-4)


def test_blockwise_quantized_weights(tmp_path: Path) -> None:
    data = RNG.integers(-128, 128, (64, 32)).astype(np.int8)
    scale = RNG.uniform(0.01, 0.02, (64, 2)).astype(np.float32)

    def body(x: Any) -> Any:
        weight = mb.constexpr_blockwise_shift_scale(data=data, scale=scale)
        return mb.linear(x=x, weight=weight, name="y")

    model = saved(body, (3, 32), tmp_path, opset_version=ct.target.iOS18)
    x = RNG.standard_normal((3, 32)).astype(np.float32)
    found = next(iter(model.run({"x": x}).values())).numpy()
    wide = data * np.repeat(scale, 16, 1)
    np.testing.assert_allclose(found, x @ wide.T, rtol=1e-4, atol=1e-4)


def test_small_elements_begin_with_the_lowest_bits() -> None:
    assert unpack(bytes([0b01101100, 0b11]), "UINT2", 5).tolist() == [0, 3, 2, 1, 3]
    assert unpack(bytes([0x8F]), "INT4", 2).tolist() == [-1, -8]
