"""Reductions, rows and scatters in code generated for the CPU, and the text itself."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_kernels import Compiled, aligned, check, floats, pointwise, program_of, store, values

from niello.backends.cpu.jit import select_target
from niello.backends.cpu.program import render_program
from niello.core import dtypes as D
from niello.core.dtypes import DType, bool_, float32, int64
from niello.kernel import ir
from niello.kernel.build import ravel
from niello.kernel.ir import (
    ArgReduce,
    Contract,
    Expr,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    const,
    fn,
)
from niello.runtime.commands import Dispatch, Program
from niello.runtime.target import CompileOptions

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


def test_first_of_equal_extremes_whatever_the_order_in_memory() -> None:
    outer, inner, rows = 40, 3, 9
    i, a, b = Range("i", rows), Range("a", outer), Range("b", inner)
    x, y = Param(0, float32, rows * outer * inner, False), Param(1, int64, rows, True)
    read = Load(x, ravel((i, b, a), (rows, inner, outer)), None)
    kernel = Kernel("first", (x, y), (store(y, (i,), i, ArgReduce("min", (a, b), read)),))
    data = np.random.default_rng(0).integers(0, 3, x.elements).astype(np.float32)
    check(kernel, [data, np.zeros(rows, np.int64)])


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


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("columns", [1024, 1000])
def test_many_long_rows_are_stored_around_the_caches(columns: int, offset: int) -> None:
    rows = (33 << 20) // (4 * columns)
    compiled = Compiled(softmax(rows, columns))
    assert ("!nontemporal" in compiled.text) == (columns % 256 == 0)
    data = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
    room = aligned(rows * columns + 1, np.dtype(np.float32))
    compiled([data.reshape(-1), room[offset : offset + rows * columns]], 2)
    found = room[offset : offset + rows * columns].reshape(rows, columns)
    powers = np.exp(data - data.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)


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
