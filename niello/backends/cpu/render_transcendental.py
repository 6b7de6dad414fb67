"""Transcendental functions as LLVM functions of our own: one for each name and vector type used."""

from __future__ import annotations

from niello.backends.cpu.jit import CpuTarget
from niello.backends.cpu.llvm_text import Module, Value, element_type, mangle
from niello.backends.cpu.render_functions import SCALED_IN_ONE, call_library
from niello.codegen.transcendental import BY_SCALB, FUNCTIONS
from niello.core.dtypes import float32, int64
from niello.core.errors import CompilerBug
from niello.kernel import ir
from niello.kernel.ir import Expr, Load, Param

# Stand for the arguments of an expansion; no buffer is ever read through them.
_ARGUMENTS: tuple[Expr, ...] = tuple(
    Load(Param(-1 - n, float32, 1, False), ir.const(0, int64), None) for n in range(3)
)


def function_name(module: Module, target: CpuTarget, name: str, type: str) -> str:
    """Name of the function that computes float32 `name` on values of `type`, written if need be."""
    if element_type(type) != "float":
        raise CompilerBug("cpu renderer", "only float32 has expansions", received=type)
    symbol = f"niello_{name}.{mangle(type)}"
    if symbol not in module.functions:
        _write(module, target, name, symbol, type)
    return symbol


def _write(module: Module, target: CpuTarget, name: str, symbol: str, type: str) -> None:
    from niello.backends.cpu.render_reduce import emit_reduction
    from niello.backends.cpu.vectors import Emitter, Scope

    arity = ir.SCALAR_FUNCTIONS[name].arity
    parameters = [(type, f"x{n}") for n in range(arity)]
    f = module.function(symbol, type, parameters, internal=True, inline=True)
    if name not in FUNCTIONS:
        f.ret(call_library(f, name, float32, list(f.arguments)))
        return
    em = Emitter(f, target, {}, emit_reduction)
    scope = Scope()
    scope.values.update(zip(_ARGUMENTS, f.arguments, strict=False))
    scales = target.has("avx512f") and type == SCALED_IN_ONE
    forms = {**FUNCTIONS, **BY_SCALB} if scales else FUNCTIONS
    result: Value = em.value(forms[name](*_ARGUMENTS[:arity]), scope)
    f.ret(result)
