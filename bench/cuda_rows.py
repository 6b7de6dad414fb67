"""The rows of `bench.cuda`: the same work written for Niello, PyTorch and JAX."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import cuda_jax
from bench.cuda import Bench, Row
from bench.cuda_jax import jax_row

Contenders = dict[str, tuple[Callable[[], Any], Any]]

ELEMENTS = 1 << 28
ROWS_SHAPE = (32768, 4096)
MATRIX = 8192


def copy(bench: Bench) -> Contenders:
    """A device-to-device copy through Niello: the ceiling of the rows that move memory."""
    source = bench.device.allocate(4 * ELEMENTS)
    target = bench.device.allocate(4 * ELEMENTS)
    device = bench.device
    return {"copy": (lambda: device.copy(target.handle, source.handle, 4 * ELEMENTS), None)}


def gelu(bench: Bench) -> Contenders:
    nl = bench.nl
    graph = nl.Graph()
    x = graph.placeholder((ELEMENTS,), nl.float32)
    root = math.sqrt(2 / math.pi)
    y = x * 0.5 * (1.0 + nl.tanh((x + x * x * x * 0.044715) * root))
    value = bench.random((ELEMENTS,), nl.float32)

    def peer(t: Any) -> Any:
        return t * 0.5 * (1.0 + bench.torch.tanh((t + t * t * t * 0.044715) * root))

    return {
        "Niello": (bench.executable(graph, {x: value}, [y])[0], None),
        **{n: (c, None) for n, (c, _) in bench.torch_rows(peer, [value]).items()},
        **{n: (c, None) for n, (c, _) in jax_row(bench, cuda_jax.gelu, [value]).items()},
    }


def layer_norm(bench: Bench) -> Contenders:
    nl = bench.nl
    graph = nl.Graph()
    x = graph.placeholder(ROWS_SHAPE, nl.bfloat16)
    scale = graph.placeholder(ROWS_SHAPE[1:], nl.bfloat16)
    shift = graph.placeholder(ROWS_SHAPE[1:], nl.bfloat16)
    wide = nl.cast(x, nl.float32)
    mean = nl.mean(wide, axes=-1, keepdims=True)
    centred = wide - mean
    variance = nl.mean(centred * centred, axes=-1, keepdims=True)
    y = nl.cast(centred * nl.rsqrt(variance + 1e-5), nl.bfloat16) * scale + shift
    values = [
        bench.random(ROWS_SHAPE, nl.bfloat16),
        bench.random(ROWS_SHAPE[1:], nl.bfloat16),
        bench.random(ROWS_SHAPE[1:], nl.bfloat16),
    ]

    def peer(t: Any, scale: Any, shift: Any) -> Any:
        wide = t.float()
        mean = wide.mean(-1, keepdim=True)
        centred = wide - mean
        variance = (centred * centred).mean(-1, keepdim=True)
        return (centred * bench.torch.rsqrt(variance + 1e-5)).bfloat16() * scale + shift

    feeds = dict(zip((x, scale, shift), values, strict=True))
    return {
        "Niello": bench.executable(graph, feeds, [y]),
        **bench.torch_rows(peer, values),
        **jax_row(bench, cuda_jax.layer_norm, values),
    }


def softmax(bench: Bench) -> Contenders:
    nl = bench.nl
    graph = nl.Graph()
    x = graph.placeholder(ROWS_SHAPE, nl.float32)
    y = nl.softmax(x, axis=-1)
    value = bench.random(ROWS_SHAPE, nl.float32)
    return {
        "Niello": bench.executable(graph, {x: value}, [y]),
        **bench.torch_rows(lambda t: bench.torch.softmax(t, -1), [value]),
        **jax_row(bench, cuda_jax.softmax, [value]),
    }


def _product(
    bench: Bench,
    after: Callable[..., Any],
    peer: Callable[..., Any],
    jax: Callable[..., Any],
    more: int,
) -> Contenders:
    nl = bench.nl
    graph = nl.Graph()
    shapes = [(MATRIX, MATRIX), (MATRIX, MATRIX), (MATRIX,), (MATRIX, MATRIX)][: 3 + more]
    places = [graph.placeholder(s, nl.bfloat16) for s in shapes]
    values = [bench.random(s, nl.bfloat16, MATRIX**-0.25) for s in shapes]
    y = after(nl.matmul(places[0], places[1]) + places[2], *places[3:])
    feeds = dict(zip(places, values, strict=True))

    def theirs(a: Any, b: Any, bias: Any, *rest: Any) -> Any:
        return peer(bench.torch.addmm(bias, a, b), *rest)

    return {
        "Niello": bench.executable(graph, feeds, [y]),
        **bench.torch_rows(theirs, values),
        **jax_row(bench, jax, values),
    }


def matmul_gelu(bench: Bench) -> Contenders:
    import torch.nn.functional as F

    return _product(bench, lambda t: bench.nl.gelu(t), lambda t: F.gelu(t), cuda_jax.matmul_gelu, 0)


def matmul_silu(bench: Bench) -> Contenders:
    import torch.nn.functional as F

    return _product(
        bench,
        lambda t, y: bench.nl.silu(t) * y,
        lambda t, y: F.silu(t) * y,
        cuda_jax.matmul_silu,
        1,
    )


def matmul_plain(bench: Bench) -> Contenders:
    return _product(bench, lambda t: t, lambda t: t, cuda_jax.matmul, 0)


def convolution(bench: Bench) -> Contenders:
    nl = bench.nl
    graph = nl.Graph()
    x = graph.placeholder((64, 56, 56, 256), nl.bfloat16)
    w = graph.placeholder((3, 3, 256, 256), nl.bfloat16)
    b = graph.placeholder((256,), nl.bfloat16)
    y = nl.conv2d(x, w, padding=1, data_layout="NHWC", weights_layout="HWIO")
    y = (y + b).relu()
    values = [
        bench.random((64, 56, 56, 256), nl.bfloat16),
        bench.random((3, 3, 256, 256), nl.bfloat16, 0.02),
        bench.random((256,), nl.bfloat16),
    ]
    rows: Contenders = {
        "Niello": bench.executable(graph, dict(zip((x, w, b), values, strict=True)), [y])
    }
    torch = bench.torch
    if torch is not None:
        given = [torch.from_dlpack(v) for v in values]
        image = given[0].permute(0, 3, 1, 2)
        weights = given[1].permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        functions = {"PyTorch eager": _conv_relu}
        if bench.compiled:
            functions["PyTorch compiled"] = torch.compile(_conv_relu)
        for name, function in functions.items():
            rows[name] = (
                lambda f=function: f(image, weights, given[2]),
                lambda f=function: (
                    f(image, weights, given[2]).permute(0, 2, 3, 1).float().cpu().numpy()
                ),
            )
    return rows | jax_row(bench, cuda_jax.conv_relu, values)


def _conv_relu(x: Any, w: Any, b: Any) -> Any:
    import torch.nn.functional as F

    return F.relu(F.conv2d(x, w, b, padding=1))


def digits(bench: Bench) -> Contenders:
    from niello.cli.digits import network

    nl = bench.nl
    model = network.build(28, seed=0)
    steps = network.training_step(model)
    types = {model.image: nl.TensorType((64, 28, 28, 1)), model.label: nl.TensorType((64, 10))}
    rng = np.random.default_rng(0)
    image = rng.standard_normal((64, 28, 28, 1)).astype(np.float32)
    label = np.eye(10, dtype=np.float32)[rng.integers(0, 10, 64)]
    on_host = [image, label]
    on_gpu = [nl.TensorData.from_numpy(a).to(bench.device) for a in on_host]
    rows: Contenders = {}
    for tf32 in (False, True):
        started = time.perf_counter()
        options = nl.CompileOptions(tf32=tf32)
        exe = model.graph.compile(types, [model.loss], steps, device="cuda", options=options)
        print(f"    compiled in {time.perf_counter() - started:.2f} s: {exe}")
        results = exe.run(on_gpu)
        name = "Niello, TF32" if tf32 else "Niello, float32"
        rows[f"{name}, on the device"] = (_runner(exe, on_gpu, results), None)
        rows[f"{name}, from the host"] = (_runner(exe, on_host, results), None)
    if bench.torch is not None:
        rows |= _torch_digits(bench, image, label)
    return rows | cuda_jax.digits(bench, image, label)


def _runner(exe: Any, values: list[Any], results: list[Any]) -> Callable[[], Any]:
    return lambda: exe.run(values, results=results)


def _torch_digits(bench: Bench, image: np.ndarray, label: np.ndarray) -> Contenders:
    """Eager, and as a CUDA graph with PyTorch's own defaults (TF32 convolutions) and without."""
    torch = bench.torch
    layers = torch.nn
    net = layers.Sequential(
        layers.Conv2d(1, 32, 5, padding=2), layers.ReLU(), layers.MaxPool2d(2),
        layers.Conv2d(32, 64, 5, padding=2), layers.ReLU(), layers.MaxPool2d(2),
        layers.Flatten(), layers.Linear(3136, 1024), layers.ReLU(), layers.Linear(1024, 10),
    ).cuda()  # fmt: skip
    x = torch.from_numpy(image).permute(0, 3, 1, 2).contiguous().cuda()
    y = torch.from_numpy(label).cuda()
    optimiser = torch.optim.Adam(net.parameters(), capturable=True, fused=True)

    def step() -> Any:
        optimiser.zero_grad(set_to_none=False)
        loss = layers.functional.cross_entropy(net(x), y)
        loss.backward()
        optimiser.step()
        return loss

    rows: Contenders = {"PyTorch eager, TF32": (step, None)}
    for tf32 in (True, False):
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        name = "TF32" if tf32 else "float32"
        rows[f"PyTorch CUDA graph, {name}"] = (graph.replay, None)
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False
    return rows


