"""The cpu device with a hand-written module in place of the renderer."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from niello.backends.cpu import jit, threads
from niello.backends.cpu.device import CpuDevice
from niello.backends.cpu.image import split
from niello.core.dtypes import float32, int32
from niello.core.errors import CompilerBug, CorruptFile
from niello.core.types import TensorType
from niello.runtime.commands import Program
from niello.runtime.disk_cache import DiskCache, NoCache
from niello.runtime.target import CompileOptions

SHARED, EACH, MOST = 8, 100, 3

# Output 0 is input 0 plus the number of threads, output 1 the scratch offset of each thread.
MODULE = f"""
@niello_info = constant [5 x i64] [i64 {SHARED}, i64 {EACH}, i64 {MOST}, i64 4, i64 0]
@niello_absorbed = constant [1 x i8] zeroinitializer

define void @niello_pack(ptr %a, ptr %s, i64 %t, i64 %n, ptr %b) {{
  ret void
}}

define void @niello_run(ptr %a, ptr %s, i64 %t, i64 %n, ptr %b) {{
entry:
  %in = load ptr, ptr %a
  %out.at = getelementptr ptr, ptr %a, i64 1
  %out = load ptr, ptr %out.at
  %who.at = getelementptr ptr, ptr %a, i64 2
  %who = load ptr, ptr %who.at
  %own = mul i64 %t, 128
  %own.offset = add i64 %own, 64
  %mine = getelementptr i8, ptr %s, i64 %own.offset
  store i64 %t, ptr %mine
  call void @niello_barrier(ptr %b, i64 %t, i64 %n)
  %first = icmp eq i64 %t, 0
  br i1 %first, label %add, label %out.label
add:
  %x = load float, ptr %in
  %count = sitofp i64 %n to float
  %y = fadd float %x, %count
  store float %y, ptr %out
  %last.offset.n = sub i64 %n, 1
  %last.own = mul i64 %last.offset.n, 128
  %last.offset = add i64 %last.own, 64
  %last.at = getelementptr i8, ptr %s, i64 %last.offset
  %last = load i64, ptr %last.at
  %last.32 = trunc i64 %last to i32
  store i32 %last.32, ptr %who
  br label %out.label
out.label:
  ret void
}}
"""


def render(program, target, options):
    return threads.barrier_text(target.triple) + MODULE


def program(arguments: int = 4) -> Program:
    outputs = (TensorType((1,), float32), TensorType((1,), int32))[: arguments - 2]
    return Program((), (), (TensorType((1,), float32),), outputs, (), (), 0)


def play(loaded, device, x: float) -> tuple[float, int]:
    buffers = [device.allocate(n) for n in (4, 4, 4, 0)]
    buffers[0].array(float32, (1,))[0] = x
    loaded.play([b.handle for b in buffers])
    return float(buffers[1].array(float32, (1,))[0]), int(buffers[2].array(int32, (1,))[0])


@pytest.fixture
def device():
    return CpuDevice(render, NoCache())


def test_a_program_plays(device):
    for count in (1, 2, 3):
        loaded = device.compile(program(), CompileOptions(threads=count))
        assert play(loaded, device, 10.0) == (10.0 + count, count - 1)


def test_threads_beyond_what_the_program_can_use_stay_out(device):
    loaded = device.compile(program(), CompileOptions(threads=8))
    assert play(loaded, device, 0.0) == (MOST, MOST - 1)


def test_default_thread_count_follows_set_threads(device):
    loaded = device.compile(program(), CompileOptions())
    try:
        for count in (1, 2):
            threads.set_threads(count)
            assert play(loaded, device, 0.0) == (count, count - 1)
    finally:
        threads.set_threads(None)


def test_image_loads_again(device):
    options = CompileOptions(threads=2)
    image = device.compile(program(), options).image()
    assert len(image) > 100
    other = CpuDevice(render, NoCache())
    assert play(other.load(program(), options, image), other, 1.0) == (3.0, 1)


def test_damaged_and_foreign_images_are_refused(device):
    options = CompileOptions()
    image = device.compile(program(), options).image()
    with pytest.raises(CorruptFile):
        device.load(program(), options, image[:100])
    with pytest.raises(CorruptFile, match="another program") as error:
        device.load(program(3), options, image)
    assert error.value.received == "a program with 3"
    other = jit.compile_object("define void @f() {\n  ret void\n}\n", jit.select_target())
    with pytest.raises(CorruptFile, match="niello_"):
        device.load(program(), options, other)


def test_wrong_number_of_handles(device):
    loaded = device.compile(program(), CompileOptions())
    with pytest.raises(CompilerBug) as error:
        loaded.play([1, 2])
    assert error.value.received == 2


def test_compiled_code_comes_from_the_disk_cache(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "code")
    image = CpuDevice(render, cache).compile(program(), CompileOptions()).image()
    compiled = []
    real = jit.compile_object
    monkeypatch.setattr(jit, "compile_object", lambda *a, **k: compiled.append(1) or real(*a, **k))
    device = CpuDevice(render, cache)
    assert device.compile(program(), CompileOptions()).image() == image and not compiled
    # Another target is another key.
    device.compile(program(), CompileOptions(target="baseline"))
    assert len(compiled) == 1


def test_damaged_cache_entries_are_compiled_again(tmp_path):
    cache = DiskCache(tmp_path / "code")
    device = CpuDevice(render, cache)
    image = device.compile(program(), CompileOptions()).image()
    (path,) = (tmp_path / "code").glob("*/*.code")
    path.write_bytes(path.read_bytes()[:-1])
    assert device.compile(program(), CompileOptions()).image() == image
    kept = cache.get(path.parent.name + path.name.removesuffix(".code"))
    assert kept == split(image)[0]


def test_scratch_is_reused_and_separate(device):
    loaded = device.compile(program(), CompileOptions(threads=2))
    play(loaded, device, 0.0)
    before = device.memory_stats()["peak"]
    for _ in range(10):
        play(loaded, device, 0.0)
    assert device.memory_stats()["peak"] == before

    results = []

    def work() -> None:
        results.extend(play(loaded, device, float(i)) == (i + 2.0, 1) for i in range(50))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert results == [True] * 200


def test_source_and_assembly(device):
    loaded = device.compile(program(), CompileOptions())
    assert "define void @niello_run" in loaded.source()
    assert "niello_run" in loaded.assembly()


def test_description(device):
    text = device.describe()
    assert text.startswith("cpu: ") and "threads" in text and text.count("\n") == 0


def test_run_interface_matches_the_documented_one(device):
    seen = []
    callback = threads.RUN(lambda *values: seen.append(values))
    address = ctypes.cast(callback, ctypes.c_void_p).value
    threads.RUN(address)(1, 2, 0, 1, None)
    assert seen == [(1, 2, 0, 1, None)]
    assert np.dtype(np.uintp).itemsize == 8


def test_without_llvmlite_the_back_end_is_unavailable():
    script = """
import sys
sys.modules["llvmlite"] = sys.modules["llvmlite.binding"] = None
from niello import backends
from niello.core.errors import BackendUnavailable
try:
    backends.device("cpu")
except BackendUnavailable as error:
    print(error)
"""
    root = Path(jit.__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert done.stdout.startswith("cpu: the code generator cannot be loaded"), done.stderr
    assert "Install the package llvmlite" in done.stdout
