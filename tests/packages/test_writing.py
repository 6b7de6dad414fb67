"""Writing packages and checking what was written: hashes, full disks, failures half way."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from package_files import features, member_of, members, network, run_in_new_process, write

import niello as nl
from niello.core.errors import PackageError


@pytest.fixture
def package(tmp_path: Path) -> Path:
    graph, x, y = network()
    nl.save(tmp_path / "network.niello", [graph.compile({x: (n, 8)}, [y]) for n in (4, 6)])
    return tmp_path / "network.niello"


# --- verification
def test_weights_are_hashed_once_for_each_file(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from niello.executable.package_store import Store

    hashed: list[str] = []
    digest = Store.digest
    monkeypatch.setenv("NIELLO_CACHE", "1")
    monkeypatch.setenv("NIELLO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(Store, "digest", lambda s, n: (hashed.append(n), digest(s, n))[1])
    nl.load(package)
    assert len(hashed) == 1
    nl.load(package)
    assert len(hashed) == 1
    nl.load(package, verify=True)
    assert len(hashed) == 2
    os.utime(package)  # it may have been written
    nl.load(package)
    assert len(hashed) == 3
    nl.load(package, verify=False)
    assert len(hashed) == 3


def test_changed_weights_are_found(package: Path) -> None:
    content = members(package)
    name = member_of(content, "weights")
    damaged = bytearray(content[name])
    damaged[-5] ^= 1
    path = write(package, {**content, name: bytes(damaged)})
    for verify in ("once", True):
        with pytest.raises(PackageError, match="was changed: its hash is another"):
            nl.load(path, verify=verify)
    with pytest.raises(PackageError, match="its hash is another"):
        nl.Package(path, verify=False).verify()
    nl.load(path, verify=False).run([features()])


def test_options_of_load_are_checked(package: Path) -> None:
    with pytest.raises(nl.errors.AttributeValueError, match="weights is one of"):
        nl.load(package, weights="eager")
    with pytest.raises(nl.errors.AttributeValueError, match="verify is"):
        nl.load(package, verify="often")


# --- writing
def test_a_failed_write_leaves_the_old_package(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = package.read_bytes()
    graph, x, y = network()
    made = graph.compile({x: (5, 8)}, [y])
    for broken in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, broken, _full)
            with pytest.raises(OSError, match="No space left"):
                made.save(package, append=True)
        assert package.read_bytes() == before
        assert [p.name for p in package.parent.iterdir()] == [package.name]


def _full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


FULL = """
import resource, signal, sys, niello as nl
sys.path.insert(0, "tests/packages")
from package_files import network
graph, x, y = network()
made = graph.compile({x: (5, 8)}, [y])
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    made.save(sys.argv[1], append=len(sys.argv) > 2)
except OSError as error:
    print("refused", error.errno)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on file sizes")
@pytest.mark.parametrize("append", [[], ["append"]])
def test_a_full_disk_leaves_the_old_package(package: Path, append: list[str]) -> None:
    before = package.read_bytes()
    assert run_in_new_process(FULL, package, *append) == f"refused {errno.EFBIG}\n"
    assert package.read_bytes() == before
    assert [p.name for p in package.parent.iterdir()] == [package.name]


def test_a_failed_write_leaves_the_old_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, x, y = network()
    path = tmp_path / "p"
    graph.compile({x: (4, 8)}, [y]).save(path, directory=True)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    replace, done = os.replace, []

    def fail_at_the_manifest(source: object, target: object) -> None:
        if str(target).endswith("manifest.json"):
            _full()
        done.append(target)
        replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", fail_at_the_manifest)
    with pytest.raises(OSError, match="No space left"):
        graph.compile({x: (6, 8)}, [y]).save(path, append=True)
    assert done, "new members come before the manifest"
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    assert nl.load(path).input_types[0].shape == (4, 8)


def test_a_directory_forgets_members_that_nothing_names(tmp_path: Path) -> None:
    graph, x, y = network()
    path = tmp_path / "p"
    graph.compile({x: (4, 8)}, [y]).save(path, directory=True)
    graph.compile({x: (6, 8)}, [y]).save(path, directory=True)
    named = {e.name for e in nl.Package(path).manifest.files}
    there = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert there == {*named, "manifest.json"}