def launches(bench: Bench) -> Contenders:
    """200 kernels of one element each: what remains is the cost of starting them."""
    nl = bench.nl
    graph = nl.Graph()
    x = graph.placeholder((1024,), nl.float32)
    y = x
    for _ in range(200):
        y = y + 1.0
    value = bench.random((1024,), nl.float32)
    exe = graph.compile(
        {x: value.type}, [y], device="cuda", options=nl.CompileOptions(optimise=False)
    )
    results = exe.run([value])
    for _ in range(5):
        exe.run([value], results=results)
    bench.wait()
    times = []
    for _ in range(50):
        started = time.perf_counter()
        exe.run([value], results=results)
        times.append(time.perf_counter() - started)
        bench.wait()
    print(f"    {exe.kernel_count} kernels; host time of a run {np.median(times) * 1e6:.1f} us")
    return {"Niello": (lambda: exe.run([value], results=results), None)}


_MOVED = 2 * 4.0 * ELEMENTS
_ROWS = float(ROWS_SHAPE[0] * ROWS_SHAPE[1])
ROWS = {
    "copy": Row("copy of 1 GiB", copy, bytes=_MOVED),
    "gelu": Row("GeLU as primitives, float32, 2^28", gelu, bytes=_MOVED),
    "layer_norm": Row("layer norm as primitives, bf16", layer_norm, bytes=4 * _ROWS, tolerance=0.1),
    "softmax": Row("softmax, float32", softmax, bytes=8 * _ROWS, tolerance=1e-4),
    "matmul": Row("matmul + bias, bf16, 8192^3", matmul_plain, flops=2.0 * MATRIX**3),
    "matmul_gelu": Row(
        "matmul + bias + GeLU, bf16, 8192^3", matmul_gelu, flops=2.0 * MATRIX**3, tolerance=0.1
    ),
    "matmul_silu": Row(
        "matmul + bias + SiLU times y, bf16, 8192^3",
        matmul_silu,
        flops=2.0 * MATRIX**3,
        tolerance=0.2,
    ),
    "convolution": Row(
        "conv 3x3 256-256, 56x56, batch 64, bf16, bias, ReLU",
        convolution,
        flops=2.0 * 64 * 56 * 56 * 256 * 256 * 9,
        tolerance=0.1,
    ),
    "digits": Row("digit network training step, float32, batch 64", digits),
    "launches": Row("200 small kernels", launches),
}
