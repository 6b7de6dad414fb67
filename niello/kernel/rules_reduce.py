"""Rules for what binds ranges: reductions, contractions, stores."""

from __future__ import annotations

import math

from niello.core.dtypes import bool_
from niello.core.nodes import Node
from niello.core.rewrite import Rule, rule
from niello.kernel.bounds import is_true
from niello.kernel.ir import (
    ArgReduce,
    Const,
    Contract,
    Expr,
    Range,
    Reduce,
    Store,
    cast,
    const,
    fn,
    free_ranges,
    reduce_identity,
)
from niello.kernel.rules_index import index


def kept(ranges: tuple[Node, ...]) -> tuple[Range, ...]:
    """The ranges with more than one point; a unit range has become the literal 0."""
    return tuple(r for r in ranges if isinstance(r, Range))


@rule(Reduce)
def unit_reduce(e: Reduce) -> Expr | None:
    """reduce.add(r:1, s:4; x) --> reduce.add(s:4; x);  reduce.add(r:1; x) --> x"""
    ranges = kept(e.ranges)
    if any(r.extent == 0 for r in ranges):
        return const(reduce_identity(e.op, e.dtype), e.dtype)
    if not ranges:
        return e.body
    return Reduce(e.op, ranges, e.body) if len(ranges) < len(e.ranges) else None


@rule(Reduce)
def constant_reduce(e: Reduce) -> Expr | None:
    """reduce.max(r:8, s:4; x[s]) --> reduce.max(s:4; x[s]);  reduce.add(r:8; x) --> x * 8"""
    if e.op in ("mul", "xor"):
        return None
    free = free_ranges(e.body)
    used = tuple(r for r in e.ranges if r in free)
    if len(used) == len(e.ranges):
        return None
    inner = Reduce(e.op, used, e.body) if used else e.body
    if e.op != "add":
        return inner
    points = math.prod(r.extent for r in e.ranges if r not in free)
    return fn("mul", inner, const(points, e.dtype))


@rule(Reduce)
def nested_reduce(e: Reduce) -> Expr | None:
    """reduce.add(r; reduce.add(s; x)) --> reduce.add(r, s; x);  the same for a contract inside"""
    body = e.body
    if not isinstance(body, (Reduce, Contract)) or set(e.ranges) & set(body.ranges):
        return None
    if isinstance(body, Reduce):
        return Reduce(e.op, e.ranges + body.ranges, body.body) if body.op == e.op else None
    return Contract(e.ranges + body.ranges, body.a, body.b, body.dtype) if e.op == "add" else None


@rule(ArgReduce)
def unit_arg_reduce(e: ArgReduce) -> Expr | None:
    """arg.max(r:1, s:4; x) --> arg.max(s:4; x);  arg.max(r:1; x) --> 0"""
    ranges = kept(e.ranges)
    if not ranges:
        return index(0)
    return ArgReduce(e.op, ranges, e.body) if len(ranges) < len(e.ranges) else None


@rule(Contract)
def unit_contract(e: Contract) -> Expr | None:
    """contract(r:1, s:4; a, b) --> contract(s:4; a, b);  contract(r:1; a, b) --> a * b"""
    ranges = kept(e.ranges)
    if any(r.extent == 0 for r in ranges) and not e.dtype.is_half:
        return const(0, e.dtype)
    if not ranges and not e.dtype.is_half:
        return fn("mul", cast(e.a, e.dtype), cast(e.b, e.dtype))
    return Contract(ranges, e.a, e.b, e.dtype) if len(ranges) < len(e.ranges) else None


@rule(Store)
def unit_store(e: Store) -> Node | None:
    """store b0[i] for (r:1, x:4) = v if true --> store b0[i] for (x:4) = v"""
    ranges = kept(e.ranges)
    gate = None if e.gate is not None and is_true(e.gate) else e.gate
    if gate is e.gate and len(ranges) == len(e.ranges):
        return None
    return Store(e.param, ranges, e.index, e.value, gate, e.combine)


def stores_nothing(store: Store) -> bool:
    """Whether a simplified store has no point to write."""
    closed = isinstance(store.gate, Const) and store.gate.dtype is bool_ and not store.gate.value
    return closed or any(r.extent == 0 for r in store.ranges)


REDUCE_RULES: tuple[Rule, ...] = (
    unit_reduce,
    constant_reduce,
    nested_reduce,
    unit_arg_reduce,
    unit_contract,
    unit_store,
)
