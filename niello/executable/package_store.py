"""Where a package lives: one file (a zip whose members are stored and aligned) or a directory.

Members of a zip are neither compressed nor encrypted, so that weights can be mapped into memory
where they lie, and so that no member can be larger than the file. Names of members are lower-case
paths inside the package. Everything that is wrong with a container is a PackageError.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import struct
import weakref
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from niello.core.errors import PackageError

Bytes = bytes | memoryview

ALIGNMENT = 64  # of every member in the file, and of every tensor in its member
MOST_MEMBERS = 10_000
MANIFEST = "manifest.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)?")
_LOCAL = struct.Struct("<4s5H3I2H")
_PADDING_FIELD = 0xD935  # the extra field by which archivers align members
_LARGE = 1 << 30  # members from this size on have 64-bit sizes in their header
_LARGE_FIELD = 20  # bytes that those take


def refuse(path: Any, problem: str, received: Any = None, advice: str = "") -> PackageError:
    """The error of a package that cannot be trusted."""
    return PackageError(
        f"load {os.fspath(path)}", problem, received=received, advice=advice or "Make it again"
    )


def check_name(path: Any, name: str) -> str:
    """A member's name. Raises PackageError for one that leaves the package, or is no name."""
    if not _NAME.fullmatch(name) or len(name) > 200:
        raise refuse(path, "a member's name is not a plain path inside the package", repr(name))
    return name


@dataclass(frozen=True)
class Place:
    """Where the bytes of a member are: in an open file, from `offset` on."""

    file: int
    offset: int
    size: int


class Store:
    """An opened package: members by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[str, Place] = {}

    def place(self, name: str) -> Place:
        """Where a member is. Raises PackageError when there is none of this name."""
        found = self.places.get(name)
        if found is None:
            raise refuse(self.path, f"the member {name} is missing", f"{len(self.places)} members")
        return found

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a member of at most `most` bytes."""
        place = self.place(name)
        if place.size > most:
            raise refuse(self.path, f"the member {name} is larger than {most} bytes", place.size)
        data = b"".join(self.pieces(name))
        if len(data) != place.size:
            raise refuse(self.path, f"the member {name} ends early", f"{len(data)} bytes")
        return data

    def pieces(self, name: str, step: int = 4 << 20) -> Iterator[bytes]:
        """The bytes of a member, some at a time."""
        place = self.place(name)
        done = 0
        while done < place.size:
            piece = os.pread(place.file, min(step, place.size - done), place.offset + done)
            if not piece:
                return
            done += len(piece)
            yield piece

    def digest(self, name: str) -> str:
        """SHA-256 of a member, as 64 hexadecimal digits."""
        found = hashlib.sha256()
        for piece in self.pieces(name):
            found.update(piece)
        return found.hexdigest()

    def _open(self, path: Path, flags: int = 0) -> int:
        # Without O_NONBLOCK, a pipe in place of a file would wait for ever.
        extra = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | flags
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | extra)
        weakref.finalize(self, os.close, file)  # what was mapped stays mapped
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise refuse(self.path, f"{path.name} is not an ordinary file")
        return file


def open_store(path: str | os.PathLike[str]) -> Store:
    """A package that exists. Raises PackageError, and OSError when it cannot be read."""
    target = Path(path)
    return _Folder(target) if target.is_dir() else _Zip(target)


class _Zip(Store):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        file = self._open(path)
        size = os.fstat(file).st_size
        try:
            with os.fdopen(file, "rb", closefd=False) as stream, zipfile.ZipFile(stream) as archive:
                listed = archive.infolist()
        except Exception as error:  # the module raises whatever the bytes lead it to
            raise refuse(
                path, f"this is not a complete package: {type(error).__name__}: {error}",
                f"{size} bytes",
            ) from error  # fmt: skip
        if len(listed) > MOST_MEMBERS:
            raise refuse(path, f"it has more than {MOST_MEMBERS} members", len(listed))
        for info in listed:
            if info.filename in self.places:
                raise refuse(path, "two members have the same name", repr(info.filename))
            self.places[check_name(path, info.filename)] = self._locate(file, info, size)
        self._refuse_overlaps()

    def _locate(self, file: int, info: zipfile.ZipInfo, size: int) -> Place:
        """Where the bytes of a member begin: after its local header, which must agree."""
        name = info.filename
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise refuse(
                self.path, f"the member {name} is compressed; members of packages are stored",
                f"{info.compress_size} bytes for {info.file_size}",
            )  # fmt: skip
        if info.flag_bits & ~0x0800:  # all but UTF-8 names: encrypted, streamed, patched
            raise refuse(self.path, f"the member {name} is not plainly stored", info.flag_bits)
        head = os.pread(file, _LOCAL.size, max(info.header_offset, 0))
        if len(head) != _LOCAL.size or head[:4] != b"PK\3\4" or info.header_offset < 0:
            raise refuse(self.path, f"the member {name} is not where the directory says")
        *_, name_bytes, extra_bytes = _LOCAL.unpack(head)
        start = info.header_offset + _LOCAL.size
        if os.pread(file, name_bytes, start) != name.encode():
            raise refuse(self.path, f"the member {name} is not where the directory says")
        start += name_bytes + extra_bytes
        if start + info.file_size > size:
            raise refuse(self.path, f"the member {name} reaches beyond the end", f"{size} bytes")
        return Place(file, start, info.file_size)

    def _refuse_overlaps(self) -> None:
        end = 0
        for name, place in sorted(self.places.items(), key=lambda item: item[1].offset):
            if place.offset < end:
                raise refuse(self.path, f"the member {name} overlaps another")
            end = place.offset + place.size


