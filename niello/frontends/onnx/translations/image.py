"""Images: resizing, sampling at points, decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates

# With more elements to weight than this, a matrix product is faster than gathering each.
GATHERED = 4


@dataclass(frozen=True)
class Axis:
    """How one axis is resized: sizes, scale, region and rules."""

    size: int
    out: int
    scale: float
    start: float
    end: float
    coordinates: str
    mode: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool

    def places(self) -> np.ndarray:
        """For each output element, where it lies in the input."""
        x = np.arange(self.out, dtype=np.float64)
        full = self.scale * self.size
        kind = self.coordinates
        if kind == "asymmetric":
            return x / self.scale
        if kind == "align_corners":
            return np.zeros(self.out) if full == 1 else x * (self.size - 1) / (full - 1)
        if kind == "tf_half_pixel_for_nn":
            return (x + 0.5) / self.scale
        if kind == "tf_crop_and_resize":
            if self.out == 1:
                return np.full(1, 0.5 * (self.start + self.end) * (self.size - 1))
            step = (self.end - self.start) * (self.size - 1) / (self.out - 1)
            return self.start * (self.size - 1) + x * step
        if kind == "pytorch_half_pixel" and self.out == 1:
            return np.full(1, -0.5)
        places = (x + 0.5) / self.scale - 0.5
        if kind == "half_pixel_symmetric":
            places = places + self.size / 2 * (1 - self.out / full)
        return places

    def taps(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices and weights, both [taps, out]."""
        places = self.places()
        if self.mode == "nearest":
            found = _nearest(places, self.nearest)
            return np.clip(found, 0, self.size - 1)[None], np.ones((1, self.out))
        base = np.floor(places)
        ratio = places - base
        squeeze = min(self.scale, 1.0) if self.antialias else 1.0
        reach = 1 if self.mode == "linear" else 2
        first = int(np.floor(-reach / squeeze) + 1)
        offsets = np.arange(first, 2 - first if self.antialias else 2 * reach + first)[:, None]
        distance = np.abs((offsets - ratio) * squeeze)
        weights = self._weight(distance)
        indices = base.astype(np.int64) + offsets
        if self.antialias:
            weights = weights / weights.sum(0)
        if self.exclude_outside:
            weights = np.where((indices < 0) | (indices >= self.size), 0, weights)
            weights = weights / weights.sum(0)
        return np.clip(indices, 0, self.size - 1), weights

    def _weight(self, distance: np.ndarray) -> np.ndarray:
        if self.mode == "linear":
            return np.clip(1 - distance, 0, 1)
        a = self.cubic
        near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        return np.where(distance <= 1, near, np.where(distance < 2, far, 0))

    def outside(self) -> np.ndarray:
        """Output elements that lie outside of the input."""
        places = self.places()
        return (places < 0) | (places > self.size - 1)

    @property
    def changes(self) -> bool:
        """Whether anything is to be done."""
        return (
            self.out != self.size or self.scale != 1.0 or self.coordinates == "tf_crop_and_resize"
        )


def _nearest(places: np.ndarray, mode: str) -> np.ndarray:
    if mode == "round_prefer_floor":
        found = np.ceil(places - 0.5)
    elif mode == "round_prefer_ceil":
        found = np.floor(places + 0.5)
    else:
        found = np.floor(places) if mode == "floor" else np.ceil(places)
    return found.astype(np.int64)


def resized(x: nl.Tensor, axes: Sequence[tuple[int, Axis]], fill: float) -> nl.Tensor:
    """x resized along each axis."""
    for number, axis in axes:
        if axis.changes:
            x = _along(x, number, axis)
    cropped = [(n, a) for n, a in axes if a.coordinates == "tf_crop_and_resize"]
    for number, axis in cropped:
        outside = axis.outside()
        if outside.any():
            assert x.shape is not None
            wide = outside.reshape(-1, *(1,) * (len(x.shape) - 1 - number))
            value = x.graph.constant(np.asarray(fill).astype(x.dtype.numpy))
            x = nl.select(x.graph.constant(wide), value, x)
    return x


def _along(x: nl.Tensor, number: int, axis: Axis) -> nl.Tensor:
    indices, weights = axis.taps()
    graph = x.graph
    if axis.mode == "nearest":
        return nl.gather(x, graph.constant(indices[0]), number)
    assert x.shape is not None
    rank = len(x.shape)
    kind = x.dtype
    wide = x if kind.is_float else nl.cast(x, nl.float32)
    if len(indices) > GATHERED:
        matrix = np.zeros((axis.out, axis.size))
        np.add.at(matrix, (np.arange(axis.out)[None].repeat(len(indices), 0), indices), weights)
        order = [*(a for a in range(rank) if a != number), number]
        moved = nl.matmul(
            nl.transpose(wide, order), graph.constant(matrix.T.astype(wide.dtype.numpy))
        )
        wide = nl.transpose(moved, [order.index(a) for a in range(rank)])
    else:
        shape = (-1, *(1,) * (rank - 1 - number))
        terms = [
            nl.gather(wide, graph.constant(i), number)
            * graph.constant(w.astype(wide.dtype.numpy).reshape(shape))
            for i, w in zip(indices, weights, strict=True)
        ]
        wide = terms[0]
        for term in terms[1:]:
            wide = wide + term
    if kind.is_float:
        return wide
    return nl.cast(nl.rint(wide) if kind.is_integer else wide, kind)


