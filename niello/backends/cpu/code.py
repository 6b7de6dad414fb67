"""Machine code in this process: object files linked, their functions called.

Objects of x86-64 Linux are linked by elf.py, so that running a package takes no compiler; those of
other systems by LLVM.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from niello.backends.cpu import elf
from niello.backends.cpu.target import links_elf
from niello.core.errors import BackendUnavailable, CompilerBug, CorruptFile


class LoadedCode:
    """Machine code linked into this process, alive as long as this object (or a function of it).

    `addresses` are those of its exports, `unload` frees it.

    Example:
        >>> from niello.backends.cpu.jit import compile_object, select_target
        >>> text = "define i64 @twice(i64 %x) { %y = add i64 %x, %x ret i64 %y }"
        >>> code = load_code(compile_object(text, select_target()), ["twice"])
        >>> code.function("twice", ctypes.c_int64, ctypes.c_int64)(21)
        42
    """

    __slots__ = ("__weakref__", "_addresses")

    def __init__(self, addresses: dict[str, int], unload: Callable[[], None]) -> None:
        self._addresses = addresses
        # At exit the code stays: worker threads may be inside it.
        weakref.finalize(self, unload).atexit = False

    def address(self, name: str) -> int:
        """Address of an exported function or global. Raises CompilerBug for another name."""
        try:
            return self._addresses[name]
        except KeyError:
            raise CompilerBug(
                "LoadedCode.address",
                "the code does not export this symbol",
                received=repr(name),
                advice=f"It exports {', '.join(self._addresses)}",
            ) from None

    def function(self, name: str, result: Any, *arguments: Any) -> Any:
        """A ctypes function for an exported symbol; it keeps the code alive."""
        function = ctypes.CFUNCTYPE(result, *arguments)(self.address(name))
        function.code = self  # type: ignore[attr-defined]
        return function


def load_code(
    data: bytes, exports: Iterable[str], symbols: Mapping[str, int] | None = None
) -> LoadedCode:
    """Links an object file into the process.

    `exports` names the symbols whose addresses are wanted; `symbols` gives addresses for names
    that the object leaves open and the process does not define. Raises CorruptFile when the bytes
    do not link, BackendUnavailable when the system lets no code be loaded.
    """
    names = tuple(exports)
    if not _is_object(data):
        raise CorruptFile(
            "load_object", "the bytes are not an object file", received=repr(bytes(data[:8]))
        )
    if links_elf():
        image = elf.link(data, names, symbols or {})
        return LoadedCode(image.addresses, lambda: elf.unmap(image.base, image.size))
    from niello.backends.cpu.jit import link_object

    return LoadedCode(*link_object(data, names, symbols or {}))


def refuse_missing(level: str, missing: Sequence[str]) -> None:
    """Raise BackendUnavailable where this machine lacks something that code of a level uses."""
    if missing:
        raise BackendUnavailable(
            f"cpu ({level})",
            f"code for {level} needs {', '.join(missing)}, which this machine lacks",
            advice="Compile for target=host or target=baseline",
        )


def _is_object(data: bytes) -> bool:
    """True for the magic numbers of ELF, Mach-O and COFF (x86-64, aarch64) object files."""
    magic = bytes(data[:4])
    return magic in (elf.MAGIC, b"\xcf\xfa\xed\xfe") or magic[:2] in (b"\x64\x86", b"\x64\xaa")
