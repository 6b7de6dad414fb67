"""Hashes of members: always for what is small, once for each file for the weights.

Weights are too large to be hashed at every load (100 MB take 60 ms). That they were found right
is recorded in the cache directory for the file as the system knows it: device, inode, size, time
of last change. A file that was written again, by whatever means, is hashed again.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from niello.core import config
from niello.executable.package_manifest import FileEntry, Manifest
from niello.executable.package_store import Store, refuse
from niello.runtime.disk_cache import DiskCache, NoCache

_LIMIT = 4 << 20  # bytes of records
_RIGHT = b"verified"


def check_member(store: Store, entry: FileEntry, found: bytes | str) -> None:
    """Refuse bytes, or a hash, that are not those of the manifest. Raises PackageError."""
    digest = found if isinstance(found, str) else hashlib.sha256(found).hexdigest()
    if digest != entry.sha256:
        raise refuse(store.path, f"{entry.name} was changed: its hash is another", digest[:16])


def check_weights(store: Store, manifest: Manifest, verify: Any) -> None:
    """Check weights as `verify` asks: True, False or "once"."""
    if verify is False:
        return
    files = {e.name: e for e in manifest.files}
    records = _records()
    for name in (manifest.constants, manifest.variables):
        if not name:
            continue
        key = _key(store, files[name])
        if verify is True or records.get(key) != _RIGHT:
            check_member(store, files[name], store.digest(name))
            records.put(key, _RIGHT)


def _records() -> DiskCache:
    if not config.CACHE.integer(0, 1):
        return NoCache()
    return DiskCache(config.cache_directory() / "verified", _LIMIT)


def _key(store: Store, entry: FileEntry) -> str:
    place = store.place(entry.name)
    s = os.fstat(place.file)
    facts = (
        s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, place.offset, entry.sha256,
    )  # fmt: skip
    return hashlib.sha256(repr(facts).encode()).hexdigest()
