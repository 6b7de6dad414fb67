"""How a transform of any length is made of those that `fourier_columns` does.

Lengths with a large prime factor go through a convolution (Bluestein, IEEE Trans. AU-18, 1970);
long ones are matrices whose columns and rows are transformed (Bailey, J. Supercomputing 4, 1990).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from niello.core.dtypes import compute_dtype, float16
from niello.graph.opdef import Planes, functions
from niello.graph.tensor import Tensor
from niello.ops.define import cast_to
from niello.ops.fourier_columns import FourierColumns, middle_table, radices, split_of, table
from niello.ops.fourier_halves import HalfSpectrum, RealRows

# Longer transforms would leave the fast memory of a core: 16 columns in two buffers of pairs.
LONGEST = 4096


def transform(z: Planes, axis: int, inverse: bool, scale: float) -> Planes:
    """The transform of both parts along an axis of static size."""
    if z.real.dtype is float16:  # powers grow with the length: halves would overflow
        wide = Planes(*(cast_to(t, compute_dtype(float16)) for t in (z.real, z.imaginary)))
        found = transform(wide, axis, inverse, scale)
        return Planes(*(cast_to(t, float16) for t in (found.real, found.imaginary)))
    shape = z.real.type.static_shape
    return _parts(_along(_pairs(z), axis % len(shape), inverse, scale))


def _pairs(z: Planes) -> Tensor:
    if z.pairs is not None:
        return z.pairs
    return functions()["stack"]([z.real, z.imaginary], axis=-1)  # type: ignore[no-any-return]


def _parts(pairs: Tensor) -> Planes:
    real, imaginary = functions()["unstack"](pairs, axis=-1)
    return Planes(real, imaginary, pairs)


def _along(pairs: Tensor, axis: int, inverse: bool, scale: float) -> Tensor:
    """The transform along an axis of pairs [..., 2]."""
    shape = pairs.type.static_shape
    n = shape[axis]
    if not pairs.type.elements:
        return pairs
    if radices(n) is None:
        return _by_convolution(pairs, axis, inverse, scale)
    rows = split_of(n)
    alone = math.prod(shape) == 2 * n
    if rows and (n > LONGEST or (alone and n >= 1024)):
        return _by_matrix(pairs, axis, rows, inverse, scale)
    return _by_columns(pairs, axis, inverse, scale)


def _constants(like: Tensor, arrays: Any) -> list[Tensor]:
    return [like.graph.constant(a.astype(like.dtype.numpy)) for a in arrays]


def _by_columns(pairs: Tensor, axis: int, inverse: bool, scale: float) -> Tensor:
    shape = pairs.type.static_shape
    n = shape[axis]
    rows = split_of(n) if math.prod(shape[axis + 1 : -1]) == 1 else 0
    tables = [*table(n), *(middle_table(rows, n // rows) if rows else ())]
    op = FourierColumns(axis, inverse, float(scale), rows)
    return pairs.graph.apply(op, pairs, *_constants(pairs, tables))  # type: ignore[return-value]


def _by_matrix(pairs: Tensor, axis: int, rows: int, inverse: bool, scale: float) -> Tensor:
    """n = rows x columns: transform the columns, turn each element, transform the rows."""
    shape = pairs.type.static_shape
    outer, n, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 : -1])
    columns = n // rows
    grid = pairs.reshape((outer, rows, columns, inner, 2))
    cos, sin = (t.reshape(1, rows, columns, 1) for t in middle_table(rows, columns))
    turn = Planes(*_constants(pairs, (cos, sin if inverse else -sin)))
    turned = _pairs(_times(_parts(_along(grid, 1, inverse, 1.0)), turn))
    second = _along(turned, 2, inverse, scale)
    return second.transpose((0, 2, 1, 3, 4)).reshape(shape)  # type: ignore[no-any-return]


def _times(a: Planes, b: Planes) -> Planes:
    return Planes(
        a.real * b.real - a.imaginary * b.imaginary, a.real * b.imaginary + a.imaginary * b.real
    )


def _by_convolution(pairs: Tensor, axis: int, inverse: bool, scale: float) -> Tensor:
    """exp(-2 pi i j k / n) is a product of chirps of j, of k, and of k - j: a convolution, done by
    transforms of a length that has butterflies."""
    shape = pairs.type.static_shape
    n = shape[axis]
    m = 1 << (2 * n - 2).bit_length()
    # j * j modulo 2 n keeps the angle exact for long transforms.
    angle = np.pi * ((np.arange(n, dtype=np.int64) ** 2) % (2 * n)) / n
    sign = 1.0 if inverse else -1.0
    chirp = np.exp(sign * 1j * angle)
    kernel = np.zeros(m, np.complex128)
    kernel[:n] = chirp.conj()
    kernel[m - n + 1 :] = chirp.conj()[1:][::-1]
    spectrum = np.fft.fft(kernel) / m
    along = [1] * (len(shape) - 1)
    along[axis] = -1
    turn, filter_ = (
        Planes(*_constants(pairs, (c.real.reshape(along), c.imag.reshape(along))))
        for c in (chirp, spectrum)
    )
    widths = [(0, 0)] * len(shape)
    widths[axis] = (0, m - n)
    padded = _pairs(_times(_parts(pairs), turn)).pad(widths)
    product = _times(_parts(_along(padded, axis, False, 1.0)), filter_)
    back = _along(_pairs(product), axis, True, scale).slice([0], [n], axes=[axis])
    return _pairs(_times(_parts(back), turn))


# --- real tensors


def resized(z: Planes, axis: int, n: int) -> Planes:
    """Zeros added behind an axis until it has n elements, or the first n."""
    m = z.real.type.static_shape[axis]
    if m == n:
        return z
    if m > n:
        return Planes(*(t.slice([0], [n], axes=[axis]) for t in (z.real, z.imaginary)))
    widths = [(0, 0)] * len(z.real.type.static_shape)
    widths[axis] = (0, n - m)
    return Planes(*(t.pad(widths) for t in (z.real, z.imaginary)))


def real_transform(x: Tensor, axis: int, inverse: bool, scale: float) -> Planes:
    """The first half of the transform of a real tensor: for an even length by a complex one of half
    the length, whose parts are the even and the odd elements."""
    if x.dtype is float16:
        found = real_transform(cast_to(x, compute_dtype(float16)), axis, inverse, scale)
        return Planes(*(cast_to(t, float16) for t in (found.real, found.imaginary)))
    shape = x.type.static_shape
    axis %= len(shape)
    n = shape[axis]
    if n % 2 or n < 4:
        whole = transform(Planes(x, x * 0.0), axis, inverse, scale)
        return resized(whole, axis, n // 2 + 1)
    half = n // 2
    rows = split_of(half)
    if rows and half <= LONGEST and math.prod(shape[axis + 1 :]) == 1 and radices(half):
        row_op = RealRows(-1, inverse, float(scale), rows)
        tables = (*table(half), *middle_table(rows, half // rows), *table(n))
        flat = x.reshape(shape[: axis + 1])
        spectrum: Any = x.graph.apply(row_op, flat, *_constants(x, tables))
        return _parts(spectrum.reshape((*shape[:axis], half + 1, *shape[axis + 1 :], 2)))
    if axis == len(shape) - 1:  # even and odd elements are pairs already
        z = _parts(x.reshape((*shape[:axis], half, 2)))
    else:
        split = x.reshape((*shape[:axis], half, 2, *shape[axis + 1 :]))
        z = Planes(*functions()["unstack"](split, axis=axis + 1))
    pairs = _pairs(transform(z, axis, inverse, scale))
    op = HalfSpectrum(axis, inverse)
    return _parts(x.graph.apply(op, pairs, *_constants(pairs, table(n))))  # type: ignore[arg-type]


def _turn_along(like: Tensor, axis: int, count: int, n: int, sign: float) -> Planes:
    cos, sin = (t[:count] for t in table(n))
    shape = [1] * len(like.type.static_shape)
    shape[axis] = count
    return Planes(*_constants(like, (cos.reshape(shape), sign * sin.reshape(shape))))


def hermitian_transform(z: Planes, axis: int, inverse: bool, scale: float, n: int) -> Tensor:
    """The real transform of n elements of which the first n // 2 + 1 are given."""
    if z.real.dtype is float16:
        wide = Planes(*(cast_to(t, compute_dtype(float16)) for t in (z.real, z.imaginary)))
        return cast_to(hermitian_transform(wide, axis, inverse, scale, n), float16)
    axis %= len(z.real.type.static_shape)
    if n % 2 or n < 4:
        return _by_mirror(z, axis, inverse, scale, n)
    half = n // 2
    sign = 1.0 if inverse else -1.0
    first = [t.slice([0], [half], axes=[axis]) for t in (z.real, z.imaginary)]
    last = [t.slice([None], [0], [-1], axes=[axis]) for t in (z.real, z.imaginary)]
    # What must be real is taken to be real.
    keep = np.ones([half if a == axis else 1 for a in range(len(z.real.type.static_shape))])
    keep[tuple(slice(0, 1) if a == axis else slice(None) for a in range(keep.ndim))] = 0.0
    mask = z.real.graph.constant(keep.astype(z.real.dtype.numpy))
    first[1], last[1] = first[1] * mask, last[1] * mask
    even = Planes(first[0] + last[0], first[1] - last[1])
    odd = _times(
        Planes(first[0] - last[0], first[1] + last[1]), _turn_along(z.real, axis, half, n, sign)
    )
    both = Planes(even.real - odd.imaginary, even.imaginary + odd.real)
    found = transform(both, axis, inverse, scale)
    pairs = functions()["stack"]([found.real, found.imaginary], axis=axis + 1)
    shape = list(z.real.type.static_shape)
    shape[axis] = n
    return pairs.reshape(shape)  # type: ignore[no-any-return]


def _by_mirror(z: Planes, axis: int, inverse: bool, scale: float, n: int) -> Tensor:
    """All n elements put together, and transformed."""
    m = n // 2 + 1
    z = resized(z, axis, m)
    alone = np.zeros([m if a == axis else 1 for a in range(len(z.real.type.static_shape))])
    flat = alone.reshape(-1)
    flat[1 : m if n % 2 else m - 1] = 1.0
    mask = z.real.graph.constant(alone.astype(z.real.dtype.numpy))
    z = Planes(z.real, z.imaginary * mask)
    mirrored = n - m
    if mirrored:
        back = [t.slice([mirrored], [0], [-1], axes=[axis]) for t in (z.real, z.imaginary)]
        concat = functions()["concat"]
        z = Planes(concat([z.real, back[0]], axis=axis), concat([z.imaginary, -back[1]], axis=axis))
    return transform(z, axis, inverse, scale).real
