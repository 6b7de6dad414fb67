"""A long short-term memory layer over time, forward and with the gradients of its weights."""

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
from bench.libraries import (
    import_niello,
    import_peer,
    jax_jit,
    niello_executable,
    onnx_model,
    onnxruntime_session,
    torch_eager,
)

STEPS, FEATURES, HIDDEN = 100, 64, 512
GATES = 4 * HIDDEN
BATCHES = (1, 32)


def _random(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return values * np.float32(scale)


def _source(batch: int) -> np.ndarray:
    return _random((STEPS, batch, FEATURES), 0)


def _weights() -> list[np.ndarray]:
    """Recurrent weight, input weight and bias; gates in the order input, forget, cell, output."""
    return [
        _random((GATES, HIDDEN), 1, HIDDEN**-0.5),
        _random((GATES, FEATURES), 2, FEATURES**-0.5),
        _random((GATES,), 3, 0.1),
    ]


def _flops(batch: int) -> float:
    return 2.0 * STEPS * batch * GATES * (FEATURES + HIDDEN)


def _torch(torch: Any, x: Any, r: Any, w: Any, b: Any) -> Any:
    zeros = torch.zeros((1, x.shape[1], HIDDEN))
    weights = [w, r, b, torch.zeros_like(b)]
    return torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, False, False, False)[0]


def _jax(jax: Any, x: Any, r: Any, w: Any, b: Any) -> Any:
    numpy, sigmoid = jax.numpy, jax.nn.sigmoid

    def step(carried: Any, projected: Any) -> Any:
        h, c = carried
        i, f, z, o = numpy.split(projected + h @ r.T, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * numpy.tanh(z)
        h = sigmoid(o) * numpy.tanh(c)
        return (h, c), h

    zeros = numpy.zeros((x.shape[1], HIDDEN), x.dtype)
    return jax.lax.scan(step, (zeros, zeros), x @ w.T + b)[1]


def _onnx(onnx: Any, batch: int) -> Any:
    def ordered(x: np.ndarray) -> np.ndarray:
        i, f, z, o = np.split(x, 4)  # here the order is input, output, forget, cell
        return np.concatenate([i, o, f, z])[None]

    r, w, b = (ordered(x) for x in _weights())
    make = onnx.helper.make_node
    nodes = [
        make("LSTM", ["x", "w", "r", "b"], ["all"], hidden_size=HIDDEN),
        make("Squeeze", ["all", "axis"], ["y"]),
    ]
    both = np.concatenate([b, np.zeros_like(b)], axis=1)
    constants = {"w": w, "r": r, "b": both, "axis": np.array([1], np.int64)}
    shapes = {"x": (STEPS, batch, FEATURES)}
    return onnx_model(onnx, nodes, shapes, ("y", (STEPS, batch, HIDDEN)), constants)


def forward_work(batch: int) -> Work:
    """The states at all times; weights are constants."""
    x, weights = _source(batch), _weights()
    contenders = (
        niello_executable(lambda nl, *given: nl.lstm(*given)[0], [x], weights=weights),
        torch_eager(_torch, [x, *weights]),
        jax_jit(_jax, [x], weights=weights),
        onnxruntime_session(lambda onnx: _onnx(onnx, batch), [x]),
    )
    return Work(
        f"LSTM {FEATURES} -> {HIDDEN}, {STEPS} steps, batch {batch}",
        contenders,
        flops=_flops(batch),
        rtol=1e-3,
        atol=1e-4,
        targets=(Target(1.0, PEERS),),
    )


def _niello_gradients(inputs: Sequence[np.ndarray]) -> Contender:
    def make() -> Prepared:
        nl = import_niello()
        graph = nl.Graph()
        x, r, w, b, seed = tensors = [graph.placeholder(a.shape, a.dtype) for a in inputs]
        y = nl.lstm(x, r, w, b)[0]
        found = graph.gradients(y, [r, w, b], seed=seed)
        feeds = {t: t.type for t in tensors}
        executable = graph.compile(feeds, [y, *found.values()], device="cpu")
        return _prepared(lambda: [t.numpy() for t in executable.run(list(inputs))])

    return Contender(NIELLO, "", make)


def _torch_gradients(inputs: Sequence[np.ndarray]) -> Contender:
    def make() -> Prepared:
        torch = import_peer("torch")
        x, *weights, seed = (torch.from_numpy(a) for a in inputs)
        leaves = [t.requires_grad_() for t in weights]

        def run() -> list[np.ndarray]:
            y = _torch(torch, x, *leaves)
            found = torch.autograd.grad(y, leaves, seed)
            return [t.detach().numpy() for t in (y, *found)]

        return _prepared(run)

    return Contender(TORCH_EAGER, "", make)


def _jax_gradients(inputs: Sequence[np.ndarray]) -> Contender:
    def make() -> Prepared:
        jax = import_peer("jax")
        x, *weights, seed = (jax.device_put(a) for a in inputs)

        def both(x: Any, seed: Any, *weights: Any) -> Any:
            y, back = jax.vjp(lambda *given: _jax(jax, x, *given), *weights)
            return (y, *back(seed))

        compiled = jax.jit(both)

        def run() -> list[np.ndarray]:
            found = jax.block_until_ready(compiled(x, seed, *weights))
            return [np.asarray(t) for t in found]

        return _prepared(run)

    return Contender(JAX, "", make)


def _prepared(run: Callable[[], list[np.ndarray]]) -> Prepared:
    return Prepared(run, run)


def gradient_work(batch: int) -> Work:
    """The same with the gradients of both weights and the bias; weights are given at each run."""
    seed = _random((STEPS, batch, HIDDEN), 4)
    inputs = [_source(batch), *_weights(), seed]
    return Work(
        f"LSTM and gradients {FEATURES} -> {HIDDEN}, {STEPS} steps, batch {batch}",
        (_niello_gradients(inputs), _torch_gradients(inputs), _jax_gradients(inputs)),
        flops=3 * _flops(batch),
        rtol=1e-3,
        atol=1e-2,
        targets=(Target(1.0, PEERS),),
    )


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All rows of this topic."""
    works = [make(n) for make in (forward_work, gradient_work) for n in BATCHES]
    return [measure("recurrent", w, plan, without) for w in works]
