"""From LLVM IR text to callable machine code, through llvmlite.

A module of IR text is compiled to an object file for a `CpuTarget`; the bytes of the object can be
stored in a package or cache and loaded later, in this process or another one. Loading links the
object into the process and gives the addresses of its functions.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding as llvm

from niello.core import config
from niello.core.errors import BackendUnavailable, CompilerBug, ConfigError, CorruptFile
from niello.runtime.disk_cache import DiskCache, compiled_code

# LLVM is entered only under this lock, and fork takes it too: a child never inherits an LLVM that
# another thread was in the middle of using.
_LOCK = threading.RLock()

_X86_LEVELS = {
    "avx512": ("x86-64-v4", 512),
    "avx2": ("x86-64-v3", 256),
    "baseline": ("x86-64", 128),
}
_ARM_LEVELS = {"baseline": ("generic", 128)}
# Features that the code generator uses only when it is told to by name, which Niello never does.
_NEVER_CHOSEN = {
    "64bit", "cldemote", "clflushopt", "clwb", "clzero", "cmpccxadd", "crc32", "enqcmd",
    "fsgsbase", "fxsr", "hreset", "invlpgb", "invpcid", "kl", "lwp", "movdir64b", "movdiri",
    "mwaitx", "pconfig", "pku", "prefetchi", "ptwrite", "raoint", "rdpid", "rdpru", "rdrnd",
    "rdseed", "rtm", "serialize", "sgx", "sha", "sha512", "shstk", "sm3", "sm4", "tsxldtrk",
    "uintr", "usermsr", "waitpkg", "wbnoinvd", "widekl", "xsave", "xsavec", "xsaveopt", "xsaves",
}  # fmt: skip


@dataclass(frozen=True)
class CpuTarget:
    """What machine code is generated for.

    `name` is the level that was asked for (host, avx512, avx2, baseline), `features` LLVM's
    feature string ("+avx2,-avx512f,..."), `vector_bits` the widest vector register to use.
    """

    name: str
    triple: str
    cpu: str
    features: str
    vector_bits: int

    @property
    def architecture(self) -> str:
        """x86_64 or aarch64."""
        return self.triple.split("-", 1)[0]

    @property
    def vector_registers(self) -> int:
        """Number of vector registers of the widest kind."""
        return 32 if self.vector_bits == 512 or self.architecture != "x86_64" else 16

    def has(self, feature: str) -> bool:
        """True when the target has `feature`, by its LLVM name: avx512vnni, avx512bf16, dotprod."""
        return feature in _enabled_features(self)

    @property
    def key(self) -> str:
        """A digest of everything that decides the bytes of generated code."""
        version = ".".join(map(str, llvm.llvm_version_info))
        parts = (self.triple, self.cpu, self.features, str(self.vector_bits), version)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def needs(self) -> tuple[str, ...]:
        """What a machine must have to run the code: kind of system, instruction sets."""
        system = "-".join((self.architecture, *self.triple.split("-")[2:]))
        return (system, *sorted(_enabled_features(self) - _NEVER_CHOSEN))

    def missing_here(self) -> tuple[str, ...]:
        """Features that code for this target may use and this machine lacks."""
        if self.architecture != _triple().split("-", 1)[0]:
            return (self.architecture,)
        return tuple(sorted(_enabled_features(self) - _enabled_features(host_target())))


def select_target(name: str | None = None) -> CpuTarget:
    """The target called `name`: host, avx512, avx2 or baseline.

    Without a name the flag NIELLO_CPU_TARGET decides (default: host). Levels above what this
    machine has can be compiled for, and are refused when their code is loaded.
    Raises ConfigError for a name this architecture does not have.
    """
    return _select(config.CPU_TARGET.text() if name is None else name)


@cache
def _select(wanted: str) -> CpuTarget:
    if wanted == "host":
        return host_target()
    levels = _X86_LEVELS if _triple().startswith("x86_64") else _ARM_LEVELS
    if wanted not in levels:
        raise ConfigError(
            config.CPU_TARGET.name,
            f"no such CPU target for {_triple()}",
            received=repr(wanted),
            advice=f"Use one of host, {', '.join(levels)}",
        )
    cpu, bits = levels[wanted]
    return CpuTarget(wanted, _triple(), cpu, "", bits)


@cache
def host_target() -> CpuTarget:
    """The machine this process runs on."""
    with _LOCK:
        _initialise()
        features = llvm.get_host_cpu_features()
        cpu = llvm.get_host_cpu_name()
    text = features.flatten()
    bits = 128
    if _triple().startswith("x86_64"):
        bits = 256 if features.get("avx2") and features.get("fma") else 128
        if all(features.get(f) for f in ("avx512f", "avx512bw", "avx512dq", "avx512vl")):
            bits = 512
            text += ",-prefer-256-bit"
    return CpuTarget("host", _triple(), cpu, text, bits)


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


class LoadedCode:
    """Machine code linked into this process, alive as long as this object (or a function of it).

    Example:
        >>> target = select_target()
        >>> text = "define i64 @twice(i64 %x) { %y = add i64 %x, %x ret i64 %y }"
        >>> code = load_object(compile_object(text, target), target, ["twice"])
        >>> code.function("twice", ctypes.c_int64, ctypes.c_int64)(21)
        42
    """

    __slots__ = ("__weakref__", "_addresses", "size")

    def __init__(
        self,
        linker: llvm.LLJIT,
        tracker: llvm.ResourceTracker,
        addresses: dict[str, int],
        size: int,
    ) -> None:
        self._addresses = addresses
        self.size = size
        # At exit the code stays: worker threads may be inside it.
        weakref.finalize(self, _unload, linker, tracker).atexit = False

    def address(self, name: str) -> int:
        """Address of an exported function or global. Raises CompilerBug for another name."""
        try:
            return self._addresses[name]
        except KeyError:
            raise CompilerBug(
                "LoadedCode.address",
                "the code does not export this symbol",
                received=repr(name),
                advice=f"It exports {', '.join(self._addresses)}",
            ) from None

    def function(self, name: str, result: Any, *arguments: Any) -> Any:
        """A ctypes function for an exported symbol; it keeps the code alive."""
        function = ctypes.CFUNCTYPE(result, *arguments)(self.address(name))
        function.code = self  # type: ignore[attr-defined]
        return function


def load_object(
    data: bytes, target: CpuTarget, exports: Iterable[str], symbols: Mapping[str, int] | None = None
) -> LoadedCode:
    """Links an object file into the process.

    `exports` names the symbols whose addresses are wanted; `symbols` gives addresses for names
    that the object leaves open and the process does not define. Raises BackendUnavailable when
    this machine lacks something the target uses, CorruptFile when the bytes do not link.
    """
    missing = target.missing_here()
    if missing:
        raise BackendUnavailable(
            f"cpu ({target.name})",
            f"code for {target.cpu} needs {', '.join(missing)}, which this machine lacks",
            received=f"{_triple()}, {host_target().cpu}",
            advice="Compile for target=host or target=baseline",
        )
    names = tuple(exports)
    if not _is_object(data):
        raise CorruptFile(
            "load_object", "the bytes are not an object file", received=repr(bytes(data[:8]))
        )
    builder = llvm.JITLibraryBuilder().add_object_img(data).add_current_process()
    for name in names:
        builder.export_symbol(name)
    for name, address in (symbols or {}).items():
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
                received=f"{len(data)} bytes, exports {', '.join(names)}",
            ) from error
    return LoadedCode(linker, tracker, {name: tracker[name] for name in names}, len(data))


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
def _triple() -> str:
    with _LOCK:
        return str(llvm.get_process_triple())


@cache
def _initialise() -> None:
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


@cache
def _enabled_features(target: CpuTarget) -> frozenset[str]:
    if target.features:
        entries = target.features.split(",")
        return frozenset(e[1:] for e in entries if e.startswith("+"))
    return _level_features(target.cpu)


@cache
def _level_features(cpu: str) -> frozenset[str]:
    """Features of a named x86-64 level: the psABI's micro-architecture levels."""
    one = {"cx8", "cmov", "fxsr", "mmx", "sse", "sse2"}
    two = one | {"cx16", "sahf", "popcnt", "sse3", "ssse3", "sse4.1", "sse4.2"}
    three = two | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"}
    four = three | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
    levels = {"x86-64": one, "x86-64-v2": two, "x86-64-v3": three, "x86-64-v4": four}
    return frozenset(levels.get(cpu, ()))


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


def _is_object(data: bytes) -> bool:
    """True for the magic numbers of ELF, Mach-O and COFF (x86-64, aarch64) object files."""
    magic = bytes(data[:4])
    return magic in (b"\x7fELF", b"\xcf\xfa\xed\xfe") or magic[:2] in (b"\x64\x86", b"\x64\xaa")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release
    )
