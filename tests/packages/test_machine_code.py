"""Machine code of packages: loaded without a compiler, with constants in the form that it reads."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from package_files import (
    features,
    member_of,
    members,
    network,
    run_in_new_process,
    sealed,
    write,
)

import niello as nl
from niello.backends.cpu import image, target
from niello.core.errors import BackendUnavailable, GraphError, PackageError, Recompiled
from niello.executable.package_manifest import Variant

here = pytest.mark.skipif(not target.links_elf(), reason="elsewhere LLVM links objects")
ROWS = 64


def large(rows: int = ROWS) -> tuple[nl.Graph, nl.Tensor, nl.Tensor]:
    """A network whose first weights are packed, and whose second are folded and read as they are:
    their product and the softmax are one kernel."""
    rng = np.random.default_rng(3)
    graph = nl.Graph("large")
    x = graph.placeholder((rows, 96), name="x")
    first = graph.constant(rng.normal(size=(96, 160)).astype(np.float32), name="first")
    second = graph.constant(rng.normal(size=(160, 40)).astype(np.float32), name="second")
    scale = graph.constant(rng.normal(size=(160, 1)).astype(np.float32), name="scale")
    return graph, x, nl.softmax((x @ first).relu() @ (second * scale), name="y")


def rows(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, 96)).astype(np.float32)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    graph, x, y = large()
    graph.compile({x: (ROWS, 96)}, [y], device="cpu").save(tmp_path / "large.niello")
    return tmp_path / "large.niello"


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    graph, x, y = large()
    made = graph.compile({x: (ROWS, 96)}, [y], device="cpu")
    return made.run([rows()])[0].numpy().copy()


def only(path: Path) -> Variant:
    (variant,) = nl.Package(path).variants
    return variant


RUNS = """
import sys, numpy as np, niello as nl
sys.modules["llvmlite.binding"] = None
nl.set_threads(int(sys.argv[3]))
found = nl.load(sys.argv[1])
result = found.run([np.load(sys.argv[2])])[0].numpy()
written = [m for m in sys.modules if m.startswith("niello.backends.cpu.")]
print(result.tobytes().hex(), *sorted(m.rpartition(".")[2] for m in written))
"""


@here
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_package_runs_without_llvm_and_without_the_code_generator(
    tmp_path: Path, saved: Path, expected: np.ndarray, threads: int
) -> None:
    np.save(tmp_path / "x.npy", rows())
    printed = run_in_new_process(RUNS, saved, tmp_path / "x.npy", threads)
    result, *modules = printed.split()
    found = np.frombuffer(bytes.fromhex(result), np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert set(modules) <= {"code", "device", "elf", "image", "target", "thread_code", "threads"}


# --- packed constants
def test_packed_constants_are_the_pages_of_the_file(saved: Path, expected: np.ndarray) -> None:
    found = nl.load(saved)
    packed = only(saved).packed
    assert packed.startswith("packed-")
    held = found.package.constant(packed)
    own = found.loaded.packed_constants()
    assert own.__array_interface__["data"][0] == held.__array_interface__["data"][0]
    np.testing.assert_array_equal(found.run([rows()])[0].numpy(), expected)


def test_constants_that_only_packed_code_reads_are_stored_once(tmp_path: Path) -> None:
    graph, x, y = large()
    made = graph.compile({x: (ROWS, 96)}, [y], device="cpu")
    assert made.loaded.absorbed
    sizes = {}
    for name, options in {
        "all": {},
        "plain": {"packed": False},
        "code": {"graph": False},
    }.items():
        made.save(tmp_path / name, **options)
        found = nl.load(tmp_path / name)
        sizes[name] = sum(found.package.constant(n).nbytes for n in found.package.constant_names())
        np.testing.assert_array_equal(found.run([rows()])[0].numpy(), made.run([rows()])[0].numpy())
    form = made.loaded.packed_constants().nbytes
    first, second, scale = 4 * 96 * 160, 4 * 160 * 40, 4 * 160
    assert form == first
    assert sizes["code"] == form + second
    assert sizes["all"] == form + first + second + scale + second
    assert sizes["plain"] == first + second + scale + second
    assert not only(tmp_path / "plain").packed


def test_a_loaded_package_is_saved_again(tmp_path: Path, saved: Path) -> None:
    again = tmp_path / "again.niello"
    nl.load(saved).save(again)
    assert members(again) == members(saved)
    with pytest.raises(GraphError, match="holds its constants packed"):
        nl.load(saved).save(again, packed=False)
    nl.load(saved, weights="lazy").save(again)
    assert members(again) == members(saved)


def test_appending_keeps_and_replaces_packed_constants(saved: Path, expected: np.ndarray) -> None:
    before = set(nl.Package(saved).constant_names())
    graph = nl.load(saved).graph
    (x,) = graph.placeholders
    y = next(t for o in graph.operations for t in o.outputs if t.name == "y")
    options = nl.CompileOptions(target="baseline")
    graph.compile({x: (ROWS, 96)}, [y], device="cpu", options=options).save(saved, append=True)
    package = nl.Package(saved)
    assert len(package.variants) == 2
    assert {v.packed for v in package.variants} <= set(package.constant_names())
    np.testing.assert_array_equal(nl.load(saved).run([rows()])[0].numpy(), expected)
    # The same again takes the place of what was there, and leaves nothing behind.
    count = len(package.constant_names())
    graph.compile({x: (ROWS, 96)}, [y], device="cpu", options=options).save(saved, append=True)
    assert len(nl.Package(saved).constant_names()) == count >= len(before)


@pytest.mark.parametrize("weights", ["mapped", "lazy", "copied"])
def test_packed_constants_in_every_way(saved: Path, expected: np.ndarray, weights: str) -> None:
    found = nl.load(saved, weights=weights)
    np.testing.assert_array_equal(found.run([rows()])[0].numpy(), expected)
    if weights != "copied":
        found.purge_weights()
        assert found.loaded.packed_constants() is None
        np.testing.assert_array_equal(found.run([rows()])[0].numpy(), expected)


def test_every_stage_has_text_and_every_command_a_time(saved: Path) -> None:
    found = nl.load(saved)
    for stage in ("input", "graph", "schedule", "kernels", "source"):
        assert found.as_text(stage)
    assert [t.seconds > 0 for t in found.time_commands(1)]


# --- damage under right hashes
def _program(content: dict[str, bytes], change: Any) -> dict[str, bytes]:
    name = member_of(content, "code", ".json")
    program = json.loads(content[name])
    change(program)
    return sealed({**content, name: json.dumps(program).encode()})


PROGRAMS = {
    "a type of thousands of terabytes": lambda p: p["absent"][0].__setitem__(
        1, ["float32", [1 << 30, 1 << 31]]
    ),
    "a constant that is not there": lambda p: p["absent"].append([99, ["float32", [1]]]),
    "an open size": lambda p: p["absent"][0].__setitem__(1, ["float32", [None]]),
    "no pair": lambda p: p.update(absent=[[0]]),
    "nothing absent": lambda p: p.pop("absent"),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_absent_constants_made_on_purpose(tmp_path: Path, saved: Path, case: str) -> None:
    path = write(tmp_path / "x", _program(members(saved), PROGRAMS[case]))
    with pytest.raises(PackageError):
        nl.load(path)


def test_packed_constants_of_another_size(tmp_path: Path, saved: Path) -> None:
    package = nl.Package(saved)
    other = next(n for n in package.constant_names() if not n.startswith("packed-"))
    cases = {"": "lacks constants", other: "bytes of packed constants", "gone": "is missing"}
    for name, sentence in cases.items():
        changed = sealed(members(saved), lambda c, name=name: c["variants"][0].update(packed=name))
        with pytest.raises(PackageError, match=sentence):
            nl.load(write(tmp_path / "x", changed))


def test_constants_that_the_code_reads_cannot_be_absent(tmp_path: Path, saved: Path) -> None:
    """A bias is read as it is: a package without it is refused, and never run with zeros."""
    graph = nl.Graph("biased")
    x = graph.placeholder((ROWS, 96), name="x")
    weights = graph.constant(np.ones((96, 160), np.float32), name="w")
    bias = graph.constant(np.arange(160, dtype=np.float32), name="b")
    path = tmp_path / "biased.niello"
    graph.compile({x: (ROWS, 96)}, [x @ weights + bias], device="cpu").save(path)

    def everything_absent(program: dict[str, Any]) -> None:
        held = {n for n, _ in program["absent"]}
        for n in range(len(program["constants"])):
            if n not in held:
                program["absent"].append([n, ["float32", [160]]])

    write(tmp_path / "x", _program(members(path), everything_absent))
    with pytest.raises(PackageError, match="reads constants that the package does not hold"):
        nl.load(tmp_path / "x")


@here
@pytest.mark.parametrize("case", ["cut", "sizes", "pool", "plain"])
def test_images_made_on_purpose(
    tmp_path: Path, saved: Path, expected: np.ndarray, case: str
) -> None:
    content = members(saved)
    name = member_of(content, "code", ".bin")
    data = content[name]
    program, pool = image.split(data)
    assert program[:4] == pool[:4] == b"\x7fELF"
    content[name] = {
        "cut": data[:20],
        "sizes": data[:16] + b"\xff" * 8 + data[24:],
        "pool": image.join(program, pool[:-100]),
        "plain": program,
    }[case]
    path = write(tmp_path / "x", sealed(content))
    if case == "plain":  # what other systems write
        np.testing.assert_array_equal(nl.load(path).run([rows()])[0].numpy(), expected)
        return
    if case == "pool":  # looked at by the first to run: this process has its pool already
        load = "import sys, niello as nl\ntry:\n    nl.load(sys.argv[1])\n"
        load += "except nl.errors.PackageError as error:\n    print(error)\n"
        assert "does not link" in run_in_new_process(load, path)
        return
    with pytest.raises(PackageError, match="cannot be loaded"):
        nl.load(path)


def test_a_pool_of_another_version_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = image.join(b"program", b"pool")
    assert image.split(data) == (b"program", b"pool")
    monkeypatch.setattr(image.thread_code, "POOL_VERSION", 99)
    assert image.split(data) == (b"program", b"")


# --- other machines
@pytest.mark.skipif(not target.links_elf(), reason="levels of x86-64")
def test_code_for_a_better_machine_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target.missing(("avx512f", "avx512bw", "avx512dq", "avx512vl")):
        pytest.skip("code for AVX-512 is made on machines that have it")
    graph, x, y = network()
    for name, options in (("p", {}), ("bare", {"graph": False})):
        level = nl.CompileOptions(target="avx512")
        made = graph.compile({x: (4, 8)}, [y], device="cpu", options=level)
        made.save(tmp_path / name, **options)
    want = nl.load(tmp_path / "p").run([features()])[0].numpy()
    monkeypatch.setenv("NIELLO_CPU_TARGET", "avx2")
    with pytest.warns(Recompiled, match="avx512f.*not found here"):
        found = nl.load(tmp_path / "p")
    np.testing.assert_allclose(found.run([features()])[0].numpy(), want, rtol=1e-5)
    assert "zmm" not in found.loaded.assembly()
    with pytest.raises(BackendUnavailable, match=r"no graph to compile from.*avx512f"):
        nl.load(tmp_path / "bare")


def test_two_threads_load_and_run_at_once(saved: Path, expected: np.ndarray) -> None:
    wrong: list[object] = []

    def work() -> None:
        try:
            for _ in range(5):
                found = nl.load(saved)
                for _ in range(5):
                    if not np.array_equal(found.run([rows()])[0].numpy(), expected):
                        wrong.append("other values")
        except BaseException as error:
            wrong.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_fork_runs_what_its_parent_loaded(tmp_path: Path, saved: Path) -> None:
    np.save(tmp_path / "x.npy", rows())
    script = """
