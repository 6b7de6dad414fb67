"""Scalar functions as LLVM instructions, for scalars and vectors alike.

A handler takes the function under construction, the dtype of the arguments and their values (all
of one shape) and returns the value of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from niello.backends.cpu.jit import CpuTarget
from niello.backends.cpu.llvm_text import (
    Function,
    Value,
    constant,
    element_type,
    lanes,
    mangle,
)
from niello.backends.cpu.render_types import has_rounding
from niello.core.dtypes import DType, bool_
from niello.core.errors import CompilerBug

Handler = Callable[[Function, DType, list[Value]], Value]

SCALED_IN_ONE = "<16 x float>"  # vectors that AVX-512 scales by powers of two in one instruction


def emit_function(
    f: Function, target: CpuTarget, name: str, dtype: DType, args: list[Value]
) -> Value:
    """The scalar function `name` of arguments of `dtype` (divisions of integers excepted)."""
    if name == "where":
        return f.select(*args)
    if name in _ROUNDING and not has_rounding(target):
        return _round_by_hand(f, name, dtype, args[0])
    if name == "scalb" and args[0].type == SCALED_IN_ONE and target.has("avx512f"):
        return scalb_in_one(f, args)
    handler = _HANDLERS.get(name)
    if handler is None:
        return call_library(f, name, dtype, args)
    return handler(f, dtype, args)


def _arithmetic(name: str) -> Handler:
    def handler(f: Function, dtype: DType, args: list[Value]) -> Value:
        a, b = args
        result: Value = getattr(f, "f" + name if dtype.is_float else name)(a, b)
        return result

    return handler


def _neg(f: Function, dtype: DType, args: list[Value]) -> Value:
    x = args[0]
    return f.fneg(x) if dtype.is_float else f.sub(constant(0, x.type), x)


def _abs(f: Function, dtype: DType, args: list[Value]) -> Value:
    x = args[0]
    if dtype.is_float:
        return f.intrinsic("llvm.fabs", x.type, [x])
    if dtype.kind == "uint":
        return x
    return f.smax(x, f.sub(constant(0, x.type), x))


def _fma(f: Function, dtype: DType, args: list[Value]) -> Value:
    return f.multiply_add(*args)


def _not_nan(x: Value) -> bool:
    """Whether a value is a constant, and that not NaN."""
    return "%" not in x.text and "0x7FF8" not in x.text


def _minmax(name: str) -> Handler:
    less = "olt" if name == "min" else "ogt"

    def handler(f: Function, dtype: DType, args: list[Value]) -> Value:
        a, b = args
        if dtype.is_float:
            if _not_nan(b):
                a, b = b, a
            # False for NaN, so a NaN in b is chosen; one in a has to be put back.
            chosen = f.select(f.fcmp(less, a, b), a, b)
            return chosen if _not_nan(a) else f.select(f.fcmp("uno", a, a), a, chosen)
        if dtype is bool_:
            return f.and_(a, b) if name == "min" else f.or_(a, b)
        result: Value = getattr(f, ("s" if dtype.kind == "int" else "u") + name)(a, b)
        return result

    return handler


def _intrinsic(name: str) -> Handler:
    def handler(f: Function, dtype: DType, args: list[Value]) -> Value:
        return f.intrinsic(name, args[0].type, args)

    return handler


def _compare(name: str) -> Handler:
    ordered = {"lt": "olt", "le": "ole", "eq": "oeq", "ne": "une"}[name]
    equality = name in ("eq", "ne")

    def handler(f: Function, dtype: DType, args: list[Value]) -> Value:
        if dtype.is_float:
            return f.fcmp(ordered, *args)
        sign = "" if equality else "s" if dtype.kind == "int" else "u"
        return f.icmp(sign + name, *args)

    return handler


def _bitwise(name: str) -> Handler:
    def handler(f: Function, dtype: DType, args: list[Value]) -> Value:
        result: Value = getattr(f, name)(*args)
        return result

    return handler


def _not(f: Function, dtype: DType, args: list[Value]) -> Value:
    return f.xor(args[0], constant(1 if dtype is bool_ else -1, args[0].type))


def _shift(left: bool) -> Handler:
    def handler(f: Function, dtype: DType, args: list[Value]) -> Value:
        a, b = args
        operation = f.shl if left else f.ashr if dtype.kind == "int" else f.lshr
        if b.const is not None and 0 <= b.const < dtype.bits:
            return operation(a, b)
        # Amounts outside the width are undefined in LLVM; ours give 0, or the sign.
        inside = f.icmp("ult", b, constant(dtype.bits, b.type))
        if not left and dtype.kind == "int":
            return operation(a, f.select(inside, b, constant(dtype.bits - 1, b.type)))
        zero = constant(0, b.type)
        return f.select(inside, operation(a, f.select(inside, b, zero)), zero)

    return handler


def _mulhi(f: Function, dtype: DType, args: list[Value]) -> Value:
    a, b = (f.cast("zext", x, "i64") for x in args)
    high = f.lshr(f.mul(a, b), constant(32, a.type))
    return f.cast("trunc", high, "i32")


def _float_truncmod(f: Function, dtype: DType, args: list[Value]) -> Value:
    return f.frem(args[0], args[1])


def _round_by_hand(f: Function, name: str, dtype: DType, x: Value) -> Value:
    """floor, ceil, trunc and rint without an instruction: through the integers that are exact."""
    bits = 23 if dtype.bits == 32 else 52
    magic = constant(float(2**bits), x.type)
    size = f.intrinsic("llvm.fabs", x.type, [x])
    whole = f.fsub(f.fadd(size, magic, ""), magic, "")
    if name != "rint":
        over = f.fcmp("ogt", whole, size)
        whole = f.select(over, f.fsub(whole, constant(1.0, x.type), ""), whole)
    whole = f.intrinsic("llvm.copysign", x.type, [whole, x])
    if name in ("floor", "ceil"):
        test, step = ("ogt", -1.0) if name == "floor" else ("olt", 1.0)
        moved = f.fadd(whole, constant(step, x.type), "")
        moved = f.select(f.fcmp(test, whole, x), moved, whole)
        whole = f.intrinsic("llvm.copysign", x.type, [moved, x])
    return f.select(f.fcmp("olt", size, magic), whole, x)


def divide(f: Function, name: str, dtype: DType, a: Value, b: Value, *, plain: bool) -> Value:
    """Integer truncdiv, truncmod, floordiv or floormod; by zero gives 0.

    `plain` says that a is not negative and b is positive.
    """
    remainder = name.endswith("mod")
    if plain or dtype.kind == "uint":
        safe = b if plain else _nonzero(f, b)
        result = f.urem(a, safe) if remainder else f.udiv(a, safe)
        return result if plain else _zero_where_zero(f, b, result)
    if b.const is not None and b.const > 0:
        return _signed_divide(f, name, a, b)
    # The one overflow, the lowest number by -1, is undefined in LLVM: divide by 1 and negate.
    minus = f.icmp("eq", b, constant(-1, b.type))
    safe = f.select(minus, constant(1, b.type), _nonzero(f, b))
    result = _signed_divide(f, name, a, safe)
    if not remainder:
        result = f.select(minus, f.sub(constant(0, a.type), result), result)
    return _zero_where_zero(f, b, result)


def _nonzero(f: Function, b: Value) -> Value:
    return f.select(f.icmp("eq", b, constant(0, b.type)), constant(1, b.type), b)


def _zero_where_zero(f: Function, b: Value, result: Value) -> Value:
    return f.select(f.icmp("eq", b, constant(0, b.type)), constant(0, b.type), result)


def _signed_divide(f: Function, name: str, a: Value, b: Value) -> Value:
    if name == "truncdiv":
        return f.sdiv(a, b)
    rest = f.srem(a, b)
    if name == "truncmod":
        return rest
    zero = constant(0, a.type)
    # Rounds toward minus infinity: one lower where the remainder has the other sign.
    differs = f.icmp("slt", f.xor(rest, b), zero)
    wrong = f.and_(f.icmp("ne", rest, zero), differs)
    if name == "floormod":
        return f.select(wrong, f.add(rest, b), rest)
    quotient = f.sdiv(a, b)
    return f.select(wrong, f.sub(quotient, constant(1, a.type)), quotient)


def float_floor_divide(
    f: Function, target: CpuTarget, name: str, dtype: DType, a: Value, b: Value
) -> Value:
    """floordiv of floats, floor(a / b), or floormod, a - floor(a / b) * b with 0 for b = 0."""
    quotient = emit_function(f, target, "floor", dtype, [f.fdiv(a, b)])
    if name == "floordiv":
        return quotient
    rest = f.fsub(a, f.fmul(quotient, b))
    zero = constant(0.0, a.type)
    return f.select(f.fcmp("oeq", b, zero), zero, rest)


# --- what only the C library knows ----------------------------------------------------------------

LIBRARY_FUNCTIONS = frozenset((
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "sin", "cos", "tan", "asin",
    "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf",
))  # fmt: skip


def call_library(f: Function, name: str, dtype: DType, args: list[Value]) -> Value:
    """The C library's function, lane by lane."""
    if name not in LIBRARY_FUNCTIONS:
        raise CompilerBug("cpu renderer", "no such scalar function", received=name)
    symbol = name + ("f" if dtype.bits == 32 else "")
    whole = args[0].type
    element = element_type(whole)
    if lanes(whole) == 1:
        return f.call(symbol, element, args)
    result = Value("poison", whole)
    for lane in range(lanes(whole)):
        one = f.call(symbol, element, [f.extract(a, lane) for a in args])
        result = f.insert(result, one, lane)
    return result


