"""Fourier transforms: short ones as products with matrices of sines and cosines."""

from __future__ import annotations

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.translations.movement import padded

# Longer ones are fast transforms.
LARGEST_MATRIX = 128


def parts(x: nl.Tensor) -> tuple[nl.Tensor, nl.Tensor | None]:
    """Real and imaginary part of a tensor whose last axis holds them (or the first only)."""
    if x.shape is not None and x.shape[-1] == 1:
        return nl.squeeze(x, -1), None
    real, imaginary = nl.split(x, 2, -1)
    return nl.squeeze(real, -1), nl.squeeze(imaginary, -1)


def transformed(
    real: nl.Tensor, imaginary: nl.Tensor | None, size: int, inverse: bool, bins: int
) -> tuple[nl.Tensor, nl.Tensor]:
    """The first `bins` of a discrete Fourier transform along the last axis."""
    if size > LARGEST_MATRIX:
        return _fast(real, imaginary, inverse, bins)
    angle = 2 * np.pi * np.outer(np.arange(size), np.arange(bins)) / size
    scale = 1 / size if inverse else 1.0
    sign = 1.0 if inverse else -1.0
    kind = real.dtype.numpy
    cosine = real.graph.constant((np.cos(angle) * scale).astype(kind))
    sine = real.graph.constant((sign * np.sin(angle) * scale).astype(kind))
    y, z = nl.matmul(real, cosine), nl.matmul(real, sine)
    if imaginary is not None:
        y = y - nl.matmul(imaginary, sine)
        z = z + nl.matmul(imaginary, cosine)
    return y, z


def _fast(
    real: nl.Tensor, imaginary: nl.Tensor | None, inverse: bool, bins: int
) -> tuple[nl.Tensor, nl.Tensor]:
    """The same by fast transforms."""
    kind = real.dtype
    wide = nl.float32 if kind.is_half else kind
    x = nl.cast(real, wide)
    if imaginary is not None:
        x = nl.complex(x, nl.cast(imaginary, wide))
    found = nl.ifft(x) if inverse else nl.fft(x)
    found = nl.slice(found, [0], [bins], axes=(-1,))
    return nl.cast(nl.real(found), kind), nl.cast(nl.imag(found), kind)


@translates("DFT")
def dft(at: Call) -> nl.Tensor:
    """A Fourier transform along an axis; the last one holds real and imaginary parts."""
    x, rank = at.tensor(0), at.rank(0)
    axis = at.known_ints(2)[0] if at.has(2) else at.integer("axis", -2 if at.version >= 20 else 1)
    axis %= rank
    inverse, onesided = bool(at.integer("inverse", 0)), bool(at.integer("onesided", 0))
    size = at.shape(0)[axis]
    wanted = at.known_ints(1)[0] if at.has(1) else size
    order = [a for a in range(rank) if a not in (axis, rank - 1)]
    x = nl.transpose(x, (*order, axis, rank - 1))
    if inverse and onesided:
        return _real_inverse(at, x, wanted if at.has(1) else 2 * (size - 1), order, axis)
    x = padded(x, [*[(0, 0)] * (rank - 2), (0, wanted - size), (0, 0)])
    bins = wanted // 2 + 1 if onesided else wanted
    y, z = transformed(*parts(x), wanted, inverse, bins)
    found = nl.stack([y, z], -1)
    back = [*order, axis, rank - 1]
    return nl.transpose(found, [back.index(a) for a in range(rank)])


def _real_inverse(at: Call, x: nl.Tensor, size: int, order: list[int], axis: int) -> nl.Tensor:
    """Real values from the first half of their transform."""
    bins = size // 2 + 1
    have = at.sizes(x)[-2]
    x = padded(x, [*[(0, 0)] * len(order), (0, bins - have), (0, 0)])
    real, imaginary = parts(x)
    # Bins that stand for their mirror image too count twice.
    twice = np.full(bins, 2.0)
    twice[0] = 1.0
    if size % 2 == 0:
        twice[-1] = 1.0
    angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(size)) / size
    kind = real.dtype.numpy
    y = nl.matmul(real, at.constant((np.cos(angle) * twice[:, None] / size).astype(kind)))
    if imaginary is not None:
        sine = at.constant((np.sin(angle) * twice[:, None] / size).astype(kind))
        y = y - nl.matmul(imaginary, sine)
    back = [*order, axis, len(order) + 1]
    found = nl.expand_dims(y, -1)
    return nl.transpose(found, [back.index(a) for a in range(len(back))])


@translates("STFT")
def stft(at: Call) -> nl.Tensor:
    """Fourier transforms of frames of a signal, each times a window."""
    x = at.tensor(0)
    step = at.known_ints(1)[0]
    window = at.optional(2)
    if at.has(3):
        size = at.known_ints(3)[0]
    else:
        size = at.shape(2)[0] if window is not None else at.shape(0)[1]
    onesided = bool(at.integer("onesided", 1))
    length = at.shape(0)[1]
    frames = (length - size) // step + 1
    places = np.arange(frames)[:, None] * step + np.arange(size)[None]
    if at.rank(0) == 2:
        x = nl.expand_dims(x, -1)
    framed = nl.gather(x, at.constant(places), 1)  # batch, frames, size, parts
    real, imaginary = parts(framed)
    if window is not None:
        real = real * window
        imaginary = None if imaginary is None else imaginary * window
    y, z = transformed(real, imaginary, size, False, size // 2 + 1 if onesided else size)
    return nl.stack([y, z], -1)
