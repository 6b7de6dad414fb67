"""Checks that a kernel is well formed. A broken kernel is a bug of Niello, never of the user."""

from __future__ import annotations

from niello.core.dtypes import DType, bool_, int64
from niello.core.errors import CompilerBug
from niello.core.nodes import Node, walk
from niello.kernel.bounds import interval, linear, terms_interval
from niello.kernel.ir import (
    REDUCE_OPS,
    SCALAR_FUNCTIONS,
    ArgReduce,
    Bitcast,
    Cast,
    Const,
    Contract,
    Expr,
    Fn,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    Store,
)
from niello.kernel.routine import Routine
from niello.kernel.routine_verify import verify_routine
from niello.kernel.text import print_kernel


def verify(kernel: Kernel | Routine) -> None:
    """Raise CompilerBug, with the text of the kernel, unless it is well formed.

    Checked: parameters sit at their slots and agree with their uses; every range is bound once;
    types fit; indices are int64 and gates bool; and indices whose bounds are known stay inside
    their buffer. What a kernel stores must not depend on the order of its stores.
    """
    if isinstance(kernel, Routine):
        verify_routine(kernel)
    else:
        _Verifier(kernel).run()


class _Verifier:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        # Checked expressions with the ranges in scope: a shared node is checked once per scope.
        self.seen: set[tuple[Node, frozenset[Range]]] = set()

    def fail(self, problem: str, node: object) -> None:
        raise CompilerBug(
            f"verify kernel {self.kernel.name}",
            problem,
            received=f"{node!r}"[:2000],
            advice=f"The kernel is:\n{print_kernel(self.kernel)}",
        )

    def require(self, holds: bool, problem: str, node: object) -> None:
        if not holds:
            self.fail(problem, node)

    def run(self) -> None:
        for position, param in enumerate(self.kernel.params):
            self.require(param.slot == position, f"parameter {position} has another slot", param)
            self.require(param.elements >= 0, "a parameter has a negative size", param)
        for store in self.kernel.stores:
            self.store(store)
        self.order()

    def store(self, store: Store) -> None:
        self.param(store.param)
        self.require(
            store.param.written, "a store goes to a parameter that is read only", store.param
        )
        self.require(
            store.combine is None or store.combine in REDUCE_OPS, "unknown combine", store.combine
        )
        scope = self.bind(store.ranges, frozenset(), store)
        self.expr(store.value, scope)
        self.require(
            store.value.dtype is store.param.dtype,
            f"a store to {store.param.dtype.name} has a value of another dtype",
            store.value.dtype,
        )
        self.access(store, scope)

    def access(self, access: Store | Load, scope: frozenset[Range]) -> None:
        """The index and gate of a load or store."""
        self.expr(access.index, scope)
        self.require(access.index.dtype is int64, "an index is not int64", access.index.dtype)
        if access.gate is not None:
            self.expr(access.gate, scope)
            self.require(access.gate.dtype is bool_, "a gate is not bool", access.gate.dtype)
            return
        # Bounds are exact where the index is linear in its ranges; otherwise they may be too wide.
        terms, constant = linear(access.index)
        if any(r.extent == 0 for r in scope) or not all(isinstance(t, Range) for t in terms):
            return
        low, high = terms_interval(terms, constant)
        self.require(
            low >= 0 and high < access.param.elements,
            f"an index from {low} to {high} leaves buffer {access.param.slot} "
            f"of {access.param.elements} elements",
            access.index,
        )

    def param(self, param: Param) -> None:
        known = self.kernel.params
        self.require(
            param.slot < len(known) and known[param.slot] is param,
            "not a parameter of this kernel",
            param,
        )

    def bind(
        self, ranges: tuple[Node, ...], scope: frozenset[Range], node: object
    ) -> frozenset[Range]:
        for r in ranges:
            self.require(isinstance(r, Range), "something else is bound as a range", node)
            self.require(r.extent >= 0, "a range has a negative extent", r)  # type: ignore[attr-defined]
        names = [r.name for r in (*scope, *ranges)]  # type: ignore[attr-defined]
        self.require(
            len(set(names)) == len(names), "a range is bound twice, or two share a name", node
        )
        return scope.union(ranges)  # type: ignore[arg-type]

    # --- expressions
    def expr(self, root: Expr, scope: frozenset[Range]) -> None:
        stack = [root]
        while stack:
            node = stack.pop()
            if (node, scope) in self.seen:
                continue
            self.seen.add((node, scope))
            if isinstance(node, Range):
                self.require(node in scope, "a range is used where it is not bound", node)
            elif isinstance(node, Load):
                self.param(node.param)
                self.access(node, scope)
            elif isinstance(node, Fn):
                self.function(node)
                stack.extend(node.args)
            elif isinstance(node, (Cast, Bitcast)):
                self.conversion(node)
                stack.append(node.x)
            elif isinstance(node, (Reduce, ArgReduce, Contract)):
                self.reduction(node, scope)
            else:
                self.require(isinstance(node, Const), "not an expression", node)
                self.constant(node)  # type: ignore[arg-type]

    def constant(self, node: Const) -> None:
        self.require(isinstance(node.dtype, DType), "a literal without a dtype", node)
        self.require(not node.dtype.is_half, "a literal of a half type", node)
        if node.dtype.is_integer:
            low, high = interval(node)
            self.require(low == high == node.value, "a literal outside its dtype", node)

    def conversion(self, node: Cast | Bitcast) -> None:
        if isinstance(node, Bitcast):
            same = node.dtype.bits == node.x.dtype.bits
            self.require(same, "a bitcast changes the width", node)

    def function(self, node: Fn) -> None:
        spec = SCALAR_FUNCTIONS.get(node.name)
        if spec is None:
            self.fail("an unknown function", node.name)
            return
        types = [a.dtype for a in node.args]
        self.require(len(types) == spec.arity, f"{node.name} takes {spec.arity} arguments", types)
        if spec.result == "where":
            self.require(types.pop(0) is bool_, "the test of a where is not bool", node)
        self.require(all(t is types[0] for t in types), f"{node.name} mixes dtypes", types)
        self.require(types[0].kind in spec.kinds, f"{node.name} does not take this dtype", types)
        self.require(not types[0].is_half, f"{node.name} computes in a half type", types)
        result = bool_ if spec.result == "bool" else types[0]
        self.require(node.dtype is result, f"{node.name} has another result", node.dtype)

    def reduction(self, node: Reduce | ArgReduce | Contract, scope: frozenset[Range]) -> None:
        inner = self.bind(node.ranges, scope, node)
        self.require(bool(node.ranges), "a reduction over no ranges", node)
        if isinstance(node, Contract):
            self.require(
                node.dtype.kind in ("int", "uint", "float"),
                "a contraction in this dtype",
                node.dtype,
            )
            self.expr(node.a, inner)
            self.expr(node.b, inner)
            return
        self.expr(node.body, inner)
        allowed = REDUCE_OPS if isinstance(node, Reduce) else ("min", "max")
        self.require(node.op in allowed, "an unknown reduction", node.op)
        kind = node.body.dtype.kind
        bits = node.op in ("and", "or", "xor")
        self.require(
            not (bits and kind == "float") and not (node.op in ("add", "mul") and kind == "bool"),
            f"a reduction {node.op} of {kind}",
            node,
        )

    # --- order
    def order(self) -> None:
        """A buffer that is written is loaded only at the point that is being stored."""
        written: dict[Param, list[Store]] = {}
        for store in self.kernel.stores:
            written.setdefault(store.param, []).append(store)
        for store in self.kernel.stores:
            for node in walk([store]):
                if not isinstance(node, Load) or node.param not in written:
                    continue
                self.require(
                    any(
                        target.ranges == store.ranges and linear(node.index) == linear(target.index)
                        for target in written[node.param]
                    ),
                    f"buffer {node.param.slot} is loaded at one point and stored at another",
                    node,
                )
