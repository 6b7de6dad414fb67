"""`niello convert`: a model file to a package with machine code for several targets."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import niello as nl
from niello import errors
from niello.cli.inspection.words import data_size
from niello.cli.models import peers
from niello.cli.models.sources import Computed, Model, open_model
from niello.cli.models.values import assignments, feeds, files_of, sizes_of

# A result may differ from the source runtime's by so much of its largest value.
TOLERANCES = {"float64": 1e-9, "float32": 1e-3, "float16": 3e-2, "bfloat16": 8e-2}
HALF_TOLERANCE = 8e-2  # where --half asks for rounding
QUANTIZED_TOLERANCE = 5e-2  # one rounding to the other side moves a result by a whole step
_QUANTIZED = frozenset(("quantize", "dequantize", "dynamic_quantize_linear", "integer_matmul"))


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    source: str
    out: Path
    targets: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    function: str | None = None
    append: bool = False
    check: bool = False
    tolerance: float | None = None
    half: str | None = None
    graph: bool = True
    directory: bool = False
    as_json: bool = False


def run(options: Options, console: Console) -> int:
    """Convert; returns the exit status. An interrupt leaves no file behind, nor half of one."""
    said = Console(stderr=True) if options.as_json else console
    with progress(said) as step:
        step(f"reading {options.source}")
        model = open_model(options.source, function=options.function)
        given = assignments(options.inputs)
        files = files_of(model, given)
        computed = model.computed(sizes_of(model, files, options.shapes), files)
        made: list[nl.Executable] = []
        facts: list[dict[str, Any]] = []
        for text in options.targets or (nl.default_device(),):
            step(f"compiling for {text}")
            started = time.perf_counter()
            executable = compile_for(computed, text, options.half)
            made.append(executable)
            facts.append(_facts(text, executable, time.perf_counter() - started))
        checks = []
        if options.check:
            step("comparing with the source runtime")
            checks = compare(model, made, given, files, tolerance_of(options, computed))
        step(f"writing {options.out}")
        nl.save(
            options.out, made, append=options.append, graph=options.graph,
            directory=options.directory,
            metadata={"source": Path(options.source).name, "kind": model.title},
        )  # fmt: skip
    wrong = [c for c in checks if not c["within"]]
    _report(options, facts, checks, console)
    return 1 if wrong else 0


@contextmanager
def progress(console: Console) -> Iterator[Any]:
    """A line that says what goes on, for as long as it does."""
    shown = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    with shown:
        task = shown.add_task("", total=None)
        yield lambda text: shown.update(task, description=text)


def compile_for(computed: Computed, target: str, half: str | None) -> nl.Executable:
    """The model for a target, such as cpu, cpu:avx2 or cuda:sm_90. Raises ConfigError."""
    device, colon, level = target.partition(":")
    if device not in nl.device_names() or (colon and not level):
        raise errors.ConfigError(
            "--target", "must be DEVICE or DEVICE:LEVEL", received=target,
            advice=f"Devices are {', '.join(nl.device_names())}; levels such as avx2, sm_90",
        )  # fmt: skip
    return computed.compile(target, nl.CompileOptions(autocast=half_type(half)))


def half_type(name: str | None) -> nl.DType | None:
    """`float16` or `bfloat16` of --half. Raises ConfigError."""
    if name is None:
        return None
    if name not in ("float16", "bfloat16"):
        raise errors.ConfigError("--half", "is float16 or bfloat16", received=name)
    return nl.float16 if name == "float16" else nl.bfloat16


def tolerance_of(options: Options, computed: Computed) -> float | None:
    """What --check allows: the user's number, that of half or quantized models, or None for that
    of each result's type."""
    if options.tolerance is not None:
        return options.tolerance
    if options.half is not None:
        return HALF_TOLERANCE
    quantized = any(o.op.name in _QUANTIZED for o in computed.graph.operations)
    return QUANTIZED_TOLERANCE if quantized else None


def compare(
    model: Model,
    made: Sequence[nl.Executable],
    given: Mapping[str, str],
    files: Mapping[str, np.ndarray],
    tolerance: float | None,
) -> list[dict[str, Any]]:
    """Each result of each target against the source runtime. Raises ConfigError where there is
    none."""
    found: list[dict[str, Any]] = []
    expected: dict[str, np.ndarray] | None = None
    for executable in made:
        if not executable.runs_here:
            continue
        values = feeds(executable, given, files)
        if expected is None:
            expected = peers.source_results(model, values)
        results = executable.run(values)
        for name, value in results.items():
            found.append(
                _compared(executable.backend.name, name, value.numpy(), expected[name], tolerance)
            )
    return found


def _compared(
    target: str, name: str, value: np.ndarray, wanted: np.ndarray, tolerance: float | None
) -> dict[str, Any]:
    if value.shape != wanted.shape:
        return {
            "target": target, "output": name, "within": False, "error": float("inf"),
            "tolerance": 0.0, "note": f"shape {list(value.shape)}, not {list(wanted.shape)}",
        }  # fmt: skip
    allowed = TOLERANCES.get(value.dtype.name, 0.0) if tolerance is None else tolerance
    a, b = value.astype(np.float64), wanted.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    largest = max(float(np.abs(b[np.isfinite(b)]).max(initial=0.0)), 1e-30)
    with np.errstate(invalid="ignore"):
        error = float(np.where(same, 0.0, np.abs(a - b)).max(initial=0.0)) / largest
    return {
        "target": target, "output": name, "within": bool(error <= allowed), "error": error,
        "tolerance": allowed, "note": "",
    }  # fmt: skip


def _facts(text: str, executable: nl.Executable, seconds: float) -> dict[str, Any]:
    return {
        "target": text,
        "seconds": seconds,
        "kernels": executable.kernel_count,
        "arena_bytes": executable.arena_bytes,
        "machine_code_bytes": len(executable.loaded.image()),
        "inputs": {
            n: str(t) for n, t in zip(executable.input_names, executable.input_types, strict=True)
        },
        "outputs": {
            n: str(t) for n, t in zip(executable.target_names, executable.output_types, strict=True)
        },
    }


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a directory."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return os.stat(path).st_size


def _report(
    options: Options, facts: list[dict[str, Any]], checks: list[dict[str, Any]], console: Console
) -> None:
    size = size_of(options.out)
    if options.as_json:
        found = {"package": str(options.out), "bytes": size, "targets": facts, "checks": checks}
        console.print_json(json.dumps(found))
        return
    for fact in facts:
        console.print(
            f"{fact['target']}: {fact['kernels']} kernels, arena {data_size(fact['arena_bytes'])}, "
            f"code {data_size(fact['machine_code_bytes'])}, compiled in {fact['seconds']:.2f} s"
        )
    for c in checks:
        word = "[green]within[/]" if c["within"] else "[red]outside[/]"
        note = f" ({c['note']})" if c["note"] else ""
        console.print(
            f"{c['target']} {c['output']}: largest difference {c['error']:.2e} of the largest "
            f"value, {word} {c['tolerance']:.0e}{note}"
        )
    console.print(f"Wrote {options.out} ({data_size(size)})")
