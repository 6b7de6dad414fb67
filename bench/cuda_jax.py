"""JAX in the rows of `bench.cuda`, on the same memory where JAX takes it without a copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bench.cuda import Bench

Contenders = dict[str, tuple[Callable[[], Any], Any]]


def jax_row(
    bench: Bench,
    function: Callable[..., Any],
    values: Sequence[Any],
    *,
    jitted: bool = False,
    name: str = "JAX",
) -> Contenders:
    """JAX's compiled function on the same values; nothing where JAX is absent."""
    jax = bench.jax
    if jax is None:
        return {}
    given = [bench.jax_array(v) for v in values]
    compiled = function if jitted else jax.jit(function)

    def call() -> Any:
        bench.started = compiled(*given)
        return bench.started

    return {name: (call, lambda: np.asarray(call()).astype(np.float32))}


def gelu(x: Any) -> Any:
    """GeLU by tanh, as primitives."""
    import jax.numpy as jnp

    return x * 0.5 * (1.0 + jnp.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)))


def layer_norm(x: Any, scale: Any, shift: Any) -> Any:
    """Layer normalisation as primitives."""
    import jax
    import jax.numpy as jnp

    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + 1e-5)).astype(jnp.bfloat16) * scale + shift


def softmax(x: Any) -> Any:
    """Softmax over the last axis."""
    import jax

    return jax.nn.softmax(x, -1)


def matmul(a: Any, b: Any, bias: Any) -> Any:
    """A product and a bias."""
    return a @ b + bias


def matmul_gelu(a: Any, b: Any, bias: Any) -> Any:
    """GeLU of a product and a bias."""
    import jax

    return jax.nn.gelu(a @ b + bias, approximate=False)


def matmul_silu(a: Any, b: Any, bias: Any, y: Any) -> Any:
    """SiLU of a product and a bias, times another array."""
    import jax

    return jax.nn.silu(a @ b + bias) * y


def conv_relu(x: Any, w: Any, b: Any) -> Any:
    """ReLU of a convolution and a bias."""
    import jax

    found = jax.lax.conv_general_dilated(
        x, w, (1, 1), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(found + b)


def digits(bench: Bench, image: np.ndarray, label: np.ndarray) -> Contenders:
    """The digit network's step of Adam, in float32 and with TF32."""
    jax = bench.jax
    if jax is None:
        return {}
    rows: Contenders = {}
    for name, precision in (("JAX, TF32", "tensorfloat32"), ("JAX, float32", "float32")):
        with jax.default_matmul_precision(precision):
            call = _digit_step(jax, image, label)
            call()
        rows |= jax_row(bench, call, [], jitted=True, name=name)
    return rows


def _digit_step(jax: Any, image: np.ndarray, label: np.ndarray) -> Callable[[], Any]:
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    shapes = {
        "w1": (5, 5, 1, 32), "b1": (32,), "w2": (5, 5, 32, 64), "b2": (64,),
        "w3": (3136, 1024), "b3": (1024,), "w4": (1024, 10), "b4": (10,),
    }  # fmt: skip
    start = {n: jnp.asarray(rng.standard_normal(s, np.float32) * 0.05) for n, s in shapes.items()}
    moments = [{n: jnp.zeros_like(v) for n, v in start.items()} for _ in range(2)]
    state = [start, *moments, jnp.zeros(())]

    def layer(x: Any, w: Any, b: Any) -> Any:
        order = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=order)
        y = jax.nn.relu(y + b)
        window = (1, 2, 2, 1)
        return jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, window, window, "VALID")

    def loss_of(p: Any, x: Any, y: Any) -> Any:
        found = layer(layer(x, p["w1"], p["b1"]), p["w2"], p["b2"]).reshape(len(x), -1)
        logits = jax.nn.relu(found @ p["w3"] + p["b3"]) @ p["w4"] + p["b4"]
        return -(jax.nn.log_softmax(logits) * y).sum(-1).mean()

    def step(p: Any, m: Any, v: Any, count: Any, x: Any, y: Any) -> Any:
        loss, g = jax.value_and_grad(loss_of)(p, x, y)
        count = count + 1
        m = {n: 0.9 * m[n] + 0.1 * g[n] for n in p}
        v = {n: 0.999 * v[n] + 0.001 * g[n] * g[n] for n in p}
        first, second = 1 - 0.9**count, 1 - 0.999**count
        p = {n: p[n] - 1e-3 * (m[n] / first) / (jnp.sqrt(v[n] / second) + 1e-8) for n in p}
        return loss, p, m, v, count

    compiled = jax.jit(step, donate_argnums=(0, 1, 2, 3))
    given = [jnp.asarray(image), jnp.asarray(label)]

    def call() -> Any:
        loss, *state[:] = compiled(*state, *given)
        return loss

    return call
