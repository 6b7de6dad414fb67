"""What a package holds of a compiled program: its object file and that of the worker pool.

The pool's code comes along so that a process that only runs packages loads no compiler. Where
objects are linked by LLVM anyway, an image is the program's object file alone.

    8 bytes "\\x7fNIELLO\\n"   4 version of the pool   4 zero   8 bytes of the program's object
    8 bytes of the pool's object   both objects
"""

from __future__ import annotations

import struct

from niello.backends.cpu import thread_code
from niello.core.errors import CorruptFile

_MAGIC = b"\x7fNIELLO\n"
_HEAD = struct.Struct("<8sIIQQ")


def join(program: bytes, pool: bytes) -> bytes:
    """An image of two object files."""
    head = _HEAD.pack(_MAGIC, thread_code.POOL_VERSION, 0, len(program), len(pool))
    return head + program + pool


def split(image: bytes) -> tuple[bytes, bytes]:
    """The object files of the program and of the pool; the latter is empty where there is none, or
    where it is not of the version that this Niello works with. Raises CorruptFile."""
    if image[: len(_MAGIC)] != _MAGIC:
        return image, b""
    if len(image) < _HEAD.size:
        raise _refuse(image)
    _, version, zero, first, second = _HEAD.unpack_from(image)
    if zero or _HEAD.size + first + second != len(image):
        raise _refuse(image)
    middle = _HEAD.size + first
    pool = image[middle:] if version == thread_code.POOL_VERSION else b""
    return image[_HEAD.size : middle], pool


def _refuse(image: bytes) -> CorruptFile:
    return CorruptFile(
        "load",
        "the machine code is damaged: its parts do not add up",
        received=f"{len(image)} bytes",
        advice="Compile the program again",
    )
