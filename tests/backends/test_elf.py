"""Linking object files of x86-64 without LLVM: what they may hold, and what damage does."""

from __future__ import annotations

import ctypes
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from niello.backends.cpu import elf, jit, target
from niello.backends.cpu.code import load_code
from niello.core.errors import CorruptFile

pytestmark = pytest.mark.skipif(not target.links_elf(), reason="objects of x86-64 Linux")
I64 = ctypes.c_int64
# Code, constants, memory that is written, zeros, a table of addresses, calls into the process.
MODULE = """
@constants = internal constant [4 x i64] [i64 3, i64 5, i64 7, i64 11], align 64
@counter = global i64 40, align 8
@zeros = internal global [600 x i64] zeroinitializer, align 128
@table = constant [2 x ptr] [ptr @counter, ptr @add], align 8
declare ptr @memset(ptr, i32, i64)
declare i64 @given(i64)
declare double @cos(double)

define i64 @add(i64 %a, i64 %b) noinline {
  %r = add i64 %a, %b
  ret i64 %r
}
define i64 @read(i64 %i) {
  %p = getelementptr i64, ptr @constants, i64 %i
  %v = load i64, ptr %p
  ret i64 %v
}
define i64 @count() {
  %v = load i64, ptr @counter
  %n = call i64 @add(i64 %v, i64 1)
  store i64 %n, ptr @counter
  ret i64 %n
}
define i64 @through(i64 %a, i64 %b) {
  %p = getelementptr ptr, ptr @table, i64 1
  %f = load volatile ptr, ptr %p
  %r = call i64 %f(i64 %a, i64 %b)
  ret i64 %r
}
define i64 @clear() {
  %p = getelementptr i64, ptr @zeros, i64 599
  %old = load volatile i64, ptr %p
  %q = call ptr @memset(ptr @zeros, i32 1, i64 4800)
  %new = load volatile i64, ptr %p
  %r = sub i64 %new, %old
  ret i64 %r
}
define i64 @outside(i64 %x) {
  %r = call i64 @given(i64 %x)
  ret i64 %r
}
define double @cosine(double %x) {
  %r = call double @cos(double %x)
  ret double %r
}
define ptr @address_of_memset() {
  ret ptr @memset
}
"""
NAMES = (
    "read", "count", "through", "clear", "outside", "cosine", "counter", "address_of_memset",
)  # fmt: skip


@pytest.fixture(scope="module")
def data() -> bytes:
    return jit.compile_object(MODULE, jit.select_target("baseline"))


def given() -> tuple[object, dict[str, int]]:
    function = ctypes.CFUNCTYPE(I64, I64)(lambda x: 100 + x)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return function, {"given": address}


def test_code_constants_memory_and_calls(data: bytes) -> None:
    keep, symbols = given()
    code = load_code(data, NAMES, symbols)
    assert [code.function("read", I64, I64)(i) for i in range(4)] == [3, 5, 7, 11]
    assert [code.function("count", I64)() for _ in range(3)] == [41, 42, 43]
    assert I64.from_address(code.address("counter")).value == 43
    assert code.function("through", I64, I64, I64)(20, 22) == 42
    assert code.function("clear", I64)() == 0x0101010101010101
    assert code.function("outside", I64, I64)(5) == 105
    assert code.function("cosine", ctypes.c_double, ctypes.c_double)(0.0) == 1.0
    found = code.function("address_of_memset", ctypes.c_void_p)()
    assert found == elf.process_symbol("memset") != 0
    del keep


def test_two_copies_have_memory_of_their_own(data: bytes) -> None:
    keep, symbols = given()
    first, second = (load_code(data, NAMES, symbols) for _ in range(2))
    assert first.function("count", I64)() == 41
    assert second.function("count", I64)() == 41
    del keep


def test_nothing_is_both_written_and_run(data: bytes) -> None:
    keep, symbols = given()
    code = load_code(data, NAMES, symbols)
    rights = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, mode, *_ = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        for name in ("read", "counter"):
            if start <= code.address(name) < end:
                rights[name] = mode[:3]
    assert rights == {"read": "r-x", "counter": "rw-"}
    del keep


def test_names_that_are_nowhere(data: bytes) -> None:
    with pytest.raises(CorruptFile, match="this process has no 'given'"):
        load_code(data, NAMES)
    keep, symbols = given()
    with pytest.raises(CorruptFile, match="does not define elsewhere"):
        load_code(data, ("read", "elsewhere"), symbols)
    del keep


def test_every_cut_is_refused(data: bytes) -> None:
    _, symbols = given()
    for end in range(0, len(data), 7):
        with pytest.raises(CorruptFile):
            load_code(data[:end], NAMES, symbols)


HEADER = 64
FIELDS = {
    "machine": (18, "<H", 183),
    "kind": (16, "<H", 3),
    "sections elsewhere": (40, "<Q", 1 << 40),
    "no sections": (60, "<H", 0),
    "more sections": (60, "<H", 60000),
    "other entries": (58, "<H", 8),
}


@pytest.mark.parametrize("case", FIELDS)
def test_headers_that_lie(data: bytes, case: str) -> None:
    at, form, value = FIELDS[case]
    broken = bytearray(data)
    struct.pack_into(form, broken, at, value)
    _, symbols = given()
    with pytest.raises(CorruptFile):
        load_code(bytes(broken), NAMES, symbols)


@pytest.mark.parametrize("start", range(4))
def test_random_damage_never_ends_the_process(data: bytes, start: int) -> None:
    """Linking alone runs nothing: whatever the bytes say, there is code or an error."""
    rng = random.Random(start)
    keep, symbols = given()
    refused = 0
    for _ in range(400):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 2, 8))):
            # Beside the code, in whose bytes nothing is looked at.
            at = rng.choice((rng.randrange(HEADER), rng.randrange(len(data) // 2, len(data))))
            broken[at] = rng.choice((broken[at] ^ (1 << rng.randrange(8)), 0, 0xFF))
        try:
            load_code(bytes(broken), NAMES, symbols)
        except CorruptFile:
            refused += 1
    assert refused > 100
    del keep


def test_what_the_kernel_says_is_what_llvm_finds() -> None:
    needs = jit.host_target().needs
    assert target.missing(needs) == ()
    assert target.vector_bits() == jit.host_target().vector_bits
    assert target.missing(("avx9000", "sse2")) == ("avx9000",)
    assert target.triple() == jit.process_triple()


def test_a_machine_can_be_told_to_be_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIELLO_CPU_TARGET", "avx2")
    assert target.select_target("host").name == "avx2"
    assert target.missing(("avx2", "avx512f", "fma")) == ("avx512f",)
    assert target.select_target("avx512").missing_here()
    assert target.vector_bits() == 256


def test_what_this_machine_has_is_known_without_llvm() -> None:
    script = """
import sys
sys.modules["llvmlite"] = sys.modules["llvmlite.binding"] = None
from niello.backends.cpu import target
print(target.vector_bits(), target.missing(("sse2", "avx9000")), target.triple())
"""
    root = Path(elf.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True
    )
    expected = (target.vector_bits(), ("avx9000",), target.triple())
    assert done.stdout == " ".join(map(str, expected)) + "\n"
