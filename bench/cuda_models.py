"""The rows of `bench.cuda` with whole networks in bfloat16, one sample at a time.

A module of PyTorch is exported to ONNX for Niello, which compiles it with autocast to bfloat16;
PyTorch runs the module itself in bfloat16, channels last, eagerly and compiled with CUDA graphs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.cuda import Bench, Row

Contenders = dict[str, tuple[Callable[[], Any], Any]]


@dataclass(frozen=True)
class Model:
    """A network: `make(networks)` gives the module that PyTorch runs and the one that is exported,
    `given(networks)` what it takes. `networks` is bench.networks.torch_networks."""

    make: Callable[[Any], tuple[Any, Any]]
    given: Callable[[Any], Any]


def _classifier(name: str) -> Model:
    def make(networks: Any) -> tuple[Any, Any]:
        network = networks.torchvision_network(name)
        return network, network

    return Model(make, lambda networks: networks.picture(224))


def _own(name: str, size: int) -> Model:
    def make(networks: Any) -> tuple[Any, Any]:
        network = getattr(networks, name)()
        return network, network

    return Model(make, lambda networks: networks.picture(size))


def _bert(networks: Any) -> tuple[Any, Any]:
    network, exported = networks.Bert("sdpa"), networks.Bert("eager")
    exported.load_state_dict(network.state_dict())
    return network, exported


def contenders(model: Model, bench: Bench) -> Contenders:
    """Niello, PyTorch eager, and PyTorch compiled unless that is left out."""
    from bench.networks import torch_networks as networks
    from niello.frontends.onnx import load

    nl, torch = bench.nl, bench.torch
    torch.manual_seed(0)
    network, exported = (m.eval() for m in model.make(networks))
    given = model.given(networks)
    file = networks.as_onnx(exported, given)
    started = time.perf_counter()
    options = nl.CompileOptions(autocast=nl.bfloat16)
    executable = load(file).compile(device="cuda", options=options)
    print(f"    compiled in {time.perf_counter() - started:.2f} s: {executable}", flush=True)
    values = [nl.TensorData.from_numpy(given.numpy()).to(bench.device)]
    results = executable.run(values)
    rows: Contenders = {
        "Niello": (
            lambda: executable.run(values, results=results),
            lambda: np.asarray(results[0]).astype(np.float32),
        )
    }
    network = network.cuda().bfloat16()
    there = given.cuda()
    if given.is_floating_point():
        network = network.to(memory_format=torch.channels_last)
        there = there.bfloat16().contiguous(memory_format=torch.channels_last)
    modes: dict[str, Any] = {"PyTorch eager": network}
    if bench.compiled:
        torch.compiler.reset()
        modes["PyTorch compiled reduce-overhead"] = torch.compile(network, mode="reduce-overhead")
    for name, call in modes.items():
        run = torch.inference_mode()(partial(call, there))
        rows[name] = (run, lambda run=run: run().float().cpu().numpy())
    return rows


def _row(title: str, model: Model, flops: float) -> Row:
    # Values of bfloat16 have eight bits; dozens of layers let single results drift by more.
    name = f"{title}, bf16, batch 1"
    return Row(name, partial(contenders, model), flops=flops, tolerance=0.35)


ROWS = {
    "model_resnet": _row("ResNet-50 from ONNX", _classifier("resnet50"), 8.2e9),
    "model_mobilenet": _row("MobileNetV2", _classifier("mobilenet_v2"), 0.6e9),
    "model_squeezenet": _row("SqueezeNet 1.0", _classifier("squeezenet1_0"), 1.6e9),
    "model_bert": _row(
        "BERT-base, 128 words", Model(_bert, lambda networks: networks.words()), 22.3e9
    ),
    "model_unet": _row("U-Net 256 x 256", _own("UNet", 256), 109e9),
    "model_style": _row("fast style transfer 256 x 256", _own("Style", 256), 18e9),
}
