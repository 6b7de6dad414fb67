"""Blocks of columns of LU and Cholesky factorizations: what one team does between two products.

A step of the blocked algorithms (Golub and Van Loan, Matrix Computations, 3.2.11 and 4.2.9) factors
a block of columns, and a product with it updates the rest. All steps work on the whole matrix, so
that one kernel serves them all; the number of the block is an input.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import DType, int32
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import Op, Sample, Trait, not_differentiable, register, sample
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops import fields
from niello.ops.define import check_dtype
from niello.ops.fields import Array, Elements, as_numbers, as_parts
from niello.ops.movement import require_rank

COLUMNS = 64  # of a block of a large matrix, and of what one team does of a row


class Panel(Op):
    """Base: the first input holds matrices, the last one the number of the block."""

    width: int
    parts: int  # 2: complex numbers, as a last axis of two
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = fields.NUMBERS
    complex_results: ClassVar[tuple[bool, ...]] = (True,)
    grad = not_differentiable("the factorization that is made of it has its own")

    def checked(self, *types: TensorType) -> tuple[Any, ...]:
        """The shape of the matrices, which is known."""
        check_dtype(self.name, types[0].dtype, self.dtypes)
        check_dtype(self.name, types[-1].dtype, (int32,))
        require_rank(self.name, types[0], "to find the matrices")
        return tuple(fields.number_shape(types[0], self.parts))

    def planes(self, *inputs: Any) -> Any:
        op = dataclasses.replace(self, parts=2)  # type: ignore[type-var]
        return fields.on_pairs(op, inputs, self.complex_results)


def block_samples(
    matrices: Sequence[Array], widths: Sequence[int], numbers: Sequence[int]
) -> list[Sample]:
    """Samples of a panel of each matrix."""
    found = []
    for a, width, number in zip(matrices, widths, numbers, strict=True):
        block = np.array(number, np.int32)
        found.append(sample(a, block, width=width, parts=1, grad=False, tolerance=60))
    return found


def mixed(*shape: int, seed: int = 0) -> Array:
    """Random complex matrices with a strong diagonal."""
    rng = np.random.default_rng((seed, *shape))
    found = rng.uniform(-1, 1, shape) + 1j * rng.uniform(-1, 1, shape)
    k = min(shape[-2:])
    found[..., range(k), range(k)] += 2.0
    return found


def hermitian(a: Array) -> Array:
    """A positive definite matrix."""
    return a @ np.swapaxes(a, -1, -2).conj() + 0.5 * np.eye(a.shape[-1])


@register
@frozen
class LUPanel(Panel):
    """Results: the block of columns, the same below the block's rows, the order of rows, swaps."""

    width: int
    parts: int
    name: ClassVar[str] = "lu_panel"
    complex_results: ClassVar[tuple[bool, ...]] = (True, True, False, False)
    doc: ClassVar[str] = (
        "LU with partial pivoting of columns [b w, b w + w) from row b w on; also what lies below "
        "the block, zeros above it, the order of all rows, and the number of swaps."
    )

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        *lead, m, _ = self.checked(*types)
        panel = fields.extended(types[0], (*lead, m, self.width), self.parts)
        return panel, panel, TensorType((*lead, m), int32), TensorType(lead, int32)

    def reference(self, a: Array, block: Array) -> tuple[Array, ...]:
        z = as_numbers(a, self.parts)
        *lead, m, n = z.shape
        w, start = self.width, int(block) * self.width
        found = np.zeros((math.prod(lead), m, w), z.dtype)
        order = np.tile(np.arange(m, dtype=np.int32), (len(found), 1))
        swaps = np.zeros(len(found), np.int32)
        count = min(w, n - start)
        for i, one in enumerate(z.reshape(math.prod(lead), m, n)):
            p = found[i]
            p[:, :count] = one[:, start : start + count]
            for k in range(min(count, m - start)):
                q = start + k
                sizes = np.abs(p[q:, k].real) + np.abs(p[q:, k].imag)
                at = q + int(np.argmax(sizes))
                if at != q:
                    p[[q, at]], order[i][[q, at]] = p[[at, q]], order[i][[at, q]]
                    swaps[i] += 1
                if p[q, k] != 0:
                    p[q + 1 :, k] /= p[q, k]
                p[q + 1 :, k + 1 :] -= np.outer(p[q + 1 :, k], p[q, k + 1 :])
        below = found.copy()
        below[:, : start + count] = 0
        shape = (*lead, m, w)
        both = (as_parts(t.reshape(shape), self.parts) for t in (found, below))
        return (*both, order.reshape(*lead, m), swaps.reshape(lead))

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        if inputs[0].elements:
            _LU(self, r, inputs).write()

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        a = mixed(7, 6)
        stack = np.stack([a[:6].real, a[1:].real])
        singular = np.array([[1.0, 2.0], [2.0, 4.0]])
        return block_samples(
            [a.real, stack, a, singular, mixed(20, 20).real], [3, 4, 3, 2, 20], [1, 1, 1, 0, 0]
        )


