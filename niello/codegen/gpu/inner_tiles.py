"""Which inner tile a contraction gets: the first of its target's that takes it."""

from __future__ import annotations

from niello.codegen.gpu.contract import Contraction
from niello.codegen.gpu.expressions import Emitter
from niello.codegen.gpu.target import GpuTarget
from niello.codegen.gpu.tile_choice import Tile
from niello.codegen.gpu.tiles import BlockTiles, RegisterTiles
from niello.codegen.gpu.tiles_split import SplitTiles
from niello.codegen.gpu.tiles_tensor import TensorTiles
from niello.core.nodes import walk
from niello.kernel.ir import Load

InnerTiles = type[RegisterTiles] | type[TensorTiles] | type[SplitTiles]

# By the names that targets use.
INNER_TILES: dict[str, InnerTiles] = {
    "registers": RegisterTiles,
    "tensor": TensorTiles,
    "split": SplitTiles,
}


def _kind(c: Contraction, target: GpuTarget) -> tuple[InnerTiles, list[str]]:
    """The inner tile, and why others that the target has do not do."""
    reasons: list[str] = []
    for name in target.tiles:
        reason = INNER_TILES[name].refusal(c, target)
        if not reason:
            return INNER_TILES[name], reasons
        if any(isinstance(x, Load) and x.dtype.is_half for x in walk([c.a, c.b])):
            reasons.append(f"no {name} tiles: {reason}")
    return RegisterTiles, reasons


def plan(c: Contraction, target: GpuTarget) -> tuple[Tile, int]:
    """The tile for a contraction, and into how many parts of k to cut it."""
    return _kind(c, target)[0].plan(c, target)


def contraction_writer(em: Emitter, c: Contraction, target: GpuTarget) -> BlockTiles:
    """What writes a contraction."""
    kind, reasons = _kind(c, target)
    writer = kind(em, c, target)
    writer.remarks = tuple(reasons)
    return writer
