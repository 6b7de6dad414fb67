"""What the shared code generation needs to know of a GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuTarget:
    """Sizes of a device, and how much work a thread should get. Part of every cache key."""

    threads: int = 256  # of a usual block
    most_threads: int = 1024  # of a block
    fill: int = 132 * 2048  # threads that the device runs at once
    row_values: int = 32  # elements of a row that a thread keeps in registers
    lane_bytes: int = 16  # bytes of the narrowest elements that a thread takes at once
    most_lanes: int = 8
    chunks: int = 2  # vectors of points that a thread of a point-wise nest works on at once
    shared_bytes: int = 48 << 10
    most_shared_bytes: int = 0  # of one block alone on its processor, where that is more
    alone_bytes: int = 0  # of which a processor has room for one block only, but not two
    most_blocks: int = 2**31 - 1  # along the first dimension of a grid
    most_buffers: int = 1 << 10  # of one launch
    most_binding_bytes: int = 1 << 62  # of one buffer argument: larger ones are bound in pieces
    tile_side: int = 8  # rows and columns of C that a thread of a contraction holds at most
    slices: int = 1  # groups of threads that share the points of k in a step, at most
    tiles: tuple[str, ...] = ("registers",)  # inner tiles to try, best first (see inner_tiles.py)

    @property
    def piece_bytes(self) -> int:
        """The size of a piece, a power of two, so that positions in it are bits of an index."""
        return 1 << (self.most_binding_bytes.bit_length() - 1)

    def pieces(self, size: int) -> tuple[tuple[int, int], ...]:
        """(offset, bytes) of the arguments through which a buffer of `size` bytes is reached."""
        if size <= self.most_binding_bytes:
            return ((0, size),)
        step = self.piece_bytes
        return tuple((at, min(step, size - at)) for at in range(0, size, step))
