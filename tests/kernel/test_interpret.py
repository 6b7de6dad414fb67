"""The interpreter against direct NumPy, whole and in blocks."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from niello.core.dtypes import (
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int32,
    int64,
    uint8,
    uint32,
)
from niello.core.errors import CompilerBug
from niello.kernel import ir
from niello.kernel.interpret import evaluate, interpret
from niello.kernel.ir import (
    ArgReduce,
    Bitcast,
    Cast,
    Contract,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    Store,
    fn,
)

BUDGETS = [1 << 26, 2000, 1]
rng = np.random.default_rng(3)
m, n, k = Range("m", 5), Range("n", 7), Range("k", 9)
A = rng.normal(size=(5, 9)).astype(np.float32)
B = rng.normal(size=(9, 7)).astype(np.float32)
PA, PB, OUT = (
    Param(0, float32, 45, False),
    Param(1, float32, 63, False),
    Param(2, float32, 35, True),
)


@pytest.mark.parametrize("budget", BUDGETS)
def test_matrix_product_with_epilogue(budget: int) -> None:
    product = Contract((k,), Load(PA, m * 9 + k, None), Load(PB, k * 7 + n, None), float32)
    value = fn("max", product + Load(PB, n, None), 0.0)
    out = np.zeros(35, np.float32)
    kernel = Kernel("product", (PA, PB, OUT), (Store(OUT, (m, n), m * 7 + n, value, None, None),))
    interpret(kernel, [A.ravel(), B.ravel(), out], budget=budget)
    np.testing.assert_allclose(out.reshape(5, 7), np.maximum(A @ B + B[0], 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("budget", BUDGETS)
def test_batched_product_and_lone_ranges(budget: int) -> None:
    b, unused = Range("b", 3), Range("unused", 4)
    x, y = rng.normal(size=(3, 5, 9)), rng.normal(size=(3, 9, 7))
    px, py = Param(0, float64, 135, False), Param(1, float64, 189, False)
    product = Contract(
        (k, unused), Load(px, b * 45 + m * 9 + k, None), Load(py, b * 63 + k * 7 + n, None), float64
    )
    got = evaluate(product, (n, b, m), [x.ravel(), y.ravel()], budget=budget)
    np.testing.assert_allclose(got, 4 * (x @ y).transpose(2, 0, 1), rtol=1e-12)


def test_integer_products_are_exact() -> None:
    x = rng.integers(-128, 128, (5, 9)).astype(np.int8)
    y = rng.integers(-128, 128, (9, 7)).astype(np.int8)
    px, py = Param(0, int8, 45, False), Param(1, int8, 63, False)
    product = Contract((k,), Load(px, m * 9 + k, None), Load(py, k * 7 + n, None), int32)
    got = evaluate(product, (m, n), [x.ravel(), y.ravel()])
    np.testing.assert_array_equal(got, x.astype(np.int32) @ y.astype(np.int32))


@pytest.mark.parametrize("budget", BUDGETS)
def test_convolution(budget: int) -> None:
    image, weights = rng.normal(size=(6, 8)), rng.normal(size=(3, 3))
    y, x, i, j = Range("y", 6), Range("x", 8), Range("i", 3), Range("j", 3)
    p, w = Param(0, float64, 48, False), Param(1, float64, 9, False)
    row, column = y + i - 1, x + j - 1
    gate = (fn("le", 0, row) & fn("lt", row, 6)) & (fn("le", 0, column) & fn("lt", column, 8))
    value = Contract((i, j), Load(p, row * 8 + column, gate), Load(w, i * 3 + j, None), float64)
    padded = np.pad(image, 1)
    expected = sum(weights[a, b] * padded[a : a + 6, b : b + 8] for a in range(3) for b in range(3))
    got = evaluate(value, (y, x), [image.ravel(), weights.ravel()], budget=budget)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("budget", BUDGETS)
def test_softmax_in_place(budget: int) -> None:
    p = Param(0, float32, 45, True)
    r, s, column = Range("r", 9), Range("s", 9), Range("column", 9)
    largest = Reduce("max", (r,), Load(p, m * 9 + r, None))
    total = Reduce("add", (s,), fn("exp", Load(p, m * 9 + s, None) - largest))
    value = fn("exp", Load(p, m * 9 + column, None) - largest) / total
    # One row at a time: the row that is stored has been read. A block of rows behaves alike.
    data = A.ravel().copy()
    out = Param(1, float32, 45, True)
    result = np.zeros(45, np.float32)
    kernel = Kernel(
        "softmax", (p, out), (Store(out, (m, column), m * 9 + column, value, None, None),)
    )
    interpret(kernel, [data, result], budget=budget)
    e = np.exp(A - A.max(1, keepdims=True))
    np.testing.assert_allclose(result.reshape(5, 9), e / e.sum(1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("op", ["add", "mul", "min", "max"])
@pytest.mark.parametrize("budget", BUDGETS)
def test_reductions(op: str, budget: int) -> None:
    numpy = {"add": np.sum, "mul": np.prod, "min": np.min, "max": np.max}[op]
    got = evaluate(Reduce(op, (k,), Load(PA, m * 9 + k, None)), (m,), [A.ravel()], budget=budget)
    np.testing.assert_allclose(got, numpy(A, axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("op", "dtype", "expected"),
    [
        ("add", float32, 0),
        ("mul", int32, 1),
        ("min", float32, np.inf),
        ("max", int8, -128),
        ("and", uint8, 255),
    ],
)
def test_empty_reductions_give_the_identity(op, dtype, expected) -> None:
    body = Load(Param(0, dtype, 1, False), ir.const(0, int64), None)
    got = evaluate(Reduce(op, (Range("none", 0),), body), (), [np.zeros(1, dtype.numpy)])
    assert got == expected and got.dtype == dtype.numpy


def test_small_integers_do_not_widen() -> None:
    body = Load(Param(0, int8, 9, False), k, None)
    got = evaluate(Reduce("add", (k,), body), (), [np.full(9, 100, np.int8)])
    assert got.dtype == np.int8 and got == np.int8((900 + 128) % 256 - 128)


def test_nan_wins() -> None:
    data = np.array([3, np.nan, 9, 1, np.nan, 0, 0, 0, 0], np.float32)
    body = Load(Param(0, float32, 9, False), k, None)
    assert evaluate(ArgReduce("min", (k,), body), (), [data]) == 1
    assert np.isnan(evaluate(Reduce("max", (k,), body), (), [data]))


@pytest.mark.parametrize("budget", BUDGETS)
def test_scatter_combines_in_order(budget: int) -> None:
    where = np.array([1, 2, 1, 0, 2, 2, 1], np.int32)
    p, out = Param(0, int32, 7, False), Param(1, float32, 3, True)
    target = Cast(Load(p, n, None), int64)
    store = Store(out, (n,), target, Cast(n, float32), fn("lt", n, 6), "add")
    result = np.array([10, 20, 30], np.float32)
    interpret(Kernel("scatter", (p, out), (store,)), [where, result], budget=budget)
    np.testing.assert_array_equal(result, [13, 22, 30 + 1 + 4 + 5])


def test_stores_of_one_kernel_read_before_they_write() -> None:
    w, v = Param(0, float32, 7, True), Param(1, float32, 7, True)
    velocity = Load(v, n, None) * 0.5 + 1.0
    stores = (
        Store(v, (n,), n, velocity, None, None),
        Store(w, (n,), n, Load(w, n, None) - velocity, None, None),
    )
    for order in (stores, stores[::-1]):
        weights, state = np.ones(7, np.float32), np.full(7, 4, np.float32)
        interpret(Kernel("step", (w, v), order), [weights, state])
        assert (state == 3).all() and (weights == -2).all()


def test_half_types() -> None:
    data = np.arange(7, dtype=np.float32).astype(ml_dtypes.bfloat16)
    p, out = Param(0, bfloat16, 7, False), Param(1, float16, 7, True)
    value = Cast(Cast(Load(p, n, None), float32) * 1.5, float16)
    result = np.zeros(7, np.float16)
    interpret(Kernel("half", (p, out), (Store(out, (n,), n, value, None, None),)), [data, result])
    np.testing.assert_array_equal(result, np.arange(7) * 1.5)


def test_bits() -> None:
    one = ir.Const(1.0, float32)
    assert evaluate(Bitcast(one, uint32), (), []) == 0x3F800000
    assert evaluate(Bitcast(Cast(n, float32), int32), (n,), []).tolist() == (
        np.arange(7, dtype=np.float32).view(np.int32).tolist()
    )


def test_casts_to_bool_ask_for_nonzero() -> None:
    assert evaluate(Cast(Cast(n, float32) * 0.25, bool_), (n,), []).tolist() == [False] + [True] * 6


def test_accesses_outside_a_buffer_are_refused() -> None:
    with pytest.raises(CompilerBug, match="outside its 45 elements"):
        evaluate(Load(PA, m * 9 + k - 1, None), (m, k), [A.ravel()])
    gated = Load(PA, m * 9 + k - 1, fn("lt", 0, k))
    expected = np.pad(A, ((0, 0), (1, 0)))[:, :9] * (np.arange(9) > 0)
    np.testing.assert_array_equal(evaluate(gated, (m, k), [A.ravel()]), expected)


def test_buffers_must_fit() -> None:
    kernel = Kernel("k", (PA,), ())
    with pytest.raises(CompilerBug, match="takes 1 buffers"):
        interpret(kernel, [])
    with pytest.raises(CompilerBug, match="45 x float32"):
        interpret(kernel, [A.ravel()[:40]])
    with pytest.raises(CompilerBug, match="45 x float32"):
        interpret(kernel, [A.ravel().astype(np.float64)])
