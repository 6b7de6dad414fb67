"""Matrix products and linear algebra."""

from __future__ import annotations

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates


@translates("MatMul")
def matmul(at: Call) -> nl.Tensor:
    """NumPy's matmul."""
    return product(at.tensor(0), at.tensor(1))


def product(a: nl.Tensor, b: nl.Tensor) -> nl.Tensor:
    """A matrix product of tensors or vectors; vectors gain an axis and lose it again."""
    first, second = a.rank == 1, b.rank == 1
    if not (first or second):
        return nl.matmul(a, b)
    left = nl.expand_dims(a, 0) if first else a
    right = nl.expand_dims(b, -1) if second else b
    found = nl.matmul(left, right)
    axes = ((-2,) if first else ()) + ((-1,) if second else ())
    return nl.squeeze(found, axes)


@translates("Gemm")
def gemm(at: Call) -> nl.Tensor:
    """alpha * A' @ B' + beta * C, A and B transposed where asked."""
    a, b = at.tensor(0), at.tensor(1)
    a = nl.transpose(a, (1, 0)) if at.integer("transA", 0) else a
    b = nl.transpose(b, (1, 0)) if at.integer("transB", 0) else b
    alpha, beta = at.real("alpha", 1.0), at.real("beta", 1.0)
    y = scaled(nl.matmul(a, b), alpha)
    return nl.add(y, scaled(at.tensor(2), beta)) if at.has(2) and beta != 0.0 else y


def scaled(x: nl.Tensor, by: float) -> nl.Tensor:
    """x * by in the type of x, where that is not x."""
    if by == 1.0:
        return x
    return nl.multiply(x, x.graph.constant(np.asarray(by).astype(x.dtype.numpy)))


@translates("Einsum")
def einsum(at: Call) -> nl.Tensor:
    """Sums of products by an equation of subscripts."""
    return nl.einsum(at.text("equation").replace(" ", ""), *at.tensors())


@translates("Det")
def determinant(at: Call) -> nl.Tensor:
    """The determinant of each matrix."""
    return nl.det(at.tensor(0))
