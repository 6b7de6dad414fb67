"""From a kernel with a Contract to machine code: matmul, convolutions and their gradients.

contraction_of(kernel)                               the Contract this module can tile, or None
emit_contract(module, name, kernel, target, threads) write its functions
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from niello.backends.cpu.contract_pairs import Pairs, find_pairs
from niello.backends.cpu.contract_roles import Roles, assign_roles, contraction_of
from niello.backends.cpu.contract_sides import Rowside, Sides, bound_ranges
from niello.backends.cpu.gemm import emit_contraction
from niello.backends.cpu.gemm_dot import MOST_ROWS
from niello.backends.cpu.gemm_pairs import HELD
from niello.backends.cpu.gemm_tile import Target
from niello.backends.cpu.gemm_types import Contraction, Emitted, Place, Ready
from niello.backends.cpu.jit import CpuTarget
from niello.backends.cpu.llvm_text import Function, Module, Value
from niello.backends.cpu.llvm_text import lanes as count
from niello.backends.cpu.render_memory import store as write
from niello.backends.cpu.render_reduce import emit_reduction
from niello.backends.cpu.render_types import register_type
from niello.backends.cpu.vectors import Emitter, Scope
from niello.core.errors import CompilerBug
from niello.core.nodes import walk
from niello.kernel.ir import Expr, Kernel, Load, Range

__all__ = ["Emitted", "contraction_of", "emit_contract"]


def emit_contract(
    module: Module,
    name: str,
    kernel: Kernel,
    target: CpuTarget,
    threads: int,
    constants: frozenset[int] = frozenset(),
) -> Emitted:
    """Write the functions of a kernel that `contraction_of` accepts.

    Each is `void f(ptr b0, ptr b1, ..., ptr scratch, i64 thread, i64 threads)`, a pointer per
    kernel parameter. All threads run the first function, then, after a barrier, the second, and so
    on. `threads` is how many the work is divided for; any number may run it. `constants` are the
    slots of parameters that hold the same in every run: an operand made of them may be packed once,
    by the function `pack` of what is returned, into memory that all functions then take as `ptr
    ready` behind the kernel's parameters. Raises CompilerBug for a kernel that `contraction_of`
    refuses.
    """
    contract = contraction_of(kernel)
    if contract is None:
        raise CompilerBug(
            "emit_contract", "not a kernel around one contraction", received=kernel.name
        )
    return _Bridge(module, name, kernel, target, threads, constants).emit()


class _Bridge:
    def __init__(
        self,
        module: Module,
        name: str,
        kernel: Kernel,
        target: CpuTarget,
        threads: int,
        constants: frozenset[int],
    ) -> None:
        contract = contraction_of(kernel)
        assert contract is not None
        self.module, self.name, self.kernel, self.cpu = module, name, kernel, target
        self.threads = threads
        self.target = tile_target(target)
        width = max(1, self.target.vector_bytes // contract.dtype.itemsize)
        self.roles: Roles = assign_roles(kernel, contract, width, constants)
        self.sides = Sides(self.roles, self.target, self.emitter)
        self._emitters: dict[str, Emitter] = {}
        self._scopes: dict[tuple[str, ...], Scope] = {}
        self.along = "m" if self.roles.contiguous is self.roles.m else "n"

    def emitter(self, f: Function, place: Place) -> Emitter:
        """The expression emitter of a function being written."""
        found = self._emitters.get(f.name)
        if found is None:
            params = self.kernel.params
            pointers = dict(zip(params, place.arguments[: len(params)], strict=True))
            found = self._emitters[f.name] = Emitter(f, self.cpu, pointers, emit_reduction)
        return found

    def emit(self) -> Emitted:
        roles = self.roles
        pairs, sides, rowside = self._choose_sides()
        k = [r.extent for r in roles.k]
        if pairs is not None:
            k[-1] = -(-k[-1] // pairs.count)
        b = sides.b()
        parameters = [("ptr", f"b{p.slot}") for p in self.kernel.params]
        contraction = Contraction(
            name=self.name,
            parameters=[*parameters, ("ptr", "ready")] if isinstance(b, Ready) else parameters,
            m=roles.m.extent,
            n=roles.n.extent,
            k=tuple(k),
            a=rowside.side,
            b=b,
            finish=self.finish,
            element=register_type(roles.result.dtype),
            batch=tuple(r.extent for r in roles.batch),
            outer=tuple(r.extent for r in roles.outer),
            trims=rowside.trims,
            live=rowside.live,
            finish_along=self.along,
            pairs="" if pairs is None else pairs.kind,
            parallel=self.threads,
        )
        target = self.target
        if pairs is not None and pairs.kind in HELD:
            target = replace(target, registers=target.registers - HELD[pairs.kind])
        made = emit_contraction(self.module, contraction, target)
        return replace(made, absorbed=self._absorbed()) if made.pack else made

    def _absorbed(self) -> frozenset[int]:
        """Slots of parameters that only operand B reads."""
        roles = self.roles
        gates = [s.gate for s in roles.stores if s.gate is not None]
        elsewhere = [roles.a, *gates, *(e for s in roles.stores for e in (s.index, s.value))]
        return _slots([roles.b]) - _slots(elsewhere)

    def _choose_sides(self) -> tuple[Pairs | None, Sides, Rowside]:
        """In pairs where the target and the operands allow it, else element by element."""
        plain = self.sides
        # Bytes that lie ready in units are a quarter of what a few rows would have to read.
        ready = self.roles.b_is_constant and self.roles.result.dtype.is_integer
        pairs = find_pairs(self.roles, self.cpu) if ready or plain.rows > MOST_ROWS else None
        if pairs is not None:
            sides = Sides(self.roles, self.target, self.emitter, pairs)
            rowside = sides.a()
            innermost = len(self.roles.k) - 1
            if innermost not in rowside.trims and innermost not in rowside.live:
                return pairs, sides, rowside
        return None, plain, plain.a()

    def finish(
        self, f: Function, place: Place, sums: Value, mask: Value | None, along: str
    ) -> None:
        """Evaluate the epilogue on one vector of finished sums and store it."""
        em = self.emitter(f, place)
        roles = self.roles
        lanes, others = (roles.n, roles.m) if along == "n" else (roles.m, roles.n)
        shared = self._shared(f, em, place, sums, mask, lanes, others)
        index = place.m if others is roles.m else place.n
        scope = Scope(shared, {others: index})  # type: ignore[dict-item]
        scope.values[roles.result] = sums
        values = [em.value(s.value, scope) for s in roles.stores]
        for node, value in zip(roles.stores, values, strict=True):
            write(em, node, value, scope)

    def _shared(
        self,
        f: Function,
        em: Emitter,
        place: Place,
        sums: Value,
        mask: Value | None,
        lanes: Range,
        others: Range,
    ) -> Scope:
        """What the vectors of a tile that differ only in `others` share, written once: a bias."""
        at = place.n if lanes is self.roles.n else place.m
        key = (f.name, f.current, at.text, "" if mask is None else mask.text)
        found = self._scopes.get(key)
        if found is None:
            known = self.sides.ranges_at(f, place)
            del known[others]
            width = count(sums.type)
            axis = lanes if width > 1 else None
            found = Scope(ranges=known, vector=axis, width=width, mask=mask)
            if width == 1:
                found.ranges[lanes] = at
            self._scopes[key] = found
            values = [s.value for s in self.roles.stores]
            em.hoist(values, found, [others, *bound_ranges(values)])
        return found


def _slots(exprs: Sequence[Expr]) -> frozenset[int]:
    return frozenset(n.param.slot for n in walk(exprs) if isinstance(n, Load))


def tile_target(target: CpuTarget) -> Target:
    """What tiles need to know of a CPU target."""
    l1, l2 = _host_caches() if target.name == "host" else (32 << 10, 512 << 10)
    fused = target.architecture == "aarch64" or target.has("fma")
    return Target(target.vector_bits // 8, target.vector_registers, fused, l1, l2)


@cache
def _host_caches() -> tuple[int, int]:
    """Bytes of the first (data) and second level cache of a core; usual sizes where unknown."""
    sizes = {1: 32 << 10, 2: 512 << 10}
    root = "/sys/devices/system/cpu/cpu0/cache"
    if os.path.isdir(root):
        for entry in sorted(os.listdir(root)):
            try:
                with open(f"{root}/{entry}/level") as f:
                    level = int(f.read())
                with open(f"{root}/{entry}/type") as f:
                    kind = f.read().strip()
                with open(f"{root}/{entry}/size") as f:
                    size = f.read().strip()
            except (OSError, ValueError):
                continue
            if kind != "Instruction" and level in sizes and size.endswith("K"):
                sizes[level] = int(size[:-1]) << 10
    return sizes[1], sizes[2]
