"""One arena: every intermediate result gets an offset; those never alive together share bytes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A result of `bytes` bytes alive from step `first` (written) to step `last` (read)."""

    key: Hashable
    bytes: int
    first: int
    last: int


def aligned(size: int, alignment: int = ALIGNMENT) -> int:
    return -(-size // alignment) * alignment


def place(
    lifetimes: Sequence[Lifetime], alignment: int = ALIGNMENT
) -> tuple[dict[Hashable, int], int]:
    """Offsets by key, multiples of `alignment`, and the bytes of the arena.

    Largest first, each at the lowest gap among those it is alive with (the greedy-by-size rule of
    Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
    """
    offsets: dict[Hashable, int] = {}
    placed: list[tuple[int, int, Lifetime]] = []
    total = 0
    for item in sorted(lifetimes, key=lambda t: (-t.bytes, t.first)):
        size = aligned(item.bytes, alignment)
        start = 0
        for low, high, other in placed:
            if other.last < item.first or item.last < other.first:
                continue
            if low - start >= size:
                break
            start = max(start, high)
        offsets[item.key] = start
        placed.append((start, start + size, item))
        placed.sort(key=lambda p: p[0])
        total = max(total, start + size)
    return offsets, total


def lower_bound(lifetimes: Sequence[Lifetime], alignment: int = ALIGNMENT) -> int:
    """Bytes alive at the fullest step: no plan can be smaller."""
    steps = {t.first for t in lifetimes}
    sizes = [(t.first, t.last, aligned(t.bytes, alignment)) for t in lifetimes]
    return max(
        (sum(size for first, last, size in sizes if first <= s <= last) for s in steps),
        default=0,
    )
