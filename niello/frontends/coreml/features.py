"""Features: the inputs and outputs that a Core ML model declares, and how values enter and leave.

An image is a uint8 array [height, width] (gray) or [height, width, 3] (red, green, blue).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import niello as nl

# ArrayFeatureType.dataType. Doubles are float32, as in what Core ML itself computes.
_ARRAYS = {
    65568: nl.float32,
    65600: nl.float32,
    131104: nl.int32,
    131080: nl.int8,
    65552: nl.float16,
    0: nl.float32,
}
GRAY, RGB, BGR, GRAY16 = 10, 20, 30, 40


def kind_of(feature: Any) -> str:
    """Which kind of feature it is: imageType, multiArrayType, dictionaryType, ..."""
    return str(feature.type.WhichOneof("Type"))


def array_type(message: Any) -> nl.TensorType:
    """The type of an ArrayFeatureType; sizes that may vary are None."""
    if message.dataType not in _ARRAYS:
        raise nl.errors.FrontendError(
            "Core ML array", "unknown element type", received=message.dataType
        )
    dtype = _ARRAYS[message.dataType]
    flexible = message.WhichOneof("ShapeFlexibility")
    shape: list[int | None] = [int(d) for d in message.shape]
    if flexible == "enumeratedShapes":
        shapes = [tuple(int(d) for d in s.shape) for s in message.enumeratedShapes.shapes]
        shape = [
            column[0] if len(set(column)) == 1 else None for column in zip(*shapes, strict=False)
        ]
    elif flexible == "shapeRange":
        shape = [
            int(r.lowerBound) if r.lowerBound == r.upperBound else None
            for r in message.shapeRange.sizeRanges
        ]
    return nl.TensorType(tuple(shape), dtype)


def image_type(message: Any) -> nl.TensorType:
    """The type of an ImageFeatureType as it is fed."""
    sizes: tuple[int | None, int | None] = (int(message.height), int(message.width))
    if message.WhichOneof("SizeFlexibility") is not None:
        sizes = (None, None)
    if message.colorSpace == GRAY16:
        return nl.TensorType(sizes, nl.float16)
    if message.colorSpace == GRAY:
        return nl.TensorType(sizes, nl.uint8)
    return nl.TensorType((*sizes, 3), nl.uint8)


class Input:
    """An input: its type as it is fed, and what becomes of it in the model."""

    def __init__(self, feature: Any) -> None:
        self.feature = feature
        self.name = str(feature.name)
        self.kind = kind_of(feature)
        self.optional = bool(feature.type.isOptional)
        if self.kind == "imageType":
            self.type = image_type(feature.type.imageType)
        elif self.kind == "multiArrayType":
            self.type = array_type(feature.type.multiArrayType)
        elif self.kind in ("int64Type", "doubleType"):
            self.type = nl.TensorType((1,), nl.int32 if self.kind == "int64Type" else nl.float32)
        else:
            raise nl.errors.FrontendError(
                f"Core ML input {self.name!r}",
                "inputs of this kind cannot be fed to a graph",
                received=self.kind,
                advice="Images, arrays and numbers can",
            )

    @property
    def is_image(self) -> bool:
        """Whether it is an image."""
        return self.kind == "imageType"

    def fixed(self, wanted: Any) -> nl.TensorType:
        """The type with the sizes of a TensorType, shape or array. Raises FeedError."""
        shape = wanted.shape if hasattr(wanted, "shape") else tuple(wanted)
        declared = self.type.shape
        fits = declared is not None and shape is not None and len(shape) == len(declared)
        if not fits or any(
            d is not None and s is not None and d != s
            for d, s in zip(declared or (), shape, strict=True)
        ):
            raise self._refused(f"the input is {self.type}", repr(wanted))
        self._check_flexible(tuple(shape))
        return nl.TensorType(tuple(shape), self.type.dtype)

    def _check_flexible(self, shape: tuple[int | None, ...]) -> None:
        """Sizes must be among those that the model allows."""
        if self.kind not in ("imageType", "multiArrayType"):
            return
        for allowed in self._ranges():
            if all(
                s is None or (s >= low and (high < 0 or s <= high))
                for s, (low, high) in zip(shape, allowed, strict=False)
            ):
                return
        raise self._refused("the model does not allow this size", list(shape))

    def _ranges(self) -> list[list[tuple[int, int]]]:
        """What sizes are allowed: one of these lists of (smallest, largest or -1)."""
        if self.is_image:
            m = self.feature.type.imageType
            kind = m.WhichOneof("SizeFlexibility")
            if kind == "enumeratedSizes":
                pairs = [(int(s.height), int(s.width)) for s in m.enumeratedSizes.sizes]
                return [[(h, h), (w, w)] for h, w in [*pairs, (int(m.height), int(m.width))]]
            if kind == "imageSizeRange":
                both = (m.imageSizeRange.heightRange, m.imageSizeRange.widthRange)
                return [[(int(r.lowerBound), int(r.upperBound)) for r in both]]
            return [[(int(m.height), int(m.height)), (int(m.width), int(m.width))]]
        m = self.feature.type.multiArrayType
        kind = m.WhichOneof("ShapeFlexibility")
        if kind == "enumeratedShapes":
            return [[(int(d), int(d)) for d in s.shape] for s in m.enumeratedShapes.shapes]
        if kind == "shapeRange":
            return [[(int(r.lowerBound), int(r.upperBound)) for r in m.shapeRange.sizeRanges]]
        return [[(int(d), int(d)) for d in m.shape]]

    def fed(self, value: Any) -> np.ndarray:
        """The array that is fed. Raises FeedError for values of other types or shapes."""
        if isinstance(value, nl.TensorData):
            value = value.numpy()
        plain = not isinstance(value, np.ndarray)
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.empty(0, object)
        if array.dtype.kind not in "biuf":
            raise self._refused("the value is no array of numbers", type(value).__name__)
        if self.is_image and array.ndim == 3 and array.shape[-1] == 1:
            array = array[..., 0]
        elif not self.is_image and self.kind != "multiArrayType" and array.ndim == 0:
            array = array.reshape(1)
        wanted = self.type.dtype
        if array.dtype != wanted.numpy:
            if not (plain and not self.is_image) and not self._widens(array.dtype):
                raise self._refused(f"the input holds {wanted.name}", array.dtype.name)
            array = array.astype(wanted.numpy)
        self.fixed(array)
        return array

    def _widens(self, found: np.dtype[Any]) -> bool:
        """Doubles may be fed where float32 is computed, and integers of 64 bits as of 32."""
        if self.type.dtype is nl.float32:
            return found == np.float64
        return self.type.dtype is nl.int32 and found == np.int64

    def default(self) -> np.ndarray:
        """What an optional input is when it is not fed."""
        value: float = 0.0
        if self.kind == "multiArrayType":
            m = self.feature.type.multiArrayType
            which = m.WhichOneof("defaultOptionalValue")
            value = float(getattr(m, which)) if which else 0.0
        shape = self.type.shape
        if shape is None or None in shape:
            shape = tuple(int(d) for d in self.feature.type.multiArrayType.shape)
        return np.full(shape, value, self.type.dtype.numpy)  # type: ignore[arg-type]

    def _refused(self, problem: str, received: Any) -> nl.errors.FeedError:
        what = "an image" if self.is_image else "an array"
        return nl.errors.FeedError(
            f"feed {self.name}",
            problem,
            received=received,
            advice=f"Feed {what} of {self.type}",
            tensor=self.name,
        )


# --- images inside of the graph


def planes(x: nl.Tensor, color: int) -> nl.Tensor:
    """An image as it is fed as float32 [1, channels, height, width] in the model's order."""
    y = nl.cast(x, nl.float32)
    if color in (GRAY, GRAY16):
        return nl.expand_dims(y, (0, 1))
    y = nl.reverse(y, 2) if color == BGR else y
    return nl.expand_dims(nl.transpose(y, (2, 0, 1)), 0)


