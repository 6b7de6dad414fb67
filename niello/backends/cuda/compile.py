"""Machine code for rendered kernels: NVRTC through cuda-core, several at once, cached on disk.

Each kernel is a program of its own: what another executable compiled already is taken from the
cache, and what is left compiles on all cores.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from niello.core.errors import BackendUnavailable, CompilerBug, CorruptFile
from niello.runtime.disk_cache import DiskCache, compiled_code

# No fast-math: results are those of IEEE 754, with multiplications and additions joined.
OPTIONS: tuple[tuple[str, Any], ...] = (("std", "c++17"), ("fma", True))
_MAGIC = b"niello cubins 1\n"


def compile_sources(sources: Sequence[str], arch: str) -> list[bytes]:
    """One cubin for each source text, equal texts once. `arch` is such as sm_90.

    Raises CompilerBug with the compiler's log when a source is refused.
    """
    cache_of_code = compiled_code()
    found: dict[str, bytes] = {}
    missing: list[str] = []
    for source in dict.fromkeys(sources):
        known = cache_of_code.get(_key(source, arch))
        if known is None:
            missing.append(source)
        else:
            found[source] = known
    if len(missing) == 1:
        made = [compile_one(missing[0], arch)]
    elif missing:
        _core()  # importing it is nothing to do from several threads
        # NVRTC works without the interpreter's lock.
        with ThreadPoolExecutor(min(len(missing), os.cpu_count() or 1)) as pool:
            made = list(pool.map(lambda text: compile_one(text, arch), missing))
    else:
        made = []
    for source, cubin in zip(missing, made, strict=True):
        found[source] = cubin
        _keep(cache_of_code, _key(source, arch), cubin)
    return [found[s] for s in sources]


def _keep(cache_of_code: DiskCache, key: str, cubin: bytes) -> None:
    cache_of_code.put(key, cubin)


def compile_one(source: str, arch: str) -> bytes:
    """The cubin of one source text."""
    core = _core()
    options = core.ProgramOptions(arch=arch, **dict(OPTIONS))
    program = core.Program(source, "c++", options)
    try:
        made = program.compile("cubin")
        return bytes(made.code)
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            "cuda", f"NVRTC cannot be loaded: {error}", advice="Install niello[cuda]"
        ) from error
    except Exception as error:
        raise CompilerBug(
            "cuda compiler",
            f"a generated kernel was refused: {error}",
            received=source if len(source) < 4000 else f"{source[:4000]} …",
        ) from error
    finally:
        program.close()


@cache
def _core() -> Any:
    try:
        module = importlib.import_module("cuda.core")
        assert module.Program and module.ProgramOptions
        return module
    except ImportError as error:
        raise BackendUnavailable(
            "cuda", f"cuda-core cannot be imported: {error}", advice="Install niello[cuda]"
        ) from error


@cache
def compiler_version() -> str:
    """The version of NVRTC, which decides the code it makes."""
    try:
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        status, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendUnavailable(
            "cuda", f"NVRTC cannot be loaded: {error}", advice="Install niello[cuda]"
        ) from error
    return f"{major}.{minor}" if not status.value else "unknown"


def _key(source: str, arch: str) -> str:
    text = "\0".join(("cuda", arch, compiler_version(), repr(OPTIONS), source))
    return hashlib.sha256(text.encode()).hexdigest()


# --- images: the cubins of a program, for packages ------------------------------------------------


def pack(arch: str, kernels: Sequence[tuple[str, bytes]]) -> bytes:
    """An image of (digest of the source, cubin) pairs."""
    index = json.dumps(
        {"arch": arch, "kernels": [[digest, len(cubin)] for digest, cubin in kernels]}
    ).encode()
    return _MAGIC + struct.pack("<I", len(index)) + index + b"".join(c for _, c in kernels)


def unpack(image: bytes, arch: str) -> dict[str, bytes]:
    """Cubins by the digest of their sources. Raises CorruptFile."""
    head = len(_MAGIC) + 4
    try:
        if image[: len(_MAGIC)] != _MAGIC:
            raise ValueError("it does not begin like one")
        (size,) = struct.unpack("<I", image[len(_MAGIC) : head])
        index = json.loads(image[head : head + size])
        position = head + size
        found: dict[str, bytes] = {}
        for digest, length in index["kernels"]:
            found[digest] = image[position : position + length]
            position += length
        if position != len(image):
            raise ValueError(f"{position} bytes are described")
        made_for = index["arch"]
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise CorruptFile(
            "load",
            f"this is no machine code of the cuda back end: {error}",
            received=f"{len(image)} bytes",
            advice="Compile the program again",
        ) from error
    if made_for.split("_")[-1][:-1] != arch.split("_")[-1][:-1]:
        raise BackendUnavailable(
            "cuda",
            f"the machine code is for {made_for}",
            received=f"a device of {arch}",
            advice="Compile the program for this device",
        )
    return found


def digest_of(source: str) -> str:
    """The name of a source in an image."""
    return hashlib.sha256(source.encode()).hexdigest()
