"""Products with weights: inner product, embeddings, batched matmul, dot, scale and bias."""

from __future__ import annotations

import numpy as np

import niello as nl
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.registry import layer
from niello.frontends.coreml.weights import is_given


@layer("innerProduct", fold=False)
def inner_product(at: Layer) -> nl.Tensor:
    """x W^T + b. Of rank four and five the last three axes are one vector."""
    p, shape = at.p, at.shape()
    inputs, outputs = int(p.inputChannels), int(p.outputChannels)
    trailing = 3 if len(shape) >= 4 else 1
    if int(np.prod(shape[-trailing:])) != inputs:
        raise at.refuse(f"takes vectors of {inputs} elements", list(shape))
    rows = nl.reshape(at.tensor(), (int(np.prod(shape[:-trailing], dtype=np.int64)), inputs))
    weights = at.weights(p.weights, outputs, inputs)
    y = nl.matmul(rows, nl.transpose(weights, (1, 0)))
    if p.hasBias:
        y = y + at.weights(p.bias, outputs)
    return nl.reshape(y, (*shape[:-trailing], outputs, *(1,) * (trailing - 1)))


@layer("embedding", fold=False)
def embedding(at: Layer) -> nl.Tensor:
    """Rows of a table by number: [..., 1, 1, 1] or [..., 1, 1] become [..., channels, 1, 1]."""
    p, shape = at.p, at.shape()
    table = at.weights(p.weights, int(p.outputChannels), int(p.inputDim))
    rows = nl.gather(nl.transpose(table, (1, 0)), nl.reshape(at.indices(0), (-1,)), 0)
    if p.hasBias:
        rows = rows + at.weights(p.bias, int(p.outputChannels))
    if len(shape) >= 4:
        return nl.reshape(rows, (*shape[:-3], int(p.outputChannels), 1, 1))
    return nl.reshape(rows, (*shape[:-1], int(p.outputChannels)))


@layer("embeddingND", fold=False)
def embedding_nd(at: Layer) -> nl.Tensor:
    """Rows of a table by number: the last axis, of one, becomes the vector."""
    p, shape = at.p, at.shape()
    if not shape or shape[-1] != 1:
        raise at.refuse("the last axis of the input has one element", list(shape))
    table = at.weights(p.weights, int(p.embeddingSize), int(p.vocabSize))
    rows = nl.gather(nl.transpose(table, (1, 0)), nl.reshape(at.indices(0), shape[:-1]), 0)
    return rows + at.weights(p.bias, int(p.embeddingSize)) if p.hasBias else rows


@layer("batchedMatmul", fold=False)
def batched_matmul(at: Layer) -> nl.Tensor:
    """Products of matrices, of two inputs or of one with weights [inputs, outputs]."""
    p = at.p
    a = at.tensor(0)
    if len(at.inputs) > 1:
        b = at.tensor(1)
    else:
        rows, columns = int(p.weightMatrixFirstDimension), int(p.weightMatrixSecondDimension)
        # The file holds the matrix column by column.
        b = nl.transpose(at.weights(p.weights, columns, rows), (1, 0))
    a = nl.swap_axes(a, -1, -2) if p.transposeA and at.rank(0) > 1 else a
    b = nl.swap_axes(b, -1, -2) if p.transposeB and len(at.sizes(b)) > 1 else b
    y = nl.matmul(a, b)
    if p.hasBias and is_given(p.bias):
        y = y + at.weights(p.bias, int(p.weightMatrixSecondDimension))
    return y


@layer("dot")
def dot(at: Layer) -> nl.Tensor:
    """The dot product (or cosine) of vectors along the third axis from the end."""
    a, b = at.tensor(0), at.tensor(1)
    axis = max(0, at.rank() - 3)
    if at.p.cosineSimilarity:
        a = a / nl.sqrt(nl.sum(a * a, axis, True))
        b = b / nl.sqrt(nl.sum(b * b, axis, True))
    return nl.sum(a * b, axis, True)


def _parameter(at: Layer, params: object, shape: list[int]) -> nl.Tensor:
    """Weights [c], [c, h, w] or [1, c, h, w] that broadcast to an image."""
    sizes = [int(d) for d in shape]
    made = at.weights(params, *sizes)
    return nl.reshape(made, (sizes[0], 1, 1)) if len(sizes) == 1 and at.rank() >= 3 else made


@layer("scale")
def scale(at: Layer) -> nl.Tensor:
    """x times a scale, plus a bias."""
    p = at.p
    y = at.tensor() * _parameter(at, p.scale, list(p.shapeScale))
    return y + _parameter(at, p.bias, list(p.shapeBias)) if p.hasBias else y


@layer("bias")
def bias(at: Layer) -> nl.Tensor:
    """x plus a bias."""
    return at.tensor() + _parameter(at, at.p.bias, list(at.p.shape))
