"""Memory-bound work: GeLU out of eight primitives, softmax and layer norm over rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.harness import (
    COPY,
    JAX,
    NIELLO,
    ORT,
    PEERS,
    TORCH_COMPILED,
    TORCH_EAGER,
    UNSTITCHED,
    Contender,
    Plan,
    Row,
    Target,
    Work,
    measure,
)
from bench.libraries import (
    absent,
    jax_jit,
    niello_executable,
    onnx_model,
    onnxruntime_session,
    torch_compiled,
    torch_eager,
)
from bench.limits import aligned, copies

# gelu(x) = 0.5 x (1 + tanh(x (C0 + C1 x^2))), Hendrycks and Gimpel 2016, tanh form.
C0 = float(np.sqrt(2.0 / np.pi))
C1 = 0.044715 * C0
GELU_COUNT = 16 << 20
COLUMNS = 1024
# 32 MiB read and written stay in a large last-level cache, where arithmetic is what bounds a row;
# 256 MiB do not: there the memory bounds it, and a copy is what to compare with.
CACHED_ROWS, MEMORY_ROWS = 4096, 32768
COPY_SHARE = 0.9
MODES = (False, True)
EPSILON = 1e-5
COMPILED = (TORCH_COMPILED, JAX, ORT)


def gelu(tanh: Any, x: Any) -> Any:
    """Eight primitive operations; the same expression for every library."""
    square = x * x
    inner = x * (square * C1 + C0)
    return (tanh(inner) + 1.0) * x * 0.5


def _gelu_into(torch: Any, out: Any, x: Any) -> Any:
    torch.mul(x, x, out=out)
    return out.mul_(C1).add_(C0).mul_(x).tanh_().add_(1.0).mul_(x).mul_(0.5)


def _gelu_onnx(onnx: Any) -> Any:
    node = onnx.helper.make_node
    constants = {"c1": C1, "c0": C0, "one": 1.0, "half": 0.5}
    nodes = [
        node("Mul", ["x", "x"], ["square"]),
        node("Mul", ["square", "c1"], ["scaled"]),
        node("Add", ["scaled", "c0"], ["shifted"]),
        node("Mul", ["shifted", "x"], ["inner"]),
        node("Tanh", ["inner"], ["tanh"]),
        node("Add", ["tanh", "one"], ["gate"]),
        node("Mul", ["gate", "x"], ["double"]),
        node("Mul", ["double", "half"], ["y"]),
    ]
    arrays = {name: np.array(value, np.float32) for name, value in constants.items()}
    shape = (GELU_COUNT,)
    return onnx_model(onnx, nodes, {"x": shape}, ("y", shape), arrays)


def gelu_work(reuse: bool) -> Work:
    """16M floats, results into fresh or into reused memory."""
    generator = np.random.default_rng(0)
    x = aligned((GELU_COUNT,), generator.standard_normal(GELU_COUNT, dtype=np.float32))
    into = _gelu_into if reuse else None
    contenders: list[Contender] = [
        niello_executable(lambda nl, t: gelu(nl.tanh, t), [x], reuse=reuse),
        niello_executable(lambda nl, t: gelu(nl.tanh, t), [x], peer=UNSTITCHED, reuse=reuse),
        torch_compiled(lambda torch, t: gelu(torch.tanh, t), [x], reuse=reuse),
        torch_eager(lambda torch, t: gelu(torch.tanh, t), [x], into=into),
        jax_jit(lambda jax, t: gelu(jax.numpy.tanh, t), [x], reuse=reuse),
        onnxruntime_session(_gelu_onnx, [x], reuse=reuse),
    ]
    return Work(
        f"GeLU as 8 primitives, 16M floats, {_mode(reuse)}",
        (*contenders, *copies(GELU_COUNT)),
        bytes=8.0 * GELU_COUNT,
        rtol=2e-5,
        atol=2e-6,
        targets=(
            Target(1.0, COMPILED),
            Target(5.0, (UNSTITCHED,)),
            *((Target(COPY_SHARE, (COPY,)),) if reuse else ()),
        ),
    )


def _row_targets(count: int) -> tuple[Target, ...]:
    fastest = Target(1.0, PEERS)
    return (fastest, Target(COPY_SHARE, (COPY,))) if count == MEMORY_ROWS else (fastest,)


def softmax_work(reuse: bool, count: int = CACHED_ROWS) -> Work:
    """Softmax over the last axis of (count, 1024)."""
    generator = np.random.default_rng(1)
    shape = (count, COLUMNS)
    x = aligned(shape, generator.standard_normal(shape, dtype=np.float32))

    def model(onnx: Any) -> Any:
        nodes = [onnx.helper.make_node("Softmax", ["x"], ["y"], axis=-1)]
        return onnx_model(onnx, nodes, {"x": shape}, ("y", shape), {})

    def into(torch: Any, out: Any, t: Any) -> Any:
        return torch.softmax(t, -1, out=out)

    contenders = (
        niello_executable(lambda nl, t: nl.softmax(t, axis=-1), [x], reuse=reuse),
        torch_compiled(lambda torch, t: torch.softmax(t, -1), [x], reuse=reuse),
        torch_eager(lambda torch, t: torch.softmax(t, -1), [x], into=into if reuse else None),
        jax_jit(lambda jax, t: jax.nn.softmax(t, axis=-1), [x], reuse=reuse),
        onnxruntime_session(model, [x], reuse=reuse),
    )
    return Work(
        f"softmax {shape}, {_mode(reuse)}",
        (*contenders, *copies(count * COLUMNS)),
        bytes=8.0 * count * COLUMNS,
        rtol=2e-5,
        atol=1e-8,
        targets=_row_targets(count),
    )


def _layer_norm_onnx(shape: tuple[int, int], scale: np.ndarray, bias: np.ndarray) -> Any:
    def model(onnx: Any) -> Any:
        node = onnx.helper.make_node(
            "LayerNormalization", ["x", "scale", "bias"], ["y"], axis=-1, epsilon=EPSILON
        )
        return onnx_model(onnx, [node], {"x": shape}, ("y", shape), {"scale": scale, "bias": bias})

    return model


def _layer_norm_jax(jax: Any, x: Any, scale: Any, bias: Any) -> Any:
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + EPSILON) * scale + bias


def layer_norm_work(reuse: bool, count: int = CACHED_ROWS) -> Work:
    """Layer norm over the last axis of (count, 1024) with scale and bias."""
    generator = np.random.default_rng(2)
    shape = (count, COLUMNS)
    x = aligned(shape, generator.standard_normal(shape, dtype=np.float32))
    scale = aligned((COLUMNS,), generator.standard_normal(COLUMNS, dtype=np.float32))
    bias = aligned((COLUMNS,), generator.standard_normal(COLUMNS, dtype=np.float32))
    weights = [scale, bias]

    def with_torch(torch: Any, t: Any, s: Any, b: Any) -> Any:
        return torch.nn.functional.layer_norm(t, (COLUMNS,), s, b, EPSILON)

    contenders = [
        niello_executable(
            lambda nl, t, s, b: nl.layer_norm(t, s, b, axes=-1, epsilon=EPSILON),
            [x],
            reuse=reuse,
            weights=weights,
        ),
        torch_compiled(with_torch, [x], reuse=reuse, weights=weights),
        jax_jit(_layer_norm_jax, [x], reuse=reuse, weights=weights),
        onnxruntime_session(_layer_norm_onnx(shape, scale, bias), [x], reuse=reuse),
    ]
    if reuse:
        contenders.append(absent(TORCH_EAGER, "has no layer norm into a given result"))
    else:
        contenders.append(torch_eager(with_torch, [x, scale, bias]))
    return Work(
        f"layer norm {shape}, {_mode(reuse)}",
        (*contenders, *copies(count * COLUMNS)),
        bytes=8.0 * count * COLUMNS,
        rtol=1e-4,
        atol=1e-5,
        targets=_row_targets(count),
    )


def _mode(reuse: bool) -> str:
    return "reused result" if reuse else "fresh result"


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All rows of this topic."""
    if NIELLO in without:
        without = without | {UNSTITCHED}
    works = [make(reuse) for make in (gelu_work, softmax_work, layer_norm_work) for reuse in MODES]
    works += [softmax_work(True, MEMORY_ROWS), layer_norm_work(True, MEMORY_ROWS)]
    return [measure("elementwise", work, plan, without) for work in works if plan.only in work.name]