import os, sys, numpy as np, niello as nl
found, x = nl.load(sys.argv[1]), np.load(sys.argv[2])
before = found.run([x])[0].numpy().tobytes()
child = os.fork()
if not child:
    os._exit(0 if found.run([x])[0].numpy().tobytes() == before else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_in_new_process(script, saved, tmp_path / "x.npy") == "0\n"


ELSEWHERE = """
import sys, numpy as np, niello as nl
from niello.backends.cpu import target
target.links_elf = lambda: False
for known in (target.triple, target._kernel_features, target._missing_in_machine):
    known.cache_clear()
found = nl.load(sys.argv[1])
result = found.run([np.load(sys.argv[2])])[0].numpy()
assert "llvmlite.binding" in sys.modules
graph = found.graph
(x,) = graph.placeholders
y = next(t for o in graph.operations for t in o.outputs if t.name == "y")
made = graph.compile({x: x.type}, [y], device="cpu")
made.save(sys.argv[3])
print(result.tobytes().hex(), made.loaded.image()[:4].hex())
"""


@here
def test_where_llvm_links_objects_packages_work_too(
    tmp_path: Path, saved: Path, expected: np.ndarray
) -> None:
    """What other systems do, played here: LLVM links, and images are plain object files."""
    np.save(tmp_path / "x.npy", rows())
    printed = run_in_new_process(ELSEWHERE, saved, tmp_path / "x.npy", tmp_path / "there")
    result, magic = printed.split()
    found = np.frombuffer(bytes.fromhex(result), np.float32).reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)
    assert magic == b"\x7fELF".hex()
    np.testing.assert_array_equal(nl.load(tmp_path / "there").run([rows()])[0].numpy(), expected)
