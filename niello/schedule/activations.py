"""Activations among expressions, recognised by what they compute.

A template is what lowering makes of the published function; an expression is an activation when the
template with some part of it in place of the input is that very expression.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache, partial
from typing import Any

from niello.core.dtypes import float32
from niello.core.nodes import walk
from niello.graph import opdef
from niello.graph.graph import GraphDefinition
from niello.graph.operation import Operation
from niello.kernel import ir
from niello.kernel.ir import Expr, Load
from niello.schedule.lower import lower_group

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")


def _is_other(one: Operation, operation: Operation) -> bool:
    return operation is not one


@cache
def _templates() -> tuple[tuple[str, Load, Expr], ...]:
    """(name, input, value) of each activation of float32."""
    functions: dict[str, Any] = dict(opdef.functions())
    functions["gelu_tanh"] = partial(functions["gelu"], approximate="tanh")
    found = []
    for name in ACTIVATIONS:
        graph = GraphDefinition()
        x = graph.placeholder((4,), float32)
        y = functions[name](x)
        lowered = lower_group(name, [y], partial(_is_other, x.operation))
        (store,) = lowered.kernel.stores
        loads = {n for n in walk([store.value]) if isinstance(n, Load)}
        found.append((name, loads.pop(), store.value))
    return tuple(found)


def activation_of(value: Expr, inside: Collection[Expr]) -> tuple[str, Expr] | None:
    """(name, argument) when `value` is an activation of one of the nodes `inside`."""
    for name, load, template in _templates():
        if type(template) is not type(value):
            continue
        for argument in inside:
            if argument is not value and ir.substitute(template, {load: argument}) is value:
                return name, argument
    return None