@translates("Upsample")
def upsample(at: Call) -> nl.Tensor:
    """Resize as it was before opset 10."""
    if at.version >= 9:
        scales = [float(s) for s in at.array(1)]
    elif at.version >= 7:
        scales = at.floats("scales")
    else:
        scales = [1.0, 1.0, at.real("height_scale"), at.real("width_scale")]
    return _simple(at, scales)


@translates("Resize", since=10)
def resize_10(at: Call) -> nl.Tensor:
    """Nearest (rounded down) or linear, by x / scale."""
    return _simple(at, [float(s) for s in at.array(1)])


def _simple(at: Call, scales: Sequence[float]) -> nl.Tensor:
    mode = at.text("mode", "nearest")
    axes = []
    for number, (size, scale) in enumerate(zip(at.shape(0), scales, strict=True)):
        out = int(np.floor(size * scale))
        kind = "nearest" if mode == "nearest" else "linear"
        axis = Axis(size, out, scale, 0, 1, "asymmetric", kind, "floor", -0.75, False, False)
        axes.append((number, axis))
    return resized(at.tensor(0), axes, 0.0)


@translates("Resize", since=11)
def resize(at: Call) -> nl.Tensor:
    """Nearest, linear or cubic, by scales or sizes, with ONNX's ways to place pixels."""
    sizes, rank = at.shape(0), at.rank(0)
    numbers = [a % rank for a in at.ints("axes", range(rank))]
    scales, outs = _targets(at, [sizes[n] for n in numbers])
    region = at.array(1).reshape(-1).tolist() if at.has(1) and at.array(1).size else None
    count = len(numbers)
    axes = []
    for i, number in enumerate(numbers):
        axis = Axis(
            sizes[number],
            outs[i],
            scales[i],
            region[i] if region else 0.0,
            region[count + i] if region else 1.0,
            at.text("coordinate_transformation_mode", "half_pixel"),
            at.text("mode", "nearest"),
            at.text("nearest_mode", "round_prefer_floor"),
            at.real("cubic_coeff_a", -0.75),
            bool(at.integer("exclude_outside", 0)),
            bool(at.integer("antialias", 0)),
        )
        if axis.mode != "nearest" or axis.changes:
            axes.append((number, axis))
    return resized(at.tensor(0), axes, at.real("extrapolation_value", 0.0))


def _targets(at: Call, sizes: Sequence[int]) -> tuple[list[float], list[int]]:
    """Scales and output sizes, from whichever of the two is given."""
    if at.has(2) and at.array(2).size:
        scales = [float(s) for s in at.array(2)]
        return scales, [int(np.floor(n * s)) for n, s in zip(sizes, scales, strict=True)]
    wanted = at.known_ints(3)
    policy = at.text("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        ratios = [w / n for w, n in zip(wanted, sizes, strict=True)]
        scale = min(ratios) if policy == "not_larger" else max(ratios)
        wanted = [int(np.floor(scale * n + 0.5)) for n in sizes]
        return [scale] * len(sizes), wanted
    return [w / n for w, n in zip(wanted, sizes, strict=True)], wanted


@translates("GridSample")
def grid_sample(at: Call) -> nl.Tensor:
    """Pixels at points given in coordinates from -1 to 1."""
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = at.text("mode", "linear")
    return nl.grid_sample(
        at.tensor(0),
        at.tensor(1),
        mode=names.get(mode, mode),
        padding=at.text("padding_mode", "zeros"),
        align_corners=bool(at.integer("align_corners", 0)),
    )


@translates("ImageDecoder", host=True)
def image_decoder(at: Call) -> Any:
    """A compressed image as pixels, decoded by Pillow while importing."""
    import io

    try:
        from PIL import Image
    except ImportError:
        raise at.refuse("needs the package pillow", advice="Install pillow") from None
    layout = at.text("pixel_format", "RGB")
    with Image.open(io.BytesIO(at.array(0).tobytes())) as image:
        if layout == "Grayscale":
            return np.asarray(image.convert("L"))[..., None]
        pixels = np.asarray(image.convert("RGB"))
    return pixels[..., ::-1].copy() if layout == "BGR" else pixels
