"""Random kernels: indices of every form, gates, reductions inside of reductions, all dtypes."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np

from niello.core.dtypes import (
    DType,
    bfloat16,
    bool_,
    compute_dtype,
    float16,
    float32,
    int32,
    int64,
    uint8,
)
from niello.kernel import ir
from niello.kernel.bounds import interval
from niello.kernel.build import ravel
from niello.kernel.ir import (
    ArgReduce,
    Const,
    Expr,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    Store,
    const,
    fn,
)

EXTENTS = (1, 2, 3, 4, 5, 7, 8, 10, 16, 17, 24, 31, 32, 33, 48, 64, 100)
REDUCED = (1, 2, 3, 5, 8, 16, 20, 40)
STORED = (float32, float32, float32, float32, int32, uint8, bool_, int64, float16, bfloat16)
MOST_POINTS = 60_000


class RandomKernel:
    """Makes one kernel from a seed, and arrays for it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.params: list[Param] = []
        self._ranges = 0

    def kernel(self) -> Kernel:
        stores: list[Store] = []
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            stores.append(self._store(stores))
        return Kernel("random", tuple(self.params), tuple(stores))

    def arrays(self) -> list[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        made = []
        for p in self.params:
            if p.written:
                data = np.zeros(p.elements)
            elif p.dtype is bool_:
                data = rng.integers(0, 2, p.elements)
            elif p.dtype.is_float:
                data = rng.integers(-3, 4, p.elements) / 2
            else:
                data = rng.integers(-5 if p.dtype.is_signed else 0, 6, p.elements)
            made.append(np.asarray(data).astype(p.dtype.numpy))
        return made

    def _range(self, extent: int) -> Range:
        self._ranges += 1
        return Range(f"r{self._ranges}", extent)

    def _param(self, dtype: DType, elements: int, written: bool = False) -> Param:
        made = Param(len(self.params), dtype, elements, written)
        self.params.append(made)
        return made

    def _store(self, before: Sequence[Store]) -> Store:
        pick = self.random
        ranges = [self._range(pick.choice(EXTENTS)) for _ in range(pick.choice((0, 1, 1, 2, 2, 3)))]
        if before and pick.random() < 0.6:
            ranges = list(before[-1].ranges)
            if pick.random() < 0.4:
                ranges = ranges[:-1]
        while math.prod(r.extent for r in ranges) > MOST_POINTS:
            ranges = ranges[:-1]
        dtype = pick.choice(STORED)
        value = self._expr(ranges, compute_dtype(dtype), pick.choice((1, 2, 3, 4)))
        order = list(ranges)
        if pick.random() < 0.25:
            pick.shuffle(order)
        index = ravel(order, [r.extent for r in order])
        if pick.random() < 0.15:
            index = index * 2 + 1
        param = self._param(dtype, interval(index)[1] + 1, True)
        gate = self._gate(ranges) if pick.random() < 0.1 else None
        return Store(param, tuple(ranges), index, ir.cast(value, dtype), gate, None)

    def _index(self, ranges: Sequence[Range]) -> Expr:
        pick = self.random
        chosen = [r for r in ranges if pick.random() < 0.8] or list(ranges[:1])
        if not chosen:
            return const(0, int64)
        kind = pick.random()
        if kind < 0.55:
            if pick.random() < 0.4:
                pick.shuffle(chosen)
            index = ravel(chosen, [r.extent for r in chosen])
        elif kind < 0.8:
            index = const(0, int64)
            for r in chosen:
                index = index + r * pick.choice((1, 1, 1, 2, 3, 4, -1, -2, r.extent, 0))
        else:
            index = self._crooked(chosen)
        if pick.random() < 0.25:
            index = index + pick.randrange(9)
        low = interval(index)[0]
        return index - low if low < 0 else index

    def _crooked(self, chosen: Sequence[Range]) -> Expr:
        r, c = self.random.choice(list(chosen)), self.random.choice((2, 3, 4, 5, 8))
        flat = ravel(chosen, [x.extent for x in chosen])
        forms = (
            r // c,
            r % c,
            flat // c,
            flat % c,
            (flat % c) * 7 + flat // c,
            fn("min", r, const(c, int64)),
            fn("where", r < c, r, r * 2),
        )
        return self.random.choice(forms)

    def _gate(self, ranges: Sequence[Range]) -> Expr | None:
        if not ranges:
            return None
        pick = self.random
        r = pick.choice(list(ranges))
        c = pick.randrange(r.extent + 1)
        forms = (
            r < c,
            fn("le", const(c, int64), r),
            fn("eq", r % 2, const(0, int64)),
            self._index([r]) < c + 3,
        )
        gate = pick.choice(forms)
        if pick.random() < 0.3:
            other = pick.choice(list(ranges))
            test = other < pick.randrange(1, other.extent + 1)
            gate = fn(pick.choice(("and", "or")), gate, test)
        return None if isinstance(gate, Const) else gate

    def _load(self, ranges: Sequence[Range], dtype: DType) -> Expr:
        index = self._index(ranges)
        high = interval(index)[1]
        gate = self._gate(ranges) if self.random.random() < 0.25 else None
        known = [p for p in self.params if p.dtype is dtype and not p.written and p.elements > high]
        if known and self.random.random() < 0.5:
            return Load(self.random.choice(known), index, gate)
        return Load(self._param(dtype, high + 1 + self.random.randrange(3)), index, gate)

    def _expr(self, ranges: Sequence[Range], dtype: DType, depth: int) -> Expr:
        pick = self.random
        kind = pick.random()
        if depth == 0 or kind < 0.15:
            return self._leaf(ranges, dtype)
        if dtype is bool_:
            return self._condition(ranges, depth)
        if kind < 0.28:
            return self._reduction(ranges, dtype, depth)
        if kind < 0.36:
            source = pick.choice((float32, int32, uint8, bool_, int64))
            x = self._expr(ranges, source, depth - 1)
            if source is float32:
                x = fn("min", fn("abs", x), 100.0)
            return ir.cast(x, dtype)
        if kind < 0.46:
            test = self._expr(ranges, bool_, depth - 1)
            return fn("where", test, *(self._expr(ranges, dtype, depth - 1) for _ in range(2)))
        if dtype is float32 and kind < 0.6:
            x = self._expr(ranges, dtype, depth - 1)
            if kind < 0.53:
                return fn(pick.choice(("exp", "tanh")), fn("min", x, 3.0))
            return fn(pick.choice(("abs", "neg", "floor")), x)
        name = pick.choice(("add", "sub", "mul", "min", "max"))
        return fn(name, *(self._expr(ranges, dtype, depth - 1) for _ in range(2)))

    def _leaf(self, ranges: Sequence[Range], dtype: DType) -> Expr:
        kind = self.random.random()
        if kind < 0.85:
            return self._load(ranges, dtype)
        if kind < 0.93 and ranges and dtype is not bool_:
            return ir.cast(self._index(ranges), dtype)
        return const(self.random.choice((0, 1, 2, 3)), dtype)

    def _condition(self, ranges: Sequence[Range], depth: int) -> Expr:
        pick = self.random
        kind = pick.random()
        if kind < 0.6:
            # Integers: floats that are equal but for rounding would compare differently.
            dtype = pick.choice((int32, uint8, int64))
            name = pick.choice(("lt", "le", "eq", "ne"))
            return fn(name, *(self._expr(ranges, dtype, 0) for _ in range(2)))
        if kind < 0.8:
            name = pick.choice(("and", "or", "xor"))
            return fn(name, *(self._expr(ranges, bool_, depth - 1) for _ in range(2)))
        return fn("not", self._expr(ranges, bool_, depth - 1))

    def _reduction(self, ranges: Sequence[Range], dtype: DType, depth: int) -> Expr:
        pick = self.random
        bound = tuple(self._range(pick.choice(REDUCED)) for _ in range(pick.choice((1, 1, 2))))
        inside = [*ranges, *bound] if pick.random() < 0.7 else list(bound)
        if pick.random() < 0.15:
            body = self._expr(inside, int32, 0)
            return ir.cast(ArgReduce(pick.choice(("min", "max")), bound, body), dtype)
        body = self._expr(inside, dtype, depth - 1)
        return Reduce(pick.choice(("add", "max", "min")), bound, body)