def image_of(y: nl.Tensor, color: int) -> nl.Tensor:
    """An image that the model computed, [..., channels, height, width], as uint8 pixels."""
    shape = tuple(y.shape or ())
    y = nl.reshape(nl.cast(y, nl.float32), shape[-3:] if len(shape) >= 3 else shape)
    if color == GRAY16:
        return nl.cast(nl.reshape(y, shape[-2:]), nl.float16)
    y = nl.cast(nl.rint(nl.clamp(y, 0.0, 255.0)), nl.uint8)
    if color == GRAY:
        return nl.reshape(y, shape[-2:])
    y = nl.transpose(y, (1, 2, 0))
    return nl.reverse(y, 2) if color == BGR else y


@dataclass(frozen=True)
class Output:
    """An output: a tensor, and what its elements mean.

    With labels: `kind` "probabilities" has one element for each, "label" is the number of one (or,
    where labels are integers, the label itself).
    """

    tensor: nl.Tensor
    kind: str = "array"
    labels: tuple[Any, ...] = ()

    def result(self, data: Any) -> Any:
        """The value of a run as the model declares it: a dictionary, a label, or an array."""
        if self.kind == "array":
            return data
        values = data.numpy().reshape(-1)
        if self.kind == "probabilities":
            return dict(zip(self.labels, (float(v) for v in values), strict=True))
        index = int(values[0])
        return self.labels[index] if isinstance(self.labels[0], str) else index


def classified(
    scores: nl.Tensor, labels: tuple[Any, ...], graph: nl.Graph
) -> tuple[Output, Output]:
    """The label with the largest score, and all scores."""
    flat = nl.reshape(scores, (-1,))
    if flat.shape != (len(labels),) or not labels:
        raise nl.errors.FrontendError(
            "Core ML classifier",
            f"there are {len(labels)} class labels",
            received=f"{flat.type} scores",
            advice="The file is not a valid model",
        )
    best = nl.argmax(flat, 0, dtype=nl.int32)
    if not isinstance(labels[0], str):
        best = nl.gather(graph.constant(np.array(labels, np.int64)), best, 0)
    return Output(best, "label", labels), Output(flat, "probabilities", labels)
