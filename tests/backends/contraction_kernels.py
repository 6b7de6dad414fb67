"""Kernels with one contraction: matrix products, and convolutions with their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from niello.core import dtypes as D
from niello.core.dtypes import DType, int64
from niello.kernel import ir
from niello.kernel.build import Builder, ravel
from niello.kernel.ir import Contract, Expr, Kernel, Load, Param, Range, Store

Epilogue = Callable[[Expr, Sequence[Param], Sequence[Range]], Expr]


def matmul(
    m: int,
    n: int,
    k: int,
    dtype: DType = D.float32,
    *,
    accumulate: DType | None = None,
    out: DType | None = None,
    a_turned: bool = False,
    b_turned: bool = False,
    out_turned: bool = False,
    batch: int = 1,
    extra: Sequence[tuple[DType, int]] = (),
    epilogue: Epilogue | None = None,
    prologue: Callable[[Expr], Expr] | None = None,
) -> Kernel:
    accumulate = accumulate or D.compute_dtype(dtype)
    out = out or dtype
    a, b = Param(0, dtype, batch * m * k, False), Param(1, dtype, batch * k * n, False)
    more = [Param(2 + i, d, size, False) for i, (d, size) in enumerate(extra)]
    c = Param(2 + len(more), out, batch * m * n, True)
    g, i, j, r = Range("g", batch), Range("i", m), Range("j", n), Range("r", k)
    left = g * (m * k) + (r * m + i if a_turned else i * k + r)
    right = g * (k * n) + (j * k + r if b_turned else r * n + j)
    x, y = ir.cast(Load(a, left, None), accumulate), ir.cast(Load(b, right, None), accumulate)
    if prologue is not None:
        x, y = prologue(x), prologue(y)
    value: Expr = Contract((r,), x, y, accumulate)
    if epilogue is not None:
        value = epilogue(value, more, (g, i, j))
    spot = g * (m * n) + (j * m + i if out_turned else i * n + j)
    store = Store(c, (g, i, j), spot, ir.cast(value, out), None, None)
    return Kernel("matmul", (a, b, *more, c), (store,))


class Conv:
    """The three kernels of a two-dimensional convolution."""

    def __init__(
        self,
        size: tuple[int, int, int],
        channels: tuple[int, int],
        window: tuple[int, int],
        *,
        stride: int = 1,
        pad: int = 0,
        dilation: int = 1,
        groups: int = 1,
        nhwc: bool = True,
        hwio: bool = True,
        dtype: DType = D.float32,
    ) -> None:
        self.n, self.h, self.w = size
        self.c, self.o = channels
        self.kh, self.kw = window
        self.stride, self.pad, self.dilation, self.groups = stride, pad, dilation, groups
        self.nhwc, self.hwio, self.dtype = nhwc, hwio, dtype
        self.oh = (self.h + 2 * pad - (self.kh - 1) * dilation - 1) // stride + 1
        self.ow = (self.w + 2 * pad - (self.kw - 1) * dilation - 1) // stride + 1

    def image(self, n: Expr, h: Expr, w: Expr, c: Expr) -> Expr:
        if self.nhwc:
            return ravel((n, h, w, c), (self.n, self.h, self.w, self.c))
        return ravel((n, c, h, w), (self.n, self.c, self.h, self.w))

    def result(self, n: Expr, h: Expr, w: Expr, o: Expr) -> Expr:
        if self.nhwc:
            return ravel((n, h, w, o), (self.n, self.oh, self.ow, self.o))
        return ravel((n, o, h, w), (self.n, self.o, self.oh, self.ow))

    def weight(self, kh: Expr, kw: Expr, c: Expr, o: Expr) -> Expr:
        inner = self.c // self.groups
        if self.hwio:
            return ravel((kh, kw, c, o), (self.kh, self.kw, inner, self.o))
        return ravel((o, c, kh, kw), (self.o, inner, self.kh, self.kw))

    def params(self, written: int) -> tuple[Param, Param, Param]:
        sizes = (
            self.n * self.h * self.w * self.c,
            self.kh * self.kw * self.c // self.groups * self.o,
            self.n * self.oh * self.ow * self.o,
        )
        made = [Param(i, self.dtype, s, i == written) for i, s in enumerate(sizes)]
        return made[0], made[1], made[2]

    def element(self, k: Builder, p: Param, inside: Expr, index: Expr) -> Expr:
        kind = D.compute_dtype(self.dtype)
        if isinstance(inside, ir.Const):
            return ir.cast(k.load(p, index), kind)
        return k.guarded(inside, lambda: ir.cast(k.load(p, index), kind), 0.0)

    def within(self, k: Builder, *pairs: tuple[Expr, int]) -> Expr:
        zero = ir.const(0, int64)
        tests = [ir.fn("le", zero, e) for e, _ in pairs] if self.pad else []
        tests += [ir.fn("lt", e, ir.const(size, int64)) for e, size in pairs] if self.pad else []
        return k.all_of(*tests)

    def forward(self) -> Kernel:
        k = Builder("r")
        x, w, y = self.params(2)
        group = self.c // self.groups
        n, oh, ow, o = (
            Range("n", self.n),
            Range("oh", self.oh),
            Range("ow", self.ow),
            Range("o", self.o),
        )
        kh, kw, c = k.ranges((self.kh, self.kw, group))
        ih = oh * self.stride + kh * self.dilation - self.pad
        iw = ow * self.stride + kw * self.dilation - self.pad
        channel = c if self.groups == 1 else (o // (self.o // self.groups)) * group + c
        inside = self.within(k, (ih, self.h), (iw, self.w))
        a = self.element(k, x, inside, self.image(n, ih, iw, channel))
        b = ir.cast(k.load(w, self.weight(kh, kw, c, o)), a.dtype)
        ks = (kh, kw, c) if self.nhwc else (c, kh, kw)
        value = ir.cast(Contract(ks, a, b, a.dtype), self.dtype)
        ranges = (n, oh, ow, o) if self.nhwc else (n, o, oh, ow)
        return Kernel(
            "forward", (x, w, y), (Store(y, ranges, self.result(n, oh, ow, o), value, None, None),)
        )

    def data_gradient(self) -> Kernel:
        k = Builder("r")
        x, w, y = self.params(0)
        n, h, v, c = (
            Range("n", self.n),
            Range("h", self.h),
            Range("w", self.w),
            Range("c", self.c),
        )
        kh, kw, o = k.ranges((self.kh, self.kw, self.o))
        th, tw = h + self.pad - kh * self.dilation, v + self.pad - kw * self.dilation
        zero = ir.const(0, int64)
        tests = [ir.fn("le", zero, th), ir.fn("le", zero, tw)]
        if self.stride > 1:
            tests += [ir.fn("eq", t % self.stride, zero) for t in (th, tw)]
        oh, ow = th // self.stride, tw // self.stride
        tests += [
            ir.fn("lt", oh, ir.const(self.oh, int64)),
            ir.fn("lt", ow, ir.const(self.ow, int64)),
        ]
        a = self.element(k, y, k.all_of(*tests), self.result(n, oh, ow, o))
        b = ir.cast(k.load(w, self.weight(kh, kw, c, o)), a.dtype)
        ks = (kh, kw, o) if self.nhwc else (o, kh, kw)
        value = ir.cast(Contract(ks, a, b, a.dtype), self.dtype)
        ranges = (n, h, v, c) if self.nhwc else (n, c, h, v)
        return Kernel(
            "data_gradient",
            (x, w, y),
            (Store(x, ranges, self.image(n, h, v, c), value, None, None),),
        )

    def weight_gradient(self) -> Kernel:
        k = Builder("r")
        x, w, y = self.params(1)
        kh, kw, c, o = (
            Range("kh", self.kh),
            Range("kw", self.kw),
            Range("c", self.c),
            Range("o", self.o),
        )
        n, oh, ow = k.ranges((self.n, self.oh, self.ow))
        ih = oh * self.stride + kh * self.dilation - self.pad
        iw = ow * self.stride + kw * self.dilation - self.pad
        inside = self.within(k, (ih, self.h), (iw, self.w))
        a = self.element(k, x, inside, self.image(n, ih, iw, c))
        b = ir.cast(k.load(y, self.result(n, oh, ow, o)), a.dtype)
        value = ir.cast(Contract((n, oh, ow), a, b, a.dtype), self.dtype)
        ranges = (kh, kw, c, o) if self.hwio else (o, c, kh, kw)
        return Kernel(
            "weight_gradient",
            (x, w, y),
            (Store(w, ranges, self.weight(kh, kw, c, o), value, None, None),),
        )