def _scalb(f: Function, dtype: DType, args: list[Value]) -> Value:
    """x * 2^n through the library, lane by lane."""
    x, n = args
    integers = n.type.replace(element_type(n.type), "i32")
    kind, whole = mangle(x.type), mangle(integers)
    power = f.call(f"llvm.fptosi.sat.{whole}.{kind}", integers, [n])
    return f.call(f"llvm.ldexp.{kind}.{whole}", x.type, [x, power])


def scalb_in_one(f: Function, args: Sequence[Value]) -> Value:
    """The same for 16 lanes of float with AVX-512: vscalefps."""
    all_lanes, current_rounding = Value("-1", "i16"), Value("4", "i32")
    operands = [*args, Value("zeroinitializer", args[0].type), all_lanes, current_rounding]
    return f.call("llvm.x86.avx512.mask.scalef.ps.512", args[0].type, operands)


_ROUNDING = ("floor", "ceil", "trunc", "rint")

_HANDLERS: dict[str, Handler] = {
    **{name: _arithmetic(name) for name in ("add", "sub", "mul", "div")},
    **{name: _compare(name) for name in ("lt", "le", "eq", "ne")},
    **{name: _intrinsic(f"llvm.{name}") for name in ("sqrt", "copysign", *_ROUNDING)},
    "neg": _neg,
    "abs": _abs,
    "fma": _fma,
    "scalb": _scalb,
    "min": _minmax("min"),
    "max": _minmax("max"),
    "truncmod": _float_truncmod,
    "and": _bitwise("and_"),
    "or": _bitwise("or_"),
    "xor": _bitwise("xor"),
    "not": _not,
    "shl": _shift(True),
    "shr": _shift(False),
    "popcount": _intrinsic("llvm.ctpop"),
    "mulhi": _mulhi,
}
