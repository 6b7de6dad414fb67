"""The rows of `bench.cuda` for attention, recurrent layers, transforms, order and Philox."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.cuda import Bench, Row

Contenders = dict[str, tuple[Callable[[], Any], Any]]

HEADS, LENGTH, WIDTH = 16, 2048, 64
PICTURES, SIDE = 64, 1024
LINES, COLUMNS = 16384, 4096
STEPS, FEATURES, HIDDEN = 100, 64, 512
NUMBERS = 1 << 28


def attention(bench: Bench) -> Contenders:
    nl = bench.nl
    graph = nl.Graph()
    shape = (1, HEADS, LENGTH, WIDTH)
    places = [graph.placeholder(shape, nl.bfloat16) for _ in range(3)]
    values = [bench.random(shape, nl.bfloat16) for _ in range(3)]
    y = nl.scaled_dot_product_attention(*places, causal=True)

    def peer(q: Any, k: Any, v: Any) -> Any:
        call = bench.torch.nn.functional.scaled_dot_product_attention
        return call(q, k, v, is_causal=True)

    feeds = dict(zip(places, values, strict=True))
    return {"Niello": bench.executable(graph, feeds, [y]), **bench.torch_rows(peer, values)}


def attention_training(bench: Bench) -> Contenders:
    """The result and the gradients of query, key and value."""
    nl, torch = bench.nl, bench.torch
    graph = nl.Graph()
    shape = (1, HEADS, LENGTH, WIDTH)
    places = [graph.placeholder(shape, nl.bfloat16) for _ in range(4)]
    values = [bench.random(shape, nl.bfloat16) for _ in range(4)]
    y = nl.scaled_dot_product_attention(*places[:3], causal=True)
    by = graph.gradients(nl.sum(y * places[3]), places[:3])
    feeds = dict(zip(places, values, strict=True))
    rows: Contenders = {"Niello": bench.executable(graph, feeds, [y, *by.values()])}
    if torch is not None:
        *there, seed = (torch.from_dlpack(v).clone() for v in values)
        for t in there:
            t.requires_grad_()
        attend = torch.nn.functional.scaled_dot_product_attention

        def call() -> Any:
            return torch.autograd.grad(attend(*there, is_causal=True), there, seed)

        rows["PyTorch eager"] = (call, None)
    return rows


def fourier(bench: Bench) -> Contenders:
    nl, torch = bench.nl, bench.torch
    graph = nl.Graph()
    x = graph.placeholder((PICTURES, SIDE, SIDE), nl.complex64)
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((PICTURES, SIDE, SIDE, 2), dtype=np.float32)
    array = pairs.view(np.complex64)[..., 0]
    value = nl.TensorData.from_numpy(array).to(bench.device)
    rows: Contenders = {"Niello": bench.executable(graph, {x: value}, [nl.fft(x, axes=(1, 2))])}
    if torch is not None:
        there = torch.from_numpy(array).cuda()
        rows["PyTorch eager (cuFFT)"] = (lambda: torch.fft.fft2(there), None)
    return rows


def _rows(
    bench: Bench, build: Callable[..., Any], peer: Callable[..., Any], *shapes: tuple[int, ...]
) -> Contenders:
    nl = bench.nl
    graph = nl.Graph()
    places = [graph.placeholder(s, nl.float32) for s in shapes]
    values = [bench.random(s, nl.float32) for s in shapes]
    feeds = dict(zip(places, values, strict=True))
    return {
        "Niello": bench.executable(graph, feeds, [build(*places)]),
        **bench.torch_rows(peer, values),
    }


def sort(bench: Bench) -> Contenders:
    nl, torch = bench.nl, bench.torch
    peer = lambda t: torch.sort(t, -1).values  # noqa: E731
    return _rows(bench, lambda x: nl.sort(x), peer, (LINES, COLUMNS))


def top_k(bench: Bench) -> Contenders:
    nl, torch = bench.nl, bench.torch
    peer = lambda t: torch.topk(t, 10).values  # noqa: E731
    return _rows(bench, lambda x: nl.top_k(x, 10)[0], peer, (LINES, COLUMNS))


def cumulative_sum(bench: Bench) -> Contenders:
    nl, torch = bench.nl, bench.torch
    peer = lambda t: torch.cumsum(t, -1)  # noqa: E731
    return _rows(bench, lambda x: nl.cumulative_sum(x, axis=-1), peer, (LINES, COLUMNS))


def recurrent(batch: int, bench: Bench) -> Contenders:
    nl, torch = bench.nl, bench.torch
    graph = nl.Graph()
    x = graph.placeholder((STEPS, batch, FEATURES), nl.float32)
    rng = np.random.default_rng(0)
    r = (rng.standard_normal((4 * HIDDEN, HIDDEN)) / 22).astype(np.float32)
    w = (rng.standard_normal((4 * HIDDEN, FEATURES)) / 8).astype(np.float32)
    y, _ = nl.lstm(x, graph.constant(r), graph.constant(w))
    value = bench.random((STEPS, batch, FEATURES), nl.float32)
    rows: Contenders = {"Niello": bench.executable(graph, {x: value}, [y])}
    if torch is not None:
        layer = torch.nn.LSTM(FEATURES, HIDDEN, bias=False).cuda()
        with torch.no_grad():
            layer.weight_hh_l0.copy_(torch.from_numpy(r))
            layer.weight_ih_l0.copy_(torch.from_numpy(w))
        there = torch.from_dlpack(value)
        call = torch.inference_mode()(lambda: layer(there)[0])
        rows["PyTorch eager (cuDNN)"] = (call, lambda: call().cpu().numpy())
    return rows


def uniform(bench: Bench) -> Contenders:
    nl, torch = bench.nl, bench.torch
    graph = nl.Graph()
    y = nl.random_uniform((NUMBERS,), seed=1, graph=graph)
    rows: Contenders = {"Niello": (bench.executable(graph, {}, [y])[0], None)}
    if torch is not None:
        rows["PyTorch eager"] = (lambda: torch.rand(NUMBERS, device="cuda"), None)
    return rows


ROWS = {
    "attention": Row(
        f"causal attention, {HEADS} heads, {LENGTH}^2, width {WIDTH}, bf16",
        attention,
        flops=2.0 * HEADS * LENGTH * LENGTH * WIDTH,
    ),
    "attention_training": Row(
        f"causal attention and its gradients, {HEADS} heads, {LENGTH}^2, width {WIDTH}, bf16",
        attention_training,
        flops=7.0 * HEADS * LENGTH * LENGTH * WIDTH,
    ),
    "fourier": Row(
        f"fft over two axes of {PICTURES} x {SIDE}^2 complex64",
        fourier,
        bytes=16.0 * PICTURES * SIDE * SIDE,
    ),
    "sort": Row(f"sort {LINES} x {COLUMNS} float32", sort, bytes=8.0 * LINES * COLUMNS),
    "top_k": Row(f"top 10 of {LINES} x {COLUMNS}", top_k, bytes=4.0 * LINES * COLUMNS),
    "cumsum": Row(
        f"cumulative sum of {LINES} x {COLUMNS}", cumulative_sum, bytes=8.0 * LINES * COLUMNS
    ),
    "lstm_1": Row("LSTM 64 to 512, 100 steps, batch 1, float32", partial(recurrent, 1)),
    "lstm_32": Row("LSTM 64 to 512, 100 steps, batch 32, float32", partial(recurrent, 32)),
    "uniform": Row("2^28 uniform float32 by Philox", uniform, bytes=4.0 * NUMBERS),
}
