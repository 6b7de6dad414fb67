"""Scaled dot-product attention, causal, forward and with its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.harness import (
    JAX,
    NIELLO,
    PEERS,
    TORCH_EAGER,
    Contender,
    Plan,
    Prepared,
    Row,
    Target,
    Work,
    measure,
)
from bench.libraries import import_peer, jax_jit, niello_executable, torch_eager

HEADS, LENGTH, WIDTH = 16, 2048, 64
SHAPE = (1, HEADS, LENGTH, WIDTH)
# Scores and their use, each a product over the half of the matrix that the causal flag leaves.
FORWARD_FLOPS = 2 * 2.0 * HEADS * LENGTH * LENGTH * WIDTH / 2
BACKWARD_FLOPS = 2.5 * FORWARD_FLOPS


def _operands(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal(SHAPE, dtype=np.float32) for _ in range(count)]


def _torch(torch: Any, q: Any, k: Any, v: Any) -> Any:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _jax(jax: Any, q: Any, k: Any, v: Any) -> Any:
    # JAX has heads behind the length.
    swapped = [x.swapaxes(1, 2) for x in (q, k, v)]
    return jax.nn.dot_product_attention(*swapped, is_causal=True).swapaxes(1, 2)


def forward_work() -> Work:
    """16 heads of 2048 queries and keys, 64 wide."""
    inputs = _operands(3)
    contenders = (
        niello_executable(
            lambda nl, q, k, v: nl.scaled_dot_product_attention(q, k, v, causal=True), inputs
        ),
        torch_eager(_torch, inputs),
        jax_jit(_jax, inputs),
    )
    return Work(
        f"causal attention, {HEADS} heads, {LENGTH} x {LENGTH}, width {WIDTH}",
        contenders,
        flops=FORWARD_FLOPS,
        atol=1e-5,
        targets=(Target(1.0, PEERS),),
    )


def _niello_gradients(inputs: Sequence[np.ndarray]) -> Contender:
    def make() -> Prepared:
        nl = import_peer("niello")
        graph = nl.Graph()
        q, k, v, g = (graph.placeholder(SHAPE, nl.float32) for _ in range(4))
        y = nl.scaled_dot_product_attention(q, k, v, causal=True)
        found = graph.gradients(y, [q, k, v], seed=g)
        feeds = {t: t.type for t in (q, k, v, g)}
        exe = graph.compile(feeds, [y, *found.values()], device="cpu")
        return _prepared(lambda: [x.numpy() for x in exe.run(list(inputs))])

    return Contender(NIELLO, "", make)


def _torch_gradients(inputs: Sequence[np.ndarray]) -> Contender:
    def make() -> Prepared:
        torch = import_peer("torch")
        *operands, g = (torch.from_numpy(x) for x in inputs)
        leaves = [x.requires_grad_() for x in operands]

        def run() -> list[np.ndarray]:
            y = _torch(torch, *leaves)
            found = torch.autograd.grad(y, leaves, g)
            return [x.detach().numpy() for x in (y, *found)]

        return _prepared(run)

    return Contender(TORCH_EAGER, "", make)


def _jax_gradients(inputs: Sequence[np.ndarray]) -> Contender:
    def make() -> Prepared:
        jax = import_peer("jax")
        arrays = [jax.device_put(x) for x in inputs]

        def both(q: Any, k: Any, v: Any, g: Any) -> Any:
            y, back = jax.vjp(lambda *x: _jax(jax, *x), q, k, v)
            return (y, *back(g))

        compiled = jax.jit(both)
        return _prepared(lambda: [np.asarray(x) for x in jax.block_until_ready(compiled(*arrays))])

    return Contender(JAX, "", make)


def _prepared(run: Callable[[], list[np.ndarray]]) -> Prepared:
    return Prepared(run, run)


def gradient_work() -> Work:
    """The same with the gradients of query, key and value."""
    inputs = _operands(4)
    return Work(
        f"causal attention and gradients, {HEADS} heads, {LENGTH} x {LENGTH}, width {WIDTH}",
        (_niello_gradients(inputs), _torch_gradients(inputs), _jax_gradients(inputs)),
        flops=FORWARD_FLOPS + BACKWARD_FLOPS,
        atol=1e-4,
        targets=(Target(1.0, PEERS),),
    )


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All rows of this topic."""
    return [measure("attention", w, plan, without) for w in (forward_work(), gradient_work())]