class _Folder(Store):
    """Members are found when they are asked for: a directory may hold leftovers of a crash."""

    def place(self, name: str) -> Place:
        found = self.places.get(name)
        if found is not None:
            return found
        path = self.path / check_name(self.path, name)
        if not path.parent.resolve().is_relative_to(self.path.resolve()):
            raise refuse(self.path, f"the member {name} leads out of the package")
        try:
            file = self._open(path, getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            raise refuse(self.path, f"the member {name} is missing") from None
        except OSError as error:
            raise refuse(self.path, f"the member {name} cannot be opened: {error}") from error
        found = self.places[name] = Place(file, 0, os.fstat(file).st_size)
        return found


# --- writing


@dataclass(frozen=True)
class Member:
    """Bytes to be stored: `pieces` gives them, as often as it is called."""

    name: str
    size: int
    digest: str
    pieces: Callable[[], Iterable[Bytes]]


def member(folder: str, suffix: str, pieces: Callable[[], Iterable[Bytes]]) -> Member:
    """A member named after its content: equal content is stored once, and nothing that an older
    manifest names is ever overwritten."""
    found, size = hashlib.sha256(), 0
    for piece in pieces():
        found.update(piece)
        size += len(piece)
    digest = found.hexdigest()
    return Member(f"{folder}/{digest[:32]}{suffix}", size, digest, pieces)


def write_package(path: Path, members: Sequence[Member], manifest: bytes, directory: bool) -> None:
    """Write the members and then the manifest, so that the package is the old or the new one
    whatever happens. Raises OSError."""
    if directory:
        _write_folder(path, members, manifest)
        return
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for m in members:
            _add(archive, file, m.name, m.size, m.pieces())
        _add(archive, file, MANIFEST, len(manifest), [manifest])


def _add(
    archive: zipfile.ZipFile, file: IO[bytes], name: str, size: int, pieces: Iterable[Bytes]
) -> None:
    """A stored member whose bytes begin at a multiple of ALIGNMENT."""
    info = zipfile.ZipInfo(name)  # dated 1980: equal packages are equal files
    info.external_attr = 0o644 << 16
    info.file_size = size
    large = size >= _LARGE
    head = file.tell() + _LOCAL.size + len(name.encode()) + 4 + (_LARGE_FIELD if large else 0)
    info.extra = struct.pack("<HH", _PADDING_FIELD, -head % ALIGNMENT) + bytes(-head % ALIGNMENT)
    with archive.open(info, "w", force_zip64=large) as out:
        for piece in pieces:
            out.write(piece)


def _write_folder(path: Path, members: Sequence[Member], manifest: bytes) -> None:
    made = not path.exists()
    path.mkdir(exist_ok=True)
    kept = {m.name for m in members}
    written: list[Path] = []
    try:
        for m in members:
            target = path / m.name
            if target.is_file() and target.stat().st_size == m.size and _same(target, m.digest):
                continue
            target.parent.mkdir(exist_ok=True)
            written.append(target)
            with replacing(target) as file:
                for piece in m.pieces():
                    file.write(piece)
        with replacing(path / MANIFEST) as file:
            file.write(manifest)
    except BaseException:
        for target in written:
            target.unlink(missing_ok=True)
        if made:
            shutil.rmtree(path, ignore_errors=True)
        raise
    for folder in ("graph", "code", "weights"):  # what the old manifest named
        for old in (path / folder).glob("*"):
            if f"{folder}/{old.name}" not in kept:
                with suppress(OSError):
                    old.unlink()


def _same(path: Path, digest: str) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name only when all of it is on the disk."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    # Unlike mkstemp, this gives the file the permissions that the user's umask says.
    handle = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
