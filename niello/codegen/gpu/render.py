"""A kernel as source text and launches, for the language of a dialect."""

from __future__ import annotations

from collections.abc import Sequence

from niello.codegen.access import loads, store_roots
from niello.codegen.gpu.blocks import Block, Scope
from niello.codegen.gpu.c_style import CStyle
from niello.codegen.gpu.contract import Contraction
from niello.codegen.gpu.entry import Entry, Writer, entry_grid, entry_launch, identifier
from niello.codegen.gpu.expressions import Emitter
from niello.codegen.gpu.inner_tiles import contraction_writer
from niello.codegen.gpu.kernel import GpuKernel
from niello.codegen.gpu.nests import NestWriter, inline_reduce
from niello.codegen.gpu.phases import Nest
from niello.codegen.gpu.registers import Reg
from niello.codegen.gpu.scatter import Scatter, ScatterWriter
from niello.codegen.gpu.scatter_render import render_scatter
from niello.codegen.gpu.stages import Part, Stages, stages_of
from niello.codegen.gpu.target import GpuTarget
from niello.codegen.gpu.teams import map_nest, threads_wanted
from niello.codegen.gpu.tiles import BlockTiles
from niello.codegen.gpu.turned import TurnedWriter, turned_of
from niello.codegen.transcendental import Native, expand
from niello.kernel.ir import Kernel, Param, Store


def render(
    kernel: Kernel, dialect: CStyle, target: GpuTarget, native: Native, write: Writer
) -> GpuKernel:
    """The launches of a kernel. `native` says which functions the language has; `write` makes the
    source of entry points. Raises LimitExceeded and UnsupportedDtype."""
    scattered = render_scatter(kernel, dialect, target, native, write)
    if scattered is not None:
        return scattered
    stages = stages_of(expand(kernel, native), target)
    base = identifier(kernel.name)
    entries: list[Entry] = []
    notes: list[str] = []
    for parts in _launches(stages, target):
        n = dialect.stage = len(entries)
        name = base if n == 0 else f"{base}_{n}"
        entry, said = _entry(name, parts, dialect, target)
        entries.append(entry)
        notes += [f"{name}: {x}" for x in said]
    launches = tuple(entry_launch(e, target) for e in entries)
    return GpuKernel(
        kernel.name,
        write(entries) if entries else "",
        launches,
        _scratch_bytes(stages),
        notes=tuple(notes),
    )


def _launches(stages: Stages, target: GpuTarget) -> list[list[Part]]:
    """What each launch does, in order: a contraction has one for itself, and the parts of a level
    share one as far as the number of buffers allows."""
    found: list[list[Part]] = []
    for level in stages.levels:
        found += [[x] for x in level if isinstance(x, Contraction)]
        batch: list[Part] = []
        bound: set[Param] = set()
        for x in level:
            if isinstance(x, Contraction):
                continue
            params = _params_of(x)
            if batch and _bindings(bound | params, target) > target.most_buffers:
                found.append(batch)
                batch, bound = [], set()
            batch.append(x)
            bound |= params
        if batch:
            found.append(batch)
    return found


def _bindings(params: set[Param], target: GpuTarget) -> int:
    """How many arguments reach these buffers."""
    return sum(len(target.pieces(p.elements * p.dtype.itemsize)) for p in params)


def _params_of(part: Nest | Scatter) -> set[Param]:
    """The buffers that a part reads or writes."""
    stores: list[Store]
    if isinstance(part, Scatter):
        stores, roots = [part.store], store_roots([part.store])
    else:
        stores = [s for p in part.phases for s in p.stores]
        roots = [e for p in part.phases for e in p.roots]
    return {s.param for s in stores} | {x.param for x in loads(roots)}


def _entry(
    name: str, level: Sequence[Part], dialect: CStyle, target: GpuTarget
) -> tuple[Entry, list[str]]:
    """The entry point that runs the nests of a level, each on blocks of its own."""
    em = Emitter(dialect, inline_reduce, dialect.stage)
    turned = {x: turned_of(x, target, dialect.word_bytes) for x in level if isinstance(x, Nest)}
    mapped = [(x, map_nest(x, target, dialect.word_bytes)) for x, t in turned.items() if t is None]
    mappings = dict(mapped)
    threads = threads_wanted(mapped, target)
    writers: list[NestWriter | ScatterWriter | BlockTiles | TurnedWriter] = []
    for x in level:
        if isinstance(x, Contraction):
            writers.append(contraction_writer(em, x, target))
            threads = writers[-1].threads
        elif isinstance(x, Scatter):
            writers.append(ScatterWriter(em, x, target, threads))
        elif (tiles := turned[x]) is not None:
            writers.append(TurnedWriter(em, tiles, threads))
        else:
            writers.append(NestWriter(em, x, mappings[x], target, threads))
    notes = [w.describe() for w in writers]
    resident = max((getattr(w, "resident", 1) for w in writers), default=1)
    total = sum(w.blocks for w in writers)
    grid = entry_grid(total, target)
    root = Block(1)
    scope = Scope(None, root)
    shared: dict[str, tuple[Reg, int]] = {}
    first = 0
    covered = grid[0] * grid[1]
    for n, writer in enumerate(writers):
        alone = len(writers) == 1 and covered == total
        inner = scope if alone else scope.inner(closed=True)
        writer.shared = shared
        writer.write(inner, f"(block - {first})" if first else "block")
        first += writer.blocks
        if not alone:
            more = n + 1 < len(writers) or covered > total
            test = f"if (block < {first}) {{" if more else "{"
            root.add(test if n == 0 else f"else {test}" if more else "else {")
            root.lines += inner.block.lines
            root.add("}")
    params = tuple(sorted(em.used, key=lambda p: p.slot))
    written = tuple(em.used[p] for p in params)
    return Entry(
        name, params, written, shared, threads, grid, tuple(root.lines), em.stage, resident
    ), notes


def _scratch_bytes(stages: Stages) -> tuple[int, ...]:
    return tuple(-(-p.elements * p.dtype.itemsize // 256) * 256 for p in stages.scratch)
