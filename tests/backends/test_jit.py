"""From IR text to callable code: targets, objects in other processes, errors, lifetime."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from niello.backends.cpu import jit
from niello.core.errors import BackendUnavailable, CompilerBug, ConfigError, CorruptFile

TWICE = "define i64 @twice(i64 %x) {\n  %y = add i64 %x, %x\n  ret i64 %y\n}\n"
I64 = ctypes.c_int64


def test_host_target_describes_this_machine():
    target = jit.select_target("host")
    assert target.vector_bits in (128, 256, 512)
    assert target.vector_registers in (16, 32)
    assert target.missing_here() == ()
    assert target.key == jit.select_target("host").key
    if target.vector_bits == 512:
        assert target.has("avx512f") and target.has("avx512vl")


@pytest.mark.parametrize("name", ["avx512", "avx2", "baseline"])
def test_named_levels(name):
    if jit.host_target().architecture != "x86_64":
        pytest.skip("levels of x86-64")
    target = jit.select_target(name)
    assert target.vector_bits == {"avx512": 512, "avx2": 256, "baseline": 128}[name]
    assert target.has("sse2")
    assert target.has("avx2") == (name != "baseline")
    assert target.key != jit.select_target("host").key
    if not target.missing_here():
        code = jit.compile_and_load(TWICE, ["twice"], target)
        assert code.function("twice", I64, I64)(-4) == -8


def test_level_decides_instructions():
    if jit.host_target().architecture != "x86_64":
        pytest.skip("instructions of x86-64")
    text = """
    define void @f(ptr %p) {
      %v = load <16 x float>, ptr %p, align 4
      %w = fmul <16 x float> %v, %v
      store <16 x float> %w, ptr %p, align 4
      ret void
    }
    """
    assert "zmm" in jit.assembly(text, jit.select_target("avx512"))
    avx2 = jit.assembly(text, jit.select_target("avx2"))
    assert "ymm" in avx2 and "zmm" not in avx2
    baseline = jit.assembly(text, jit.select_target("baseline"))
    assert "xmm" in baseline and "ymm" not in baseline


def test_flag_selects_the_target(monkeypatch):
    monkeypatch.setenv("NIELLO_CPU_TARGET", "baseline")
    assert jit.select_target().name == "baseline"
    monkeypatch.setenv("NIELLO_CPU_TARGET", "pentium")
    with pytest.raises(ConfigError, match="pentium") as error:
        jit.select_target()
    assert "baseline" in error.value.advice


def test_code_for_a_better_machine_is_refused_when_loaded():
    host = jit.host_target()
    better = jit.CpuTarget("future", host.triple, host.cpu, "+sse2,+avx9000", 512)
    assert better.missing_here() == ("avx9000",)
    data = jit.compile_object(TWICE, host)
    with pytest.raises(BackendUnavailable, match="avx9000"):
        jit.load_object(data, better, ["twice"])


def test_text_that_llvm_does_not_parse():
    with pytest.raises(CompilerBug, match="expected"):
        jit.compile_object("define i64 @f( {", jit.select_target())


def test_verify_finds_invalid_modules():
    text = """
    define i64 @f(i1 %c) {
    entry:
      br i1 %c, label %a, label %b
    a:
      %x = add i64 1, 2
      br label %b
    b:
      ret i64 %x
    }
    """
    with pytest.raises(CompilerBug, match="dominate"):
        jit.compile_object(text, jit.select_target(), verify=True)


@pytest.mark.parametrize("damage", ["text", "cut", "empty", "strings"])
def test_damaged_objects_are_refused(damage):
    target = jit.select_target()
    data = jit.compile_object(TWICE, target)
    broken = {
        "text": b"not an object",
        "cut": data[: len(data) // 2],
        "empty": b"",
        "strings": data[: len(data) // 3] + b"\xff" * 64 + data[len(data) // 3 + 64 :],
    }[damage]
    with pytest.raises(CorruptFile):
        jit.load_object(broken, target, ["twice"])


def test_missing_symbols_are_named():
    target = jit.select_target()
    data = jit.compile_object(TWICE, target)
    with pytest.raises(CorruptFile, match="thrice"):
        jit.load_object(data, target, ["thrice"])
    code = jit.load_object(data, target, ["twice"])
    with pytest.raises(CompilerBug, match="thrice"):
        code.address("thrice")


def test_given_symbols_and_those_of_the_process_are_linked():
    text = """
    declare i64 @niello_test_seven()
    declare ptr @memset(ptr, i32, i64)
    define i64 @f(ptr %p) {
      %r = call ptr @memset(ptr %p, i32 1, i64 3)
      %x = call i64 @niello_test_seven()
      ret i64 %x
    }
    """
    seven = ctypes.CFUNCTYPE(I64)(lambda: 7)
    address = ctypes.cast(seven, ctypes.c_void_p).value
    assert address is not None
    code = jit.compile_and_load(text, ["f"], symbols={"niello_test_seven": address})
    memory = ctypes.create_string_buffer(4)
    assert code.function("f", I64, ctypes.c_void_p)(ctypes.addressof(memory)) == 7
    assert memory.raw == b"\1\1\1\0"


def test_object_loads_in_another_process(tmp_path):
    path = tmp_path / "twice.o"
    path.write_bytes(jit.compile_object(TWICE, jit.select_target()))
    script = f"""
import ctypes
from niello.backends.cpu import jit
data = open({str(path)!r}, "rb").read()
code = jit.load_object(data, jit.select_target(), ["twice"])
print(code.function("twice", ctypes.c_int64, ctypes.c_int64)(21))
"""
    root = Path(jit.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout == "42\n"


def test_compilation_is_deterministic():
    target = jit.select_target()
    assert jit.compile_object(TWICE, target) == jit.compile_object(TWICE, target)


def test_code_lives_with_its_functions_and_no_longer():
    code = jit.compile_and_load(TWICE, ["twice"])
    gone = weakref.ref(code)
    function = code.function("twice", I64, I64)
    del code
    gc.collect()
    assert gone() is not None and function(5) == 10
    del function
    gc.collect()
    assert gone() is None


def _resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_unloaded_code_is_freed():
    target = jit.select_target()
    data = jit.compile_object(TWICE, target)
    for _ in range(50):
        jit.load_object(data, target, ["twice"])
    before = _resident_kib()
    for _ in range(400):
        jit.load_object(data, target, ["twice"])
    assert _resident_kib() - before < 2000


def test_threads_compile_at_once():
    target = jit.select_target()
    results: list[int] = []

    def work(number: int) -> None:
        for i in range(5):
            k = number * 100 + i
            text = f"define i64 @f(i64 %x) {{\n  %y = add i64 %x, {k}\n  ret i64 %y\n}}\n"
            code = jit.compile_and_load(text, ["f"], target)
            results.append(code.function("f", I64, I64)(1) - k)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert results == [1] * 20
