"""A kernel as LLVM IR functions that all threads play together."""

from __future__ import annotations

from dataclasses import dataclass

from niello.backends.cpu.contract import contraction_of, emit_contract
from niello.backends.cpu.jit import CpuTarget
from niello.backends.cpu.llvm_text import Module, Value
from niello.backends.cpu.render_map import render_nest
from niello.backends.cpu.render_memory import emit_partial
from niello.backends.cpu.render_reduce import emit_reduction
from niello.backends.cpu.render_routine import render_routine
from niello.backends.cpu.render_routine_memory import Places
from niello.backends.cpu.render_scratch import ThreadScratch
from niello.backends.cpu.render_split import render_split
from niello.backends.cpu.render_types import vector_bytes
from niello.backends.cpu.vectors import Emitter, Scope
from niello.codegen.plan import Nest, Partial, Plan, Split, plan
from niello.kernel.ir import Expr, Kernel, Param
from niello.kernel.routine import Routine

_ALIGN = 64


@dataclass(frozen=True)
class KernelCode:
    """The functions of a kernel, to be played in order with a barrier between them.

    Each is `void name(ptr b0, ptr b1, ..., ptr scratch, i64 thread, i64 threads)`; `threads` is
    the largest number of threads that finds work. `exclusive` says that the functions lay out all
    of the scratch as they like, so that no other command may use scratch at the same time.
    """

    stages: tuple[str, ...]
    threads: int
    exclusive: bool
    uses_scratch: bool
    pack: str = ""  # fills `ready_bytes` of packed constants before any run, see Emitted
    ready_bytes: int = 0
    absorbed: frozenset[int] = frozenset()  # slots of parameters that only `pack` reads


@dataclass
class Scratch:
    """The layout of a module's scratch: shared bytes, then for each thread rows and exchange.

    Kernels take disjoint pieces of the shared and exchange parts, and all share the rows part.
    """

    shared: int = 0
    exchange: int = 0
    rows: int = 0
    exclusive_shared: int = 0
    exclusive_thread: int = 0

    @property
    def shared_bytes(self) -> int:
        """Bytes for all threads together."""
        return max(self.shared, self.exclusive_shared)

    @property
    def thread_bytes(self) -> int:
        """Bytes for each thread."""
        return max(_rounded(self.rows) + self.exchange, _rounded(self.exclusive_thread))

    def globals_text(self) -> str:
        """Definitions of the sizes, which functions are written before they are known."""
        values = {
            "niello_shared_bytes": _rounded(self.shared_bytes),
            "niello_thread_bytes": _rounded(self.thread_bytes),
            "niello_rows_bytes": _rounded(self.rows),
        }
        return "".join(
            f"@{name} = internal unnamed_addr constant i64 {value}\n"
            for name, value in values.items()
        )


def render_kernel(
    module: Module,
    kernel: Kernel | Routine,
    target: CpuTarget,
    name: str,
    scratch: Scratch,
    threads: int = 2,
    constants: frozenset[int] = frozenset(),
) -> KernelCode:
    """Write the functions of a kernel into a module; `threads` is how many are expected.

    `constants` are the slots of parameters that hold the same in every run. The module must in the
    end also hold `scratch.globals_text()`.
    """
    if isinstance(kernel, Routine):
        places = Places(kernel)
        most = render_routine(module, kernel, target, name, places)
        scratch.rows = max(scratch.rows, places.bytes)
        return KernelCode((name,), most, False, places.bytes > 0)
    if contraction_of(kernel) is not None:
        made = emit_contract(module, name, kernel, target, threads, constants)
        scratch.exclusive_shared = max(scratch.exclusive_shared, made.shared_bytes)
        scratch.exclusive_thread = max(scratch.exclusive_thread, made.thread_bytes)
        uses = made.shared_bytes + made.thread_bytes > 0
        packing = (made.pack, made.ready_bytes, made.absorbed)
        return KernelCode(made.stages, made.threads, uses, uses, *packing)
    return _KernelWriter(module, kernel, target, name, scratch).write()


