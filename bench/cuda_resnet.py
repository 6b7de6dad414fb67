"""The rows of `bench.cuda` with ResNet-50: inference of one and 64 images, a training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.cuda import Bench, Row
from bench.cuda_jax import jax_row
from bench.networks import resnet, resnet_peers

Contenders = dict[str, tuple[Callable[[], Any], Any]]

TRAINING_BATCH = 128
# Multiply-adds of an image, of which training does three times as many.
_WORK = 4.09e9


def inference(batch: int, bench: Bench) -> Contenders:
    nl, torch = bench.nl, bench.torch
    values = resnet.parameters()
    made = resnet.inference(batch, values)
    image = nl.TensorData.from_numpy(resnet.images(batch, nl.bfloat16)).to(bench.device)
    started = time.perf_counter()
    rows: Contenders = {"Niello": bench.executable(made.graph, {made.image: image}, [made.logits])}
    print(f"    compiled in {time.perf_counter() - started:.2f} s")
    if torch is not None:
        network = resnet_peers.torch_network(values).eval().bfloat16()
        x = _pixels(torch, image)
        modes: dict[str, Any] = {"PyTorch eager": network}
        if bench.compiled:
            modes["PyTorch compiled"] = torch.compile(network)
        for name, call in modes.items():
            run = torch.inference_mode()(partial(call, x))
            run()
            rows[name] = (run, lambda run=run: run().float().cpu().numpy())
            graph = torch.inference_mode()(partial(resnet_peers.captured, run))()
            rows[f"{name}, CUDA graph"] = (graph, None)
    if bench.jax is not None:
        call = resnet_peers.jax_inference(values)
        rows |= jax_row(bench, call, [image], jitted=True)
    return rows


def _pixels(torch: Any, image: Any) -> Any:
    """Images as PyTorch takes them: [N, C, H, W] of three channels, channels last in memory."""
    colours = torch.from_dlpack(image)[..., : resnet.COLOURS].permute(0, 3, 1, 2)
    return colours.contiguous(memory_format=torch.channels_last)


def training(bench: Bench) -> Contenders:
    nl, torch = bench.nl, bench.torch
    values = resnet.parameters()
    made = resnet.training(TRAINING_BATCH, values)
    pixels = resnet.images(TRAINING_BATCH, nl.float32)
    image = nl.TensorData.from_numpy(pixels).to(bench.device)
    rng = np.random.default_rng(0)
    label = rng.integers(0, resnet.CLASSES, TRAINING_BATCH).astype(np.int32)
    given = [image, nl.TensorData.from_numpy(label).to(bench.device)]
    started = time.perf_counter()
    exe = made.graph.compile(
        {made.image: image.type, made.label: given[1].type}, [made.loss], made.steps, device="cuda"
    )
    results = exe.run(given)
    print(f"    compiled in {time.perf_counter() - started:.2f} s: {exe}")
    print(f"    first loss {float(np.asarray(results[0])):.5f}", flush=True)
    rows: Contenders = {"Niello": (lambda: exe.run(given, results=results), None)}
    if torch is not None:
        x = _pixels(torch, image)
        y = torch.from_numpy(label.astype(np.int64)).cuda()
        modes = ["PyTorch eager", *(["PyTorch compiled"] if bench.compiled else [])]
        for name in modes:
            network = resnet_peers.torch_network(values)
            step = resnet_peers.torch_training(network, x, y, name.endswith("compiled"))
            print(f"    {name}: first loss {float(step()):.5f}", flush=True)
            rows[name] = (step, None)
            if name == modes[-1]:
                rows[f"{name}, CUDA graph"] = (resnet_peers.captured(step), None)
    if bench.jax is not None:
        call = resnet_peers.jax_training(values, *(bench.jax_array(v) for v in given))
        print(f"    JAX: first loss {float(call()):.5f}", flush=True)
        rows |= jax_row(bench, call, [], jitted=True)
    return rows


ROWS = {
    "resnet_1": Row(
        "ResNet-50 inference, bf16, batch 1", partial(inference, 1), flops=2 * _WORK, tolerance=0.3
    ),
    "resnet_64": Row(
        "ResNet-50 inference, bf16, batch 64",
        partial(inference, 64),
        flops=2 * 64 * _WORK,
        tolerance=0.3,
    ),
    "resnet_training": Row(
        "ResNet-50 training step, bf16 mixed, batch 128",
        training,
        flops=6 * TRAINING_BATCH * _WORK,
    ),
}
