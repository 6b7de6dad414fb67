"""The LLVM text emitter: constants, folding, control flow, each run through LLVM."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

from niello.backends.cpu.jit import compile_and_load
from niello.backends.cpu.llvm_text import Function, Module, constant, lanes, mangle, vector


def number(kind: str, value: float) -> object:
    """A constant of a type, as LLVM understands it: returned by a compiled function."""
    module = Module()
    f = module.function("f", kind)
    f.ret(constant(value, kind))
    types = {"float": ctypes.c_float, "double": ctypes.c_double, "i32": ctypes.c_int32}
    return compile_and_load(module.text(), ["f"]).function("f", types[kind])()


@pytest.mark.parametrize("value", [0.0, -0.0, 1.1, -3.5e38, 1e39, 1e-40, math.inf, 5e-324])
def test_float_constants_are_exact(value: float) -> None:
    with np.errstate(all="ignore"):
        expected = float(np.float32(value))
    assert number("float", value) == expected
    assert math.copysign(1, number("float", value)) == math.copysign(1, value)  # type: ignore[arg-type]
    assert number("double", value) == value


def test_nan_and_wrapping_integers() -> None:
    assert math.isnan(number("float", math.nan))  # type: ignore[arg-type]
    assert number("i32", 2**32 - 1) == -1


@pytest.mark.parametrize(("kind", "dtype"), [("half", np.float16), ("bfloat", None)])
def test_half_constants_round_to_nearest_even(kind: str, dtype: type | None) -> None:
    import ml_dtypes

    numpy_type = np.dtype(dtype or ml_dtypes.bfloat16)
    for value in (1.0, 1.00390625, 1.01171875, 65519.0, -0.1, 3e38, 1e-7):
        text = constant(value, kind).text
        with np.errstate(over="ignore"):
            bits = int(np.asarray(value).astype(numpy_type).view(np.uint16))
        assert int(text[3:], 16) == bits


def test_types_are_read_and_written() -> None:
    assert vector("float", 1) == "float" and vector("i8", 4) == "<4 x i8>"
    assert lanes("<16 x half>") == 16 and mangle("<16 x half>") == "v16f16"


def run(build: object, *arguments: int) -> int:
    module = Module()
    f = module.function("f", "i64", [("i64", f"a{i}") for i in range(len(arguments))])
    f.ret(build(f))  # type: ignore[operator]
    types = [ctypes.c_int64] * len(arguments)
    return compile_and_load(module.text(), ["f"]).function("f", ctypes.c_int64, *types)(*arguments)


def test_address_arithmetic_on_constants_leaves_no_instructions() -> None:
    module = Module()
    f = module.function("f", "i64", [("i64", "x")])
    x = f.argument("x")
    assert f.add(x, 0) is x and f.mul(x, 1) is x and f.mul(0, x).const == 0
    assert f.add(f.mul(3, 4), f.sdiv(-7, 2)).const == 9
    assert f.srem(-7, 2).const == -1 and f.icmp("slt", 1, 2).const == 1
    f.ret(x)
    assert "%v" not in module.text()


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_loops_carry_values_even_when_they_do_not_run(stop: int) -> None:
    def total(f: Function) -> object:
        with f.loop(0, f.arguments[0], 2, [constant(100)]) as loop:
            loop.next([f.add(loop.carried[0], loop.index)])
        return loop.results[0]

    assert run(total, stop) == 100 + sum(range(0, stop, 2))


@pytest.mark.parametrize("x", [3, -3])
def test_branches_hand_out_values(x: int) -> None:
    def absolute(f: Function) -> object:
        (a,) = f.arguments
        with f.if_else(f.icmp("slt", a, 0)) as branch:
            with branch.then():
                branch.give([f.sub(0, a)])
            with branch.otherwise():
                branch.give([a])
        return branch.results[0]

    assert run(absolute, x) == abs(x)


def test_a_loop_must_be_told_its_next_values() -> None:
    f = Module().function("f")
    with pytest.raises(ValueError, match=r"loop\.next"), f.loop(0, 3, 1, [constant(0)]):
        pass


@pytest.mark.parametrize("count", [0, 3, 8, 20])
def test_masked_stores_touch_only_their_lanes(count: int) -> None:
    module = Module()
    f = module.function("f", "void", [("ptr", "out"), ("i64", "count")])
    out, n = f.arguments
    value = f.iota("<8 x i32>", 1)
    f.masked_store(value, out, f.lane_mask(n, 8), align=4)
    f.ret()
    got = np.zeros(8, np.int32)
    code = compile_and_load(module.text(), ["f"])
    code.function("f", None, ctypes.c_void_p, ctypes.c_int64)(got.ctypes.data, count)
    np.testing.assert_array_equal(got, np.where(np.arange(8) < count, np.arange(1, 9), 0))
