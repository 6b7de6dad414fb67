"""Expands transcendental functions into primitive ones, for renderers that have no such functions.

`expand` rewrites a kernel: every transcendental function of float32 that the target does not have
becomes an expression of additions, multiplications, fused multiply-adds, divisions, square roots,
comparisons, selections and integer operations, without branches or tables in memory, right to
2 ulp for all arguments. The results assume IEEE 754 arithmetic with subnormal numbers and no
reassociation; `fma` may round once or twice. NaN, infinities, signed zeros and the special cases of
IEEE 754-2019, 9.2 hold.

Largest errors in ulps, with one rounding in `fma` and with two, and vector instructions on AVX-512
without moves (tools/ulp.py). Functions of one argument were tried with every float32 of magnitude
2^-13 to 2^8 (further where more happens; one sign where the other mirrors it) and a sample of the
rest; pow and atan2 with 268 million random pairs.

    function   one rounding   two    instructions
    exp        0.90           1.17   18
    exp2       0.88           1.08   17
    expm1      1.53           1.66   18
    tanh       1.84           1.99   19
    erf        1.67           1.91   25
    log        0.92           0.90   26
    log2       0.98           1.36   25
    log10      1.03           1.33   27
    log1p      1.46           1.54   27
    asinh      1.88           1.82   33
    acosh      1.93           1.94   38
    atanh      1.82           1.87   34
    sin        1.16           1.39   26 + 62
    cos        1.15           1.39   26 + 62
    tan        1.99           1.99   24 + 62
    asin       1.19           1.19   20
    acos       1.14           1.14   23
    atan       1.37           1.46   18
    atan2      1.73           1.73   26
    sinh       1.82           1.85   25
    cosh       1.46           1.46   25
    pow        0.96           1.24   95
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, cast

from niello.codegen import transcendental_arc as arc
from niello.codegen import transcendental_exp as exponential
from niello.codegen import transcendental_log as logarithm
from niello.codegen import transcendental_trig as circular
from niello.codegen.transcendental_pow import power
from niello.core.dtypes import DType, float32
from niello.core.errors import UnsupportedDtype
from niello.core.nodes import Node, transform, walk
from niello.kernel.ir import Expr, Fn, Kernel, fn, substitute
from niello.kernel.routine import Routine

Native = Callable[[str, DType], bool]
NodeType = TypeVar("NodeType", bound=Node)

FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "exp": exponential.exp,
    "exp2": exponential.exp2,
    "expm1": exponential.expm1,
    "tanh": exponential.tanh,
    "erf": exponential.erf,
    "log": logarithm.log,
    "log2": logarithm.log2,
    "log10": logarithm.log10,
    "log1p": logarithm.log1p,
    "asinh": logarithm.asinh,
    "acosh": logarithm.acosh,
    "atanh": logarithm.atanh,
    "sin": circular.sin,
    "cos": circular.cos,
    "tan": circular.tan,
    "asin": arc.asin,
    "acos": arc.acos,
    "atan": arc.atan,
    "atan2": arc.atan2,
    "sinh": exponential.sinh,
    "cosh": exponential.cosh,
    "pow": power,
}


# Shorter forms of the same values for vectors that have the scalar function "scalb".
BY_SCALB: dict[str, Callable[..., Expr]] = {
    "exp": exponential.exp_by_scalb,
    "exp2": exponential.exp2_by_scalb,
}


def expand_expression(expr: Expr, native: Native, memo: dict[Node, Node] | None = None) -> Expr:
    """`expr` with its transcendental functions replaced where `native(name, dtype)` is false.

    `memo` maps nodes already rewritten to their results, for sharing between expressions. Raises
    UnsupportedDtype for float64 functions that are not native: only float32 is expanded.
    """
    return _expand_node(expr, native, {} if memo is None else memo)


def _expand_node(root: NodeType, native: Native, memo: dict[Node, Node]) -> NodeType:
    def visit(node: Node) -> Node:
        if not isinstance(node, Fn) or node.name not in FUNCTIONS or native(node.name, node.dtype):
            return node
        if node.dtype is not float32:
            raise UnsupportedDtype(
                node.name,
                "this target has no such function of this dtype, and only float32 is expanded",
                received=node.dtype.name,
                advice="Compute it in float32, or on the CPU",
            )
        return FUNCTIONS[node.name](*node.args)

    return cast(NodeType, transform(root, visit, memo))


def expand_statements(made: Routine, native: Native) -> Routine:
    """The same for the statements of a routine."""
    memo: dict[Node, Node] = {}
    return replace(made, body=tuple(_expand_node(s, native, memo) for s in made.body))


def rare_case(expr: Expr) -> tuple[Expr, Expr] | None:
    """(condition, value) where `expr` is `value` at every point at which `condition` is false.

    The value does without what hardly any argument needs, such as the reduction of angles beyond
    6000, three quarters of the work of a sine: a renderer of vectors may branch on whether any
    lane has the condition. None if there is nothing to save. Selections with the fact "rare" = 1,
    the argument that is rarely chosen, tell; of nested ones the inner are taken.
    """
    marked = {e for e in walk([expr]) if isinstance(e, Fn) and e.facts.get("rare") == 1}
    inner: dict[Node, Node] = {
        e: e.args[2] for e in marked if not any(n in marked for n in walk(e.args))
    }
    if not inner:
        return None
    condition, *others = dict.fromkeys(e.args[0] for e in walk([expr]) if e in inner)  # type: ignore[attr-defined]
    for other in others:
        condition = fn("or", condition, other)
    return condition, substitute(expr, inner)


def expand(kernel: Kernel, native: Native) -> Kernel:
    """The kernel without the transcendental functions for which `native(name, dtype)` is false.

    Example: `expand(kernel, lambda name, dtype: dtype is float64)` for a target that has such
    functions of float64 only. Raises UnsupportedDtype as `expand_expression` does.
    """
    memo: dict[Node, Node] = {}
    stores = tuple(_expand_node(s, native, memo) for s in kernel.stores)
    if stores == kernel.stores:
        return kernel
    return Kernel(kernel.name, kernel.params, stores)
