"""Named pipelines: which passes run, in which order, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from niello.core.types import TensorType
from niello.passes.absorb import Absorb
from niello.passes.autocast import Autocast, AutocastWhole
from niello.passes.canonicalise import Canonicalise
from niello.passes.computation import Computation
from niello.passes.control import Control
from niello.passes.decompose import Decompose, Keeps
from niello.passes.fold import Fold
from niello.passes.share import Share
from niello.passes.specialise import Specialise
from niello.passes.split_complex import SplitComplex
from niello.passes.unite import Unite

Pass = Callable[[Computation], Computation]


def optimising(
    types: Sequence[TensorType],
    autocast: Pass | None = None,
    checks: Pass | None = None,
    layout: Pass | None = None,
    integers: Pass | None = None,
    keeps: Keeps | None = None,
    borders: Pass | None = None,
) -> tuple[Pass, ...]:
    """The default pipeline for inputs of the given static types; `keeps` says of an operation that
    the device runs it as it is."""
    return (
        Unite(),  # by the identity of bodies, which every other pass rebuilds
        Specialise(tuple(types)),  # everything after needs known shapes
        *_asked(checks),  # while operations are those that the user wrote
        *_asked(integers),  # while quantization is still an operation
        *_whole(autocast, keeps),  # while what the device runs whole is still whole
        Decompose(keeps),  # only primitives from here on, and what the device runs whole
        SplitComplex(keeps),  # and only real tensors
        *_before_halves(autocast),
        *_asked(autocast),  # before folding, which then casts constants at compile time
        Fold(),  # shapes and scalars become constants, which canonical forms look for
        Control(),  # branches and loops whose predicates and counts are known now
        *_asked(layout),  # among constants that are known, and before its transposes cancel
        *(() if layout is None else (Fold(),)),  # weights that it turned are constants again
        Canonicalise(),  # x * 1, reshape of reshape ...
        Share(),  # after canonical forms, more is equal
        Absorb(),  # batch normalisation: what is constant by now goes into constant weights
        *_asked(borders),  # of convolutions whose layout is settled
        Fold(),  # canonical forms expose further constants
        Control(),  # which may be predicates and counts
    )


def plain(
    types: Sequence[TensorType], autocast: Pass | None = None, checks: Pass | None = None
) -> tuple[Pass, ...]:
    """Only what code generation needs: for NIELLO_OPTIMISE=0 and for comparing results."""
    checked = _asked(checks)
    return (
        Unite(),
        Specialise(tuple(types)),
        *checked,
        Decompose(),
        SplitComplex(),
        *_asked(autocast),
    )


def _before_halves(autocast: Pass | None) -> tuple[Pass, ...]:
    """Absorbing needs float32 products; where operations are chosen by name, names must stay."""
    chosen: object = getattr(autocast, "operations", None)
    if autocast is None or chosen:
        return ()
    return (Fold(), Absorb())


def _whole(autocast: Pass | None, keeps: Keeps | None) -> tuple[Pass, ...]:
    if keeps is None or not isinstance(autocast, Autocast):
        return ()
    return (AutocastWhole(autocast, keeps),)


def _asked(given: Pass | None) -> tuple[Pass, ...]:
    return () if given is None else (given,)


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
