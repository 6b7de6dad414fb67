"""The generated code of a program as JSON, for packages: WGSL text and how to launch it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from niello.codegen.gpu.kernel import Argument, GpuKernel, Launch
from niello.core.errors import CorruptFile
from niello.runtime.commands import Dispatch, Program, walk

if TYPE_CHECKING:
    from niello.backends.webgpu.program import Key

FORMAT = "niello wgsl 2"


def pack(kernels: Mapping[Key, GpuKernel]) -> bytes:
    """Equal kernels give equal bytes."""
    listed = [
        {
            "kernel": key[0],
            "aliases": [list(g) for g in key[1]],
            "name": kernel.name,
            "source": kernel.source,
            "launches": [_launch(x) for x in kernel.launches],
            "scratch": list(kernel.scratch),
            "notes": list(kernel.notes),
        }
        for key, kernel in kernels.items()
    ]
    return json.dumps({"format": FORMAT, "kernels": listed}, indent=1).encode()


def _launch(launch: Launch) -> dict[str, Any]:
    return {
        "entry": launch.entry,
        "grid": list(launch.grid),
        "block": list(launch.block),
        "shared_bytes": launch.shared_bytes,
        "arguments": [[a.slot, a.scratch, a.written, a.offset, a.bytes] for a in launch.arguments],
    }


def unpack(image: bytes, program: Program) -> dict[Key, GpuKernel]:
    """What `pack` was given. Raises CorruptFile for anything else, or another program's image."""
    from niello.backends.webgpu.program import key_of

    try:
        content = json.loads(image)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        found = {
            (_whole(k["kernel"]), tuple(tuple(map(_whole, g)) for g in k["aliases"])): _kernel(k)
            for k in content["kernels"]
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(
            f"this is no generated code of the webgpu back end: {error}", image
        ) from error
    wanted: dict[Key, Dispatch] = {
        key_of(program, c): c for c in walk(program.commands) if isinstance(c, Dispatch)
    }
    for key, command in wanted.items():
        kernel = found.get(key)
        if kernel is None:
            raise _corrupt(f"kernel {key[0]} of the program is missing", image)
        for a in (a for x in kernel.launches for a in x.arguments):
            count = len(kernel.scratch if a.slot is None else command.buffers)
            number = a.scratch if a.slot is None else a.slot
            if number is None or not 0 <= number < count:
                raise _corrupt(f"kernel {kernel.name} binds buffer {number} of {count}", image)
            whole = kernel.scratch[number] if a.slot is None else command.buffers[number].bytes
            if a.offset + (a.bytes or 0) > whole:
                raise _corrupt(f"kernel {kernel.name} binds more than buffer {number} has", image)
    return {key: found[key] for key in wanted}


def _kernel(record: dict[str, Any]) -> GpuKernel:
    return GpuKernel(
        _text(record["name"]),
        _text(record["source"]),
        tuple(_read_launch(x) for x in record["launches"]),
        tuple(map(_whole, record["scratch"])),
        notes=tuple(map(_text, record["notes"])),
    )


def _read_launch(record: dict[str, Any]) -> Launch:
    grid, block = (tuple(map(_whole, record[n])) for n in ("grid", "block"))
    if len(grid) != 3 or len(block) != 3:
        raise ValueError("a grid has three sizes")
    arguments = tuple(
        Argument(
            None if slot is None else _whole(slot),
            None if scratch is None else _whole(scratch),
            bool(written),
            _whole(offset),
            None if size is None else _whole(size),
        )
        for slot, scratch, written, offset, size in record["arguments"]
    )
    return Launch(
        _text(record["entry"]),
        (grid[0], grid[1], grid[2]),
        (block[0], block[1], block[2]),
        _whole(record["shared_bytes"]),
        arguments,
    )


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _corrupt(problem: str, image: bytes) -> CorruptFile:
    return CorruptFile(
        "load", problem, received=f"{len(image)} bytes", advice="Compile the program again"
    )
