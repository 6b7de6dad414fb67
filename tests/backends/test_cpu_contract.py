"""Contractions compiled for the CPU against the interpreter, in every form they take."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import pytest
from contraction_kernels import Conv, matmul

from niello.backends.cpu.contract import contraction_of, emit_contract
from niello.backends.cpu.jit import CpuTarget, compile_object, load_object, select_target
from niello.backends.cpu.llvm_text import Module
from niello.core import dtypes as D
from niello.core.dtypes import DType
from niello.core.errors import CompilerBug
from niello.kernel import ir
from niello.kernel.interpret import interpret
from niello.kernel.ir import Contract, Expr, Kernel, Load, Param, Range, Store

TARGETS = [t for t in ("host", "avx2", "baseline") if not select_target(t).missing_here()]


# --- running ----------------------------------------------------------------------------------


def aligned(elements: int, dtype: np.dtype) -> np.ndarray:
    room = np.zeros(elements * dtype.itemsize + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + elements * dtype.itemsize].view(dtype)


def inputs(kernel: Kernel, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    arrays = []
    for p in kernel.params:
        array = aligned(p.elements, p.dtype.numpy)
        if p.dtype.is_float:
            array[:] = random.standard_normal(p.elements).astype(p.dtype.numpy)
        else:
            array[:] = random.integers(-9 if p.dtype.is_signed else 0, 10, p.elements)
        arrays.append(array)
    return arrays


def run(
    kernel: Kernel,
    arrays: Sequence[np.ndarray],
    *,
    threads: int = 1,
    planned: int | None = None,
    target: CpuTarget | None = None,
) -> None:
    """Compile for `planned` threads and play `threads` of them one after the other."""
    target = target or select_target("host")
    module = Module(triple=target.triple)
    made = emit_contract(module, "made", kernel, target, planned or threads)
    entries = []
    for n, stage in enumerate(made.stages):
        parameters = [("ptr", f"b{p.slot}") for p in kernel.params]
        parameters += [("ptr", "scratch"), ("i64", "thread"), ("i64", "threads")]
        f = module.function(f"entry{n}", "void", parameters)
        f.call(stage, "void", f.arguments, declare=False)
        f.ret()
        entries.append(f.name)
    code = load_object(compile_object(module.text(), target, verify=True), target, entries)
    scratch = aligned(made.shared_bytes + threads * made.thread_bytes + 64, np.dtype(np.uint8))
    scratch[:] = 0xFF  # NaN wherever something is read before it is written
    types = [ctypes.c_void_p] * (len(kernel.params) + 1) + [ctypes.c_int64] * 2
    addresses = [a.ctypes.data for a in arrays]
    for entry in entries:
        function = code.function(entry, None, *types)
        for thread in range(threads):
            function(*addresses, scratch.ctypes.data, thread, threads)


def check(kernel: Kernel, *, tolerance: float = 2e-5, **how: object) -> list[np.ndarray]:
    """Compare with the interpreter, relative to the largest result."""
    arrays = inputs(kernel)
    expected = [a.copy() for a in arrays]
    interpret(kernel, expected)
    run(kernel, arrays, **how)  # type: ignore[arg-type]
    for p, got, want in zip(kernel.params, arrays, expected, strict=True):
        if not p.written:
            np.testing.assert_array_equal(got, want)
        elif p.dtype.is_float:
            scale = max(1e-6, float(np.abs(want.astype(np.float64)).max(initial=0)))
            difference = np.abs(got.astype(np.float64) - want.astype(np.float64))
            assert difference.max(initial=0) <= tolerance * scale
        else:
            np.testing.assert_array_equal(got, want)
    return arrays


# --- matmul -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_matmul_reads_operands_in_every_layout(target: str, turned: tuple[bool, bool]) -> None:
    kernel = matmul(37, 50, 70, a_turned=turned[0], b_turned=turned[1])
    check(kernel, threads=2, target=select_target(target))


@pytest.mark.parametrize(
    "shape",
    [
        (1, 33, 9),
        (33, 1, 9),
        (2, 3, 1),
        (16, 16, 16),
        (5, 130, 600),
        (100, 10, 784),
        (64, 256, 512),
        (3, 500, 40),
    ],
)
@pytest.mark.parametrize("b_turned", [False, True])
def test_matmul_of_odd_shapes(shape: tuple[int, int, int], b_turned: bool) -> None:
    check(matmul(*shape, b_turned=b_turned), threads=3)


@pytest.mark.parametrize(
    ("dtype", "accumulate", "out", "tolerance"),
    [
        (D.float64, D.float64, D.float64, 1e-14),
        (D.float16, D.float32, D.float16, 1e-3),
        (D.bfloat16, D.float32, D.bfloat16, 1e-2),
        (D.bfloat16, D.float32, D.float32, 2e-5),
        (D.int8, D.int32, D.int32, 0),
        (D.uint8, D.int32, D.int32, 0),
        (D.int32, D.int32, D.int32, 0),
        (D.int64, D.int64, D.int64, 0),
    ],
)
@pytest.mark.parametrize("target", TARGETS)
def test_matmul_element_types(
    dtype: DType, accumulate: DType, out: DType, tolerance: float, target: str
) -> None:
    for a_turned, b_turned, depth in ((False, False, 131), (False, True, 130), (True, True, 67)):
        kernel = matmul(
            21,
            35,
            depth,
            dtype,
            accumulate=accumulate,
            out=out,
            a_turned=a_turned,
            b_turned=b_turned,
        )
        check(kernel, tolerance=tolerance, threads=2, target=select_target(target))


def test_results_in_transposed_order_are_stored_crosswise() -> None:
    check(matmul(40, 70, 90, out_turned=True), threads=2)
    check(matmul(7, 33, 300, out_turned=True, b_turned=True))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [D.float32, D.bfloat16, D.int8])
def test_few_rows_are_dot_products(target: str, dtype: DType) -> None:
    integer = dtype.is_integer
    for rows, columns, depth in ((1, 45, 150), (3, 64, 128), (4, 5, 71)):
        kernel = matmul(
            rows,
            columns,
            depth,
            dtype,
            b_turned=True,
            accumulate=D.int32 if integer else None,
            out=D.int32 if integer else D.float32,
        )
        check(kernel, threads=2, target=select_target(target))
    bias = [(D.float32, 40)]
    check(matmul(2, 40, 300, b_turned=True, batch=3, epilogue=_bias_relu, extra=bias), threads=2)


def test_batched_matmul() -> None:
    check(matmul(20, 33, 17, batch=6, b_turned=True), threads=4)
    check(matmul(64, 48, 300, batch=3), threads=2)


@pytest.mark.parametrize(("threads", "planned"), [(1, 7), (7, 1), (5, 2), (16, 16)])
def test_any_number_of_threads_may_run_the_code(threads: int, planned: int) -> None:
    check(matmul(70, 90, 64), threads=threads, planned=planned)
    conv = Conv((2, 9, 9), (6, 20), (3, 3), pad=1)
    check(conv.forward(), threads=threads, planned=planned)


def test_same_bits_every_time() -> None:
    kernel = matmul(24, 40, 5000)
    first = check(kernel, threads=2)
    second = check(kernel, threads=2)
    np.testing.assert_array_equal(first[-1], second[-1])


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_small_results_of_long_sums_split_the_sum(threads: int) -> None:
    kernel = matmul(5, 20, 6001, epilogue=_bias_relu, extra=[(D.float32, 20)])
    module = Module()
    made = emit_contract(module, "f", kernel, select_target("host"), threads)
    assert len(made.stages) == 2 and made.shared_bytes > 0
    check(kernel, threads=threads)
    check(kernel, threads=1, planned=threads)
    conv = Conv((threads + 2, 12, 12), (1, 9), (5, 5), pad=2)
    check(conv.weight_gradient(), threads=threads)


def test_nan_and_infinity_stay_where_they_are() -> None:
    kernel = matmul(20, 40, 30)
    arrays = inputs(kernel)
    arrays[0][:] = 0
    arrays[0][3 * 30 + 7] = np.inf
    arrays[1][:] = 1
    arrays[1][7 * 40 + 5] = 0
    run(kernel, arrays)
    result = arrays[2].reshape(20, 40)
    assert np.isnan(result[3, 5]) and np.isposinf(np.delete(result[3], 5)).all()
    assert (np.delete(result, 3, axis=0) == 0).all()


# --- epilogues and prologues ------------------------------------------------------------------


def _bias_relu(value: Expr, more: Sequence[Param], at: Sequence[Range]) -> Expr:
    with_bias = value + Load(more[0], at[2], None)
    return ir.fn("max", with_bias, ir.const(0.0, D.float32))


@pytest.mark.parametrize("shape", [(30, 70, 40), (14, 33, 2000)])
def test_bias_and_activation(shape: tuple[int, int, int]) -> None:
    kernel = matmul(*shape, epilogue=_bias_relu, extra=[(D.float32, shape[1])])
    check(kernel, threads=2)


def test_epilogue_of_rows_columns_and_points() -> None:
    def mixed(value: Expr, more: Sequence[Param], at: Sequence[Range]) -> Expr:
        _, i, j = at
        row, column = Load(more[0], i, None), Load(more[1], j, None)
        point = ir.cast(Load(more[2], i * 45 + j, None), D.float32)
        return ir.fn("tanh", value * row * 0.1) + column * point + ir.cast(i + j, D.float32)

    extra = [(D.float32, 33), (D.float32, 45), (D.bfloat16, 33 * 45)]
    for turned in (False, True):
        kernel = matmul(33, 45, 20, epilogue=mixed, extra=extra, out_turned=turned)
        check(kernel, threads=2, tolerance=1e-4)


def test_update_in_place_reads_what_it_overwrites() -> None:
    a, b = Param(0, D.float32, 64 * 30, False), Param(1, D.float32, 64 * 50, False)
    c = Param(2, D.float32, 30 * 50, True)
    i, j, r = Range("i", 30), Range("j", 50), Range("r", 64)
    gradient = Contract((r,), Load(a, r * 30 + i, None), Load(b, r * 50 + j, None), D.float32)
    value = Load(c, i * 50 + j, None) - gradient * 0.01
    check(Kernel("sgd", (a, b, c), (Store(c, (i, j), i * 50 + j, value, None, None),)), threads=2)


def test_several_stores_of_one_sum() -> None:
    base = matmul(20, 36, 50)
    (store,) = base.stores
    sums = Param(2, D.float32, 720, True)
    positive = Param(3, D.bool_, 720, True)
    sign = ir.fn("lt", ir.const(0.0, D.float32), store.value)
    stores = (
        Store(sums, store.ranges, store.index, ir.fn("exp", store.value * 0.1), None, None),
        Store(positive, store.ranges, store.index, sign, None, None),
    )
    check(Kernel("two", (*base.params[:2], sums, positive), stores), threads=2)


def test_store_under_a_gate() -> None:
    base = matmul(20, 36, 50)
    (store,) = base.stores
    gate = ir.fn("lt", store.ranges[2], store.ranges[1] + 3)
    gated = Store(store.param, store.ranges, store.index, store.value, gate, None)
    check(Kernel("gated", base.params, (gated,)))


@pytest.mark.parametrize("turned", [False, True])
def test_operands_computed_while_packing(turned: bool) -> None:
    def relu_scaled(x: Expr) -> Expr:
        return ir.fn("max", x * 0.5 + 0.25, ir.const(0.0, D.float32))

    check(matmul(30, 52, 77, prologue=relu_scaled, a_turned=turned, b_turned=turned), threads=2)


def test_reduction_inside_an_operand() -> None:
    a, b = Param(0, D.float32, 12 * 20, False), Param(1, D.float32, 20 * 18, False)
    c = Param(2, D.float32, 12 * 18, True)
    i, j, r, s = Range("i", 12), Range("j", 18), Range("r", 20), Range("s", 20)
    total = ir.Reduce("max", (s,), Load(a, i * 20 + s, None))
    x = Load(a, i * 20 + r, None) - total
    value = Contract((r,), x, Load(b, r * 18 + j, None), D.float32)
    check(Kernel("k", (a, b, c), (Store(c, (i, j), i * 18 + j, value, None, None),)))


# --- convolutions -----------------------------------------------------------------------------

FORMS = [
    {},
    {"pad": 1},
    {"stride": 2, "pad": 1},
    {"pad": 2, "dilation": 2},
    {"stride": 3, "pad": 2},
]


@pytest.mark.parametrize("nhwc", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_convolution_and_its_gradients(nhwc: bool, form: dict[str, int]) -> None:
    conv = Conv((2, 11, 9), (5, 7), (3, 3), nhwc=nhwc, hwio=nhwc, **form)  # type: ignore[arg-type]
    for kernel in (conv.forward(), conv.data_gradient(), conv.weight_gradient()):
        check(kernel, threads=2)


@pytest.mark.parametrize("nhwc", [True, False])
@pytest.mark.parametrize(
    "sizes",
    [
        ((3, 14, 14), (32, 40), (5, 5), 2),  # one tile of rows: dead rows are skipped
        ((2, 28, 28), (1, 32), (5, 5), 2),
        ((1, 30, 40), (16, 24), (3, 3), 1),  # a window with a border
        ((2, 7, 7), (64, 33), (3, 3), 1),
        ((2, 6, 6), (40, 24), (1, 1), 0),
        ((1, 8, 50), (3, 16), (7, 7), 3),
    ],
)
def test_convolution_shapes(nhwc: bool, sizes: tuple[object, ...]) -> None:
    size, channels, window, pad = sizes
    conv = Conv(size, channels, window, pad=pad, nhwc=nhwc, hwio=nhwc)  # type: ignore[arg-type]
    for kernel in (conv.forward(), conv.data_gradient(), conv.weight_gradient()):
        check(kernel, threads=2)


@pytest.mark.parametrize("nhwc", [True, False])
@pytest.mark.parametrize(
    ("stride", "kernel", "pad"), [(2, 3, 1), (2, 2, 0), (3, 5, 2), (2, 7, 3), (4, 3, 0)]
)
@pytest.mark.parametrize("dtype", [D.float32, D.bfloat16])
def test_strided_data_gradient_runs_in_phases(
    nhwc: bool, stride: int, kernel: int, pad: int, dtype: DType
) -> None:
    size = (2, 6 * stride, 8 * stride)
    conv = Conv(size, (9, 20), (kernel, kernel), stride=stride, pad=pad, nhwc=nhwc, dtype=dtype)
    tolerance = 2e-5 if dtype is D.float32 else 1e-2
    check(conv.data_gradient(), threads=2, tolerance=tolerance)
    dilated = Conv(size, (9, 12), (2, 2), stride=stride, dilation=2, nhwc=nhwc, dtype=dtype)
    check(dilated.data_gradient(), tolerance=tolerance)


@pytest.mark.parametrize("nhwc", [True, False])
def test_weights_in_the_other_layout(nhwc: bool) -> None:
    conv = Conv((2, 12, 12), (16, 20), (3, 3), pad=1, nhwc=nhwc, hwio=not nhwc)
    for kernel in (conv.forward(), conv.data_gradient(), conv.weight_gradient()):
        check(kernel, threads=2)


@pytest.mark.parametrize("nhwc", [True, False])
def test_grouped_convolution(nhwc: bool) -> None:
    check(Conv((2, 10, 9), (12, 8), (3, 3), pad=1, groups=2, nhwc=nhwc).forward(), threads=2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(D.bfloat16, 1e-2), (D.float16, 2e-3)])
@pytest.mark.parametrize("nhwc", [True, False])
def test_convolution_of_half_types(dtype: DType, tolerance: float, nhwc: bool) -> None:
    conv = Conv((2, 14, 20), (17, 18), (3, 3), pad=1, nhwc=nhwc, dtype=dtype)
    for kernel in (conv.forward(), conv.data_gradient(), conv.weight_gradient()):
        check(kernel, tolerance=tolerance, threads=2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("channels", [16, 17])
def test_convolution_of_int8_sums_in_int32(target: str, channels: int) -> None:
    conv = Conv((2, 9, 20), (channels, 18), (3, 3), pad=1, dtype=D.int8)
    kernel = conv.forward()
    out = Param(2, D.int32, kernel.params[2].elements, True)
    (store,) = kernel.stores
    assert isinstance(store.value, Contract)
    a, b = store.value.a, store.value.b
    wide = Contract(store.value.ranges, ir.cast(a, D.int32), ir.cast(b, D.int32), D.int32)
    store = Store(out, store.ranges, store.index, wide, None, None)
    kernel = Kernel("int8", (*kernel.params[:2], out), (store,))
    check(kernel, threads=2, target=select_target(target))


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize("nhwc", [True, False])
def test_convolution_on_other_targets(target: str, nhwc: bool) -> None:
    conv = Conv((2, 14, 14), (9, 20), (3, 3), pad=1, nhwc=nhwc, hwio=nhwc)
    for kernel in (conv.forward(), conv.data_gradient(), conv.weight_gradient()):
        check(kernel, threads=2, target=select_target(target))


# --- what is refused --------------------------------------------------------------------------


def test_kernels_that_tiles_do_not_suit_are_refused() -> None:
    base = matmul(8, 8, 8)
    (store,) = base.stores
    accumulating = Store(store.param, store.ranges, store.index, store.value, None, "add")
    assert contraction_of(Kernel("k", base.params, (accumulating,))) is None
    r = Range("q", 4)
    reduced = ir.Reduce("add", (r,), store.value * ir.cast(r, D.float32))
    assert (
        contraction_of(
            Kernel(
                "k",
                base.params,
                (Store(store.param, store.ranges, store.index, reduced, None, None),),
            )
        )
        is None
    )
    assert contraction_of(matmul(1, 1, 5)) is None  # a dot product is a reduction
    for empty in ((0, 4, 5), (4, 0, 5), (4, 5, 0)):
        assert contraction_of(matmul(*empty)) is None
    plain = Load(base.params[0], store.ranges[1], None)
    nothing = Kernel(
        "k", base.params, (Store(store.param, store.ranges, store.index, plain, None, None),)
    )
    assert contraction_of(nothing) is None
    with pytest.raises(CompilerBug) as caught:
        emit_contract(Module(), "f", nothing, select_target("host"), 1)
    assert caught.value.received == "k"
