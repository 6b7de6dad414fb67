"""Compute-bound work: a matrix product, and products with an epilogue."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.digits import convolution_flops
from bench.harness import PEERS, TORCH_EAGER, Contender, Plan, Row, Target, Work, measure
from bench.libraries import (
    absent,
    jax_jit,
    niello_executable,
    onnx_model,
    onnxruntime_session,
    torch_compiled,
    torch_eager,
)
from bench.limits import aligned

SIDE = 1024
BATCH, INNER, OUTER = 128, 4096, 1024
IMAGES, PIXELS, CHANNELS, KERNEL = 8, 56, 64, 3

FREEZING = {"freezing": True}
# Inductor's own matrix kernels in C++, chosen by measurement against the library's.
TUNED = {
    "freezing": True,
    "max_autotune": True,
    "max_autotune_gemm_backends": "CPP,ATEN",
}


def _random(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return aligned(shape, values * np.float32(scale))


def _mode(reuse: bool) -> str:
    return "reused result" if reuse else "fresh result"


def matmul_work(reuse: bool) -> Work:
    """A square product whose operands are both known only at run time."""
    a, b = _random((SIDE, SIDE), 0), _random((SIDE, SIDE), 1)

    def product(torch: Any, x: Any, y: Any) -> Any:
        return torch.mm(x, y)

    def into(torch: Any, out: Any, x: Any, y: Any) -> Any:
        return torch.mm(x, y, out=out)

    def model(onnx: Any) -> Any:
        node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
        shape = (SIDE, SIDE)
        return onnx_model(onnx, [node], {"a": shape, "b": shape}, ("c", shape), {})

    tuned = {name: value for name, value in TUNED.items() if name != "freezing"}
    contenders = (
        niello_executable(lambda nl, x, y: nl.matmul(x, y), [a, b], reuse=reuse),
        torch_compiled(product, [a, b], reuse=reuse, variant="default"),
        torch_compiled(product, [a, b], reuse=reuse, variant="max-autotune", options=tuned),
        torch_eager(product, [a, b], into=into if reuse else None),
        jax_jit(lambda jax, x, y: x @ y, [a, b], reuse=reuse),
        onnxruntime_session(model, [a, b], reuse=reuse),
    )
    return Work(
        f"matmul 1024x1024x1024, {_mode(reuse)}",
        contenders,
        flops=2.0 * SIDE**3,
        rtol=1e-3,
        atol=1e-3,
        targets=(Target(0.95, PEERS),),
    )


def _dense_onnx(weight: np.ndarray, bias: np.ndarray) -> Any:
    def model(onnx: Any) -> Any:
        node = onnx.helper.make_node
        nodes = [
            node("MatMul", ["x", "w"], ["product"]),
            node("Add", ["product", "b"], ["sum"]),
            node("Gelu", ["sum"], ["y"]),
        ]
        constants = {"w": weight, "b": bias}
        return onnx_model(onnx, nodes, {"x": (BATCH, INNER)}, ("y", (BATCH, OUTER)), constants)

    return model


def fed_dense_work(reuse: bool) -> Work:
    """The same with weights that every run is given, as in training."""
    x = _random((BATCH, INNER), 0)
    weights = [_random((INNER, OUTER), 1, INNER**-0.5), _random((OUTER,), 2)]

    def with_torch(torch: Any, t: Any, w: Any, b: Any) -> Any:
        return torch.nn.functional.gelu(torch.addmm(b, t, w))

    def with_jax(jax: Any, t: Any, w: Any, b: Any) -> Any:
        return jax.nn.gelu(t @ w + b, approximate=False)

    def model(onnx: Any) -> Any:
        node = onnx.helper.make_node
        nodes = [
            node("MatMul", ["x", "w"], ["product"]),
            node("Add", ["product", "b"], ["sum"]),
            node("Gelu", ["sum"], ["y"]),
        ]
        shapes = {"x": (BATCH, INNER), "w": (INNER, OUTER), "b": (OUTER,)}
        return onnx_model(onnx, nodes, shapes, ("y", (BATCH, OUTER)), {})

    arrays = [x, *weights]
    contenders: list[Contender] = [
        niello_executable(lambda nl, t, w, b: nl.gelu(nl.matmul(t, w) + b), arrays, reuse=reuse),
        jax_jit(with_jax, arrays, reuse=reuse),
        onnxruntime_session(model, arrays, reuse=reuse),
    ]
    if reuse:
        contenders.append(absent(TORCH_EAGER, "has no GeLU into a given result"))
    else:
        contenders.append(torch_eager(with_torch, arrays, variant="addmm"))
    return Work(
        f"matmul 128x4096x1024 + bias + GeLU, weights fed, {_mode(reuse)}",
        tuple(contenders),
        flops=2.0 * BATCH * INNER * OUTER,
        rtol=1e-3,
        atol=1e-4,
        targets=(Target(1.0, PEERS),),
    )


def dense_work(reuse: bool) -> Work:
    """A dense layer of known weights with bias and exact GeLU."""
    x = _random((BATCH, INNER), 0)
    weights = [_random((INNER, OUTER), 1, INNER**-0.5), _random((OUTER,), 2)]

    def with_torch(torch: Any, t: Any, w: Any, b: Any) -> Any:
        return torch.nn.functional.gelu(torch.addmm(b, t, w))

    def as_linear(torch: Any, t: Any, w: Any, b: Any) -> Any:
        return torch.nn.functional.gelu(torch.nn.functional.linear(t, w, b))

    def transposed(torch: Any, tensors: list[Any]) -> list[Any]:
        return [t.T.contiguous() if t.shape == (INNER, OUTER) else t for t in tensors]

    def with_jax(jax: Any, t: Any, w: Any, b: Any) -> Any:
        return jax.nn.gelu(t @ w + b, approximate=False)

    contenders: list[Contender] = [
        niello_executable(
            lambda nl, t, w, b: nl.gelu(nl.matmul(t, w) + b), [x], reuse=reuse, weights=weights
        ),
        jax_jit(with_jax, [x], reuse=reuse, weights=weights, variant="weights constant"),
        jax_jit(with_jax, [x, *weights], reuse=reuse, variant="weights as arguments"),
        onnxruntime_session(_dense_onnx(*weights), [x], reuse=reuse),
    ]
    for name, options in (("default", {}), ("freezing", FREEZING), ("max-autotune", TUNED)):
        contenders.append(
            torch_compiled(
                as_linear,
                [x],
                reuse=reuse,
                weights=weights,
                variant=name,
                options=options,
                prepare=transposed,
            )
        )
    if reuse:
        contenders.append(absent(TORCH_EAGER, "has no GeLU into a given result"))
    else:
        contenders.append(torch_eager(with_torch, [x, *weights], variant="addmm"))
        contenders.append(
            torch_eager(as_linear, [x, *weights], variant="linear", prepare=transposed)
        )
    return Work(
        f"matmul 128x4096x1024 + bias + GeLU, {_mode(reuse)}",
        tuple(contenders),
        flops=2.0 * BATCH * INNER * OUTER,
        rtol=1e-3,
        atol=1e-4,
        targets=(Target(1.0, PEERS),),
    )


def _conv_onnx(weight: np.ndarray, bias: np.ndarray) -> Any:
    def model(onnx: Any) -> Any:
        node = onnx.helper.make_node
        nodes = [
            node("Conv", ["x", "w", "b"], ["sum"], auto_pad="SAME_UPPER"),
            node("Relu", ["sum"], ["y"]),
        ]
        shape = (IMAGES, CHANNELS, PIXELS, PIXELS)
        constants = {"w": np.ascontiguousarray(weight.transpose(3, 2, 0, 1)), "b": bias}
        return onnx_model(onnx, nodes, {"x": shape}, ("y", shape), constants)

    return model


def _conv_jax(layout: str) -> Any:
    def function(jax: Any, t: Any, w: Any, b: Any) -> Any:
        numbers = (layout, "HWIO", layout)
        product = jax.lax.conv_general_dilated(t, w, (1, 1), "SAME", dimension_numbers=numbers)
        bias = b if layout == "NHWC" else b[:, None, None]
        return jax.nn.relu(product + bias)

    return function


def _conv_torch(torch: Any, t: Any, w: Any, b: Any) -> Any:
    return torch.nn.functional.conv2d(t, w, b, padding=KERNEL // 2).relu()


def _conv_layout(channels_last: bool) -> Any:
    def prepare(torch: Any, tensors: list[Any]) -> list[Any]:
        order = torch.channels_last if channels_last else torch.contiguous_format
        return [t.contiguous(memory_format=order) if t.dim() == 4 else t for t in tensors]

    return prepare


def conv_work(reuse: bool) -> Work:
    """A 3x3 convolution of known weights with bias and relu; every peer in its best layout."""
    nhwc = _random((IMAGES, PIXELS, PIXELS, CHANNELS), 0)
    nchw = aligned((IMAGES, CHANNELS, PIXELS, PIXELS), nhwc.transpose(0, 3, 1, 2))
    hwio = _random((KERNEL, KERNEL, CHANNELS, CHANNELS), 1, (KERNEL**2 * CHANNELS) ** -0.5)
    oihw = aligned((CHANNELS, CHANNELS, KERNEL, KERNEL), hwio.transpose(3, 2, 0, 1))
    bias = _random((CHANNELS,), 2)

    def build(nl: Any, t: Any, w: Any, b: Any) -> Any:
        product = nl.conv2d(t, w, padding="same", data_layout="NHWC", weights_layout="HWIO")
        return (product + b).relu()

    contenders: list[Contender] = [
        niello_executable(build, [nhwc], reuse=reuse, weights=[hwio, bias]),
        jax_jit(_conv_jax("NHWC"), [nhwc], reuse=reuse, weights=[hwio, bias], variant="NHWC"),
        _as_nhwc(
            jax_jit(_conv_jax("NCHW"), [nchw], reuse=reuse, weights=[hwio, bias], variant="NCHW")
        ),
        _as_nhwc(onnxruntime_session(_conv_onnx(hwio, bias), [nchw], reuse=reuse)),
    ]
    for layout in ("NCHW", "channels_last"):
        prepare = _conv_layout(layout == "channels_last")
        for name, options in (("default", {}), ("freezing", FREEZING)):
            contender = torch_compiled(
                _conv_torch,
                [nchw],
                reuse=reuse,
                weights=[oihw, bias],
                variant=f"{layout}, {name}",
                options=options,
                prepare=prepare,
            )
            contenders.append(_as_nhwc(contender))
        if not reuse:
            eager = torch_eager(_conv_torch, [nchw, oihw, bias], variant=layout, prepare=prepare)
            contenders.append(_as_nhwc(eager))
    if reuse:
        contenders.append(absent(TORCH_EAGER, "has no convolution into a given result"))
    return Work(
        f"conv 3x3 64-64, 8x56x56 + bias + relu, {_mode(reuse)}",
        tuple(contenders),
        flops=convolution_flops(IMAGES, PIXELS, KERNEL, CHANNELS, CHANNELS),
        rtol=1e-3,
        atol=1e-4,
        targets=(Target(1.0, PEERS),),
    )


def _as_nhwc(contender: Contender) -> Contender:
    """The same contender; its result is turned to NHWC for the comparison, not for the timing."""

    def make() -> Any:
        prepared = contender.make()

        def outputs() -> list[np.ndarray]:
            return [array.transpose(0, 2, 3, 1) for array in prepared.outputs()]

        return type(prepared)(prepared.run, outputs)

    return Contender(contender.peer, contender.variant, make)


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All rows of this topic."""
    return [
        measure("contraction", make(reuse), plan, without)
        for make in (matmul_work, dense_work, fed_dense_work, conv_work)
        for reuse in (False, True)
    ]
