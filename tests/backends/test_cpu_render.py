"""Scalar functions, casts, loops and memory in code generated for the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_kernels import TARGETS, Compiled, aligned, check, floats, pointwise, store, values

from niello.core import dtypes as D
from niello.core.dtypes import DType, bool_, float32, int64
from niello.kernel import ir
from niello.kernel.build import ravel
from niello.kernel.ir import (
    Cast,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    const,
    fn,
)

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
    if name == "scalb":  # defined for finite integers
        arrays[1][:] = np.arange(count) * 9 - 300
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


def test_nothing_is_written_beyond_the_last_element() -> None:
    rows, columns = 4, 5
    i, j = Range("i", rows), Range("j", columns)
    x, y = Param(0, float32, 20, False), Param(1, D.bfloat16, 20, True)
    value = Cast(Load(x, j * rows + i, None), D.bfloat16)
    kernel = Kernel("edge", (x, y), (store(y, (i, j), i * columns + j, value),))
    for target in TARGETS:
        room = np.full(40, 0xEEEE, np.uint16)
        Compiled(kernel, target)([*floats(20), room.view(D.bfloat16.numpy)], 1)
        assert (room[20:] == 0xEEEE).all()
        assert not (room[:20] == 0xEEEE).any()
