"""Makers of operations with structure, in random shapes and settings: longer lines, more axes and
other sizes than the samples of the registry have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mixed_graphs import MixedBuilder

import niello as nl
from niello.core.dtypes import DType
from niello.graph.tensor import Tensor

LENGTHS = (1, 2, 3, 5, 8, 16, 17, 31, 64, 100)


def sized(b: MixedBuilder, shape: tuple[int, ...], dtype: DType) -> Tensor:
    """A tensor of a shape: elements of one that is there, or a new leaf."""
    size = int(np.prod(shape, dtype=int))
    found = b.any(lambda t: t.dtype is dtype and 0 < t.type.elements <= 4 * size + 64)
    return b.leaf(shape, dtype) if found is None or b.chance(0.4) else b.fit(found, shape)


def float_of(b: MixedBuilder, wide: bool = False) -> DType:
    """One of the graph's own floating-point types; with `wide` no half."""
    own = [d for d in b.dtypes if d.is_float and not (wide and d.is_half)]
    return b.pick(own or [nl.float32])


def line(b: MixedBuilder, dtype: DType) -> Tensor:
    """A tensor of one to three axes, one of them perhaps long."""
    shape = [b.integer(1, 4) for _ in range(b.integer(0, 2))]
    shape.insert(b.integer(0, len(shape)), b.pick(LENGTHS))
    return sized(b, tuple(shape), dtype)


def any_dtype(b: MixedBuilder) -> DType:
    return b.pick([d for d in b.dtypes if not d.is_complex])


def make_fourier(b: MixedBuilder) -> Any:
    dtype = float_of(b, wide=True)
    x = line(b, dtype)
    axis = b.integer(0, x.rank - 1)
    length = x.type.static_shape[axis]
    norm = b.pick(("backward", "ortho", "forward"))
    kind = b.integer(0, 3)
    if kind == 0:
        return nl.rfft(x, axis, norm=norm)
    if kind == 1 and length > 1:
        return nl.irfft(nl.rfft(x, axis, norm=norm), axis, odd=length % 2 == 1, norm=norm)
    z = nl.complex(x, sized(b, x.type.static_shape, dtype))
    axes = b.pick((axis, tuple(range(x.rank))))
    return (nl.fft if kind == 2 else nl.ifft)(z, axes, norm=norm)


def make_attention(b: MixedBuilder) -> Any:
    dtype = float_of(b)
    batch, heads = b.integer(1, 2), b.integer(1, 3)
    rows, keys = b.pick((1, 3, 8, 17, 33)), b.pick((1, 4, 9, 32, 40))
    width, out = b.pick((2, 4, 8, 16)), b.pick((2, 3, 8))
    q = sized(b, (batch, heads, rows, width), dtype)
    k, v = sized(b, (batch, heads, keys, width), dtype), sized(b, (batch, heads, keys, out), dtype)
    mask = None
    if b.chance(0.3):
        mask = sized(b, (rows, keys), dtype)
    causal = mask is None and b.chance(0.4)
    return nl.scaled_dot_product_attention(q, k, v, mask, causal=causal)


def make_order(b: MixedBuilder) -> Any:
    x = line(b, any_dtype(b))
    axis = b.integer(0, x.rank - 1)
    kind = b.integer(0, 4)
    if kind == 0:
        return nl.sort(x, axis, descending=b.chance(0.5))
    if kind == 1:
        return nl.argsort(x, axis, descending=b.chance(0.5))
    if kind == 2:
        count = b.integer(1, x.type.static_shape[axis])
        return nl.top_k(x, count, axis, largest=b.chance(0.5))
    if kind == 3 and x.dtype.is_float:
        return nl.quantile(x, b.pick((0.0, 0.25, 0.5, 0.9)), axis)
    wanted = sized(b, (b.integer(1, 9),), x.dtype)
    return (
        None
        if x.dtype is nl.bool_
        else nl.searchsorted(nl.sort(b.fit(x, (x.type.elements,))), wanted)
    )


