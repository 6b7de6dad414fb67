"""One arena: every intermediate result gets an offset; those never alive together share bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
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


def alive_together(a: Lifetime, b: Lifetime) -> bool:
    """Whether steps that run one after the other need both at some moment."""
    return a.last >= b.first and b.last >= a.first


class Waits:
    """Which results must have memory apart where steps that do not wait for each other may run at
    once: those of which neither is done with before the other is begun, whatever runs first.

    `waits[n]` are the steps whose results step n reads; `users` says which steps touch a result.
    """

    def __init__(
        self, waits: Sequence[Sequence[int]], users: Mapping[Hashable, Sequence[int]]
    ) -> None:
        self._before: list[int] = []  # as bits: what a step waits for, directly or not
        for found in waits:
            bits = 0
            for n in found:
                bits |= self._before[n] | 1 << n
            self._before.append(bits)
        self._users = {key: sum(1 << n for n in set(found)) for key, found in users.items()}

    def together(self, a: Lifetime, b: Lifetime) -> bool:
        """Whether both may be needed at some moment."""
        return not (self._done(a, b) or self._done(b, a))

    def _done(self, a: Lifetime, b: Lifetime) -> bool:
        return not self._users[a.key] & ~self._before[b.first]


def place(
    lifetimes: Sequence[Lifetime],
    alignment: int = ALIGNMENT,
    together: Callable[[Lifetime, Lifetime], bool] = alive_together,
) -> tuple[dict[Hashable, int], int]:
    """Offsets by key, multiples of `alignment`, and the bytes of the arena. Results that are needed
    `together` share no byte.

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
            if not together(other, item):
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
