"""Code generated for the CPU against the interpreter."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import pytest

from niello.backends.cpu.jit import compile_object, load_object, select_target
from niello.backends.cpu.program import render_program
from niello.backends.cpu.threads import Runner
from niello.core import dtypes as D
from niello.core.dtypes import DType, bool_, float32, int64
from niello.core.types import TensorType
from niello.kernel import ir
from niello.kernel.build import ravel
from niello.kernel.interpret import interpret
from niello.kernel.ir import (
    ArgReduce,
    Cast,
    Contract,
    Expr,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    Store,
    const,
    fn,
)
from niello.runtime.commands import BufferRef, Dispatch, Program, Space
from niello.runtime.target import CompileOptions

TARGETS = [t for t in ("host", "avx2", "baseline") if not select_target(t).missing_here()]
ROUNDING = {"float32": 4e-6, "float64": 1e-13, "float16": 1e-3, "bfloat16": 8e-3}


# --- running ----------------------------------------------------------------------------------


def aligned(elements: int, dtype: np.dtype) -> np.ndarray:
    room = np.zeros(elements * dtype.itemsize + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + elements * dtype.itemsize].view(dtype)


def program_of(kernel: Kernel) -> Program:
    types = tuple(TensorType((p.elements,), p.dtype) for p in kernel.params)
    buffers = tuple(BufferRef(Space.INPUT, n, 0, t.bytes) for n, t in enumerate(types))
    written = tuple(p.written for p in kernel.params)
    return Program((kernel,), (Dispatch(0, buffers, written),), types, (), (), (), 0)


class Compiled:
    """A kernel alone as a program."""

    def __init__(self, kernel: Kernel, target: str = "host") -> None:
        chosen = select_target(target)
        self.text = render_program(program_of(kernel), chosen, CompileOptions(threads=2))
        code = load_object(
            compile_object(self.text, chosen, verify=True), chosen, ("niello_run", "niello_info")
        )
        self.info = list((ctypes.c_int64 * 4).from_address(code.address("niello_info")))
        self.run = Runner(code, "niello_run")

    def __call__(self, arrays: Sequence[np.ndarray], threads: int) -> None:
        table = (ctypes.c_void_p * len(arrays))(*[a.ctypes.data for a in arrays])
        shared, each = (-(-size // 64) * 64 for size in self.info[:2])
        scratch = aligned(shared + each * threads + 64, np.dtype(np.uint8))
        scratch[:] = 0xA5
        self.run(ctypes.addressof(table), scratch.ctypes.data, threads)


def check(
    kernel: Kernel,
    arrays: Sequence[np.ndarray],
    *,
    targets: Sequence[str] = TARGETS,
    threads: Sequence[int] = (1, 2, 5),
    tolerance: float = 1.0,
) -> None:
    """Compiled and interpreted results agree for all targets and numbers of threads."""
    expected = [a.copy() for a in arrays]
    interpret(kernel, expected)
    for target in targets:
        compiled = Compiled(kernel, target)
        for count in threads:
            found = [aligned(a.size, a.dtype) for a in arrays]
            for f, a in zip(found, arrays, strict=True):
                f[:] = a
            compiled(found, count)
            for p, f, e in zip(kernel.params, found, expected, strict=True):
                where = f"{target}, {count} threads, buffer {p.slot}"
                limit = ROUNDING.get(p.dtype.name)
                if limit is None:
                    np.testing.assert_array_equal(f, e, err_msg=where)
                else:
                    np.testing.assert_allclose(
                        f.astype(np.float64),
                        e.astype(np.float64),
                        rtol=limit * tolerance,
                        atol=limit * tolerance,
                        err_msg=where,
                    )


def values(dtype: DType, count: int, seed: int = 0) -> np.ndarray:
    """Values of a dtype with its special ones among them."""
    rng = np.random.default_rng(seed)
    if dtype is bool_:
        return rng.integers(0, 2, count).astype(bool)
    if dtype.is_float:
        data = (rng.standard_normal(count) * 3).astype(dtype.numpy)
        special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -2.5, 1e-6]
        data[: 2 * len(special)] = rng.permutation(special * 2)[:count]
        return data
    data = rng.integers(int(dtype.min), int(dtype.max), count, dtype=dtype.numpy, endpoint=True)
    small = rng.integers(0, 12, count).astype(dtype.numpy)
    data[::3] = small[::3]
    data[:4] = [0, int(dtype.max), int(dtype.min), 1]
    if dtype.is_signed:
        data[4:8] = [-1, int(dtype.min), -7, 7]
    return data


def pointwise(count: int, inputs: Sequence[DType], body, out: DType) -> Kernel:
    """out[i] = body(in0[i], in1[i], ...)"""
    i = Range("i", count)
    params = [Param(n, dtype, count, False) for n, dtype in enumerate(inputs)]
    target = Param(len(params), out, count, True)
    value = body(*(Load(p, i, None) for p in params))
    return Kernel("pointwise", (*params, target), (Store(target, (i,), i, value, None, None),))


def floats(*sizes: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(n).astype(np.float32) for n in sizes]


def store(
    p: Param,
    ranges: Sequence[Range],
    index: Expr,
    value: Expr,
    gate: Expr | None = None,
    combine: str | None = None,
) -> Store:
    return Store(p, tuple(ranges), index, value, gate, combine)


# --- scalar functions -------------------------------------------------------------------------


def _function_cases() -> list[tuple[str, DType]]:
    cases = []
    for name, spec in ir.SCALAR_FUNCTIONS.items():
        for dtype in D.ALL:
            takes = dtype.kind in spec.kinds and not dtype.is_half
            if takes and (name != "mulhi" or dtype is D.uint32):
                cases.append((name, dtype))
    return cases


@pytest.mark.parametrize(("name", "dtype"), _function_cases(), ids=lambda v: getattr(v, "name", v))
def test_function(name: str, dtype: DType) -> None:
    spec = ir.SCALAR_FUNCTIONS[name]
    count = 75
    inputs = [bool_, dtype, dtype] if name == "where" else [dtype] * spec.arity
    out = bool_ if spec.result == "bool" else dtype
    kernel = pointwise(count, inputs, lambda *args: fn(name, *args), out)
    arrays = [values(d, count, seed=n) for n, d in enumerate(inputs)]
    if name in ("shl", "shr"):
        arrays[1][::2] = (np.arange(count) % dtype.bits)[::2]
    with np.errstate(all="ignore"):
        check(kernel, [*arrays, np.zeros(count, out.numpy)], threads=(2,), tolerance=2)


@pytest.mark.parametrize("target", TARGETS)
def test_minimum_keeps_nan_on_either_side(target: str) -> None:
    kernel = pointwise(
        64, [float32, float32], lambda a, b: fn("min", a, fn("max", b, 0.25)), float32
    )
    a, b = values(float32, 64, 1), values(float32, 64, 2)
    found = [a, b, np.zeros(64, np.float32)]
    Compiled(kernel, target)(found, 1)
    np.testing.assert_array_equal(np.isnan(found[2]), np.isnan(a) | np.isnan(b))


def _castable(source: DType, wanted: DType, count: int) -> np.ndarray:
    data = values(source, count)
    if source.is_float and wanted.is_integer:
        data = np.nan_to_num(data.astype(np.float64), nan=3.0, posinf=5.0, neginf=2.0)
        data = np.clip(data * 4, max(0, int(wanted.min)), 100)
        return data.astype(source.numpy)
    return data


@pytest.mark.parametrize("source", D.ALL, ids=lambda d: d.name)
def test_cast(source: DType) -> None:
    count = 70
    i = Range("i", count)
    x = Param(0, source, count, False)
    for wanted in D.ALL:
        if wanted is source:
            continue
        y = Param(1, wanted, count, True)
        kernel = Kernel("cast", (x, y), (store(y, (i,), i, Cast(Load(x, i, None), wanted)),))
        with np.errstate(all="ignore"):
            arrays = [_castable(source, wanted, count), np.zeros(count, wanted.numpy)]
            check(kernel, arrays, threads=(1,))


@pytest.mark.parametrize("dtype", [D.float16, D.bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize("target", TARGETS)
def test_half_types_round_to_nearest_even_for_all_bits(dtype: DType, target: str) -> None:
    count = 1 << 16
    bits = np.arange(count, dtype=np.uint32)
    # Every half, and what lies exactly and just beside the middle between it and the next.
    halves = bits.astype(np.uint16).view(dtype.numpy).astype(np.float32)
    step = np.abs(np.nan_to_num(halves.view(np.uint32).astype(np.float64))).astype(np.uint64)
    shift = 12 if dtype is D.float16 else 15
    middle = (step.astype(np.uint32) + np.uint32(1 << shift)).view(np.float32)
    data = np.concatenate([halves, middle, np.nextafter(middle, np.float32(0))])
    widen = pointwise(count, [dtype], lambda a: Cast(a, float32), float32)
    found = [bits.astype(np.uint16).view(dtype.numpy), np.zeros(count, np.float32)]
    Compiled(widen, target)(found, 2)
    np.testing.assert_array_equal(found[1], halves)
    narrow = pointwise(data.size, [float32], lambda a: Cast(a, dtype), dtype)
    with np.errstate(all="ignore"):
        expected = data.astype(dtype.numpy)
    found = [data, np.zeros(data.size, dtype.numpy)]
    Compiled(narrow, target)(found, 2)
    np.testing.assert_array_equal(found[1].astype(np.float32), expected.astype(np.float32))


# --- loops and memory -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 63, 64, 65, 1000, 70001])
def test_sizes_of_a_pointwise_kernel(count: int) -> None:
    kernel = pointwise(count, [float32], lambda a: fn("max", a * 2.0 + 1.0, 0.0), float32)
    check(kernel, [*floats(count), np.zeros(count, np.float32)])


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 8, 10, 16, 17, 33, 100])
def test_rows_with_a_broadcast_bias(columns: int) -> None:
    rows = 23
    i, j = Range("i", rows), Range("j", columns)
    x, b = Param(0, float32, rows * columns, False), Param(1, float32, columns, False)
    y = Param(2, float32, rows * columns, True)
    value = Load(x, i * columns + j, None) + Load(b, j, None)
    kernel = Kernel("bias", (x, b, y), (store(y, (i, j), i * columns + j, value),))
    check(kernel, [*floats(rows * columns, columns), np.zeros(rows * columns, np.float32)])


@pytest.mark.parametrize(
    "dtype", [D.uint8, D.float16, float32, D.float64, bool_], ids=lambda d: d.name
)
@pytest.mark.parametrize("shape", [(5, 7), (64, 48), (33, 130), (16, 16)])
def test_transpose(dtype: DType, shape: tuple[int, int]) -> None:
    rows, columns = shape
    i, j = Range("i", columns), Range("j", rows)
    x = Param(0, dtype, rows * columns, False)
    y = Param(1, dtype, rows * columns, True)
    value = Load(x, j * columns + i, None)
    kernel = Kernel("transpose", (x, y), (store(y, (i, j), i * rows + j, value),))
    data = values(dtype, rows * columns)
    check(kernel, [data, np.zeros(rows * columns, dtype.numpy)], threads=(1, 3))


@pytest.mark.parametrize("stride", [-3, -1, 2, 3, 5])
def test_strided_load_and_store(stride: int) -> None:
    count = 77
    i = Range("i", count)
    size = abs(stride) * count
    x, y = Param(0, float32, size, False), Param(1, float32, size, True)
    at = i * stride + (size - 1 if stride < 0 else 0)
    kernel = Kernel("strided", (x, y), (store(y, (i,), at, Load(x, at, None) * 2.0),))
    check(kernel, [*floats(size), np.zeros(size, np.float32)])


@pytest.mark.parametrize(
    "dtype", [D.int8, D.float16, float32, D.float64, bool_], ids=lambda d: d.name
)
def test_gates_read_zero_and_touch_nothing(dtype: DType) -> None:
    inner, outer = 37, 45
    i, j = Range("i", 3), Range("j", outer)
    x, y = Param(0, dtype, 3 * inner, False), Param(1, dtype, 3 * outer, True)
    inside = fn("and", fn("le", const(4, int64), j), j < inner + 4)
    row = i < 2
    # Where the gate is false the index lies far outside of the buffer.
    far = fn("where", fn("and", inside, row), i * inner + j - 4, const(1 << 40, int64))
    value = Load(x, far, fn("and", inside, row))
    plain = Load(x, i * inner + j - 4, inside)
    z = Param(2, dtype, 3 * outer, True)
    kernel = Kernel(
        "pad",
        (x, y, z),
        (
            store(y, (i, j), i * outer + j, value),
            store(z, (i, j), i * outer + j, plain),
        ),
    )
    zeros = np.zeros(3 * outer, dtype.numpy)
    check(kernel, [values(dtype, 3 * inner), zeros, zeros])


def test_gated_store() -> None:
    i = Range("i", 100)
    x, y = Param(0, float32, 100, False), Param(1, float32, 100, True)
    kernel = Kernel("gated", (x, y), (store(y, (i,), i, Load(x, i, None), Load(x, i, None) > 0.0),))
    check(kernel, [*floats(100), np.full(100, 7, np.float32)])


@pytest.mark.parametrize("dtype", [D.uint8, float32, int64], ids=lambda d: d.name)
@pytest.mark.parametrize("index", [D.int32, D.int64, D.uint8], ids=lambda d: d.name)
def test_gather_rows_and_elements(dtype: DType, index: DType) -> None:
    tokens, width, rows = 19, 21, 11
    i, j = Range("i", tokens), Range("j", width)
    table = Param(0, dtype, rows * width, False)
    at = Param(1, index, tokens, False)
    y, z = Param(2, dtype, tokens * width, True), Param(3, dtype, tokens, True)
    row = ir.cast(Load(at, i, None), int64)
    kernel = Kernel(
        "gather",
        (table, at, y, z),
        (
            store(y, (i, j), i * width + j, Load(table, row * width + j, None)),
            store(z, (i,), i, Load(table, row * 2, None)),
        ),
    )
    positions = np.random.default_rng(0).integers(0, rows, tokens).astype(index.numpy)
    check(
        kernel,
        [
            values(dtype, rows * width),
            positions,
            np.zeros(tokens * width, dtype.numpy),
            np.zeros(tokens, dtype.numpy),
        ],
    )


def test_ranges_as_values_and_quotients() -> None:
    i = Range("i", 1000)
    y, z = Param(0, float32, 1000, True), Param(1, int64, 1000, True)
    w = Param(2, float32, 1000, True)
    table = Param(3, float32, 1000, False)
    kernel = Kernel(
        "iota",
        (y, z, w, table),
        (
            store(y, (i,), i, ir.cast(i * 3 - 7, float32)),
            store(z, (i,), i, (i - 500) // 7 * 10 + (i - 500) % 7),
            store(w, (i,), i, Load(table, (i % 40) * 25 + i // 40, None)),
        ),
    )
    f, n = np.zeros(1000, np.float32), np.zeros(1000, np.int64)
    check(kernel, [f, n, f, *floats(1000)])


def test_in_place_and_many_groups() -> None:
    params = []
    stores = []
    for n, count in enumerate((3000, 10, 1, 517, 64)):
        i = Range(f"i{n}", count)
        w = Param(2 * n, float32, count, True)
        g = Param(2 * n + 1, float32, count, False)
        params += [w, g]
        stores.append(store(w, (i,), i, Load(w, i, None) - Load(g, i, None) * 0.01))
    kernel = Kernel("sgd", tuple(params), tuple(stores))
    check(kernel, floats(*(p.elements for p in params)))


# --- reductions -------------------------------------------------------------------------------


def reduce_cases() -> list[tuple[str, DType]]:
    arithmetic = [
        (op, d) for op in ("add", "mul", "min", "max") for d in D.NUMBERS if not d.is_half
    ]
    bits = [(op, d) for op in ("and", "or", "xor") for d in (bool_, D.uint8, D.int32)]
    return [*arithmetic, *bits]


@pytest.mark.parametrize(("op", "dtype"), reduce_cases(), ids=lambda v: getattr(v, "name", v))
def test_reduce_rows_columns_and_all(op: str, dtype: DType) -> None:
    rows, columns = 13, 39
    i, j, r = Range("i", rows), Range("j", columns), Range("r", rows)
    c, all_rows, all_columns = Range("c", columns), Range("a", rows), Range("b", columns)
    x = Param(0, dtype, rows * columns, False)
    y, z, t = (Param(1 + n, dtype, e, True) for n, e in enumerate((rows, columns, 1)))
    kernel = Kernel(
        "reduce",
        (x, y, z, t),
        (
            store(y, (i,), i, Reduce(op, (c,), Load(x, i * columns + c, None))),
            store(z, (j,), j, Reduce(op, (r,), Load(x, r * columns + j, None))),
            store(
                t,
                (),
                const(0, int64),
                Reduce(
                    op, (all_rows, all_columns), Load(x, all_rows * columns + all_columns, None)
                ),
            ),
        ),
    )
    data = values(dtype, rows * columns)
    if dtype.is_float:
        data = np.random.default_rng(3).uniform(0.8, 1.2, rows * columns).astype(dtype.numpy)
    with np.errstate(all="ignore"):
        zeros = [np.zeros(p.elements, dtype.numpy) for p in (y, z, t)]
        check(kernel, [data, *zeros], threads=(1, 3), tolerance=10)


@pytest.mark.parametrize("rows", [70_000, 4_099])
@pytest.mark.parametrize("columns", [1, 3, 16, 50, 200])
def test_long_columns_are_shared_by_threads(rows: int, columns: int) -> None:
    c, r, s = Range("c", columns), Range("r", rows), Range("s", rows)
    x = Param(0, float32, rows * columns, False)
    y, z = Param(1, float32, columns, True), Param(2, float32, columns, True)
    read = Load(x, r * columns + c, None)
    kernel = Kernel(
        "columns",
        (x, y, z),
        (
            store(y, (c,), c, Reduce("add", (r,), read * read) * 0.5),
            store(z, (c,), c, Reduce("max", (s,), Load(x, s * columns + c, None))),
        ),
    )
    zeros = np.zeros(columns, np.float32)
    check(kernel, [*floats(rows * columns), zeros, zeros], tolerance=100)


@pytest.mark.parametrize("count", [1, 1000, 300_007])
def test_variance_of_everything_takes_two_rounds(count: int) -> None:
    r, s, i = Range("r", count), Range("s", count), Range("i", count)
    x, y, v = (Param(n, float32, e, n > 0) for n, e in enumerate((count, count, 1)))
    mean = Reduce("add", (r,), Load(x, r, None)) * (1.0 / count)
    centred = Load(x, s, None) - mean
    variance = Reduce("add", (s,), centred * centred) * (1.0 / count)
    kernel = Kernel(
        "variance",
        (x, y, v),
        (
            store(y, (i,), i, (Load(x, i, None) - mean) / fn("sqrt", variance + 1e-5)),
            store(v, (), const(0, int64), variance),
        ),
    )
    data = floats(count)[0] + np.float32(3)
    check(kernel, [data, np.zeros(count, np.float32), np.zeros(1, np.float32)], tolerance=100)


def test_sums_of_many_floats_keep_their_precision() -> None:
    count = 1 << 22
    r = Range("r", count)
    x, y = Param(0, float32, count, False), Param(1, float32, 1, True)
    kernel = Kernel(
        "sum", (x, y), (store(y, (), const(0, int64), Reduce("add", (r,), Load(x, r, None))),)
    )
    data = np.full(count, 0.1, np.float32)
    found = [data, np.zeros(1, np.float32)]
    Compiled(kernel)(found, 2)
    assert abs(found[1][0] / (count * np.float64(np.float32(0.1))) - 1) < 5e-6


@pytest.mark.parametrize("op", ["min", "max"])
@pytest.mark.parametrize(
    "dtype", [float32, D.float64, D.int32, D.uint8, bool_], ids=lambda d: d.name
)
def test_position_of_extremes(op: str, dtype: DType) -> None:
    rows, columns = 21, 83
    i, j = Range("i", rows), Range("j", columns)
    c, r = Range("c", columns), Range("r", rows)
    x = Param(0, dtype, rows * columns, False)
    y, z = Param(1, int64, rows, True), Param(2, int64, columns, True)
    kernel = Kernel(
        "position",
        (x, y, z),
        (
            store(y, (i,), i, ArgReduce(op, (c,), Load(x, i * columns + c, None))),
            store(z, (j,), j, ArgReduce(op, (r,), Load(x, r * columns + j, None))),
        ),
    )
    rng = np.random.default_rng(1)
    data = rng.integers(0, 9, rows * columns).astype(dtype.numpy)  # many equal ones
    if dtype.is_float:
        data[rng.integers(0, data.size, 12)] = np.nan
        data[:columns] = np.inf
    check(kernel, [data, np.zeros(rows, np.int64), np.zeros(columns, np.int64)])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_pooling_window(layout: str) -> None:
    n, h, w, c = Range("n", 2), Range("h", 5), Range("w", 7), Range("c", 19)
    kh, kw = Range("kh", 3), Range("kw", 2)
    shape = (2, 11, 14, 19)
    x = Param(0, float32, int(np.prod(shape)), False)
    y = Param(1, float32, 2 * 5 * 7 * 19, True)
    row, column = h * 2 + kh - 1, w * 2 + kw
    inside = fn("and", fn("le", const(0, int64), row), row < 11)
    if layout == "NHWC":
        read = Load(x, ravel((n, row, column, c), shape), inside)
        ranges, sizes = (n, h, w, c), (2, 5, 7, 19)
    else:
        read = Load(x, ravel((n, c, row, column), (2, 19, 11, 14)), inside)
        ranges, sizes = (n, c, h, w), (2, 19, 5, 7)
    body = fn("where", inside, read, float("-inf"))
    kernel = Kernel(
        "pool", (x, y), (store(y, ranges, ravel(ranges, sizes), Reduce("max", (kh, kw), body)),)
    )
    check(kernel, [*floats(x.elements), np.zeros(y.elements, np.float32)])


def test_contract_without_a_tile_is_a_sum_of_products() -> None:
    i, k = Range("i", 50), Range("k", 33)
    a, b, y = (
        Param(0, D.int8, 50 * 33, False),
        Param(1, D.int8, 33, False),
        Param(2, D.int32, 50, True),
    )
    product = Contract((k,), Load(a, i * 33 + k, None), Load(b, k, None), D.int32)
    kernel = Kernel("dot", (a, b, y), (store(y, (i,), i, product),))
    check(kernel, [values(D.int8, 50 * 33), values(D.int8, 33, 1), np.zeros(50, np.int32)])


# --- rows -------------------------------------------------------------------------------------


def softmax(rows: int, columns: int, strided: bool = False) -> Kernel:
    i, j, k, m = Range("i", rows), Range("j", columns), Range("k", columns), Range("m", columns)
    x = Param(0, float32, rows * columns, False)
    y = Param(1, float32, rows * columns, True)

    def at(column: Expr) -> Expr:
        return column * rows + i if strided else i * columns + column

    top = Reduce("max", (k,), Load(x, at(k), None))
    total = Reduce("add", (m,), fn("exp", Load(x, at(m), None) - top))
    value = fn("exp", Load(x, at(j), None) - top) / total
    ranges = (j, i) if strided else (i, j)
    return Kernel("softmax", (x, y), (store(y, ranges, at(j), value),))


@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (7, 10), (64, 1000), (33, 16), (2, 40000)])
@pytest.mark.parametrize("strided", [False, True])
def test_softmax(rows: int, columns: int, strided: bool) -> None:
    kernel = softmax(rows, columns, strided)
    check(kernel, [*floats(rows * columns), np.zeros(rows * columns, np.float32)], tolerance=10)


@pytest.mark.parametrize("dtype", [float32, D.float16], ids=lambda d: d.name)
def test_layer_norm_also_stores_its_statistics(dtype: DType) -> None:
    rows, columns = 40, 300
    i, j, k, m = Range("i", rows), Range("j", columns), Range("k", columns), Range("m", columns)
    x, g, y = (
        Param(n, dtype, e, n == 2) for n, e in enumerate((rows * columns, columns, rows * columns))
    )
    mean_out = Param(3, float32, rows, True)

    def read(column: Range) -> Expr:
        return ir.cast(Load(x, i * columns + column, None), float32)

    mean = Reduce("add", (k,), read(k)) * (1.0 / columns)
    variance = Reduce("add", (m,), read(m) * read(m)) * (1.0 / columns) - mean * mean
    value = (read(j) - mean) / fn("sqrt", variance + 1e-5) * ir.cast(Load(g, j, None), float32)
    kernel = Kernel(
        "norm",
        (x, g, y, mean_out),
        (
            store(y, (i, j), i * columns + j, ir.cast(value, dtype)),
            store(mean_out, (i,), i, mean),
        ),
    )
    data = [a.astype(dtype.numpy) for a in floats(rows * columns, columns)]
    zeros = [np.zeros(rows * columns, dtype.numpy), np.zeros(rows, np.float32)]
    check(kernel, [*data, *zeros], tolerance=10)


@pytest.mark.parametrize("channels", [3, 16, 70])
@pytest.mark.parametrize("points", [30, 9000])
def test_batch_norm_over_the_outer_axes(channels: int, points: int) -> None:
    n, c, a, b = Range("n", points), Range("c", channels), Range("a", points), Range("b", channels)
    x = Param(0, float32, points * channels, False)
    y, m = Param(1, float32, points * channels, True), Param(2, float32, channels, True)
    del b
    mean = Reduce("add", (a,), Load(x, a * channels + c, None)) * (1.0 / points)
    s = Range("s", points)
    centred = Load(x, s * channels + c, None) - mean
    variance = Reduce("add", (s,), centred * centred) * (1.0 / points)
    value = (Load(x, n * channels + c, None) - mean) / fn("sqrt", variance + 1e-5)
    kernel = Kernel(
        "batch_norm",
        (x, y, m),
        (
            store(y, (n, c), n * channels + c, value),
            store(m, (c,), c, mean),
        ),
    )
    zeros = [np.zeros(points * channels, np.float32), np.zeros(channels, np.float32)]
    check(kernel, [*floats(points * channels), *zeros], tolerance=100)


# --- stores that combine ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [float32, D.float16, D.int32], ids=lambda d: d.name)
@pytest.mark.parametrize("op", ["add", "max", "mul"])
def test_scatter_combines_in_row_major_order(op: str, dtype: DType) -> None:
    tokens, width, rows = 50, 24, 7
    i, j = Range("i", tokens), Range("j", width)
    at, x = Param(0, D.int32, tokens, False), Param(1, dtype, tokens * width, False)
    y = Param(2, dtype, rows * width, True)
    row = ir.cast(Load(at, i, None), int64)
    kernel = Kernel(
        "scatter",
        (at, x, y),
        (store(y, (i, j), row * width + j, Load(x, i * width + j, None), row < 5, op),),
    )
    rng = np.random.default_rng(0)
    positions = rng.integers(0, rows, tokens).astype(np.int32)
    data = rng.integers(1, 3, tokens * width).astype(dtype.numpy)
    check(kernel, [positions, data, np.ones(rows * width, dtype.numpy)])


# --- the text itself --------------------------------------------------------------------------


def test_text_is_deterministic_and_small() -> None:
    first, second = (Compiled(softmax(64, 1000)).text for _ in range(2))
    assert first == second
    assert len(first) < 40_000


def test_equal_kernels_are_written_once() -> None:
    kernel = pointwise(100, [float32], lambda a: a * 2.0, float32)
    one = program_of(kernel)
    command = one.commands[0]
    assert isinstance(command, Dispatch)
    again = Dispatch(1, command.buffers, command.written)
    twice = Program((kernel, kernel), (command, again), one.inputs, (), (), (), 0)
    text = render_program(twice, select_target("host"), CompileOptions(threads=2))
    assert text.count("define internal void @kernel") == 1


@pytest.mark.parametrize("dtype", [D.uint8, float32, D.float64], ids=lambda d: d.name)
@pytest.mark.parametrize("points", [2, 3, 4])
def test_short_innermost_ranges_are_interleaved(points: int, dtype: DType) -> None:
    images, pixels = 3, 157
    n, p, c = Range("n", images), Range("p", pixels), Range("c", points)
    size = images * pixels * points
    x, y, z = Param(0, dtype, size, False), Param(1, dtype, size, True), Param(2, dtype, size, True)
    planes = Load(x, ravel((n, c, p), (images, points, pixels)), None)
    pixel = ravel((n, p, c), (images, pixels, points))
    kernel = Kernel(
        "interleave",
        (x, y, z),
        (
            store(y, (n, p, c), pixel, planes),
            store(z, (n, p, c), pixel, fn("add", Load(x, pixel, None), planes)),
        ),
    )
    zeros = np.zeros(size, dtype.numpy)
    with np.errstate(all="ignore"):
        check(kernel, [values(dtype, size), zeros, zeros])


@pytest.mark.parametrize("offset", [0, 1])
def test_large_results_are_stored_around_the_caches(offset: int) -> None:
    count = (9 << 20) + 5
    kernel = pointwise(count, [float32], lambda a: a + 1.0, float32)
    data = np.arange(count, dtype=np.float32)
    found = aligned(count + 1, np.dtype(np.float32))[offset : offset + count]
    compiled = Compiled(kernel)
    assert "!nontemporal" in compiled.text
    compiled([data, found], 2)
    np.testing.assert_array_equal(found, data + 1)


def test_reshapes_around_a_transpose_become_plain_strides() -> None:
    batch, time, heads, width = 2, 9, 5, 24
    b, s, e = Range("b", batch), Range("s", time), Range("e", heads * width)
    size = batch * time * heads * width
    x, y, z = (
        Param(0, float32, size, False),
        Param(1, float32, size, True),
        Param(2, float32, 1, True),
    )
    source = ravel((b, e // width, s, e % width), (batch, heads, time, width))
    r = Range("r", size)
    flat = ravel((r % 5, r // 5), (5, size // 5))
    kernel = Kernel(
        "merge",
        (x, y, z),
        (
            store(
                y, (b, s, e), ravel((b, s, e), (batch, time, heads * width)), Load(x, source, None)
            ),
            store(z, (), const(0, int64), Reduce("max", (r,), Load(x, flat, None))),
        ),
    )
    compiled = Compiled(kernel)
    assert "gather" not in compiled.text
    check(kernel, [*floats(size), np.zeros(size, np.float32), np.zeros(1, np.float32)])


@pytest.mark.parametrize("columns", [3, 40, 300])
def test_long_column_sums_keep_their_precision(columns: int) -> None:
    rows = (1 << 23) // columns
    c, r = Range("c", columns), Range("r", rows)
    x, y = Param(0, float32, rows * columns, False), Param(1, float32, columns, True)
    value = Reduce("add", (r,), Load(x, r * columns + c, None))
    kernel = Kernel("columns", (x, y), (store(y, (c,), c, value),))
    data = np.full(rows * columns, 0.1, np.float32)
    found = [data, np.zeros(columns, np.float32)]
    Compiled(kernel)(found, 2)
    np.testing.assert_allclose(found[1], rows * np.float64(np.float32(0.1)), rtol=5e-5)


def test_split_results_may_be_stored_in_another_order() -> None:
    first, second, rows = 12, 20, 600
    a, b, r = Range("a", first), Range("b", second), Range("r", rows)
    x, y = Param(0, float32, first * second * rows, False), Param(1, float32, first * second, True)
    value = Reduce("add", (r,), Load(x, ravel((r, b, a), (rows, second, first)), None))
    for index in (a * second + b, b * first + a):
        kernel = Kernel("columns", (x, y), (store(y, (a, b), index, value),))
        check(kernel, [*floats(x.elements), np.zeros(y.elements, np.float32)], tolerance=100)