def make_cumulative(b: MixedBuilder) -> Any:
    x = line(b, any_dtype(b))
    settings = {
        "axis": b.integer(0, x.rank - 1),
        "exclusive": b.chance(0.3),
        "reverse": b.chance(0.4),
    }
    names = ["cumulative_max", "cumulative_min", "cumulative_sum"]
    if x.dtype.is_float:
        names.append("cumulative_logsumexp")
        if b.chance(0.2):
            return nl.cumulative_prod(b.within(x, 0.7, 1.3), **settings)
    made = getattr(nl, b.pick(names))(x, **settings)
    return made.tanh() if x.dtype.is_float and b.chance(0.3) else made


def make_indexing(b: MixedBuilder) -> Any:
    x = line(b, b.pick(b.dtypes))
    axis = b.integer(0, x.rank - 1)
    size = x.type.static_shape[axis]
    places = sized(b, (b.pick((1, 3, 7, 20)),), nl.int32)
    if b.blind or b.chance(0.7):
        places = places.clamp(-size if b.chance(0.3) else 0, size - 1)
    else:
        places = nl.floor_modulo(places, size)
    kind = b.integer(0, 3)
    if kind == 0:
        return x.gather(places, axis)
    updates = sized(
        b,
        (*x.type.static_shape[:axis], places.type.elements, *x.type.static_shape[axis + 1 :]),
        x.dtype,
    )
    if x.dtype is nl.bool_ or kind == 1:
        return nl.scatter(x, places, updates, axis)
    modes = ("add", "sub") if x.dtype.is_complex else ("add", "sub", "max", "min")
    return nl.scatter(x, places, updates, axis, mode=b.pick(modes))


def make_resize(b: MixedBuilder) -> Any:
    shape = (b.integer(1, 2), b.integer(1, 3), b.integer(2, 9), b.integer(2, 9))
    x = sized(b, shape, float_of(b))
    size = (b.integer(1, 14), b.integer(1, 14))
    mode = b.pick(("nearest", "linear", "cubic"))
    antialias = mode != "nearest" and b.chance(0.3)
    return nl.resize(x, size, mode=mode, antialias=antialias)


def make_linear_algebra(b: MixedBuilder) -> Any:
    """Of matrices that are far from singular."""
    dtype, n = float_of(b, wide=True), b.integer(1, 7)
    batch = (b.integer(1, 3),) if b.chance(0.4) else ()
    a = b.within(sized(b, (*batch, n, n), dtype), -1.0, 1.0) / n
    eye = b.graph.constant(np.eye(n, dtype=dtype.numpy))
    right = sized(b, (*batch, n, b.integer(1, 3)), dtype)
    symmetric = a @ a.swap_axes(-1, -2) + eye
    ladder = b.graph.constant(np.diag(np.arange(n)).astype(dtype.numpy))
    general = a + eye * 2.0
    makers: tuple[Callable[[], Any], ...] = (
        lambda: nl.solve(general, right),
        lambda: nl.inverse(general),
        lambda: nl.cholesky(symmetric, upper=b.chance(0.5)),
        lambda: nl.cholesky_solve(right, nl.cholesky(symmetric)),
        lambda: nl.qr(general),
        lambda: nl.lu(general),
        lambda: nl.det(general),
        lambda: nl.slogdet(general),
        lambda: nl.eigh(symmetric + ladder),
        lambda: nl.svd(general + ladder * 2.0),
        lambda: nl.svdvals(general + ladder),
        lambda: nl.solve_triangular(general, right, lower=b.chance(0.5)),
        lambda: nl.pinv(general),
        lambda: nl.matrix_power(general, b.integer(-1, 3)),
    )
    return b.pick(makers)()


def make_recurrent(b: MixedBuilder) -> Any:
    dtype = float_of(b)
    steps, batch, units, given = b.integer(1, 6), b.integer(1, 3), b.integer(1, 5), b.integer(1, 4)
    name, gates = b.pick((("rnn", 1), ("lstm", 4), ("gru", 3), ("mgu", 2)))
    both = 2 if b.chance(0.2) else 1
    source = sized(b, (steps, batch, given), dtype)
    lead = (2,) if both == 2 else ()
    recurrent = b.within(sized(b, (*lead, gates * units, units), dtype), -0.5, 0.5)
    weights = b.within(sized(b, (both * gates * units, given), dtype), -0.5, 0.5)
    bias = sized(b, (both * gates * units,), dtype) if b.chance(0.5) else None
    settings = {"bidirectional": True} if both == 2 else {"reverse": b.chance(0.3)}
    return getattr(nl, name)(source, recurrent, weights, bias, **settings)


