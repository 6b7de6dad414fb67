"""Machines that code is generated for, and what this machine has.

Names of instruction sets are LLVM's. What this machine has is read from the kernel where it tells
(Linux on x86-64), so that a process that only runs packages does without LLVM; elsewhere, and for
names that the kernel does not use, LLVM is asked.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from niello.core import config
from niello.core.errors import ConfigError

_X86_LEVELS = {
    "avx512": ("x86-64-v4", 512),
    "avx2": ("x86-64-v3", 256),
    "baseline": ("x86-64", 128),
}
_ARM_LEVELS = {"baseline": ("generic", 128)}
_WIDEST = ("avx512f", "avx512bw", "avx512dq", "avx512vl")  # what vectors of 512 bits take
# Features that the code generator uses only when it is told to by name, which Niello never does.
_NEVER_CHOSEN = {
    "64bit", "cldemote", "clflushopt", "clwb", "clzero", "cmpccxadd", "crc32", "enqcmd",
    "fsgsbase", "fxsr", "hreset", "invlpgb", "invpcid", "kl", "lwp", "movdir64b", "movdiri",
    "mwaitx", "pconfig", "pku", "prefetchi", "ptwrite", "raoint", "rdpid", "rdpru", "rdrnd",
    "rdseed", "rtm", "serialize", "sgx", "sha", "sha512", "shstk", "sm3", "sm4", "tsxldtrk",
    "uintr", "usermsr", "waitpkg", "wbnoinvd", "widekl", "xsave", "xsavec", "xsaveopt", "xsaves",
}  # fmt: skip
# What the kernel calls instruction sets that LLVM calls otherwise.
_KERNEL_NAMES = {
    "avx512bf16": "avx512_bf16",
    "avx512bitalg": "avx512_bitalg",
    "avx512fp16": "avx512_fp16",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avxvnni": "avx_vnni",
    "bmi": "bmi1",
    "lzcnt": "abm",
    "pclmul": "pclmulqdq",
    "prfchw": "3dnowprefetch",
    "sahf": "lahf_lm",
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
}
_CPU_INFO = "/proc/cpuinfo"
_TRIPLE = "x86_64-unknown-linux-gnu"


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
        import llvmlite.binding as llvm

        version = ".".join(map(str, llvm.llvm_version_info))
        parts = (self.triple, self.cpu, self.features, str(self.vector_bits), version)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def needs(self) -> tuple[str, ...]:
        """What a machine must have to run the code: kind of system, instruction sets."""
        return (_system(self.triple), *sorted(_enabled_features(self) - _NEVER_CHOSEN))

    def missing_here(self) -> tuple[str, ...]:
        """Features that code for this target may use and this machine lacks."""
        if self.architecture != triple().split("-", 1)[0]:
            return (self.architecture,)
        return missing(self.needs[1:])


def select_target(name: str | None = None) -> CpuTarget:
    """The target called `name`: host, avx512, avx2 or baseline.

    Without a name, and for host, the flag NIELLO_CPU_TARGET decides (default: this machine). Levels
    above what this machine has can be compiled for, and are refused when their code is loaded.
    Raises ConfigError for a name this architecture does not have.
    """
    return _select(config.CPU_TARGET.text() if name in (None, "host") else str(name))


@cache
def _select(wanted: str) -> CpuTarget:
    if wanted == "host":
        from niello.backends.cpu.jit import host_target

        return host_target()
    levels = _X86_LEVELS if triple().startswith("x86_64") else _ARM_LEVELS
    if wanted not in levels:
        raise ConfigError(
            config.CPU_TARGET.name,
            f"no such CPU target for {triple()}",
            received=repr(wanted),
            advice=f"Use one of host, {', '.join(levels)}",
        )
    cpu, bits = levels[wanted]
    return CpuTarget(wanted, triple(), cpu, "", bits)


def vector_bits() -> int:
    """The widest vector register that code for `host` uses here."""
    known = _kernel_features()
    if config.CPU_TARGET.text() != "host" or known is None:
        return select_target("host").vector_bits
    return widest(dict.fromkeys(known, True))


def missing(needs: Iterable[str]) -> tuple[str, ...]:
    """Those of `CpuTarget.needs` that this machine lacks, or is told to do without.

    The flag NIELLO_CPU_TARGET makes a machine of a level out of this one.
    """
    wanted = tuple(needs)
    absent = set(_missing_in_machine(wanted))
    level = config.CPU_TARGET.text()
    if level != "host":
        absent |= set(wanted) - set(_select(level).needs)
    return tuple(n for n in wanted if n in absent)


@cache
def _missing_in_machine(needs: tuple[str, ...]) -> tuple[str, ...]:
    known = _kernel_features()
    unsure = needs
    if known is not None:
        unsure = tuple(
            n
            for n in needs
            if n != _system(triple()) and _KERNEL_NAMES.get(n, n.replace("-", "_")) not in known
        )
    if not unsure:
        return ()
    try:
        from niello.backends.cpu.jit import host_target
    except (ImportError, OSError):
        return unsure
    here = {_system(triple()), *_enabled_features(host_target())}
    return tuple(n for n in unsure if n not in here)


def _system(triple: str) -> str:
    """The kind of system that a triple names, without the vendor."""
    architecture, _, *rest = triple.split("-")
    return "-".join((architecture, *rest))


@cache
def links_elf() -> bool:
    """Whether this is a system whose objects niello/backends/cpu/elf.py links."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return False
    if os.uname().machine != "x86_64":
        return False
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (OSError, ValueError):
        return False  # another C library


@cache
def triple() -> str:
    """LLVM's name of the kind of system that this is."""
    if links_elf():
        return _TRIPLE
    from niello.backends.cpu.jit import process_triple

    return process_triple()


@cache
def _kernel_features() -> frozenset[str] | None:
    """What the kernel says the processor has, in its own words; None where it does not say."""
    if not links_elf():
        return None
    try:
        with open(_CPU_INFO, encoding="ascii", errors="replace") as file:
            for line in file:  # the first processor's: the kernel offers what all of them have
                name, _, value = line.partition(":")
                if name.strip() == "flags":
                    return frozenset(value.split())
    except OSError:
        pass
    return None


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


def widest(features: Mapping[str, bool]) -> int:
    """Bits of the widest vectors of an x86-64 machine with these features."""
    if not (features.get("avx2") and features.get("fma")):
        return 128
    return 512 if all(features.get(f) for f in _WIDEST) else 256