class _Transposed:
    """A block of columns in scratch, each contiguous."""

    def __init__(self, op: Panel, r: RoutineBuilder, inputs: Sequence[Place]) -> None:
        self.r, self.parts, self.width = r, op.parts, op.width
        self.dtype = inputs[0].dtype
        *lead, self.m, self.n = fields.shape_of(inputs[0], op.parts)
        self.team = r.teams(math.prod(lead))
        self.a = fields.tensor_elements(r, inputs[0], op.parts)
        blocks = -(-self.n // op.width)
        block = r.cast(r.read(inputs[-1], 0, low=0, high=blocks - 1), r.index(0).dtype)
        self.start = block * op.width
        self.count = r.min(r.index(op.width), self.n - self.start)
        self.work = fields.scratch(r, self.dtype, op.width * self.m, op.parts)

    def load(self) -> None:
        """The columns, whole."""
        base = self.team * (self.m * self.n) + self.start
        with self.r.spread_over(self.count, self.m) as (c, i):
            self.work.write(c * self.m + i, self.a.read(base + i * self.n + c))

    def store(self, out: Elements, keep: Any) -> None:
        """What `keep(row, column)` says, zeros elsewhere, as a matrix of the block's width."""
        r, w = self.r, self.width
        base = self.team * (self.m * w)
        zero = fields.number(r, 0.0, self.dtype, self.parts)
        with r.loop(0, self.m) as i, r.spread(w) as c:
            column = r.min(c, self.count - 1)
            value = self.work.read(column * self.m + i)
            wanted = keep(i, c) & (c < self.count)
            out.write(base + i * w + c, fields.chosen(r, wanted, value, zero))


class _LU(_Transposed):
    def write(self) -> None:
        r, m = self.r, self.m
        self.load()
        self.order = r.outputs[2]
        self.first = self.team * m
        with r.spread(m) as i:
            r.write(self.order, self.first + i, r.cast(i, int32))
        self.swaps = r.variable(int32, 0)
        with r.loop(0, r.min(self.count, m - self.start)) as k:
            self.step(k)
        r.write(r.outputs[3], self.team, self.swaps.get())
        always = r.index(0).eq(0)
        end = self.start + self.count
        outs = [fields.tensor_elements(r, p, self.parts) for p in r.outputs[:2]]
        self.store(outs[0], lambda i, c: always)
        self.store(outs[1], lambda i, c: i >= end)

    def step(self, k: Any) -> None:
        """Column k: its pivot, the rows swapped, the factors, and the columns after it."""
        r, m, work = self.r, self.m, self.work
        q = self.start + k
        _, at = r.arg_reduce("max", m - q, lambda t: fields.size(r, work.read(k * m + q + t)))
        other = r.min(q + at, m - 1)
        with r.when(other.ne(q)):
            self.swap(q, other)
        pivot = work.read(k * m + q)
        nothing = fields.size(r, pivot).eq(0.0)
        with r.spread(m - q - 1) as t:
            here = k * m + q + 1 + t
            value = work.read(here)
            work.write(here, fields.chosen(r, nothing, value, fields.over(r, value, pivot)))
        with r.spread_over(self.count - k - 1, m - q - 1) as (c, t):
            column = (k + 1 + c) * m
            factor = work.read(k * m + q + 1 + t)
            row = work.read(column + q)
            here = column + q + 1 + t
            work.write(here, fields.minus(work.read(here), fields.times(factor, row)))

    def swap(self, q: Any, other: Any) -> None:
        r, work = self.r, self.work
        with r.spread(self.count) as c:
            x, y = work.read(c * self.m + q), work.read(c * self.m + other)
            work.write(c * self.m + q, y)
            work.write(c * self.m + other, x)
        i, j = r.read(self.order, self.first + q), r.read(self.order, self.first + other)
        r.write(self.order, self.first + q, j)
        r.write(self.order, self.first + other, i)
        self.swaps.set(self.swaps.get() + 1)


@register
@frozen
class LURows(Panel):
    """Inputs: the matrices, the order of their rows, the block of columns, its number."""

    width: int
    parts: int
    name: ClassVar[str] = "lu_rows"
    complex_results: ClassVar[tuple[bool, ...]] = (True, True)
    doc: ClassVar[str] = (
        "The matrix with rows in the order of a step of LU, its block of columns, and its rows of "
        "U; also these rows alone, zeros up to the end of the block."
    )

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        *lead, _, n = self.checked(*types)
        return types[0], fields.extended(types[0], (*lead, self.width, n), self.parts)

    def reference(self, a: Array, order: Array, panel: Array, block: Array) -> tuple[Array, ...]:
        z, p = as_numbers(a, self.parts), as_numbers(panel, self.parts)
        w, start = self.width, int(block) * self.width
        *lead, _, n = z.shape
        found = np.take_along_axis(z, order[..., None].astype(np.int64), axis=-2)
        rows = np.zeros((*lead, w, n), z.dtype)
        end = min(start + w, n)
        found[..., start:end] = p[..., : end - start]
        for i in range(end - start):
            for k in range(i):
                factor = p[..., start + i, k, None]
                found[..., start + i, end:] -= factor * found[..., start + k, end:]
            rows[..., i, end:] = found[..., start + i, end:]
        return as_parts(found, self.parts), as_parts(rows, self.parts)

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        a, order, panel, block = inputs
        w, parts = self.width, self.parts
        *lead, m, n = fields.shape_of(a, parts)
        blocks = -(-n // w)
        if not a.elements:
            return
        team = r.teams(math.prod(lead) * blocks)
        here, matrix = team % blocks, team // blocks
        source, given = (fields.tensor_elements(r, p, parts) for p in (a, panel))
        out, rows = (fields.tensor_elements(r, p, parts) for p in r.outputs)
        this = r.cast(r.read(block, 0, low=0, high=blocks - 1), r.index(0).dtype)
        first, base = here * w, matrix * (m * n)
        count = r.min(r.index(w), n - first)
        start, end = this * w, r.min(this * w + w, r.index(n))
        with r.when(here.eq(this)), r.spread_over(m, count) as (i, c):
            out.write(base + i * n + first + c, given.read(matrix * (m * w) + i * w + c))
        with r.when(here.ne(this)), r.loop(0, m) as i:
            chosen = r.cast(r.read(order, matrix * m + i, low=0, high=m - 1), r.index(0).dtype)
            with r.spread(count) as c:
                out.write(base + i * n + first + c, source.read(base + chosen * n + first + c))
        zero = fields.number(r, 0.0, a.dtype, parts)
        target = matrix * (w * n) + first
        with r.when(here <= this), r.spread_over(w, count) as (i, c):
            rows.write(target + i * n + c, zero)
        with r.when(here > this), r.loop(0, end - start) as i, r.spread(count) as c:
            at = base + (start + i) * n + first + c
            total = [r.variable(a.dtype, x) for x in out.read(at)]
            with r.loop(0, i) as k:
                factor = given.read(matrix * (m * w) + (start + i) * w + k)
                known = rows.read(target + k * n + c)
                product = fields.times(factor, known)
                for variable, part in zip(total, product, strict=True):
                    variable.set(variable.get() - part)
            value = tuple(variable.get() for variable in total)
            out.write(at, value)
            rows.write(target + i * n + c, value)
        with r.when(here > this), r.loop(end - start, w) as i, r.spread(count) as c:
            rows.write(target + i * n + c, zero)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        found = []
        for a, width, number in ((mixed(7, 7), 3, 1), (mixed(6, 6).real, 2, 2)):
            block = np.array(number, np.int32)
            panel, _, order, _ = LUPanel(width, 1).reference(a, block)
            inputs = (a, order, panel, block)
            found.append(sample(*inputs, width=width, parts=1, grad=False, tolerance=60))
        return found


@register
@frozen
class CholeskyPanel(Panel):
    width: int
    parts: int
    name: ClassVar[str] = "cholesky_panel"
    doc: ClassVar[str] = (
        "Columns [b w, b w + w) of the Cholesky factor of a matrix, of which only the lower "
        "triangle from row b w on is looked at; zeros above."
    )

    def infer(self, *types: TensorType) -> TensorType:
        *lead, n, _ = self.checked(*types)
        return fields.extended(types[0], (*lead, n, self.width), self.parts)

    def reference(self, a: Array, block: Array) -> Array:
        z = as_numbers(a, self.parts)
        n, w, start = z.shape[-1], self.width, int(block) * self.width
        found = np.zeros((*z.shape[:-1], w), z.dtype)
        for k in range(min(w, n - start)):
            q = start + k
            column = z[..., q:, q].copy()
            for c in range(k):
                column -= found[..., q:, c] * found[..., q, c, None].conj()
            root = np.sqrt(column[..., :1].real)
            column[..., :1] = root
            column[..., 1:] /= root
            found[..., q:, k] = column
        return as_parts(found, self.parts)

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        if not inputs[0].elements:
            return
        panel = _Transposed(self, r, inputs)
        panel.load()
        m, work, parts = panel.m, panel.work, self.parts
        with r.loop(0, panel.count) as k:
            q = panel.start + k
            with r.spread(m - q) as t:
                here = k * m + q + t
                total = [r.variable(panel.dtype, x) for x in work.read(here)]
                with r.loop(0, k) as c:
                    row = fields.conjugate(work.read(c * m + q))
                    product = fields.times(work.read(c * m + q + t), row)
                    for variable, part in zip(total, product, strict=True):
                        variable.set(variable.get() - part)
                work.write(here, tuple(variable.get() for variable in total))
            root = r.sqrt(work.read(k * m + q)[0])
            diagonal = (root, *[r.const(0.0, panel.dtype)] * (parts - 1))
            with r.spread(m - q) as t:
                here = k * m + q + t
                value = tuple(x / root for x in work.read(here))
                work.write(here, fields.chosen(r, t.eq(0), diagonal, value))
        out = fields.tensor_elements(r, r.outputs[0], parts)
        panel.store(out, lambda i, c: i >= panel.start + c)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        a = hermitian(mixed(7, 7))
        bad = np.array([[1.0, 2.0], [2.0, 1.0]])
        return block_samples([a.real, np.stack([a, a * 2]), bad, a], [3, 3, 2, 7], [1, 2, 0, 0])
