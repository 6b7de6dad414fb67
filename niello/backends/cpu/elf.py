"""Linking an ELF object file of x86-64 into this process, without LLVM.

An object that the code generator wrote has a handful of sections and of relocations, so that a
package's machine code is ready in a millisecond, and a process that only runs packages never
loads the compiler. Formats and names are those of the System V ABI, AMD64 supplement, chapter 4.

Sections lie in one mapping, those of one protection together; calls to functions of the process go
through stubs behind the code, their addresses through a table behind the constants. Every number of
the file is checked before it is used: damage is a CorruptFile.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from niello.core.errors import BackendUnavailable, CorruptFile

MAGIC = b"\x7fELF"
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_PAGE = 4096
_MOST_BYTES = 1 << 30  # of a mapping: everything must be within reach of 32-bit distances

_SYMTAB, _RELA, _NOBITS = 2, 4, 8  # types of sections
_WRITE, _ALLOC, _EXEC, _TLS = 1, 2, 4, 0x400  # their flags
_UNDEFINED, _ABSOLUTE, _RESERVED = 0, 0xFFF1, 0xFF00  # places of symbols

# Relocations: what is stored, in how many bytes.
_ABS64, _PC32, _PLT32, _GOTPCREL, _PC64, _GOTPCRELX, _REX_GOTPCRELX = 1, 2, 4, 9, 24, 41, 42
_GOT = (_GOTPCREL, _GOTPCRELX, _REX_GOTPCRELX)
_SIZES = {_ABS64: 8, _PC64: 8, _PC32: 4, _PLT32: 4, **dict.fromkeys(_GOT, 4)}
_STUB = b"\xff\x25"  # jmp through the address at a distance
_STUB_BYTES = 8


class Image(NamedTuple):
    """Linked code: where it lies, how many bytes it takes, and where its exports are."""

    base: int
    size: int
    addresses: dict[str, int]


class _Section(NamedTuple):
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int


class _Symbol(NamedTuple):
    name: str
    section: int
    value: int
    weak: bool


class _Relocation(NamedTuple):
    section: int
    offset: int
    symbol: int
    kind: int
    addend: int


def link(data: bytes, exports: Iterable[str], symbols: Mapping[str, int]) -> Image:
    """Map an object file and give the addresses of its `exports`.

    `symbols` gives addresses for names that it leaves open; others are looked up in the process.
    Raises CorruptFile for bytes that are not such a file, BackendUnavailable when the system
    refuses memory for code. `unmap` frees the image.
    """
    try:
        return _Linker(data, symbols).link(tuple(exports))
    except (struct.error, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise _corrupt(f"{type(error).__name__}: {error}", data) from error


def unmap(base: int, size: int) -> None:
    """Free an image. Nothing may be inside its code."""
    _system().munmap(ctypes.c_void_p(base), ctypes.c_size_t(size))


def _corrupt(problem: str, data: bytes) -> CorruptFile:
    return CorruptFile(
        "load_object",
        f"the object file does not link: {problem}",
        received=f"{len(data)} bytes",
        advice="Compile the program again",
    )


class _Linker:
    def __init__(self, data: bytes, given: Mapping[str, int]) -> None:
        self.data = data
        self.given = given
        self.sections: list[_Section] = []
        self.symbols: list[_Symbol] = []
        self.relocations: list[_Relocation] = []
        self.places: dict[int, int] = {}  # of sections, from the base on
        self.stubs: dict[int, int] = {}  # of symbols outside
        self.table: dict[int, int] = {}  # of their addresses

    def link(self, exports: tuple[str, ...]) -> Image:
        self._read()
        bounds = self._lay_out()
        size = bounds[-1]
        image = bytearray(size)
        for number, place in self.places.items():
            section = self.sections[number]
            if section.kind != _NOBITS:
                end = place + section.size
                image[place:end] = self.data[section.offset : section.offset + section.size]
        # Everything that can fail for the file's sake comes before the mapping.
        found = {s.name: n for n, s in enumerate(self.symbols) if s.name in exports}
        missing = [n for n in exports if n not in found or not self._inside(found[n])]
        if missing:
            raise self._refuse(f"it does not define {', '.join(missing)}")
        base = _map(size)
        try:
            addresses = {name: self._address(n, base) for name, n in found.items()}
            self._relocate(image, base)
            ctypes.memmove(base, bytes(image), size)
            _protect(base, bounds)
        except BaseException:
            unmap(base, size)
            raise
        return Image(base, size, addresses)

    def _refuse(self, problem: str) -> CorruptFile:
        return _corrupt(problem, self.data)

    # --- reading
    def _read(self) -> None:
        head = _HEADER.unpack_from(self.data)
        ident, kind, machine = head[:3]
        start, entry, count = head[6], head[11], head[12]
        if ident[:6] != MAGIC + b"\2\1" or (kind, machine, entry) != (1, 62, _SECTION.size):
            raise self._refuse("it is no ELF object file of x86-64")
        for number in range(count):
            _, t, flags, _, offset, size, to, info, align, each = _SECTION.unpack_from(
                self.data, start + number * entry
            )
            section = _Section(t, flags, offset, size, to, info, max(align, 1), each)
            self._check(section)
            self.sections.append(section)
        tables = [s for s in self.sections if s.kind == _SYMTAB]
        if len(tables) != 1:
            raise self._refuse(f"it has {len(tables)} tables of symbols")
        self._read_symbols(tables[0])
        for section in self.sections:
            if section.kind == _RELA and self._section(section.info).flags & _ALLOC:
                self._read_relocations(section)

    def _check(self, s: _Section) -> None:
        if s.kind != _NOBITS and s.offset + s.size > len(self.data):
            raise self._refuse("a section reaches beyond its end")
        if s.align > _PAGE or s.align & (s.align - 1):
            raise self._refuse(f"a section asks for an alignment of {s.align}")
        if s.size > _MOST_BYTES or s.flags & _TLS:
            raise self._refuse("a section is of a kind that is never written")

    def _section(self, number: int) -> _Section:
        if not 0 < number < len(self.sections):
            raise self._refuse(f"there is no section {number}")
        return self.sections[number]

    def _read_symbols(self, table: _Section) -> None:
        names = self._section(table.link)
        for at in range(table.offset, table.offset + table.size, _SYMBOL.size):
            name, info, _, section, value, _ = _SYMBOL.unpack_from(self.data, at)
            start = names.offset + name
            end = self.data.find(b"\0", start, names.offset + names.size)
            if name >= names.size or end < 0:
                raise self._refuse("the name of a symbol is outside of the names")
            inside = section not in (_UNDEFINED, _ABSOLUTE)
            if inside and (section >= _RESERVED or value > self._section(section).size):
                raise self._refuse("a symbol is outside of its section")
            text = self.data[start:end].decode()
            self.symbols.append(_Symbol(text, section, value, info >> 4 == 2))

    def _read_relocations(self, table: _Section) -> None:
        target = self._section(table.info)
        for at in range(table.offset, table.offset + table.size, _RELOCATION.size):
            offset, info, addend = _RELOCATION.unpack_from(self.data, at)
            symbol, kind = info >> 32, info & 0xFFFFFFFF
            size = _SIZES.get(kind)
            if size is None:
                raise self._refuse(f"there is no relocation of kind {kind}")
            if target.kind == _NOBITS or offset + size > target.size:
                raise self._refuse("a relocation is outside of its section")
            if symbol >= len(self.symbols):
                raise self._refuse(f"there is no symbol {symbol}")
            self.relocations.append(_Relocation(table.info, offset, symbol, kind, addend))

    # --- placing
    def _lay_out(self) -> tuple[int, int, int]:
        """Places of sections, stubs and the table; where code, constants and the rest end."""
        outside = {r.symbol for r in self.relocations if not self._inside(r.symbol)}
        wanted = {r.symbol for r in self.relocations if r.kind in _GOT} | outside
        at, bounds = 0, []
        for flags in (_EXEC, 0, _WRITE):
            for number, s in enumerate(self.sections):
                own = _WRITE if s.flags & _WRITE else s.flags & _EXEC
                if s.flags & _ALLOC and own == flags:
                    at = -(-at // s.align) * s.align
                    self.places[number] = at
                    at += s.size
            at = -(-at // 8) * 8
            if flags == _EXEC:
                for symbol in sorted(outside):
                    self.stubs[symbol] = at
                    at += _STUB_BYTES
            elif not flags:
                for symbol in sorted(wanted):
                    self.table[symbol] = at
                    at += 8
            at = -(-at // _PAGE) * _PAGE
            bounds.append(at)
        if not 0 < at <= _MOST_BYTES:
            raise self._refuse(f"it takes {at} bytes")
        return bounds[0], bounds[1], bounds[2]

    def _inside(self, symbol: int) -> bool:
        s = self.symbols[symbol]
        return s.section != _UNDEFINED

    def _address(self, symbol: int, base: int) -> int:
        s = self.symbols[symbol]
        if s.section == _ABSOLUTE:
            return s.value
        if s.section == _UNDEFINED:
            return self._outside(s)
        place = self.places.get(s.section)
        if place is None:
            raise self._refuse(f"{s.name or 'a symbol'} is in a section that is not loaded")
        return base + place + s.value

    def _outside(self, symbol: _Symbol) -> int:
        found = self.given.get(symbol.name) or process_symbol(symbol.name)
        if not found and not symbol.weak:
            raise self._refuse(f"this process has no {symbol.name!r}")
        return found

    # --- relocating
    def _relocate(self, image: bytearray, base: int) -> None:
        for symbol, at in self.table.items():
            struct.pack_into("<Q", image, at, self._address(symbol, base))
        for symbol, at in self.stubs.items():
            image[at : at + 2] = _STUB
            struct.pack_into("<i", image, at + 2, self.table[symbol] - (at + 6))
        for r in self.relocations:
            at = self.places[r.section] + r.offset
            if r.kind in _GOT:
                value = base + self.table[r.symbol]
            elif r.symbol in self.stubs and r.kind == _PLT32:
                value = base + self.stubs[r.symbol]
            else:
                value = self._address(r.symbol, base)
            value += r.addend
            if r.kind == _ABS64:
                struct.pack_into("<Q", image, at, value & 0xFFFFFFFFFFFFFFFF)
            else:
                code = "<q" if r.kind == _PC64 else "<i"
                struct.pack_into(code, image, at, value - (base + at))


# --- the system


@cache
def _system() -> Any:
    system = ctypes.CDLL(None, use_errno=True)
    system.mmap.restype = ctypes.c_void_p
    return system


def process_symbol(name: str) -> int:
    """The address of a function of this process, or 0."""
    try:
        return ctypes.cast(getattr(_system(), name), ctypes.c_void_p).value or 0
    except (AttributeError, ValueError):
        return 0


def _map(size: int) -> int:
    found = _system().mmap(
        None,
        ctypes.c_size_t(size),
        mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        -1,
        ctypes.c_long(0),
    )
    if found is None or found == ctypes.c_void_p(-1).value:
        raise _no_memory(ctypes.get_errno())
    return int(found)


def _protect(base: int, bounds: tuple[int, int, int]) -> None:
    """Code may be run, constants read, the rest written: nothing both written and run."""
    code, constants, _ = bounds
    for start, end, rights in (
        (0, code, mmap.PROT_READ | mmap.PROT_EXEC),
        (code, constants, mmap.PROT_READ),
    ):
        if start < end and _system().mprotect(
            ctypes.c_void_p(base + start), ctypes.c_size_t(end - start), rights
        ):
            raise _no_memory(ctypes.get_errno())


def _no_memory(error: int) -> BackendUnavailable:
    return BackendUnavailable(
        "cpu",
        f"the system refuses memory for machine code: {os.strerror(error)}",
        advice="Allow the process to map executable memory, or use the device numpy",
    )