def make_window(b: MixedBuilder) -> Any:
    """Convolution and pooling of one to three axes, with strides, dilations and groups."""
    axes, dtype = b.integer(1, 3), float_of(b)
    groups = b.pick((1, 1, 2))
    channels, out = groups * b.integer(1, 4), groups * b.integer(1, 4)
    sizes = tuple(b.integer(4, 16 if axes == 1 else 8) for _ in range(axes))
    x = sized(b, (b.integer(1, 3), channels, *sizes), dtype)
    kernel = tuple(b.integer(1, 3) for _ in range(axes))
    settings = {"strides": b.integer(1, 3), "padding": b.pick(("same", "valid"))}
    if b.chance(0.4):
        pool = b.pick((f"max_pool{axes}d", f"average_pool{axes}d"))
        return getattr(nl, pool)(x, kernel, **settings)
    if settings["strides"] == 1 or settings["padding"] == "valid":
        settings["dilations"] = b.integer(1, 2) if min(sizes) > 4 else 1
    weights = sized(b, (out, channels // groups, *kernel), dtype)
    made = getattr(nl, f"conv{axes}d")(x, weights, groups=groups, **settings)
    return made / float(channels * np.prod(kernel) // groups)


def make_quantized(b: MixedBuilder) -> Any:
    x = sized(b, (b.pick((3, 8, 20)), b.pick((4, 16, 33))), float_of(b))
    scale = b.graph.constant(0.0625, x.dtype)
    dtype = b.pick((nl.int8, nl.uint8, nl.int8, nl.int4))
    q = nl.quantize(x, scale, dtype=dtype)
    kind = b.integer(0, 2)
    if kind == 0:
        return nl.dequantize(q, scale, dtype=x.dtype)
    if kind == 1 and dtype is nl.int8:
        other = sized(b, (x.type.static_shape[1], b.pick((2, 16, 48))), nl.int8)
        return nl.integer_matmul(q, other)
    return q


def make_einsum(b: MixedBuilder) -> Any:
    dtype = float_of(b)
    i, j, k, n = (b.pick((1, 2, 5, 16, 33)) for _ in "ijkn")
    equation, shapes = b.pick(
        (
            ("ij,jk->ik", ((i, j), (j, k))),
            ("nij,njk->nik", ((n % 4 + 1, i, j), (n % 4 + 1, j, k))),
            ("ij,kj->ki", ((i, j), (k, j))),
            ("ij,ij->i", ((i, j), (i, j))),
            ("i,j->ij", ((i,), (j,))),
            ("ijk->kj", ((i % 5 + 1, j, k),)),
        )
    )
    made = nl.einsum(equation, *(sized(b, s, dtype) for s in shapes))
    return made / float(max(i, j))


def make_distribution(b: MixedBuilder) -> Any:
    """Rows that are normalised, and losses of them."""
    shape = (b.integer(1, 6), b.pick((2, 3, 8, 33, 100)))
    x = sized(b, shape, float_of(b))
    other = b.within(sized(b, shape, x.dtype), 0.1, 0.9)
    axis = b.integer(0, 1)
    makers: tuple[Callable[[], Any], ...] = (
        lambda: nl.softmax(x, axis),
        lambda: nl.log_softmax(x, axis),
        lambda: nl.logsumexp(x, axis),
        lambda: nl.kl_divergence(nl.log_softmax(x, -1), other, reduction=reduction),
        lambda: nl.binary_cross_entropy(b.within(x, 0.1, 0.9), other, reduction=reduction),
        lambda: nl.sigmoid_cross_entropy(x, other, reduction=reduction),
        lambda: nl.mean_squared_error(x, other, reduction=reduction),
        lambda: nl.huber(x, other, reduction=reduction),
        lambda: nl.cosine_similarity(x, other),
        lambda: nl.variance(x, axis),
        lambda: nl.norm(x, axes=axis),
    )
    reduction = b.pick(("none", "sum", "mean"))
    return b.pick(makers)()


SHAPED: list[Callable[[MixedBuilder], Any]] = [
    make_fourier,
    make_attention,
    make_order,
    make_cumulative,
    make_indexing,
    make_resize,
    make_linear_algebra,
    make_recurrent,
    make_window,
    make_quantized,
    make_einsum,
    make_distribution,
]
