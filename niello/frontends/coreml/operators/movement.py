"""Operators that move elements: reshape, transpose, concat, split, slice, pad, tile."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator


@operator("reshape")
def reshape(at: Op) -> nl.Tensor:
    """Another shape; -1 takes what is left, 0 keeps a size."""
    shape = at.shape()
    target = at.ints("shape")
    kept = [shape[i] if d == 0 and i < len(shape) and 0 not in shape else d
            for i, d in enumerate(target)]  # fmt: skip
    return nl.reshape(at.tensor(), tuple(kept))
