"""What a contraction is made of: loops, places, and how its two sides are read.

    C[batch, outer, plane, m, n] = finish(sum of A[batch, outer, plane, m, k] * B[batch, n, k])

`batch`, `outer`, `plane` and `k` may each be several loops. `m` is cut into rows of register tiles,
`n` into vectors. B does not depend on `outer` and `plane`: what is packed of B serves all of them.
What is packed of A serves all of `plane`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from niello.backends.cpu.llvm_text import Function, Operand, Value

Indices = tuple[Value, ...]


NOWHERE = Value("poison", "i64")  # an index that a place does not know


@dataclass(frozen=True)
class Place:
    """Where emitted code stands: the function's arguments and the loop indices known there."""

    arguments: tuple[Value, ...]
    batch: Indices = ()
    outer: Indices = ()
    plane: Indices = ()
    m: Value = NOWHERE
    n: Value = NOWHERE
    k: Indices = ()

    def at(self, **indices: object) -> Place:
        """The same place with some indices set."""
        return replace(self, **indices)  # type: ignore[arg-type]


# Reads along one line of a side: `read(index, width, mask)` is the vector of `width` elements (in
# the accumulator's type) from `index` on. The mask, if any, tells the lanes that exist; others may
# hold anything.
Read = Callable[[Value, int, Value | None], Value]
# `lines(f, place)` prepares a line at a place: what all its vectors share is written there.
Lines = Callable[[Function, Place], Read]


@dataclass(frozen=True)
class Direct:
    """A side read where it lies: an address for k = 0 and constant strides in elements.

    `address(f, place)` is the address of the element at place (for A at place.m, for B at place.n).
    For A, `step` is the stride of m; for B it must be 1. `k_steps` has one stride per loop over k.
    """

    type: str
    address: Callable[[Function, Place], Value]
    step: int
    k_steps: tuple[int, ...]
    signed: bool = True


@dataclass(frozen=True)
class Packed:
    """A side computed into scratch first, element by element.

    `lines` run along `along`: "k" or the side's own axis ("m" or "n"); the place holds all other
    indices (and anything for this one). Along "k" means the innermost loop over k; side B may name
    another by its number in `axis`. `source`, where known, is the memory that side B copies: it is
    prefetched while earlier panels are in use.
    """

    lines: Lines
    along: str
    axis: int = -1
    source: Direct | None = None


@dataclass(frozen=True)
class Ready:
    """Side B in panels that are filled before any run, from what never changes.

    `packed` tells how its elements are read, `memory(place)` where the panels begin.
    """

    packed: Packed
    memory: Callable[[Place], Value]


@dataclass(frozen=True)
class Window:
    """Side A read from a box copied into scratch (with its zero border) for every `outer` point.

    `extents` are the box's sizes; `lines(f, place, index)` runs along its last axis at `index` on
    the others. `strides` are those of the copy (the last is 1). The copy is read like a Direct
    side: `offset(f, place)` is the element offset in the box of A(plane, m, k = 0), `step` the
    stride of m, `k_steps` the strides of the k loops.
    """

    extents: tuple[int, ...]
    strides: tuple[int, ...]
    lines: Callable[[Function, Place, Indices], Read]
    offset: Callable[[Function, Place], Value]
    step: int
    k_steps: tuple[int, ...]

    @property
    def elements_needed(self) -> int:
        """Elements that the copy takes."""
        return 1 + sum((e - 1) * s for e, s in zip(self.extents, self.strides, strict=True))


Trim = Callable[[Function, Place], tuple[Operand, Operand]]


@dataclass
class Contraction:
    """One contraction to emit. Sizes are extents; `element` is the accumulator's LLVM type.

    `finish(f, place, value, mask, along)` gets the finished sums of one vector and stores them; it
    runs along "n", or along "m" where `finish_along` prefers that. `trims` maps a loop over k to a
    function giving the part [low, high) of it that is not zero at a place (it may use batch, outer
    and plane). `live` maps a loop over k to a function giving for a step of it the rows of m
    [first, last) that are not zero. `pairs` says that operands are pairs along the innermost loop
    over k, which then counts pairs (see gemm_pairs). `parallel` is the number of threads to divide
    the work for; any number may run it.
    """

    name: str
    parameters: Sequence[tuple[str, str]]
    m: int
    n: int
    k: tuple[int, ...]
    a: Direct | Packed | Window
    b: Direct | Packed | Ready
    finish: Callable[[Function, Place, Value, Value | None, str], None]
    element: str = "float"
    batch: tuple[int, ...] = ()
    outer: tuple[int, ...] = ()
    plane: tuple[int, ...] = ()
    finish_along: str = "n"
    trims: dict[int, Trim] = field(default_factory=dict)
    live: dict[int, Callable[[int], tuple[int, int]]] = field(default_factory=dict)
    pairs: str = ""
    parallel: int = 1
    internal: bool = True


@dataclass(frozen=True)
class Emitted:
    """What was emitted: functions to run with a barrier between, and the scratch they need.

    Each stage is `void name(parameters..., ptr scratch, i64 thread, i64 threads)`. Scratch holds
    `shared_bytes` for all threads together, then `thread_bytes` for each; it is aligned to 64.
    `threads` is the largest number of threads that finds work. Where a side is Ready, `pack` fills
    its `ready_bytes`: `void pack(parameters..., i64 thread, i64 threads)`, in no order; the
    parameters whose slots are in `absorbed` are then read by nothing else.
    """

    stages: tuple[str, ...]
    shared_bytes: int
    thread_bytes: int
    threads: int
    pack: str = ""
    ready_bytes: int = 0
    absorbed: frozenset[int] = frozenset()
