"""Expansions of transcendental functions: errors in ulps, special values, and the rewriting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from niello.codegen.transcendental import FUNCTIONS, expand, expand_expression, rare_case
from niello.codegen.transcendental_pow import power_of_constant
from niello.core.dtypes import bool_, float32, float64, int64
from niello.core.errors import UnsupportedDtype
from niello.core.nodes import walk
from niello.kernel.ir import (
    SCALAR_FUNCTIONS,
    Bitcast,
    Cast,
    Const,
    Expr,
    Fn,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    Store,
    cast,
    const,
    fn,
)

Array = np.ndarray[Any, Any]
INPUTS = tuple(Load(Param(i, float32, 1, False), const(0, int64), None) for i in range(2))

_NUMPY_NAMES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2", "asinh": "arcsinh",
    "acosh": "arccosh", "atanh": "arctanh", "pow": "power",
}  # fmt: skip


def reference(name: str) -> Callable[..., Array]:
    """The function on float64 arrays; erf by its series and continued fraction in float64."""
    return (
        SCALAR_FUNCTIONS["erf"].numpy
        if name == "erf"
        else getattr(np, _NUMPY_NAMES.get(name, name))
    )


def fused(a: Array, b: Array, c: Array) -> Array:
    """a * b + c with the product exact; the sum is rounded to float64, then to float32."""
    return (np.float64(a) * np.float64(b) + np.float64(c)).astype(np.float32)


def evaluate(root: Expr, *arguments: Array, fma: bool) -> Array:
    """The value of an expression over arrays that stand for INPUTS."""
    values: dict[Expr, Any] = {}
    with np.errstate(all="ignore"):
        for e in walk([root]):
            if isinstance(e, Load):
                values[e] = arguments[e.param.slot]
            elif isinstance(e, Const):
                values[e] = np.asarray(e.value, e.dtype.numpy)
            elif isinstance(e, Bitcast):
                values[e] = np.ascontiguousarray(values[e.x]).view(e.dtype.numpy)
            elif isinstance(e, Cast):
                values[e] = values[e.x].astype(e.dtype.numpy)
            elif isinstance(e, Fn):
                inputs = [values[a] for a in e.args]
                use = fused if e.name == "fma" and fma else SCALAR_FUNCTIONS[e.name].numpy
                values[e] = np.asarray(use(*inputs))
                assert values[e].dtype == e.dtype.numpy, e.name
    return np.broadcast_to(values[root], arguments[0].shape)


def expansion(name: str) -> Expr:
    """The expansion of a function of INPUTS."""
    return FUNCTIONS[name](*INPUTS[: SCALAR_FUNCTIONS[name].arity])


def ulps(got: Array, exact: Array) -> Array:
    """Errors in float32 ulps of the float64 results; infinite where NaN or infinity differ."""
    with np.errstate(all="ignore"):
        wanted = exact.astype(np.float32)
        _, exponent = np.frexp(exact)
        error = np.abs(got.astype(np.float64) - exact) / np.exp2(np.maximum(exponent, -125) - 24.0)
    special = ~np.isfinite(wanted) | ~np.isfinite(got)
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    return np.where(special, np.where(same, 0.0, np.inf), error)


def same_bits(got: Array, wanted: Array) -> Array:
    """Equal patterns, or both NaN."""
    return np.where(np.isnan(wanted), np.isnan(got), got.view(np.int32) == wanted.view(np.int32))


def all_exponents(count: int) -> Array:
    """About `count` float32 of all bit patterns: both signs, NaN, infinities and subnormals."""
    stride = (1 << 32) // count | 1
    return np.arange(0, 1 << 32, stride, dtype=np.uint64).astype(np.uint32).view(np.float32)


def common_range(count: int) -> Array:
    """`count` float32 of magnitude 2^-10 to 2^8, dense near 1, both signs."""
    rng = np.random.default_rng(5)
    size = np.exp2(rng.uniform(-10, 8, count)).astype(np.float32)
    size[::4] = rng.uniform(0.1, 2.0, size[::4].size)
    return np.where(rng.random(count) < 0.5, size, -size).astype(np.float32)


UNARY = sorted(n for n in FUNCTIONS if SCALAR_FUNCTIONS[n].arity == 1)


@pytest.mark.parametrize("fma", [True, False], ids=["fused", "two roundings"])
@pytest.mark.parametrize("name", UNARY)
def test_unary_within_two_ulp(name: str, fma: bool) -> None:
    few = 4 if name == "erf" else 1  # its reference is one Python call for each element
    x = np.concatenate([all_exponents(60_000 // few), common_range(120_000 // few)])
    with np.errstate(all="ignore"):
        exact = reference(name)(x.astype(np.float64))
    error = ulps(evaluate(expansion(name), x, fma=fma), exact)
    worst = int(np.argmax(error))
    assert error[worst] <= 2.0, f"{name}({x[worst]!r})"


INF, NAN, TINY = math.inf, math.nan, 2.0**-149
ZEROS = ((0.0, 0.0), (-0.0, -0.0))
ODD = (*ZEROS, (TINY, TINY), (-TINY, -TINY))

# Arguments with exact results: limits, ends of domains, signed zeros, powers of the base.
SPECIAL: dict[str, tuple[tuple[float, float], ...]] = {
    "exp": (
        (INF, INF), (-INF, 0.0), (0.0, 1.0), (-0.0, 1.0), (1e30, INF), (-1e30, 0.0), (89.0, INF),
        (-104.5, 0.0),
    ),
    "exp2": (
        (INF, INF), (-INF, 0.0), (3.0, 8.0), (-149.0, TINY), (128.0, INF), (-150.5, 0.0),
        (127.0, 2.0**127), (-126.0, 2.0**-126),
    ),
    "expm1": (*ODD, (INF, INF), (-INF, -1.0), (89.0, INF), (-50.0, -1.0)),
    "tanh": (*ODD, (INF, 1.0), (-INF, -1.0), (30.0, 1.0)),
    "erf": (*ZEROS, (TINY, TINY), (-TINY, -TINY), (INF, 1.0), (-INF, -1.0), (10.0, 1.0)),
    "log": (
        (INF, INF), (-INF, NAN), (0.0, -INF), (-0.0, -INF), (1.0, 0.0), (-TINY, NAN), (-1.0, NAN),
    ),
    "log2": (
        (INF, INF), (-INF, NAN), (0.0, -INF), (-0.0, -INF), (1.0, 0.0), (8.0, 3.0), (TINY, -149.0),
        (2.0**127, 127.0), (-2.0, NAN),
    ),
    "log10": ((INF, INF), (-INF, NAN), (0.0, -INF), (-0.0, -INF), (1.0, 0.0), (-2.0, NAN)),
    "log1p": (*ODD, (INF, INF), (-INF, NAN), (-1.0, -INF), (-1.5, NAN)),
    "sin": (*ODD, (INF, NAN), (-INF, NAN)),
    "cos": ((INF, NAN), (-INF, NAN), (0.0, 1.0), (-0.0, 1.0), (TINY, 1.0)),
    "tan": (*ODD, (INF, NAN), (-INF, NAN)),
    "asin": (*ODD, (1.0, math.pi / 2), (-1.0, -math.pi / 2), (1.5, NAN), (-INF, NAN)),
    "acos": (
        (1.0, 0.0), (-1.0, math.pi), (0.0, math.pi / 2), (-0.0, math.pi / 2), (-1.5, NAN),
        (INF, NAN),
    ),
    "atan": (*ODD, (INF, math.pi / 2), (-INF, -math.pi / 2), (3e38, math.pi / 2)),
    "sinh": (*ODD, (INF, INF), (-INF, -INF), (100.0, INF), (-1e30, -INF)),
    "cosh": ((INF, INF), (-INF, INF), (0.0, 1.0), (-0.0, 1.0), (-100.0, INF)),
    "asinh": (*ODD, (INF, INF), (-INF, -INF)),
    "acosh": ((INF, INF), (-INF, NAN), (1.0, 0.0), (0.5, NAN), (-2.0, NAN)),
    "atanh": (*ODD, (1.0, INF), (-1.0, -INF), (1.5, NAN), (-INF, NAN)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_special_values(name: str) -> None:
    x, wanted = np.array([*SPECIAL[name], (math.nan, math.nan)], np.float32).T.copy()
    for fma in (True, False):
        got = evaluate(expansion(name), x, fma=fma)
        same = same_bits(got, wanted)
        assert same.all(), list(zip(x[~same], got[~same], wanted[~same], strict=True))


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_results_stay_in_range(name: str) -> None:
    x = common_range(200_000)
    for fma in (True, False):
        got = evaluate(expansion(name), x, fma=fma)
        assert np.abs(got).max() == 1.0


# The float32 nearest to multiples of pi/2 in several binades, and arguments at the change between
# the two reductions.
HARD_ANGLES = (
    16367173.0 * 2.0**72, 10240507.0, 2.5510297e34, 1.1763866e25, 5.7095327e15, 1647099.25,
    5999.9995, 6000.0, 6000.0005, 6433.98, math.pi, math.pi / 2, math.pi / 4, 1.5 * math.pi, 22.0,
    3.4028235e38, 355.0, 103993.0,
)  # fmt: skip


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_hard_angles(name: str) -> None:
    x = np.array(HARD_ANGLES, np.float32)
    around = (x.view(np.int32)[:, None] + np.arange(-40, 40, dtype=np.int32)).ravel()
    x = around.view(np.float32)
    x = np.concatenate([x, -x])[np.isfinite(np.concatenate([x, x]))]
    for fma in (True, False):
        error = ulps(evaluate(expansion(name), x, fma=fma), reference(name)(x.astype(np.float64)))
        assert error.max() <= 2.0, x[np.argmax(error)]


def pow_arguments(count: int) -> tuple[Array, Array]:
    """Random bits; results in range; bases near one; small integers."""
    rng = np.random.default_rng(9)
    bits = rng.integers(0, 1 << 32, (2, count), dtype=np.uint32).view(np.float32)
    target = rng.uniform(-151, 129, count)
    near = (1 + rng.uniform(-0.5, 1, count) * np.exp2(-rng.uniform(0, 23, count))).astype(
        np.float32
    )
    size = np.abs(bits[0])
    with np.errstate(all="ignore"):
        for_size = (target / np.log2(size.astype(np.float64))).astype(np.float32)
        for_near = (target / np.log2(near.astype(np.float64))).astype(np.float32)
    whole = rng.integers(-30, 30, (2, count)).astype(np.float32)
    x = np.concatenate([bits[0], size, near, whole[0], bits[0]])
    y = np.concatenate([bits[1], for_size, for_near, whole[1], np.rint(for_size)])
    return x, y.astype(np.float32)


@pytest.mark.parametrize("fma", [True, False], ids=["fused", "two roundings"])
def test_pow_within_two_ulp(fma: bool) -> None:
    x, y = pow_arguments(25_000)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
    error = ulps(evaluate(expansion("pow"), x, y, fma=fma), exact)
    worst = int(np.argmax(error))
    assert error[worst] <= 2.0, (x[worst], y[worst])


EDGES = (
    0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 1.5, -1.5,
    1e-45, -1e-45, 3.4028235e38, -3.4028235e38, 16777215.0, 16777216.0, -16777217.0, 0.99999994,
    1.0000001, -0.99999994, 8388607.5,
)  # fmt: skip


def test_pow_special_cases() -> None:
    pairs = np.array(list(itertools.product(EDGES, EDGES)), np.float32)
    x, y = np.ascontiguousarray(pairs.T)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
        wanted = exact.astype(np.float32)
    for fma in (True, False):
        got = evaluate(expansion("pow"), x, y, fma=fma)
        edge = ~np.isfinite(wanted) | (wanted == 0) | (np.abs(wanted) == 1)
        # 0.99999994 to a large power and its like are neither limits nor exact
        edge &= (
            (exact == wanted)
            | ~np.isfinite(exact)
            | (np.abs(exact) > 1e39)
            | (np.abs(exact) < 1e-46)
        )
        bad = edge & ~same_bits(got, wanted)
        assert not bad.any(), list(zip(x[bad], y[bad], got[bad], wanted[bad], strict=True))
        assert ulps(got, exact).max() <= 2.0


def test_pow_is_exact_where_the_result_is() -> None:
    x, y = (a.ravel().astype(np.float32) for a in np.meshgrid(np.arange(-20, 21), np.arange(0, 6)))
    exact = np.power(x.astype(np.float64), y.astype(np.float64))
    for fma in (True, False):
        assert (evaluate(expansion("pow"), x, y, fma=fma) == exact).all()


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, 4.0, -1.0, 0.5, -0.5])
def test_pow_of_constant_exponent(exponent: float) -> None:
    short = power_of_constant(INPUTS[0], exponent)
    assert short is not None
    assert FUNCTIONS["pow"](INPUTS[0], const(exponent, float32)) is short
    x = np.concatenate([all_exponents(20_000), common_range(20_000), np.array(EDGES, np.float32)])
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), np.full(x.size, exponent))
        wanted = exact.astype(np.float32)
    got = evaluate(short, x, fma=False)
    assert ulps(got, exact).max() <= 2.0
    limits = (wanted == 0) | np.isinf(x)
    assert same_bits(got, wanted)[limits].all()


def test_pow_of_other_constants_is_general() -> None:
    assert power_of_constant(INPUTS[0], 2.5) is None


@pytest.mark.parametrize("fma", [True, False], ids=["fused", "two roundings"])
def test_atan2_within_two_ulp(fma: bool) -> None:
    rng = np.random.default_rng(11)
    bits = rng.integers(0, 1 << 32, (2, 60_000), dtype=np.uint32).view(np.float32)
    y = np.concatenate([bits[0], common_range(60_000)])
    x = np.concatenate([bits[1], common_range(60_000)[::-1]])
    with np.errstate(invalid="ignore"):
        exact = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    error = ulps(evaluate(expansion("atan2"), y, x, fma=fma), exact)
    assert error.max() <= 2.0, (y[np.argmax(error)], x[np.argmax(error)])


def test_atan2_special_cases() -> None:
    pairs = np.array(list(itertools.product(EDGES, EDGES)), np.float32)
    y, x = np.ascontiguousarray(pairs.T)
    exact = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    got = evaluate(expansion("atan2"), y, x, fma=False)
    assert ulps(got, exact).max() <= 2.0
    zero = exact == 0
    assert (np.signbit(got) == np.signbit(exact))[~np.isnan(exact)].all()
    assert (got[zero] == 0).all()


def test_only_primitive_functions_remain() -> None:
    for name in FUNCTIONS:
        left = {e.name for e in walk([expansion(name)]) if isinstance(e, Fn)}
        assert not left & set(FUNCTIONS), name


# Operations but negation, which is part of the next one; a clamp is two. The hot loops of a GeLU,
# a softmax or a sigmoid spend their time here: a larger number is a slower product, unless it
# shortens the chain of operations that wait for each other.
OPERATIONS = {"exp": 20, "tanh": 21, "erf": 26}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_counts(name: str) -> None:
    nodes = walk([expansion(name)])
    count = sum(isinstance(e, Cast) or (isinstance(e, Fn) and e.name != "neg") for e in nodes)
    assert count <= OPERATIONS[name]


# --- the rewriting of kernels --------------------------------------------------------------------


def kernel_of(value: Callable[[Expr], Expr], dtype: Any = float32) -> Kernel:
    """out[i] = value(in[i]) over 8 elements."""
    source, out = Param(0, dtype, 8, False), Param(1, dtype, 8, True)
    i = Range("i", 8)
    return Kernel(
        "k", (source, out), (Store(out, (i,), i, value(Load(source, i, None)), None, None),)
    )


def names(kernel: Kernel) -> set[str]:
    """Names of the scalar functions in a kernel."""
    return {e.name for e in walk(kernel.stores) if isinstance(e, Fn)}


def test_nothing_to_do_gives_the_same_kernel() -> None:
    kernel = kernel_of(lambda x: x * x + 1.0)
    assert expand(kernel, lambda name, dtype: False) is kernel
    kernel = kernel_of(lambda x: fn("exp", x))
    assert expand(kernel, lambda name, dtype: True) is kernel


def test_native_functions_stay() -> None:
    kernel = expand(
        kernel_of(lambda x: fn("exp", x) + fn("tanh", x)), lambda name, _: name == "exp"
    )
    assert "exp" in names(kernel)
    assert "tanh" not in names(kernel)


def test_functions_inside_reductions_and_gates_are_expanded() -> None:
    j = Range("j", 4)
    source, out = Param(0, float32, 32, False), Param(1, float32, 8, True)
    i = Range("i", 8)
    total = Reduce("add", (j,), fn("exp", fn("sin", Load(source, i * 4 + j, None))))
    gate = fn("lt", fn("cos", Load(source, i, None)), const(0.5, float32))
    kernel = Kernel("k", (source, out), (Store(out, (i,), i, fn("log", total), gate, None),))
    expanded = expand(kernel, lambda name, dtype: False)
    assert not names(expanded) & set(FUNCTIONS)
    assert expanded.params is kernel.params
    assert expanded.stores[0].gate is not gate
    assert any(isinstance(e, Reduce) and e.ranges == (j,) for e in walk(expanded.stores))


def test_float64_is_left_to_the_target() -> None:
    kernel = kernel_of(lambda x: fn("exp", x), float64)
    assert expand(kernel, lambda name, dtype: dtype is float64) is kernel
    with pytest.raises(UnsupportedDtype) as caught:
        expand(kernel, lambda name, dtype: False)
    assert caught.value.asked == "exp"
    assert caught.value.received == "float64"


def test_shared_arguments_are_expanded_once() -> None:
    x = INPUTS[0]
    memo: dict[Any, Any] = {}
    both = expand_expression(fn("sin", x) + fn("cos", x), lambda *_: False, memo)
    single = expand_expression(fn("sin", x), lambda *_: False, memo)
    size = {e: len([n for n in walk([e]) if isinstance(n, Fn)]) for e in (both, single)}
    assert size[both] < size[single] + 12  # one reduction, one pair of polynomials


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_rare_case(name: str) -> None:
    found = rare_case(expansion(name))
    assert found is not None
    condition, value = found
    assert condition.dtype is bool_
    x = common_range(20_000) * np.float32(50)
    rare = evaluate(condition, x, fma=True)
    assert rare.any()
    assert not rare[np.abs(x) < 6000].any()
    whole, part = evaluate(expansion(name), x, fma=True), evaluate(value, x, fma=True)
    assert (whole == part)[~rare].all()
    nodes = [sum(1 for _ in walk([e])) for e in (value, expansion(name))]
    assert nodes[0] * 2 < nodes[1]


def test_nested_rare_cases() -> None:
    twice = FUNCTIONS["sin"](FUNCTIONS["sin"](INPUTS[0]))
    found = rare_case(twice)
    assert found is not None
    x = common_range(20_000) * np.float32(50)
    rare = evaluate(found[0], x, fma=True)
    assert (evaluate(twice, x, fma=True) == evaluate(found[1], x, fma=True))[~rare].all()


def test_no_rare_case() -> None:
    assert rare_case(expansion("exp")) is None


def test_casts_of_halves_pass_through() -> None:
    from niello.core.dtypes import float16

    kernel = kernel_of(lambda x: cast(fn("exp", cast(x, float32)), float16), float16)
    assert not names(expand(kernel, lambda name, dtype: False)) & set(FUNCTIONS)
