"""Lists of ML programs: as Python's lists of arrays; and quantized convolutions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb  # noqa: E402

from niello import errors  # noqa: E402
from niello.frontends.coreml import load  # noqa: E402

X = np.random.default_rng(2).standard_normal((5, 3)).astype(np.float32)


def saved(body: Callable[..., Any], shape: tuple[int, ...], where: Path) -> Any:
    """A model of a program with an input x, written as a package and read again."""
    made = mb.program(input_specs=[mb.TensorSpec(shape=shape)])(body)
    model = ct.convert(
        made, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32, skip_model_load=True,
        pass_pipeline=ct.PassPipeline.EMPTY,
    )  # fmt: skip
    model.save(str(where / "m.mlpackage"))
    return load(where / "m.mlpackage")


def only(model: Any, x: np.ndarray) -> np.ndarray:
    (found,) = model.run({"x": x}).values()
    return found.numpy()  # type: ignore[no-any-return]


def test_list_of_a_fixed_length(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        ls = mb.make_list(init_length=4, dynamic_length=False, elem_shape=(3,), dtype="fp32")
        first = mb.slice_by_index(x=x, begin=[0, 0], end=[0, 0], end_mask=[False, True],
                                  squeeze_mask=[True, False])  # fmt: skip
        ls = mb.list_write(ls=ls, index=2, value=first)
        two = mb.slice_by_index(x=x, begin=[3, 0], end=[5, 3])
        ls = mb.list_scatter(ls=ls, indices=np.array([3, 0], np.int32), value=two)
        read = mb.expand_dims(x=mb.list_read(ls=ls, index=2), axes=[0])
        rest = mb.list_gather(ls=ls, indices=np.array([0, 1, 3, 3], np.int32))
        return mb.concat(values=[read, rest], axis=0, name="y")

    wanted = np.stack([X[0], X[4], np.zeros(3), X[3], X[3]])
    np.testing.assert_array_equal(only(saved(body, X.shape, tmp_path), X), wanted)


def looped(grows: bool, steps: Any = None) -> Callable[[Any], Any]:
    """The running sums of the rows of x, by a list that a loop writes."""

    def body(x: Any) -> Any:
        ls = mb.make_list(
            init_length=1 if grows else 5, dynamic_length=grows, elem_shape=(3,), dtype="fp32"
        )
        limit = steps(x) if steps else 5

        def holds(i: Any, total: Any, held: Any) -> Any:
            return mb.less(x=i, y=limit)

        def step(i: Any, total: Any, held: Any) -> Any:
            total = mb.add(x=total, y=mb.gather(x=x, indices=i, axis=0))
            return mb.add(x=i, y=1), total, mb.list_write(ls=held, index=i, value=total)

        zeros = np.zeros(3, np.float32)
        *_, ls = mb.while_loop(_cond=holds, _body=step, loop_vars=(np.int32(0), zeros, ls))
        length = mb.list_length(ls=ls)
        places = mb.range_1d(start=0, end=length, step=1)
        return mb.list_gather(ls=ls, indices=places, name="y")

    return body


@pytest.mark.parametrize("grows", [False, True])
def test_list_that_a_loop_writes(grows: bool, tmp_path: Path) -> None:
    found = only(saved(looped(grows), X.shape, tmp_path), X)
    np.testing.assert_allclose(found, X.cumsum(0), rtol=1e-5, atol=1e-6)


def fed_steps(x: Any) -> Any:
    """How many steps: by an element of x."""
    one = mb.slice_by_index(x=x, begin=[0, 0], end=[1, 1], squeeze_mask=[True, True])
    return mb.cast(x=one, dtype="int32")


def test_list_of_a_loop_whose_steps_are_fed(tmp_path: Path) -> None:
    x = X.copy()
    x[0, 0] = 3.0
    wanted = np.concatenate([x.cumsum(0)[:3], np.zeros((2, 3))])
    found = only(saved(looped(False, fed_steps), X.shape, tmp_path), x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    model = saved(looped(True, fed_steps), X.shape, tmp_path)
    with pytest.raises(errors.FrontendError, match="list that may grow"):
        only(model, x)


def test_convolution_of_integers(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    weight = generator.integers(0, 256, (2, 3, 1, 1)).astype(np.uint8)
    scale, bias = np.array([0.5, 0.25], np.float32), np.array([-60, -30], np.float32)

    def body(x: Any) -> Any:
        return mb.conv_quantized(
            x=x, weight=weight, quantization_type="linear", nbits=8, quant_scale=scale,
            quant_bias=bias, name="y",
        )  # fmt: skip

    x = generator.standard_normal((1, 3, 4, 4)).astype(np.float32)
    wide = weight[..., 0, 0] * scale[:, None] + bias[:, None]
    found = only(saved(body, x.shape, tmp_path), x)
    np.testing.assert_allclose(found, np.einsum("nchw,oc->nohw", x, wide), rtol=1e-4, atol=1e-3)
