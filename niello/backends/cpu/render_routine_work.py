"""Estimates of a routine's work: how many lanes a Spread gets, how many teams a thread."""

from __future__ import annotations

import math

from niello.backends.cpu.jit import CpuTarget
from niello.backends.cpu.render_types import vector_bytes
from niello.codegen.access import cost
from niello.core.dtypes import DType
from niello.kernel.bounds import interval
from niello.kernel.ir import Const, Expr
from niello.kernel.routine import (
    Body,
    Combine,
    Declare,
    Fold,
    For,
    If,
    Local,
    Read,
    Routine,
    Scan,
    Set,
    Spread,
    While,
    Write,
    expressions,
    statements,
    value_dtype,
)

_GRAIN = 8192  # instructions' worth of work below which another thread is not worth waking
_STRANDS = 4  # vectors that a loop of a few instructions works on at once
_SHORT_WALK = 16  # instructions of such a loop
_GUESS = 16  # iterations of a loop whose bounds are not known


def lanes_of(target: CpuTarget, s: Spread | Fold | Scan) -> int:
    """Lanes of the vectors that a Spread is done in; 1 where iterations must take turns."""
    inside = list(statements([s]))
    if any(isinstance(x, Combine) for x in inside):
        return 1
    dtypes: list[DType] = []
    for x in inside:
        if isinstance(x, (Read, Write)):
            dtypes.append(value_dtype(x.place))
        elif isinstance(x, (Declare, Set)):
            dtypes.append(x.cell.dtype)
        elif isinstance(x, (Fold, Scan)):
            dtypes += [e.dtype for e in x.given]
    widest = max([4, *(d.itemsize for d in dtypes)])
    width = vector_bytes(target) // widest
    most = interval(s.count)[1]
    if isinstance(s, Spread) and _walks(s) and most >= _STRANDS * width:
        width *= _STRANDS
    while width > 1 and width // 2 >= most:
        width //= 2
    return width


def _walks(s: Spread) -> bool:
    """Whether each iteration is a short loop: several vectors side by side hide its latency, and
    read longer pieces of memory at a time."""
    if len(s.body) == 0 or not any(isinstance(x, For) for x in s.body):
        return False
    own = any(
        isinstance(x, (Read, Write)) and isinstance(x.place, Local) and x.place.space == "member"
        for x in statements(s.body)
    )
    return not own and weight_of(s.body) <= _SHORT_WALK


def weight_of(body: Body) -> float:
    """Instructions that a body is written as, roughly."""
    total = 0.0
    for s in statements(body):
        total += 1 + cost(list(expressions(s)))
    return total


def grain_of(made: Routine) -> int:
    """Teams that are worth another thread."""
    return max(1, math.ceil(_GRAIN / max(1.0, _work(made.body, 16))))


def _work(body: Body, lanes: int) -> float:
    """Instructions that a body takes when it runs, with iterations of a Spread `lanes` at once."""
    total = 0.0
    for s in body:
        total += 1 + cost(list(expressions(s)))
        if isinstance(s, For):
            total += _trips(s) * _work(s.body, lanes)
        elif isinstance(s, While):
            total += _GUESS * (_work(s.test, lanes) + _work(s.body, lanes))
        elif isinstance(s, If):
            total += max(_work(s.then, lanes), _work(s.otherwise, lanes))
        elif isinstance(s, (Spread, Fold)):
            outer = math.prod(_most(e) for e in s.extents) if isinstance(s, Spread) else 1
            total += outer * math.ceil(_most(s.count) / lanes) * _work(s.body, lanes)
        elif isinstance(s, Scan):
            each = _work(s.body, lanes) + _work(s.then, lanes) + 6
            total += math.ceil(_most(s.count) / lanes) * each
    return total


def _most(count: Expr) -> int:
    high = interval(count)[1]
    return high if high < 1 << 40 else _GUESS


def _trips(s: For) -> float:
    if not isinstance(s.step, Const):
        return _GUESS
    low, high = interval(s.start)[0], interval(s.stop)[1]
    if s.step.value < 0:
        low, high = interval(s.stop)[0], interval(s.start)[1]
    trips = max(0, high - low) / abs(int(s.step.value))
    return trips if trips < 1 << 40 else _GUESS
