"""Networks as PyTorch modules with random weights, for `bench.cuda_models`: what torchvision and
transformers have, U-Net, and the network of fast style transfer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

UNET_CHANNELS = (64, 128, 256, 512, 1024)
WORDS, LENGTH = 30522, 128  # of BERT's vocabulary, and of a sequence


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) with padded convolutions and two classes."""

    def __init__(self) -> None:
        super().__init__()
        ins = (3, *UNET_CHANNELS[:-1])
        self.down = nn.ModuleList(map(self._both, ins, UNET_CHANNELS))
        back = tuple(zip(UNET_CHANNELS[:0:-1], UNET_CHANNELS[-2::-1], strict=True))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in back)
        self.up = nn.ModuleList(self._both(2 * o, o) for _, o in back)
        self.classes = nn.Conv2d(UNET_CHANNELS[0], 2, 1)

    @staticmethod
    def _both(inputs: int, outputs: int) -> nn.Sequential:
        first = nn.Conv2d(inputs, outputs, 3, padding=1)
        second = nn.Conv2d(outputs, outputs, 3, padding=1)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for number, both in enumerate(self.down):
            x = both(x if number == 0 else nn.functional.max_pool2d(x, 2))
            kept.append(x)
        for grow, both, beside in zip(self.grow, self.up, kept[-2::-1], strict=True):
            x = both(torch.cat([beside, grow(x)], 1))
        return self.classes(x)


class _Normalised(nn.Module):
    """A convolution over a reflected border, and instance normalisation."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(size // 2)
        self.convolution = nn.Conv2d(inputs, outputs, size, stride)
        self.norm = nn.InstanceNorm2d(outputs, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(self.pad(x)))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _Normalised(channels, channels, 3)
        self.second = _Normalised(channels, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.relu(self.first(x)))


class Style(nn.Module):
    """Fast style transfer (Johnson et al. 2016) with instance normalisation and resize-convolution
    on the way up, as PyTorch's own example has it."""

    def __init__(self) -> None:
        super().__init__()
        grow = nn.Upsample(scale_factor=2, mode="nearest")
        self.layers = nn.Sequential(
            _Normalised(3, 32, 9), nn.ReLU(),
            _Normalised(32, 64, 3, 2), nn.ReLU(),
            _Normalised(64, 128, 3, 2), nn.ReLU(),
            *(_Residual(128) for _ in range(5)),
            grow, _Normalised(128, 64, 3), nn.ReLU(),
            grow, _Normalised(64, 32, 3), nn.ReLU(),
            nn.ReflectionPad2d(4), nn.Conv2d(32, 3, 9),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Bert(nn.Module):
    """The last hidden state of transformers' BERT-base. `attention` is how it is computed: "sdpa"
    by PyTorch's own function, "eager" by products and a softmax."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(attn_implementation=attention)
        self.model = BertModel(config, add_pooling_layer=False)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=words).last_hidden_state


def torchvision_network(name: str) -> nn.Module:
    """A classifier of torchvision, with statistics of batch normalisation that are not trivial."""
    import torchvision

    network = getattr(torchvision.models, name)(weights=None)
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return network


def picture(size: int) -> torch.Tensor:
    """A random picture, float32[1, 3, size, size]."""
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))


def words() -> torch.Tensor:
    """A random sequence of words, int64[1, LENGTH]."""
    return torch.randint(0, WORDS, (1, LENGTH), generator=torch.Generator().manual_seed(3))


def as_onnx(network: Any, given: torch.Tensor) -> bytes:
    """The bytes of an ONNX file of a network that takes one tensor."""
    import io
    import warnings

    file = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (given,), file, dynamo=False, opset_version=17,
            input_names=["given"], output_names=["found"],
        )  # fmt: skip
    return file.getvalue()
