"""What the convolution ops share: layouts of weights, settings, and the settings of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import DType
from niello.core.records import frozen
from niello.core.shapes import Shape
from niello.graph.opdef import record
from niello.kernel import ir
from niello.kernel.ir import Expr
from niello.ops.window import Layout, Window


@record
@frozen
class WeightsLayout:
    """Axis letters of weights, such as "HWIO": O output channels, I input channels of a group."""

    letters: str

    @property
    def spatial(self) -> tuple[int, ...]:
        return tuple(i for i, c in enumerate(self.letters) if c not in "IO")

    def pick(self, values: Any) -> tuple[Any, Any, tuple[Any, ...]]:
        """(inputs, outputs, spatial...) entries."""
        return (
            values[self.letters.index("I")],
            values[self.letters.index("O")],
            tuple(values[i] for i in self.spatial),
        )

    def build(self, inputs: Any, outputs: Any, spatial: Sequence[Any]) -> tuple[Any, ...]:
        result: list[Any] = [None] * len(self.letters)
        result[self.letters.index("I")], result[self.letters.index("O")] = inputs, outputs
        for axis, value in zip(self.spatial, spatial, strict=True):
            result[axis] = value
        return tuple(result)


@record
@frozen
class ConvolutionSettings:
    """What the three ops share."""

    window: Window
    groups: int
    data: Layout
    weights: WeightsLayout
    accumulate: DType | None = None  # as in Matmul

    def per_group(self, weights: tuple[int, ...]) -> tuple[int, int]:
        """Input and output channels of one group."""
        inputs, outputs, _ = self.weights.pick(weights)
        return inputs, outputs // self.groups  # type: ignore[return-value,operator]

    def kernel(self, weights: Shape) -> tuple[int, ...]:
        return self.weights.pick(weights)[2]  # type: ignore[return-value]

    def split_channel(self, channel: Expr, size: int) -> tuple[Expr, Expr]:
        """(group, channel inside it) of a channel number, `size` channels a group."""
        if self.groups == 1:
            return ir.const(0, dtypes.int64), channel
        return channel // size, channel % size

    def grouped(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """An output shape with the groups as an axis of their own."""
        if self.groups == 1:
            return None
        axis = self.data.channel
        return (*shape[:axis], self.groups, shape[axis] // self.groups, *shape[axis + 1 :])

    def tensordot_weights(self, w: np.ndarray, group: int, offset: tuple[int, ...]) -> np.ndarray:
        """The [inputs, outputs] matrix of one group at one kernel offset."""
        moved = np.moveaxis(
            w,
            (
                *self.weights.spatial,
                self.weights.letters.index("I"),
                self.weights.letters.index("O"),
            ),
            range(w.ndim),
        )
        size = moved.shape[-1] // self.groups
        return moved[offset][:, group * size : (group + 1) * size]


SampleSettings = tuple[tuple[int, ...], tuple[int, ...], ConvolutionSettings, bool]


def sample_settings() -> list[SampleSettings]:
    """(data shape, weights shape, settings, with gradient) that cover every attribute."""

    def settings(
        data: str,
        weights: str,
        strides: tuple[int, ...] = (1, 1),
        dilations: tuple[int, ...] = (1, 1),
        padding: object = "valid",
        groups: int = 1,
    ) -> ConvolutionSettings:
        window = Window(strides, dilations, padding)  # type: ignore[arg-type]
        return ConvolutionSettings(window, groups, Layout(data), WeightsLayout(weights))

    explicit = ((1, 0), (0, 2))
    return [
        ((2, 5, 6, 3), (3, 2, 3, 4), settings("NHWC", "HWIO", padding="same"), True),
        ((1, 3, 5, 4), (2, 3, 3, 2), settings("NCHW", "OIHW"), True),
        ((1, 2, 7, 6), (4, 2, 3, 3), settings("NCHW", "OIHW", (2, 3), padding="same"), True),
        ((1, 7, 6, 2), (3, 3, 2, 3), settings("NHWC", "HWIO", (2, 2), padding="same_lower"), False),
        ((1, 6, 6, 2), (2, 2, 2, 3), settings("NHWC", "HWIO", (1, 2), (2, 2), explicit), True),
        ((1, 4, 5, 5), (6, 2, 3, 3), settings("NCHW", "OIHW", groups=2, padding="same"), True),
        ((1, 5, 5, 3), (3, 3, 1, 3), settings("NHWC", "HWIO", groups=3, padding="same"), True),
        ((2, 6, 3), (3, 3, 4), settings("NWC", "WIO", (1,), (1,), "same"), False),
        ((1, 3, 3, 4, 2), (2, 2, 2, 2, 3), settings("NDHWC", "DHWIO", (1,) * 3, (1,) * 3), False),
        ((2, 4, 9), (6, 2, 3), settings("NCW", "OIW", (2,), (2,), ((1, 2),), 2), True),
        (
            (1, 2, 4, 3, 5),
            (2, 1, 2, 1, 3),
            settings("NCDHW", "OIDHW", (2, 1, 2), (1, 1, 2), "same", 2),
            True,
        ),
        ((2, 9, 9, 17), (3, 3, 17, 35), settings("NHWC", "HWIO", padding="same"), False),
        ((1, 5, 4, 2), (3, 3, 2, 2), settings("NHWC", "OHWI", (2, 1), padding="same"), True),
        ((0, 4, 4, 2), (3, 3, 2, 3), settings("NHWC", "HWIO", padding="same"), False),
    ]
