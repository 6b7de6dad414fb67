"""Conditions and loops over blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.builder import Unknown, Value
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.operators.lists import ListValue
from niello.frontends.coreml.registry import operator

# Loops that carry a list which may grow become so many steps at most.
MOST_STEPS = 256


def _tensor(at: Op, value: Value) -> nl.Tensor:
    """A value that goes into or out of a block: of a list its elements."""
    if not isinstance(value, ListValue):
        return at.builder.tensor(value)
    if value.items is None:
        raise at.refuse(
            "carries a list that nothing was written to, of elements without a declared size",
            f"{value.length} elements",
            "Give make_list the shape of its elements",
        )
    return value.items


def _like(given: Value, tensor: nl.Tensor) -> Value:
    return replace(given, items=tensor) if isinstance(given, ListValue) else tensor


@operator("cond", fold=False)
def cond(at: Op) -> Any:
    """The outputs of one of two blocks."""
    blocks = at.message.blocks
    try:
        chosen = bool(np.all(at.builder.array(at.value("pred"))))
    except Unknown:
        return _computed(at, blocks)
    return _inside(at, blocks[0 if chosen else 1])


def _computed(at: Op, blocks: Any) -> tuple[Value, ...]:
    given: list[tuple[Value, ...]] = []

    def side(block: Any) -> Any:
        def build() -> list[nl.Tensor]:
            with at.builder.region():
                given.append(_inside(at, block))
                return [_tensor(at, v) for v in given[-1]]

        return build

    predicate = nl.reshape(nl.cast(at.tensor("pred"), nl.bool_), ())
    found = nl.if_(predicate, side(blocks[0]), side(blocks[1]))
    first, second = given
    for a, b in zip(first, second, strict=True):
        if isinstance(a, ListValue) and isinstance(b, ListValue) and a.length != b.length:
            raise at.refuse("its blocks give lists of other lengths", f"{a.length} and {b.length}")
    return tuple(_like(v, t) for v, t in zip(first, found, strict=True))


def _inside(at: Op, block: Any) -> tuple[Value, ...]:
    scope = dict(at.scope)
    at.program.block(block, scope)
    return tuple(scope[name] for name in block.outputs)


@operator("while_loop", fold=False)
def while_loop(at: Op) -> Any:
    """Loop variables, changed by a body block as long as a condition block holds."""
    raw = at.value("loop_vars")
    given = raw if isinstance(raw, tuple) else (raw,)
    condition, body = at.message.blocks

    def run(block: Any, values: Sequence[Value]) -> tuple[Value, ...]:
        scope = dict(at.scope)
        scope.update((i.name, v) for i, v in zip(block.inputs, values, strict=True))
        at.program.block(block, scope)
        return tuple(scope[name] for name in block.outputs)

    if any(isinstance(v, ListValue) and (v.grows or v.items is None) for v in given):
        return _unrolled(at, given, lambda v: run(condition, v)[0], lambda v: run(body, v))

    def inside(block: Any, tensors: Sequence[nl.Tensor]) -> list[nl.Tensor]:
        with at.builder.region():
            values = [_like(g, t) for g, t in zip(given, tensors, strict=True)]
            return [_tensor(at, v) for v in run(block, values)]

    def holds(*tensors: nl.Tensor) -> nl.Tensor:
        return nl.reshape(inside(condition, tensors)[0], ())

    found = nl.while_([_tensor(at, v) for v in given], holds, lambda *v: inside(body, v))
    return tuple(_like(g, t) for g, t in zip(given, found, strict=True))


def _unrolled(at: Op, values: tuple[Value, ...], holds: Any, step: Any) -> tuple[Value, ...]:
    """The steps one after the other: each may make a list longer."""
    for _ in range(MOST_STEPS):
        try:
            if not np.all(at.builder.array(holds(values))):
                return values
        except Unknown:
            raise at.refuse(
                "carries a list that may grow, and its number of steps depends on what is fed",
                at.name,
                "Make the list of a fixed length: make_list(..., dynamic_length=False)",
            ) from None
        values = step(values)
    raise at.refuse(
        "carries a list that may grow, in too many steps",
        f"more than {MOST_STEPS}",
        "Make the list of a fixed length: make_list(..., dynamic_length=False)",
    )
