"""A store of compiled code on disk, by content: the key says everything that decides the bytes.

Nothing that happens to the directory can hurt a run. A damaged entry is dropped and compiled
again; a full disk or a read-only directory only means that nothing is kept, and `problem` says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import threading
from pathlib import Path

from niello.core import config

_MAGIC = b"niello1\n"
_DIGEST = hashlib.sha256().digest_size
_SUFFIX = ".code"
_LIMIT = 512 << 20


class DiskCache:
    """Compiled code by key, under `directory`, at most about `limit` bytes in all.

    Entries that were not used for longest go first. Safe to use from several threads and
    processes at once: entries are written aside and renamed into place.

    Example:
        >>> import tempfile
        >>> cache = DiskCache(Path(tempfile.mkdtemp()) / "code")
        >>> cache.put("00ff", b"machine code")
        True
        >>> cache.get("00ff")
        b'machine code'
    """

    def __init__(self, directory: Path, limit: int = _LIMIT) -> None:
        self.directory = directory
        self.limit = limit
        self.problem = ""
        self._lock = threading.Lock()
        self._total: int | None = None

    def get(self, key: str) -> bytes | None:
        """The bytes kept for a key of hexadecimal digits, or None."""
        path = self._path(key)
        if not self._trusted(self.directory):
            return None
        try:
            data = path.read_bytes()
        except OSError:
            return None
        head = len(_MAGIC) + _DIGEST
        body = data[head:]
        if data[:head] != _MAGIC + hashlib.sha256(body).digest():
            self.remove(key)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of last use decides what is dropped first
        return body

    def put(self, key: str, data: bytes) -> bool:
        """Keeps bytes for a key. Returns False, and sets `problem`, when that was not possible."""
        path = self._path(key)
        entry = _MAGIC + hashlib.sha256(data).digest() + data
        if len(entry) > self.limit:
            self.problem = f"an entry of {len(entry)} bytes is above the limit of {self.limit}"
            return False
        aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._trusted(self.directory):
                return False
            path.parent.mkdir(mode=0o700, exist_ok=True)
            aside.write_bytes(entry)
            os.replace(aside, path)
        except OSError as error:
            self.problem = f"{type(error).__name__}: {error}"
            with contextlib.suppress(OSError):
                aside.unlink()
            return False
        self._make_room(len(entry))
        return True

    def remove(self, key: str) -> None:
        """Drops an entry, if it is there."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def clear(self) -> None:
        """Drops all entries."""
        for path, _, _ in self._entries():
            with contextlib.suppress(OSError):
                path.unlink()
        self._total = None

    def size(self) -> int:
        """Bytes of all entries."""
        return sum(size for _, size, _ in self._entries())

    def _path(self, key: str) -> Path:
        if not key or not set(key) <= set("0123456789abcdef"):
            raise ValueError(f"DiskCache: a key has hexadecimal digits only; received {key!r}.")
        return self.directory / key[:2] / (key[2:] + _SUFFIX)

    def _trusted(self, directory: Path) -> bool:
        """False for a directory that somebody else could plant machine code in."""
        if not hasattr(os, "getuid"):
            return True
        try:
            status = directory.stat()
        except OSError as error:
            self.problem = f"{type(error).__name__}: {error}"
            return False
        own = status.st_uid in (os.getuid(), 0) or os.getuid() == 0
        if not own or status.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
            self.problem = f"{directory} can be written by other users"
            return False
        return True

    def _entries(self) -> list[tuple[Path, int, float]]:
        """(path, bytes, time of last use) of every entry, those left half written included."""
        found = []
        try:
            folders = [f for f in os.scandir(self.directory) if f.is_dir(follow_symlinks=False)]
        except OSError:
            return []
        for folder in folders:
            with contextlib.suppress(OSError):
                for item in os.scandir(folder.path):
                    status = item.stat(follow_symlinks=False)
                    found.append((Path(item.path), status.st_size, status.st_mtime))
        return found

    def _make_room(self, added: int) -> None:
        with self._lock:
            if self._total is None:
                self._total = self.size()
            else:
                self._total += added
            if self._total <= self.limit:
                return
            # Other processes may have changed the directory: look again before dropping anything.
            entries = sorted(self._entries(), key=lambda e: e[2])
            self._total = sum(size for _, size, _ in entries)
            for path, size, _ in entries:
                if self._total <= self.limit * 3 // 4:
                    break
                with contextlib.suppress(OSError):
                    path.unlink()
                    self._total -= size


class NoCache(DiskCache):
    """A cache that keeps nothing: NIELLO_CACHE=0."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def get(self, key: str) -> bytes | None:
        return None

    def put(self, key: str, data: bytes) -> bool:
        return False

    def remove(self, key: str) -> None:
        pass


_caches: dict[Path, DiskCache] = {}


def compiled_code() -> DiskCache:
    """The cache of compiled code that the flags ask for (NIELLO_CACHE, NIELLO_CACHE_DIR)."""
    if not config.CACHE.integer(0, 1):
        return NoCache()
    directory = config.cache_directory() / "code"
    return _caches.setdefault(directory, DiskCache(directory))
