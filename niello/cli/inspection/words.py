"""Sizes and types as people read them."""

from __future__ import annotations

import niello as nl


def data_size(count: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def milliseconds(seconds: float | None) -> str:
    """A time; nothing for one that was not measured."""
    return "" if seconds is None else f"{seconds * 1e3:.3f} ms"


def tensor_type(tensor: nl.Tensor) -> str:
    """The type, short: f32 64×28×28×1."""
    kind = tensor.dtype.name.replace("float", "f").replace("uint", "u").replace("int", "i")
    if tensor.shape is None:
        return f"{kind} ?"
    return f"{kind} {'×'.join('?' if d is None else str(d) for d in tensor.shape)}".strip()
