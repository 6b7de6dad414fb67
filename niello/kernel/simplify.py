"""Simplifies kernels: index algebra, exact scalar identities, gates, unit ranges.

Equal expressions become the same node, so stitched operations share what they have in common and
code generation sees plain strides where a chain of reshapes stood.
"""

from __future__ import annotations

from niello.core.rewrite import RuleSet, rewrite
from niello.kernel.ir import Expr, Kernel, Store
from niello.kernel.rules_index import INDEX_RULES
from niello.kernel.rules_reduce import REDUCE_RULES, stores_nothing
from niello.kernel.rules_scalar import SCALAR_RULES

SIMPLIFY = RuleSet("simplify", (*INDEX_RULES, *SCALAR_RULES, *REDUCE_RULES))


def simplify_expr(expr: Expr) -> Expr:
    """An expression with the same value at every point, in canonical form."""
    return rewrite(expr, SIMPLIFY)  # type: ignore[return-value]


def simplify(kernel: Kernel) -> Kernel:
    """A kernel that stores the same; its parameters stay, used or not.

    Stores without points, and stores whose gate never holds, disappear.
    """
    stores: list[Store] = []
    for store in kernel.stores:
        simple: Store = rewrite(store, SIMPLIFY)  # type: ignore[assignment]
        if not stores_nothing(simple):
            stores.append(simple)
    return Kernel(kernel.name, kernel.params, tuple(stores))
