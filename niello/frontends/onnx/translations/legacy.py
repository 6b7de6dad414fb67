"""Operators of the first ONNX releases that left the standard, as ONNX Runtime keeps them."""

from __future__ import annotations

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates


@translates("Affine")
def affine(at: Call) -> nl.Tensor:
    """alpha * x + beta"""
    x = at.tensor(0)
    return x * at.like(at.real("alpha", 1.0)) + at.like(at.real("beta", 0.0))


@translates("Crop")
def crop(at: Call) -> nl.Tensor:
    """An image without its border (left, top, right, bottom), or a window of size `scale`."""
    left, top, right, bottom = at.ints("border")
    height, width = at.shape(0)[-2:]
    scale = at.ints("scale", None)
    below, beyond = (top + scale[0], left + scale[1]) if scale else (height - bottom, width - right)
    return nl.slice(at.tensor(0), [top, left], [below, beyond], axes=(-2, -1))


@translates("ImageScaler")
def image_scaler(at: Call) -> nl.Tensor:
    """scale * x plus a bias for each channel."""
    x = at.tensor(0) * at.like(at.real("scale", 1.0))
    bias = np.array(at.floats("bias", [0.0]), np.float32).reshape(-1, 1, 1)
    return nl.add(x, at.like(bias))


@translates("ParametricSoftplus")
def parametric_softplus(at: Call) -> nl.Tensor:
    """alpha * log(exp(beta * x) + 1)"""
    x = at.tensor(0)
    return nl.softplus(x * at.like(at.real("beta", 1.0))) * at.like(at.real("alpha", 1.0))


@translates("ScaledTanh")
def scaled_tanh(at: Call) -> nl.Tensor:
    """alpha * tanh(beta * x)"""
    x = at.tensor(0)
    return nl.tanh(x * at.like(at.real("beta", 1.0))) * at.like(at.real("alpha", 1.0))
