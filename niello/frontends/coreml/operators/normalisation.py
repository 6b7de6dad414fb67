"""Normalisations."""

from __future__ import annotations

import niello as nl
from niello.frontends.coreml.layers.normalisation import local_response
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator


@operator("batch_norm")
def batch_norm(at: Op) -> nl.Tensor:
    """By stored mean and variance of each channel (axis 1)."""
    return nl.batch_norm(
        at.tensor(), at.tensor("mean"), at.tensor("variance"), at.optional("gamma"),
        at.optional("beta"), epsilon=at.real("epsilon", 1e-5),
    )  # fmt: skip


@operator("instance_norm")
def instance_norm(at: Op) -> nl.Tensor:
    """By the mean and variance of each channel of each image."""
    return nl.instance_norm(
        at.tensor(), at.optional("gamma"), at.optional("beta"), epsilon=at.real("epsilon", 1e-5)
    )


@operator("layer_norm")
def layer_norm(at: Op) -> nl.Tensor:
    """By the mean and variance over axes."""
    axes = tuple(sorted(a % at.rank() for a in at.ints("axes", range(at.rank()))))
    return nl.layer_norm(
        at.tensor(), at.optional("gamma"), at.optional("beta"), axes=axes,
        epsilon=at.real("epsilon", 1e-5),
    )  # fmt: skip


@operator("l2_norm")
def l2_norm(at: Op) -> nl.Tensor:
    """x / sqrt(sum of squares + epsilon) over the last three axes."""
    x = at.tensor()
    axes = tuple(range(-min(3, at.rank()), 0))
    return x / nl.sqrt(nl.sum(x * x, axes, True) + at.real("epsilon", 1e-6))


@operator("local_response_norm")
def local_response_norm(at: Op) -> nl.Tensor:
    """x / (k + alpha / size * sum of squares of neighbouring channels) ** beta."""
    return local_response(
        at.tensor(), at.integer("size"), at.real("alpha", 1e-4), at.real("beta", 0.75),
        at.real("k", 1.0), 1,
    )  # fmt: skip
