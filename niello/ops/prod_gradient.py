"""The gradient of a product, without division: right with zeros, in O(n) multiplications.

The product is taken as a balanced tree of pairs. Going back down the tree, each half receives what
came from above times the other half, so an element ends with the product of all the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType
from niello.core.errors import NotDifferentiable
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, real, register, sample
from niello.graph.tensor import Tensor
from niello.ops.define import cast_to, check_dtype, half_as_float32
from niello.ops.movement import apply, known_axes, wide


def _others(g: Tensor, x: Tensor, axis: int) -> Tensor:
    """`g` times the product of the other elements of `x` along `axis`, whose size is known.

    `g` has size 1 along it.
    """
    assert x.shape is not None
    size = x.shape[axis]
    assert size is not None
    levels: list[tuple[int, Tensor, Tensor, Tensor | None]] = []
    while size > 1:
        half = size // 2
        first = x.slice([0], [half], axes=[axis])
        second = x.slice([half], [2 * half], axes=[axis])
        odd = x.slice([2 * half], [size], axes=[axis]) if size % 2 else None
        levels.append((half, first, second, odd))
        pairs = first * second
        x = pairs if odd is None else _concat([pairs, odd], axis)
        size = half + size % 2
    for half, first, second, odd in reversed(levels):
        above = g.slice([0], [half], axes=[axis])
        parts = [above * second, above * first]
        if odd is not None:
            parts.append(g.slice([half], [half + 1], axes=[axis]))
        g = _concat(parts, axis)
    return g


def _concat(parts: list[Tensor], axis: int) -> Tensor:
    from niello.ops.concat import concat

    return concat(parts, axis)


def _through_axes(g: Tensor, x: Tensor, axes: Sequence[int]) -> Tensor:
    """`g` times the product of the other elements of `x` over `axes`."""
    g = g.slice([0] * len(axes), [1] * len(axes), axes=axes)  # the same everywhere along them
    partial = [x]
    for axis in axes[:-1]:
        partial.append(partial[-1].prod((axis,), True))
    for axis, values in zip(reversed(axes), reversed(partial), strict=True):
        g = _others(g, values, axis)
    return g


@register
@frozen
class ProdGradient(Op):
    """Stands for the tree until the sizes of the reduced axes are known."""

    axes: tuple[int, ...] | None
    name: ClassVar[str] = "prod_gradient"
    traits: ClassVar[Trait] = Trait.NONE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS
    doc: ClassVar[str] = (
        "The first input times the product of the other elements of the second over `axes`."
    )

    def infer(self, g: TensorType, x: TensorType) -> TensorType:
        check_dtype(self.name, x.dtype, self.dtypes)
        return x

    def reference(self, g: np.ndarray, x: np.ndarray) -> np.ndarray:
        axes = known_axes(self.name, self.axes, x.ndim) or ()

        def others(g: np.ndarray, x: np.ndarray) -> np.ndarray:
            rows = np.moveaxis(x, axes, range(len(axes)))
            count = math.prod(x.shape[a] for a in axes)
            flat = rows.reshape(count, *rows.shape[len(axes) :])
            out = np.empty_like(flat)
            for i in range(count):
                out[i] = np.prod(np.delete(flat, i, 0), axis=0, dtype=x.dtype)
            return g * np.moveaxis(out.reshape(rows.shape), range(len(axes)), axes)

        return half_as_float32(others, [g, x])  # type: ignore[no-any-return]

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        raise NotDifferentiable(
            "gradients",
            "the second derivative of prod needs the sizes of the axes it reduces",
            received=str(inputs[1].type),
            advice="Give the placeholder these sizes",
            operation=self.name,
        )

    def decompose(self, g: Tensor, x: Tensor) -> Tensor:
        return _exclusive(g, x, known_axes(self.name, self.axes, x.rank) or ())

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        one = np.array([[2.0, 0.0, 3.0], [0.0, 4.0, 0.0], [1.0, 2.0, 3.0]], np.float32)
        same = np.array([[1.0] * 3, [2.0] * 3, [3.0] * 3], np.float32)
        only = (FLOATS[2],)
        return [
            sample(same, one, axes=(1,), grad=False, dtypes=only),
            sample(
                np.ones((2, 3, 5), np.float32), real(2, 3, 5), axes=(0, 2), grad=False, dtypes=only
            ),
            sample(np.ones((2, 0), np.float32), real(2, 0), axes=(1,), grad=False, dtypes=only),
        ]


def _exclusive(g: Tensor, x: Tensor, axes: Sequence[int]) -> Tensor:
    assert x.shape is not None
    if not axes:
        return g
    if 0 in x.shape:
        return g  # as empty as x
    return cast_to(_through_axes(wide(g), wide(x), axes), x.dtype)


def prod_gradient(g: Tensor, x: Tensor, axes: Any) -> Tensor:
    """`g`, constant over `axes` and of the shape of `x`, times the product of the others."""
    known = known_axes("prod_gradient", axes, x.rank)
    if known is not None and x.shape is not None and None not in [x.shape[a] for a in known]:
        return _exclusive(g, x, known)
    return apply(ProdGradient(known), g, x)