class _KernelWriter:
    def __init__(
        self, module: Module, kernel: Kernel, target: CpuTarget, name: str, scratch: Scratch
    ) -> None:
        self.module, self.kernel, self.target, self.name = module, kernel, target, name
        self.scratch = scratch
        self.plan: Plan = plan(kernel, vector_bytes(target))
        self.lane_rows: dict[Param, int] = {}
        self.rows_used = 0

    def write(self) -> KernelCode:
        shared = _offsets(self.plan.shared, self.scratch.shared)
        exchange = _offsets(self.plan.exchange, self.scratch.exchange)
        self.scratch.shared, self.scratch.exchange = shared.end, exchange.end
        names = []
        most = 1
        for n, nests in enumerate(self.plan.stages):
            stage = self.name if n == 0 else f"{self.name}_{n}"
            names.append(stage)
            most = max(most, self._stage(stage, nests, shared, exchange))
        self.scratch.rows = max(self.scratch.rows, self.rows_used)
        uses = bool(self.plan.shared or self.plan.exchange or self.plan.rows)
        return KernelCode(tuple(names), most, False, uses)

    def _stage(
        self, name: str, nests: list[Nest | Split], shared: _Offsets, exchange: _Offsets
    ) -> int:
        parameters = [("ptr", f"b{p.slot}") for p in self.kernel.params]
        parameters += [("ptr", "scratch"), ("i64", "thread"), ("i64", "threads")]
        f = self.module.function(name, "void", parameters, internal=True, inline=False)
        pointers = {p: f.argument(f"b{p.slot}") for p in self.kernel.params}
        em = Emitter(f, self.target, pointers, _emit)
        place = ThreadScratch(f)
        for p, offset in shared.items.items():
            em.pointers[p] = f.gep("i8", f.argument("scratch"), offset)
        if self.plan.exchange:
            own = place.exchange()
            em.partial_step = place.size("niello_thread_bytes")
            em.partial_threads = f.argument("threads")
            first = f.sub(own, f.mul(f.argument("thread"), em.partial_step))
            for p, offset in exchange.items.items():
                em.pointers[p] = f.cast("inttoptr", f.add(own, offset), "ptr")
                em.partial_pointers[p] = f.cast("inttoptr", f.add(first, offset), "ptr")
        most = 0
        threads = f.argument("threads")
        for n, nest in enumerate(nests):
            # Each nest starts with another thread, so that small ones do not all fall to the first.
            thread = f.argument("thread")
            if n:
                thread = f.urem(f.add(thread, n), threads)
            if isinstance(nest, Split):
                most += render_split(em, nest, thread, threads)
            else:
                self._rows(em, nest, place)
                most += render_nest(em, nest, thread, threads)
        f.ret()
        return most

    def _rows(self, em: Emitter, nest: Nest, place: ThreadScratch) -> None:
        """Give addresses to what the phases of a nest keep for a row."""
        kept = [s.param for p in nest.phases for s in p.stores if s.param in self.plan.rows]
        if not kept:
            return
        base = place.rows()
        offset = 0
        for p in kept:
            em.pointers[p] = em.f.cast("inttoptr", em.f.add(base, offset), "ptr")
            em.row_params.add(p)
            # With lanes over the rows, each point of a row is a vector.
            offset += _rounded(p.elements * p.dtype.itemsize * _most_lanes(em.target))
        self.rows_used = max(self.rows_used, offset)


def _most_lanes(target: CpuTarget) -> int:
    return vector_bytes(target) // 4


@dataclass(frozen=True)
class _Offsets:
    items: dict[Param, int]
    end: int


def _offsets(params: list[Param], start: int) -> _Offsets:
    items: dict[Param, int] = {}
    for p in params:
        items[p] = start
        start += _rounded(p.elements * p.dtype.itemsize)
    return _Offsets(items, start)


def _rounded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _emit(em: Emitter, node: Expr, scope: Scope) -> Value:
    """The value of a node that is more than a function of others."""
    if isinstance(node, Partial):
        return emit_partial(em, node, scope)
    return emit_reduction(em, node, scope)
