"""The largest elements."""

from __future__ import annotations

from typing import Any

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates


@translates("TopK")
def top_k(at: Call) -> Any:
    """The k largest or smallest elements along an axis, and where they are."""
    k = at.integer("k") if at.version < 10 else at.known_ints(1)[0]
    axis, largest = at.integer("axis", -1), bool(at.integer("largest", 1))
    return nl.top_k(at.tensor(0), k, axis, largest=largest, dtype=nl.int64)
