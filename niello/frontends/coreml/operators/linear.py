"""Products: linear, matmul, einsum, attention."""

from __future__ import annotations

import niello as nl
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator


@operator("linear", fold=False)
def linear(at: Op) -> nl.Tensor:
    """x W^T + b."""
    weight = at.tensor("weight")
    y = nl.matmul(at.tensor(), nl.transpose(weight, (1, 0)))
    return y + at.tensor("bias") if at.has("bias") else y


@operator("matmul", fold=False)
def matmul(at: Op) -> nl.Tensor:
    """Products of matrices, transposed or not."""
    x, y = at.tensor("x"), at.tensor("y")
    x = nl.swap_axes(x, -1, -2) if at.flag("transpose_x") and at.rank("x") > 1 else x
    y = nl.swap_axes(y, -1, -2) if at.flag("transpose_y") and at.rank("y") > 1 else y
    return nl.matmul(x, y)


@operator("einsum", fold=False)
def einsum(at: Op) -> nl.Tensor:
    """A sum over indices, as NumPy writes it."""
    return nl.einsum(at.text("equation"), *at.tensors("values"))


@operator("scaled_dot_product_attention", fold=False)
def attention(at: Op) -> nl.Tensor:
    """softmax(Q K^T / sqrt(width) + mask) V; a mask of truth values says what is looked at."""
    return nl.scaled_dot_product_attention(
        at.tensor("query"), at.tensor("key"), at.tensor("value"), at.optional("attn_mask")
    )
