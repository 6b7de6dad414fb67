"""Variables on disk, as safetensors: saved atomically, restored only when everything fits."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from niello.core.errors import CorruptFile
from niello.graph.tensor import VariableState


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that it is either the old one or the complete new one."""
    target = Path(path)
    temporary = str(target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}"))
    # Unlike mkstemp, this gives the file the permissions that the user's umask says.
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save_variables(
    path: str | os.PathLike[str],
    states: Mapping[str, VariableState],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write all variables, and a few words of metadata, to one safetensors file."""
    from safetensors.numpy import save

    arrays = {name: state.read() for name, state in states.items()}
    write_atomically(path, save(arrays, dict(metadata or {})))


def load_variables(
    path: str | os.PathLike[str], states: Mapping[str, VariableState], *, strict: bool = True
) -> dict[str, str]:
    """Restore variables from a file and return its metadata.

    Nothing is changed unless the whole file is sound and fits. With `strict`, the file must hold
    exactly these variables; otherwise those it has in common. Raises CorruptFile.
    """
    found, metadata = read_tensors(path)
    missing = sorted(set(states) - set(found))
    extra = sorted(set(found) - set(states))
    if strict and (missing or extra):
        raise CorruptFile(
            f"load {os.fspath(path)}",
            "the file is of another graph",
            received=f"lacks {missing or 'nothing'}, has in addition {extra or 'nothing'}",
            advice="Build the same graph, or pass strict=False",
            missing=missing,
            extra=extra,
        )
    common = [name for name in states if name in found]
    for name in common:
        have, want = found[name], states[name].array
        if have.shape != want.shape or have.dtype != want.dtype:
            raise CorruptFile(
                f"load {os.fspath(path)}",
                f"variable {name} is {want.dtype.name}{list(want.shape)}",
                received=f"{have.dtype.name}{list(have.shape)}",
            )
    for name in common:
        states[name].write(found[name])
    return metadata


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a safetensors file. Raises CorruptFile, or OSError when unreadable."""
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    Path(name).stat()  # a missing file is an ordinary FileNotFoundError
    try:
        with safe_open(name, framework="numpy") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptFile(
            f"load {name}",
            "this is not a complete safetensors file",
            received=str(error).splitlines()[0],
            advice="Use another checkpoint",
        ) from error
