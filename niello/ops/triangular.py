"""Triangular systems of small matrices, each team with some columns of the right side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import DType, int32
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, real, register, sample
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops import fields
from niello.ops.define import check_dtype
from niello.ops.factor_panels import mixed
from niello.ops.fields import Array
from niello.ops.movement import require_rank

COLUMNS = 64  # of the right side for each team


@register
@frozen
class TriangularColumns(Op):
    below: bool  # the lower triangle of the matrix
    transpose: bool  # solve with the transpose of the matrix
    unit: bool  # take the diagonal to be ones
    parts: int  # 2: complex numbers, as a last axis of two
    name: ClassVar[str] = "triangular_columns"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = fields.NUMBERS
    doc: ClassVar[str] = "X with A X = B, or A^T X = B, for a triangular A (BLAS trsm)."
    grad = not_differentiable("triangular_solve, which is made of it, has its own")

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        check_dtype(self.name, a.dtype, self.dtypes)
        check_dtype(self.name, b.dtype, (a.dtype,))
        require_rank(self.name, a, "to find the matrices")
        return b

    def reference(self, a: Array, b: Array) -> Array:
        z, x = fields.as_numbers(a, self.parts), fields.as_numbers(b, self.parts)
        t = np.tril(z) if self.below else np.triu(z)
        n = t.shape[-1]
        if self.unit:
            t[..., range(n), range(n)] = 1
        t = np.swapaxes(t, -1, -2) if self.transpose else t
        found = np.array(x)
        order = range(n) if self.below != self.transpose else range(n - 1, -1, -1)
        done: list[int] = []
        for i in order:
            for j in done:
                found[..., i, :] -= t[..., i, j, None] * found[..., j, :]
            found[..., i, :] /= t[..., i, i, None]
            done.append(i)
        return fields.as_parts(found, self.parts)

    def planes(self, *inputs: Any) -> Any:
        return fields.on_pairs(dataclasses.replace(self, parts=2), inputs, (True,))

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        a, b = (fields.tensor_elements(r, p, self.parts) for p in inputs)
        out = fields.tensor_elements(r, r.outputs[0], self.parts)
        *lead, n, k = fields.shape_of(inputs[1], self.parts)
        if not inputs[1].elements:
            return
        blocks = -(-k // COLUMNS)
        r.members(64)
        team = r.teams(math.prod(lead) * blocks)
        matrix, column = team // blocks, (team % blocks) * COLUMNS
        count = r.min(r.index(COLUMNS), k - column)
        square, base = matrix * (n * n), matrix * (n * k) + column
        forward = self.below != self.transpose

        def entry(i: Any, j: Any) -> fields.Number:
            row, at = (j, i) if self.transpose else (i, j)
            return a.read(square + row * n + at)

        with r.loop(0, n) as step:
            i = step if forward else n - 1 - step
            with r.spread(count) as m:
                rest = [r.variable(inputs[1].dtype, x) for x in b.read(base + i * k + m)]
                with r.loop(0, step) as done:
                    j = done if forward else n - 1 - done
                    product = fields.times(entry(i, j), out.read(base + j * k + m))
                    for variable, part in zip(rest, product, strict=True):
                        variable.set(variable.get() - part)
                value = tuple(variable.get() for variable in rest)
                if not self.unit:
                    value = fields.over(r, value, entry(i, i))
                out.write(base + i * k + m, value)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        a = mixed(4, 4)
        flags = [(low, t, u) for low in (False, True) for t in (False, True) for u in (False, True)]
        return [
            *(
                sample(x, real(4, 3), **_attributes(*given), grad=False, tolerance=40)
                for given in flags
                for x in (a.real, a)
            ),
            sample(mixed(2, 5, 5), real(2, 5, 70), **_attributes(True, False, False), grad=False,
                   tolerance=40),
            sample(a.real, real(4, 0), **_attributes(True, False, False), grad=False),
        ]  # fmt: skip


def _attributes(below: bool, transpose: bool, unit: bool) -> dict[str, Any]:
    return {"below": below, "transpose": transpose, "unit": unit, "parts": 1}


@register
@frozen
class InvertedOrder(Op):
    name: ClassVar[str] = "inverted_order"
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = (int32,)
    doc: ClassVar[str] = "The inverse of permutations along the last axis."
    grad = not_differentiable("a permutation is made of integers")

    def infer(self, order: TensorType) -> TensorType:
        check_dtype(self.name, order.dtype, self.dtypes)
        require_rank(self.name, order, "to find the last axis")
        return order

    def reference(self, order: Array) -> Array:
        return np.argsort(order, axis=-1).astype(np.int32)

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        (order,) = inputs
        *lead, n = order.shape
        if not order.elements:
            return
        first = r.teams(math.prod(lead)) * n
        with r.spread(n) as k:
            at = r.read(order, first + k, low=0, high=n - 1)
            r.write(r.outputs[0], first + r.cast(at, r.index(0).dtype), r.cast(k, int32))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        orders = np.array([[2, 0, 1, 3], [3, 2, 1, 0]], np.int32)
        return [sample(orders, grad=False), sample(orders[:0], grad=False)]
