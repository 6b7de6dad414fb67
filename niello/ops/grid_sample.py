"""grid_sample and affine_grid, as users call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import show
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, function, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.define import as_operand, check_dtype, half_as_float32
from niello.ops.grid import GridSample
from niello.ops.grid_positions import MODES, PADDINGS, Sampling
from niello.ops.movement import apply, integers, tensor_of

_MODES = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}
_PADDINGS = {"zeros": "constant", "clamp": "border", "edge": "border"}
_ROUNDINGS = ("round_to_even", "round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def _choice(what: str, value: Any, allowed: Sequence[str], aliases: Sequence[str] = ()) -> None:
    if value not in allowed:
        raise AttributeValueError(
            "grid_sample",
            f"there is no such {what}",
            received=repr(value),
            advice=f"Use one of {', '.join((*allowed, *aliases))}",
        )


@function
def grid_sample(
    x: Tensor,
    grid: Any,
    *,
    mode: str = "linear",
    padding: str = "zeros",
    align_corners: bool = False,
    value: float = 0.0,
    normalised: bool = True,
    relative: bool = False,
    rounding: str = "round_to_even",
    layout: str = "NCHW",
    name: str | None = None,
) -> Tensor:
    """`x` sampled at the positions that `grid` holds for each element of the result.

    `x` is [N, C, H, W] or [N, C, D, H, W] (channels last with a `layout` that ends with C), `grid`
    [N, H', W', 2] or [N, D', H', W', 3], its last axis holding the coordinate along the innermost
    spatial axis first; the result has the spatial sizes of the grid.

    - Coordinates run from -1 to 1: between the outer edges of the outermost elements or, with
      `align_corners`, between their centres. Not `normalised`, they are positions of elements.
      `relative` ones are offsets, in elements or halves of the size, from the result's own
      position.
    - `mode`: "nearest" (rounded by `rounding`), "linear" ("bilinear") or "cubic" ("bicubic").
    - `padding`: "zeros", "constant" (`value`), "border" ("clamp"), "reflect" (mirrored at the
      centre of the last element), "symmetric" (at its edge), or "reflection": the one of the two
      that PyTorch takes, by `align_corners`.

    Raises AttributeValueError for unknown options, ShapeError and DTypeError for tensors that do
    not fit. Gradients to both tensors. As torch.nn.functional.grid_sample and ONNX GridSample.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> image, grid = g.placeholder((1, 3, 8, 8)), g.placeholder((1, 4, 5, 2))
        >>> nl.grid_sample(image, grid, padding="border").shape
        (1, 3, 4, 5)
    """
    where = as_operand("grid_sample", tensor_of("grid_sample", x), grid)
    value = 0.0 if padding == "zeros" else value
    mode, padding = _MODES.get(mode, mode), _PADDINGS.get(padding, padding)
    _choice("mode", mode, MODES, tuple(_MODES))
    _choice("padding", padding, PADDINGS, tuple(_PADDINGS))
    _choice("rounding", rounding, _ROUNDINGS)
    rank = x.rank if x.rank is not None else where.rank
    if rank is None or rank < 3:
        raise ShapeError(
            "grid_sample",
            "needs data with batch, channels and spatial axes",
            received=str(x.type),
            advice="Give [N, C, H, W]",
        )
    how = Sampling(
        mode, padding, bool(align_corners), bool(normalised), bool(relative), rounding,
        layout.endswith("C"),
    )  # fmt: skip
    return apply(GridSample(how, (0,) * (rank - 2), float(value)), x, where, name=name)


@register
@frozen
class AffineGrid(Op):
    size: tuple[int, ...]  # of the spatial axes
    align_corners: bool
    name: ClassVar[str] = "affine_grid"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "Sampling positions for grid_sample: the coordinates of a target of a size, from -1 to 1, "
        "through the affine map [N, D, D + 1] of each image. As ONNX AffineGrid."
    )

    def infer(self, theta: TensorType) -> TensorType:
        check_dtype(self.name, theta.dtype, self.dtypes)
        count = len(self.size)
        shape = (None, count, count + 1) if theta.shape is None else theta.shape
        if len(shape) != 3 or shape[1] not in (None, count) or shape[2] not in (None, count + 1):
            raise ShapeError(
                self.name,
                f"the maps must be [N, {count}, {count + 1}]",
                received=show(theta.shape),
            )
        return TensorType((shape[0], *self.size, count), theta.dtype)

    def base(self) -> np.ndarray:
        """Coordinates of all target elements, innermost axis first, then 1: [elements, D + 1]."""
        lines = []
        for size in self.size:
            steps = np.arange(size, dtype=np.float64)
            if self.align_corners:
                line = steps * (2 / (size - 1)) - 1 if size > 1 else steps * 0.0
            else:
                line = (steps * 2 + 1) / max(size, 1) - 1
            lines.append(line)
        grids = np.meshgrid(*lines, indexing="ij")[::-1]
        return np.stack([*grids, np.ones(self.size)], -1).reshape(-1, len(self.size) + 1)

    def reference(self, theta: np.ndarray) -> np.ndarray:
        def made(theta: np.ndarray) -> np.ndarray:
            flat = self.base() @ np.swapaxes(theta.astype(np.float64), 1, 2)
            return flat.reshape(len(theta), *self.size, len(self.size)).astype(theta.dtype)

        return np.asarray(half_as_float32(made, [theta]))

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        g, count = gradients[0], len(self.size)
        flat = g.reshape((-1, int(np.prod(self.size)), count))
        return [flat.swap_axes(1, 2) @ self._constant(g)]

    def _constant(self, like: Tensor) -> Tensor:
        return like.graph.constant(self.base().astype(like.dtype.numpy))

    def decompose(self, theta: Tensor) -> Tensor:
        flat = self._constant(theta) @ theta.swap_axes(1, 2)
        shape = (theta.type.static_shape[0], *self.size, len(self.size))
        return flat.reshape(shape)  # type: ignore[no-any-return]

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        floats = FLOATS[2:]
        return [
            sample(real(2, 2, 3), size=(3, 4), align_corners=False, dtypes=floats),
            sample(real(1, 2, 3), size=(3, 1), align_corners=True),
            sample(real(1, 3, 4), size=(2, 3, 2), align_corners=True, dtypes=floats),
        ]


@function
def affine_grid(
    theta: Tensor, size: Any, *, align_corners: bool = False, name: str | None = None
) -> Tensor:
    """Positions for `grid_sample`: the target's coordinates through affine maps.

    `theta` is [N, 2, 3] or [N, 3, 4]; `size` the spatial sizes of the target, or PyTorch's
    (N, C, H, W). The result is [N, *sizes, 2 or 3]. Raises ShapeError for sizes or maps that do not
    fit. As torch.nn.functional.affine_grid.

    Example:
        >>> import niello as nl
        >>> nl.affine_grid(nl.Graph().placeholder((None, 2, 3)), (4, 5)).shape
        (None, 4, 5, 2)
    """
    sizes = integers("affine_grid", size, "a size")
    spatial = sizes[2:] if len(sizes) in (4, 5) else sizes
    if len(spatial) not in (2, 3) or any(s < 1 for s in spatial):
        raise ShapeError(
            "affine_grid",
            "the target needs two or three positive spatial sizes",
            received=list(sizes),
            advice="Give (H, W) or (D, H, W)",
        )
    op = AffineGrid(spatial, bool(align_corners))
    return apply(op, tensor_of("affine_grid", theta), name=name)
