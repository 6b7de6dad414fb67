"""From LLVM IR text to callable machine code, through llvmlite.

A module of IR text is compiled to an object file for a `CpuTarget`; the bytes of the object can be
stored in a package or cache and loaded later, in this process or another one (code.py).
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cache

import llvmlite.binding as llvm

from niello.backends.cpu.code import LoadedCode, load_code, refuse_missing
from niello.backends.cpu.target import CpuTarget, select_target, widest
from niello.core.errors import CompilerBug, CorruptFile
from niello.runtime.disk_cache import DiskCache, compiled_code

__all__ = [
    "CpuTarget",
    "LoadedCode",
    "assembly",
    "cached_object",
    "compile_and_load",
    "compile_object",
    "host_target",
    "link_object",
    "load_object",
    "process_triple",
    "select_target",
]

Linked = tuple[dict[str, int], Callable[[], None]]

# LLVM is entered only under this lock, and fork takes it too: a child never inherits an LLVM that
# another thread was in the middle of using.
_LOCK = threading.RLock()


@cache
def host_target() -> CpuTarget:
    """The machine this process runs on."""
    with _LOCK:
        _initialise()
        features = llvm.get_host_cpu_features()
        cpu = llvm.get_host_cpu_name()
    text = features.flatten()
    bits = 128
    if process_triple().startswith("x86_64"):
        bits = widest(features)
        if bits == 512:
            text += ",-prefer-256-bit"
    return CpuTarget("host", process_triple(), cpu, text, bits)


@cache
def process_triple() -> str:
    """LLVM's name of the kind of system that this is."""
    with _LOCK:
        return str(llvm.get_process_triple())


def compile_object(
    text: str, target: CpuTarget, *, verify: bool = False, optimise: bool = True
) -> bytes:
    """Machine code, as an object file, of a module of LLVM IR text.

    `verify` checks the module first (slow; for tests and NIELLO_VERIFY). `optimise` runs the
    middle-end clean-up before code generation. Raises CompilerBug, with LLVM's message and the
    offending line, for text that LLVM does not take: it is Niello that wrote it.
    """
    with _LOCK:
        context = llvm.create_context()
        try:
            with _parse(text, context, verify) as module:
                machine = _machine(target)
                if optimise:
                    _clean_up(module, machine)
                return bytes(machine.emit_object(module))
        finally:
            context.close()


def cached_object(
    text: str,
    target: CpuTarget,
    cache: DiskCache | None = None,
    *,
    verify: bool = False,
    optimise: bool = True,
) -> bytes:
    """The result of compile_object, from the disk cache when it is there.

    `cache` is the one that the flags ask for when None.
    """
    store = compiled_code() if cache is None else cache
    key = hashlib.sha256(f"cpu {target.key} {optimise}\n{text}".encode()).hexdigest()
    found = store.get(key)
    if found is None:
        found = compile_object(text, target, verify=verify, optimise=optimise)
        store.put(key, found)
    return found


def assembly(text: str, target: CpuTarget) -> str:
    """The machine code of a module of LLVM IR text, as assembly to read."""
    with _LOCK:
        context = llvm.create_context()
        try:
            with _parse(text, context, False) as module:
                machine = _machine(target)
                _clean_up(module, machine)
                return str(machine.emit_assembly(module))
        finally:
            context.close()


def load_object(
    data: bytes, target: CpuTarget, exports: Iterable[str], symbols: Mapping[str, int] | None = None
) -> LoadedCode:
    """Links an object file for `target` into the process; see `code.load_code`.

    Raises BackendUnavailable when this machine lacks something the target uses.
    """
    refuse_missing(target.name, target.missing_here())
    return load_code(data, exports, symbols)


def link_object(data: bytes, exports: tuple[str, ...], symbols: Mapping[str, int]) -> Linked:
    """The same by LLVM's linker, and what unloads the code."""
    builder = llvm.JITLibraryBuilder().add_object_img(data).add_current_process()
    for name in exports:
        builder.export_symbol(name)
    for name, address in symbols.items():
        builder.import_symbol(name, address)
    with _LOCK:
        linker = _new_linker()
        try:
            tracker = builder.link(linker, "niello")
        except RuntimeError as error:
            linker.close()
            raise CorruptFile(
                "load_object",
                f"the object file does not link: {error}",
                received=f"{len(data)} bytes, exports {', '.join(exports)}",
            ) from error
    return {name: tracker[name] for name in exports}, lambda: _unload(linker, tracker)


def compile_and_load(
    text: str,
    exports: Iterable[str],
    target: CpuTarget | None = None,
    symbols: Mapping[str, int] | None = None,
) -> LoadedCode:
    """Compiles a module of LLVM IR text for this process and links it."""
    chosen = select_target() if target is None else target
    return load_object(compile_object(text, chosen), chosen, exports, symbols)


@cache
def _initialise() -> None:
    # With this LLVM's NewGVN gives wrong results (of convolutions whose padding takes masks), and
    # ends the process where its build checks assertions.
    llvm.set_option("niello", "-enable-phi-of-ops=false")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()


@cache
def _machine(target: CpuTarget) -> llvm.TargetMachine:
    _initialise()
    # Position-independent code in the small model: the linker places a library's sections side by
    # side, and reaches far symbols through a table.
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=2, reloc="pic", codemodel="small", jit=True
    )


def _new_linker() -> llvm.LLJIT:
    # One linker for each loaded object (0.4 ms): a shared one never frees its libraries.
    return llvm.create_lljit_compiler(
        _machine(host_target()), use_jit_link=sys.platform != "win32", suppress_errors=True
    )


def _unload(linker: llvm.LLJIT, tracker: llvm.ResourceTracker) -> None:
    tracker.close()
    linker.close()


def _parse(text: str, context: llvm.ContextRef, verify: bool) -> llvm.ModuleRef:
    try:
        module = llvm.parse_assembly(text, context)
    except RuntimeError as error:
        raise CompilerBug(
            "compile_object", "LLVM does not parse the generated text", received=str(error)
        ) from error
    if verify:
        try:
            module.verify()
        except RuntimeError as error:
            module.close()
            raise CompilerBug(
                "compile_object", "LLVM refuses the generated text", received=str(error)
            ) from error
    return module


def _clean_up(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """The passes that our code gains from; everything else is decided before LLVM sees it.

    Our text is explicitly vectorised and unrolled, so LLVM's standard pipelines cost five times
    as much as this one and change nothing in the inner loops. Invariant code is hoisted by the
    code generator itself.
    """
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_interleaving = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_new_gvn_pass()
    passes.add_aggressive_dce_pass()
    passes.run(module, builder)
    passes.close()
    builder.close()
    options.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release
    )
