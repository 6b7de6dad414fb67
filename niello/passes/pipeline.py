"""Named pipelines: which passes run, in which order, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from niello.core.types import TensorType
from niello.passes.canonicalise import Canonicalise
from niello.passes.computation import Computation
from niello.passes.decompose import Decompose
from niello.passes.fold import Fold
from niello.passes.share import Share
from niello.passes.specialise import Specialise

Pass = Callable[[Computation], Computation]


def optimising(types: Sequence[TensorType], autocast: Pass | None = None) -> tuple[Pass, ...]:
    """The default pipeline for inputs of the given static types."""
    return (
        Specialise(tuple(types)),  # everything after needs known shapes
        Decompose(),  # only primitives from here on
        *_asked(autocast),  # before folding, which then casts constants at compile time
        Fold(),  # shapes and scalars become constants, which canonical forms look for
        Canonicalise(),  # x * 1, reshape of reshape ...
        Share(),  # after canonical forms, more is equal
        Fold(),  # canonical forms expose further constants
    )


def plain(types: Sequence[TensorType], autocast: Pass | None = None) -> tuple[Pass, ...]:
    """Only what code generation needs: for NIELLO_OPTIMISE=0 and for comparing results."""
    return (Specialise(tuple(types)), Decompose(), *_asked(autocast))


def _asked(autocast: Pass | None) -> tuple[Pass, ...]:
    return () if autocast is None else (autocast,)


def run(
    passes: Sequence[Pass],
    source: Computation,
    watch: Callable[[str, Computation], None] | None = None,
) -> Computation:
    """Apply passes in order; `watch` sees the computation after each (dumps, verifier)."""
    for p in passes:
        source = p(source)
        if watch is not None:
            watch(type(p).__name__.lower(), source)
    return source
