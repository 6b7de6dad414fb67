"""ResNet-50 in PyTorch (torchvision's) and JAX, with the parameters of `resnet.parameters`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.networks import resnet
from bench.networks.resnet import Arrays, Layer


def torch_network(values: Arrays) -> Any:
    """torchvision's network on the GPU, channels last."""
    import torch
    import torchvision

    network = torchvision.models.resnet50(weights=None)
    state = network.state_dict()
    for name, array in values.items():
        colours = resnet.COLOURS if name == f"{resnet.STEM.name}.weight" else None
        found = torch.from_numpy(array[..., :colours])
        if found.ndim == 4:  # [O, H, W, I]
            found = found.permute(0, 3, 1, 2)
        state[name] = found.T.contiguous() if name == "fc.weight" else found
    network.load_state_dict(state)
    return network.cuda().to(memory_format=torch.channels_last)


def torch_training(network: Any, image: Any, label: Any, compiled: bool) -> Callable[[], Any]:
    """A step of SGD with momentum under bfloat16 autocast; returns the loss."""
    import torch

    network.train()
    optimiser = torch.optim.SGD(
        network.parameters(),
        resnet.RATE,
        resnet.MOMENTUM,
        weight_decay=resnet.DECAY,
        fused=True,
    )

    def loss_of(x: Any, y: Any) -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            return torch.nn.functional.cross_entropy(network(x), y)

    forward = torch.compile(loss_of) if compiled else loss_of

    def step() -> Any:
        optimiser.zero_grad(set_to_none=False)
        loss = forward(image, label)
        loss.backward()
        optimiser.step()
        return loss

    return step


def captured(step: Callable[[], Any]) -> Callable[[], Any]:
    """A call as a CUDA graph, after three runs on another stream."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = step()

    def replay(keep: Any = kept) -> Any:
        graph.replay()
        return keep

    return replay


# --- JAX ------------------------------------------------------------------------------------------


def _convolve(x: Any, weights: Any, layer: Layer) -> Any:
    import jax

    around = layer.size // 2
    return jax.lax.conv_general_dilated(
        x,
        weights,
        (layer.stride, layer.stride),
        [(around, around)] * 2,
        dimension_numbers=("NHWC", "OHWI", "NHWC"),
    )


def _pooled(x: Any) -> Any:
    import jax

    return jax.lax.reduce_window(
        x,
        np.asarray(-np.inf, x.dtype),
        jax.lax.max,
        (1, 3, 3, 1),
        (1, 2, 2, 1),
        ((0, 0), (1, 1), (1, 1), (0, 0)),
    )


def _network(x: Any, layer_of: Callable[[Any, Layer], Any]) -> Any:
    """Features of images; `layer_of` is a convolution with its normalisation."""
    import jax

    x = _pooled(jax.nn.relu(layer_of(x, resnet.STEM)))
    for block in resnet.blocks():
        shortcut = x if block.shortcut is None else layer_of(x, block.shortcut)
        first, second, third = block.layers
        found = jax.nn.relu(layer_of(jax.nn.relu(layer_of(x, first)), second))
        x = jax.nn.relu(layer_of(found, third) + shortcut)
    return x.mean((1, 2))


def jax_inference(values: Arrays) -> Callable[[Any], Any]:
    """The compiled network for inference in bfloat16."""
    import jax
    import jax.numpy as jnp

    given = {
        layer.name: tuple(jnp.asarray(v, jnp.bfloat16) for v in resnet.folded(values, layer))
        for layer in resnet.layers()
    }
    dense = [jnp.asarray(values[n], jnp.bfloat16) for n in ("fc.weight", "fc.bias")]

    def run(x: Any, given: Any, dense: Any) -> Any:
        def layer_of(x: Any, layer: Layer) -> Any:
            weights, bias = given[layer.name]
            return _convolve(x, weights, layer) + bias

        return _network(x, layer_of) @ dense[0] + dense[1]

    compiled = jax.jit(run)
    return lambda x: compiled(x, given, dense)


def jax_training(values: Arrays, image: Any, label: Any) -> Callable[[], Any]:
    """The compiled step of training; parameters stay on the device between calls."""
    import jax
    import jax.numpy as jnp

    trained = {n: jnp.asarray(v) for n, v in values.items() if ".running" not in n}
    running = {n: jnp.asarray(v) for n, v in values.items() if ".running" in n}
    state = [trained, running, {n: jnp.zeros_like(v) for n, v in trained.items()}]

    def loss_of(trained: Any, running: Any, x: Any, y: Any) -> Any:
        kept = {}

        def layer_of(x: Any, layer: Layer) -> Any:
            made = _convolve(x, trained[f"{layer.name}.weight"].astype(jnp.bfloat16), layer)
            w = made.astype(jnp.float32)
            mean = w.mean((0, 1, 2))
            variance = jnp.maximum((w * w).mean((0, 1, 2)) - mean * mean, 0.0)
            for name, value in (("running_mean", mean), ("running_var", variance)):
                key = f"{layer.norm}.{name}"
                kept[key] = running[key] * resnet.KEPT + value * (1 - resnet.KEPT)
            scale = jax.lax.rsqrt(variance + resnet.EPSILON) * trained[f"{layer.norm}.weight"]
            return (w * scale + (trained[f"{layer.norm}.bias"] - mean * scale)).astype(jnp.bfloat16)

        features = _network(x.astype(jnp.bfloat16), layer_of)
        dense = trained["fc.weight"].astype(jnp.bfloat16)
        logits = (features @ dense).astype(jnp.float32) + trained["fc.bias"]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)
        return -chosen.mean(), kept

    def step(trained: Any, running: Any, velocity: Any, x: Any, y: Any) -> Any:
        (loss, kept), found = jax.value_and_grad(loss_of, has_aux=True)(trained, running, x, y)
        velocity = {
            n: resnet.MOMENTUM * velocity[n] + found[n] + resnet.DECAY * trained[n] for n in trained
        }
        trained = {n: trained[n] - resnet.RATE * velocity[n] for n in trained}
        return loss, trained, kept, velocity

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))

    def call() -> Any:
        loss, *state[:] = compiled(*state, image, label)
        return loss

    return call
