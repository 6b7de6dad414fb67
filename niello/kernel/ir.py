"""The kernel language, on one page.

    Kernel  = name  params: Param*  stores: Store*
    Param   = slot  dtype  elements  written: bool
    Store   = param  ranges: Range*  index: Expr  value: Expr  gate: Expr?  combine: str?
    Expr    = Const(value, dtype)
            | Range(name, extent)                            int64, 0 <= r < extent
            | Load(param, index, gate?)                      element, or 0 where the gate is false
            | Fn(name, args)                                 a scalar function (SCALAR_FUNCTIONS)
            | Cast(x, dtype) | Bitcast(x, dtype)             value / bit pattern
            | Reduce(op, ranges, body)                       add mul min max and or xor over ranges
            | ArgReduce(op, ranges, body)                    int64 position of the first min / max
            | Contract(ranges, a, b, dtype)                  sum of a * b over ranges, in dtype

A kernel says what is computed, never in which order: a Store holds for every point of its ranges,
and stores of one kernel may run in any order or at once. Stores over the same Range nodes share
subexpressions, and at each point all their values are evaluated before any of them is stored: they
may read (Load), at that point, what they overwrite. Reduce,
ArgReduce and Contract bind their ranges. Indices are int64 element offsets into a flat buffer.
`combine` ("add", "min", ...) accumulates into the buffer instead of overwriting: several points
may then hit one element (scatter); they combine in row-major order of the ranges.

Floating point is IEEE 754: nothing here may be reassociated except the terms of a Reduce or
Contract. `min` and `max` propagate NaN. Reductions over an empty range give the identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from niello.core import dtypes
from niello.core.dtypes import DType, bool_, int64
from niello.core.errors import CompilerBug
from niello.core.nodes import Node, transform, walk


class Expr(Node):
    """A scalar value that depends on ranges. `dtype` is the type of its elements."""

    __slots__ = ()
    dtype: DType

    # Arithmetic sugar for index expressions and op lowerings. Python numbers take the dtype of the
    # other side. `==` stays identity; use `.eq(x)`.
    def __add__(self, other: Any) -> Expr:
        return fn("add", self, other)

    def __radd__(self, other: Any) -> Expr:
        return fn("add", other, self)

    def __sub__(self, other: Any) -> Expr:
        return fn("sub", self, other)

    def __rsub__(self, other: Any) -> Expr:
        return fn("sub", other, self)

    def __mul__(self, other: Any) -> Expr:
        return fn("mul", self, other)

    def __rmul__(self, other: Any) -> Expr:
        return fn("mul", other, self)

    def __truediv__(self, other: Any) -> Expr:
        return fn("div", self, other)

    def __rtruediv__(self, other: Any) -> Expr:
        return fn("div", other, self)

    def __floordiv__(self, other: Any) -> Expr:
        return fn("floordiv", self, other)

    def __mod__(self, other: Any) -> Expr:
        return fn("floormod", self, other)

    def __neg__(self) -> Expr:
        return fn("neg", self)

    def __and__(self, other: Any) -> Expr:
        return fn("and", self, other)

    def __or__(self, other: Any) -> Expr:
        return fn("or", self, other)

    def __xor__(self, other: Any) -> Expr:
        return fn("xor", self, other)

    def __lshift__(self, other: Any) -> Expr:
        return fn("shl", self, other)

    def __rshift__(self, other: Any) -> Expr:
        return fn("shr", self, other)

    def __lt__(self, other: Any) -> Expr:
        return fn("lt", self, other)

    def __le__(self, other: Any) -> Expr:
        return fn("le", self, other)

    def __gt__(self, other: Any) -> Expr:
        return fn("lt", other, self)

    def __ge__(self, other: Any) -> Expr:
        return fn("le", other, self)

    def eq(self, other: Any) -> Expr:
        return fn("eq", self, other)

    def ne(self, other: Any) -> Expr:
        return fn("ne", self, other)

    __hash__ = object.__hash__


class Const(Expr):
    """A literal of `dtype`. Half-type constants do not exist in expressions: use float32."""

    __slots__ = ("dtype", "value")
    value: Any
    dtype: DType
    fields = ("value", "dtype")

    @classmethod
    def intern_key(cls, value: Any, dtype: DType) -> tuple[Any, ...]:
        # 0.0 == -0.0 == False and nan != nan: key on the exact bits instead.
        if dtype.is_float:
            exact = "nan" if value != value else float(value).hex()
            return (cls, exact, dtype)
        return (cls, int(value), dtype)


class Param(Node):
    """A buffer argument of a kernel: `elements` of `dtype`, at position `slot` of the call."""

    __slots__ = ("dtype", "elements", "slot", "written")
    slot: int
    dtype: DType
    elements: int
    written: bool
    fields = ("slot", "dtype", "elements", "written")


class Range(Expr):
    """An iteration variable from 0 to `extent` - 1. Equal names are the same variable."""

    __slots__ = ("extent", "name")
    name: str
    extent: int
    fields = ("name", "extent")
    dtype = int64


class Load(Expr):
    """Element `index` of a buffer; zero, without touching memory, where `gate` is false."""

    __slots__ = ("gate", "index", "param")
    param: Param
    index: Expr
    gate: Expr | None
    fields = ("param", "index", "gate")

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.param.dtype


class Fn(Expr):
    """A scalar function of SCALAR_FUNCTIONS applied to `args`. Build with `fn(name, *args)`."""

    __slots__ = ("args", "dtype", "name")
    name: str
    args: tuple[Expr, ...]
    dtype: DType
    fields = ("name", "args", "dtype")


class Cast(Expr):
    """Value conversion: float to integer truncates toward zero; anything to bool is `!= 0`.

    A float outside int32, int64 or uint64 saturates and NaN gives 0; narrower integers (uint32) are
    reached through int32 (int64) and wrap.
    """

    __slots__ = ("dtype", "x")
    x: Expr
    dtype: DType
    fields = ("x", "dtype")


class Bitcast(Expr):
    """The same bits seen as another dtype of the same width."""

    __slots__ = ("dtype", "x")
    x: Expr
    dtype: DType
    fields = ("x", "dtype")


class Reduce(Expr):
    """`op` over all points of `ranges` of `body`. The accumulator has the dtype of the body."""

    __slots__ = ("body", "op", "ranges")
    op: str
    ranges: tuple[Range, ...]
    body: Expr
    fields = ("op", "ranges", "body")

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.body.dtype


class ArgReduce(Expr):
    """Row-major position over `ranges` of the first `min` or `max` of `body`; NaN wins."""

    __slots__ = ("body", "op", "ranges")
    op: str
    ranges: tuple[Range, ...]
    body: Expr
    fields = ("op", "ranges", "body")
    dtype = int64


class Contract(Expr):
    """Sum over `ranges` of `a * b`, multiplied and accumulated in `dtype`."""

    __slots__ = ("a", "b", "dtype", "ranges")
    ranges: tuple[Range, ...]
    a: Expr
    b: Expr
    dtype: DType
    fields = ("ranges", "a", "b", "dtype")


class Store(Node):
    """For every point of `ranges` (row-major), buffer[index] = value, where `gate` holds."""

    __slots__ = ("combine", "gate", "index", "param", "ranges", "value")
    param: Param
    ranges: tuple[Range, ...]
    index: Expr
    value: Expr
    gate: Expr | None
    combine: str | None
    fields = ("param", "ranges", "index", "value", "gate", "combine")


@dataclass(frozen=True)
class Kernel:
    """Stores over shared buffers, launched as one. `params[i].slot == i`."""

    name: str
    params: tuple[Param, ...]
    stores: tuple[Store, ...]

    @property
    def structure(self) -> tuple[object, ...]:
        """Everything but the name."""
        return (self.params, self.stores)


REDUCE_OPS = ("add", "mul", "min", "max", "and", "or", "xor")


def reduce_identity(op: str, dtype: DType) -> Any:
    """The value of a reduction over nothing."""
    if op == "add" or op == "or" or op == "xor":
        return 0
    if op == "mul":
        return 1
    if op == "and":
        return 1 if dtype is bool_ else -1 if dtype.kind == "int" else dtype.max
    if dtype.is_float:
        return math.inf if op == "min" else -math.inf
    return dtype.max if op == "min" else dtype.min


# --- scalar functions: the whole vocabulary a renderer must know ------------------------------

Numpy = Callable[..., Any]


@dataclass(frozen=True)
class ScalarFunction:
    """A scalar function: number of arguments, kinds it takes, rule of its result, NumPy meaning.

    `result` is "same" (as the arguments), "bool", or "where" (as the second argument).
    """

    arity: int
    kinds: tuple[str, ...]
    result: str
    numpy: Numpy


_FLOAT = ("float",)
_INT = ("int", "uint")
_NUM = ("int", "uint", "float")
_BITS = ("bool", "int", "uint")
_ANY = ("bool", "int", "uint", "float")


def _np_truncdiv(a: Any, b: Any) -> Any:
    safe = np.where(b == 0, np.ones_like(b), b)
    q = a // safe
    # Toward zero where floor division went below it; not by abs: the smallest integer has none.
    q = np.where((q * safe != a) & ((a < 0) != (safe < 0)), q + 1, q)
    return np.where(b == 0, np.zeros_like(q), q).astype(np.result_type(a))


def _np_truncmod(a: Any, b: Any) -> Any:
    if np.issubdtype(np.result_type(a), np.floating):
        return np.fmod(a, b)
    return np.where(b == 0, 0, a - _np_truncdiv(a, b) * b).astype(np.result_type(a))


def _np_floordiv(a: Any, b: Any) -> Any:
    if np.issubdtype(np.result_type(a), np.floating):
        return np.floor(a / b)
    safe = np.where(b == 0, np.ones_like(b), b)
    return np.where(b == 0, np.zeros_like(safe), a // safe)


def _np_floormod(a: Any, b: Any) -> Any:
    if np.issubdtype(np.result_type(a), np.floating):
        return np.where(b == 0, np.zeros_like(a), a - np.floor(a / b) * b)
    safe = np.where(b == 0, np.ones_like(b), b)
    return np.where(b == 0, np.zeros_like(safe), a % safe)


def _np_shift(left: bool) -> Numpy:
    def shift(a: Any, b: Any) -> Any:
        # A shift by the width or more (or a negative one) gives 0, or the sign for `shr`.
        bits = np.result_type(a).itemsize * 8
        inside = (b >= 0) & (b < bits)
        amount = np.where(inside, b, 0).astype(np.result_type(a))
        shifted = np.left_shift(a, amount) if left else np.right_shift(a, amount)
        outside = np.zeros_like(shifted) if left else np.where(a < 0, -1, 0).astype(shifted.dtype)
        return np.where(inside, shifted, outside)

    return shift


def _np_popcount(x: Any) -> Any:
    # bitwise_count takes the absolute value of signed integers.
    kind = np.result_type(x)
    return np.bitwise_count(np.asarray(x).astype(f"u{kind.itemsize}")).astype(kind)


def _np_mulhi(a: Any, b: Any) -> Any:
    wide = np.asarray(a).astype(np.uint64) * np.asarray(b).astype(np.uint64)
    return (wide >> np.uint64(32)).astype(np.uint32)


def _np_scalb(x: Any, n: Any) -> Any:
    return np.ldexp(x, np.nan_to_num(np.clip(n, -4096, 4096)).astype(np.int32))


def _np_erf(x: Any) -> Any:
    x = np.asarray(x)
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def _f(numpy: Numpy, arity: int = 1) -> ScalarFunction:
    return ScalarFunction(arity, _FLOAT, "same", numpy)


SCALAR_FUNCTIONS: dict[str, ScalarFunction] = {
    "add": ScalarFunction(2, _NUM, "same", np.add),
    "sub": ScalarFunction(2, _NUM, "same", np.subtract),
    "mul": ScalarFunction(2, _NUM, "same", np.multiply),
    "div": _f(np.divide, 2),
    "neg": ScalarFunction(1, _NUM, "same", np.negative),
    "abs": ScalarFunction(1, _NUM, "same", np.abs),
    # Integer division and remainders by zero give 0; floormod of floats by zero gives 0 too.
    "truncdiv": ScalarFunction(2, _INT, "same", _np_truncdiv),
    "truncmod": ScalarFunction(2, _NUM, "same", _np_truncmod),
    "floordiv": ScalarFunction(2, _NUM, "same", _np_floordiv),
    "floormod": ScalarFunction(2, _NUM, "same", _np_floormod),
    "fma": _f(lambda a, b, c: a * b + c, 3),  # one rounding or two: either is allowed
    "min": ScalarFunction(2, _ANY, "same", np.minimum),  # NaN in either gives NaN
    "max": ScalarFunction(2, _ANY, "same", np.maximum),
    "sqrt": _f(np.sqrt),
    "floor": _f(np.floor),
    "ceil": _f(np.ceil),
    "trunc": _f(np.trunc),
    "rint": _f(np.rint),  # half to even
    "copysign": _f(np.copysign, 2),
    # x * 2^n for finite integers n held in a float, rounded once; made by expansions for targets
    # that have it as an instruction, not by operations.
    "scalb": _f(_np_scalb, 2),
    "exp": _f(np.exp),
    "exp2": _f(np.exp2),
    "expm1": _f(np.expm1),
    "log": _f(np.log),
    "log2": _f(np.log2),
    "log10": _f(np.log10),
    "log1p": _f(np.log1p),
    "pow": _f(np.power, 2),
    "sin": _f(np.sin),
    "cos": _f(np.cos),
    "tan": _f(np.tan),
    "asin": _f(np.arcsin),
    "acos": _f(np.arccos),
    "atan": _f(np.arctan),
    "atan2": _f(np.arctan2, 2),
    "sinh": _f(np.sinh),
    "cosh": _f(np.cosh),
    "tanh": _f(np.tanh),
    "asinh": _f(np.arcsinh),
    "acosh": _f(np.arccosh),
    "atanh": _f(np.arctanh),
    "erf": _f(_np_erf),
    "lt": ScalarFunction(2, _ANY, "bool", np.less),
    "le": ScalarFunction(2, _ANY, "bool", np.less_equal),
    "eq": ScalarFunction(2, _ANY, "bool", np.equal),
    "ne": ScalarFunction(2, _ANY, "bool", np.not_equal),
    "and": ScalarFunction(2, _BITS, "same", np.bitwise_and),
    "or": ScalarFunction(2, _BITS, "same", np.bitwise_or),
    "xor": ScalarFunction(2, _BITS, "same", np.bitwise_xor),
    "not": ScalarFunction(1, _BITS, "same", np.invert),
    "shl": ScalarFunction(2, _INT, "same", _np_shift(True)),
    "shr": ScalarFunction(2, _INT, "same", _np_shift(False)),  # arithmetic for signed types
    "popcount": ScalarFunction(1, _INT, "same", _np_popcount),
    "mulhi": ScalarFunction(2, ("uint",), "same", _np_mulhi),  # high word of a uint32 product
    "where": ScalarFunction(3, _ANY, "where", np.where),
}


def const(value: Any, dtype: DType) -> Const:
    """A literal, converted to `dtype` (integers wrap, as NumPy's astype does)."""
    if dtype.is_float:
        value = (
            float(value)
            if dtype.bits == 64
            else float(np.asarray(value, dtypes.compute_dtype(dtype).numpy))
        )
    elif dtype is bool_:
        value = bool(value)
    else:
        span = 1 << dtype.bits
        value = int(value) % span
        if dtype.kind == "int" and value >= span // 2:
            value -= span
    return Const(value, dtype)


def fn(name: str, *args: Any) -> Expr:
    """Apply a scalar function; Python numbers become constants of the other argument's dtype.

    Folds constants and the trivial index identities (x + 0, x * 1, x * 0 on integers), so that
    lowerings need not.
    """
    spec = SCALAR_FUNCTIONS[name]
    like = next((a.dtype for a in reversed(args) if isinstance(a, Expr)), None)
    if like is None:
        raise CompilerBug(name, "a scalar function needs at least one expression", received=args)
    exprs = tuple(a if isinstance(a, Expr) else const(a, like) for a in args)
    operands = exprs[1:] if name == "where" else exprs
    dtype = operands[0].dtype
    wrong_kind = dtype.kind not in spec.kinds or dtype.is_half
    mixed = any(a.dtype is not dtype for a in operands)
    if (
        len(exprs) != spec.arity
        or wrong_kind
        or mixed
        or (name == "where" and exprs[0].dtype is not bool_)
    ):
        raise CompilerBug(
            f"kernel function {name}",
            "wrong number or types of arguments",
            received=[a.dtype.name for a in exprs],
        )
    result = bool_ if spec.result == "bool" else dtype
    folded = _fold(name, exprs, result, spec)
    return Fn(name, exprs, result) if folded is None else folded


def _fold(name: str, args: tuple[Expr, ...], result: DType, spec: ScalarFunction) -> Expr | None:
    if all(isinstance(a, Const) for a in args):
        arrays = [np.asarray(a.value, a.dtype.numpy) for a in args]  # type: ignore[attr-defined]
        with np.errstate(all="ignore"):
            return const(np.asarray(spec.numpy(*arrays)).item(), result)
    if name == "where":
        test = args[0]
        if isinstance(test, Const):
            return args[1] if test.value else args[2]
        return args[1] if args[1] is args[2] else None
    if len(args) != 2:
        return None
    a, b = args
    left = a.value if isinstance(a, Const) else None
    right = b.value if isinstance(b, Const) else None
    if result is bool_ and name in ("and", "or"):
        for known, other in ((left, b), (right, a)):
            if known is not None:
                return other if known == (name == "and") else const(name == "or", bool_)
        return a if a is b else None
    if not result.is_integer:
        return None
    if name == "add" and (left == 0 or right == 0):
        return b if left == 0 else a
    if name == "sub" and right == 0:
        return a
    if name == "mul" and (left in (0, 1) or right in (0, 1)):
        known, other = (left, b) if left in (0, 1) else (right, a)
        return other if known == 1 else const(0, result)
    if name in ("floordiv", "truncdiv") and right == 1:
        return a
    if name in ("floormod", "truncmod") and right == 1:
        return const(0, result)
    return None


def cast(x: Expr, dtype: DType) -> Expr:
    """Convert the value of `x`; nothing to do when it already has the dtype."""
    if x.dtype is dtype:
        return x
    if isinstance(x, Const) and not dtype.is_half:
        with np.errstate(all="ignore"):
            return const(cast_array(np.asarray(x.value, x.dtype.numpy), dtype).item(), dtype)
    return Cast(x, dtype)


def cast_array(x: np.ndarray, dtype: DType) -> np.ndarray:
    """What Cast means for an array."""
    if dtype is bool_:
        return np.asarray(x != 0)
    if not dtype.is_integer or x.dtype.kind in "biu":
        return x.astype(dtype.numpy, copy=False)
    if dtype.bits < 32 or dtype is dtypes.uint32:
        wide = dtypes.int64 if dtype is dtypes.uint32 else dtypes.int32
        return cast_array(x, wide).astype(dtype.numpy)
    whole = np.trunc(x.astype(np.float64))
    # The upper limits of 64 bits round up to a power of two, hence >=; NaN fails both.
    below, above = whole <= float(dtype.min), whole >= float(dtype.max)
    inside = np.where(below | above | np.isnan(whole), 0.0, whole).astype(dtype.numpy)
    limits = np.array([dtype.min, dtype.max], dtype.numpy)
    return np.where(below, limits[0], np.where(above, limits[1], inside))


def bitcast(x: Expr, dtype: DType) -> Expr:
    """Reinterpret the bits of `x`. Widths must agree."""
    if x.dtype is dtype:
        return x
    if x.dtype.bits != dtype.bits:
        raise CompilerBug("bitcast", "widths differ", received=f"{x.dtype.name} to {dtype.name}")
    return Bitcast(x, dtype)


def free_ranges(expr: Node) -> frozenset[Range]:
    """Ranges that `expr` depends on and does not bind itself."""
    cached = expr.facts.get("free")
    if cached is not None:
        return cached  # type: ignore[no-any-return]
    for node in walk([expr]):
        if "free" in node.facts:
            continue
        if isinstance(node, Range):
            found = frozenset((node,))
        else:
            found = frozenset().union(*(c.facts["free"] for c in node.children))
            if isinstance(node, (Reduce, ArgReduce, Contract, Store)):
                found -= frozenset(node.ranges)
        node.facts["free"] = found
    return expr.facts["free"]  # type: ignore[no-any-return]


def substitute(expr: Expr, mapping: dict[Node, Node]) -> Expr:
    """Replace free ranges (or other nodes) by expressions. Bound ranges must not be mapped."""
    return transform(expr, lambda n: n, dict(mapping))  # type: ignore[return-value]
