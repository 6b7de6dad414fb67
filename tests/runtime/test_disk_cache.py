"""The store of compiled code survives whatever happens to its directory."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from niello.runtime.disk_cache import DiskCache, NoCache, compiled_code


@pytest.fixture
def cache(tmp_path):
    return DiskCache(tmp_path / "a" / "code")


def entry(cache, key):
    return cache.directory / key[:2] / (key[2:] + ".code")


def test_round_trip(cache):
    assert cache.get("abcd") is None
    assert cache.put("abcd", b"x" * 1000)
    assert cache.get("abcd") == b"x" * 1000
    assert DiskCache(cache.directory).get("abcd") == b"x" * 1000
    assert cache.put("abcd", b"") and cache.get("abcd") == b""
    cache.remove("abcd")
    assert cache.get("abcd") is None
    cache.remove("abcd")


@pytest.mark.parametrize("key", ["", "../../etc", "AB", "xyz", "a/b"])
def test_keys_cannot_leave_the_directory(cache, key):
    with pytest.raises(ValueError, match="hexadecimal"):
        cache.get(key)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "grow", "other"])
def test_damaged_entries_are_dropped(cache, damage):
    cache.put("abcd", b"machine code" * 50)
    path = entry(cache, "abcd")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    path.write_bytes(
        {
            "flip": bytes(data),
            "cut": bytes(data[:60]),
            "empty": b"",
            "grow": bytes(data) + b"!",
        }.get(damage, b"something else")
    )
    assert cache.get("abcd") is None
    assert not path.exists()
    assert cache.put("abcd", b"new") and cache.get("abcd") == b"new"


def test_size_is_bounded_and_the_oldest_go_first(tmp_path):
    cache = DiskCache(tmp_path / "code", limit=10_000)
    keys = [f"{i:04x}" for i in range(20)]
    for i, key in enumerate(keys):
        assert cache.put(key, bytes(900))
        os.utime(entry(cache, key), (i, i))
        if i >= 3:
            assert cache.get(keys[0]) is not None  # used all the time, so never the oldest
    assert cache.size() <= 10_000
    assert cache.get(keys[-1]) is not None and cache.get(keys[1]) is None


def test_an_entry_above_the_limit_is_refused(tmp_path):
    cache = DiskCache(tmp_path / "code", limit=1000)
    assert not cache.put("abcd", bytes(2000))
    assert "limit" in cache.problem


def test_read_only_directory(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "code")
    cache.put("abcd", b"kept")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    monkeypatch.setattr("os.utime", refuse)
    assert not cache.put("ef01", b"new")
    assert "Permission denied" in cache.problem
    assert cache.get("abcd") == b"kept" and cache.get("ef01") is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_directory_that_cannot_be_made():
    cache = DiskCache(Path("/proc/niello/code"))
    assert not cache.put("abcd", b"x")
    assert cache.problem
    assert cache.get("abcd") is None and cache.size() == 0


def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "code")
    cache.put("abcd", b"kept")

    def fill(path, data):
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fill)
    assert not cache.put("ab01", bytes(1000))
    assert "No space" in cache.problem
    assert [p.name for p in (cache.directory / "ab").iterdir()] == ["cd.code"]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")
def test_directory_that_others_can_write_is_not_trusted(cache):
    cache.put("abcd", b"planted")
    cache.directory.chmod(0o777)
    assert cache.get("abcd") is None and not cache.put("abcd", b"x")
    assert "other users" in cache.problem
    cache.directory.chmod(0o700)
    assert cache.get("abcd") == b"planted"


def test_leftovers_of_a_crash_are_counted_and_dropped(tmp_path):
    cache = DiskCache(tmp_path / "code", limit=10_000)
    cache.put("abcd", b"x")
    stale = cache.directory / "ab" / ".cd.code.1.00"
    stale.write_bytes(bytes(9_000))
    os.utime(stale, (1, 1))
    assert DiskCache(cache.directory, limit=10_000).put("ab02", bytes(2000))
    assert not stale.exists()


def test_threads_write_one_key(cache):
    bodies = [bytes([n]) * 10_000 for n in range(4)]
    stop = time.monotonic() + 0.3
    wrong = []

    def work(body: bytes) -> None:
        while time.monotonic() < stop:
            cache.put("abcd", body)
            if cache.get("abcd") not in bodies:
                wrong.append(body[0])

    workers = [threading.Thread(target=work, args=(b,)) for b in bodies]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_clear(cache):
    cache.put("abcd", b"x")
    cache.clear()
    assert cache.get("abcd") is None and cache.size() == 0


def test_flags(tmp_path, monkeypatch):
    monkeypatch.setenv("NIELLO_CACHE_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("NIELLO_CACHE", "1")
    assert compiled_code().directory == tmp_path / "here" / "code"
    assert compiled_code() is compiled_code()
    monkeypatch.setenv("NIELLO_CACHE", "0")
    off = compiled_code()
    assert isinstance(off, NoCache)
    assert not off.put("abcd", b"x") and off.get("abcd") is None
    off.remove("abcd")
