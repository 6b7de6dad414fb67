"""`niello run`: a model on the inputs that the user gives."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

import niello as nl
from niello import errors
from niello.cli.models.convert import progress
from niello.cli.models.sources import open_model
from niello.cli.models.values import assignments, feeds, files_of, sizes_of

TOP = 5  # classes shown of a result that looks like one value for each class
_FEW = 16  # elements that --json lists


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    source: str
    inputs: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    function: str | None = None
    device: str | None = None
    image_range: str = "0..255"
    labels: Path | None = None
    as_json: bool = False


def run(options: Options, console: Console) -> int:
    """Load, run once, print and write the results."""
    said = Console(stderr=True) if options.as_json else console
    given = assignments(options.inputs)
    wanted = assignments(options.outputs, "--output")
    labels = options.labels.read_text().splitlines() if options.labels else []
    with progress(said) as step:
        step(f"reading {options.source}")
        model = open_model(options.source, function=options.function)
        files = files_of(model, given)
        if unknown := [n for n in wanted if n not in model.outputs]:
            raise errors.ConfigError(
                "--output", f"there is no result {unknown[0]!r}", received=unknown[0],
                advice=f"Results are {', '.join(model.outputs)}",
            )  # fmt: skip
        step("compiling")
        started = time.perf_counter()
        executable = model.executable(
            options.device, nl.CompileOptions(), sizes_of(model, files, options.shapes), files
        )
        ready = time.perf_counter() - started
        values = feeds(executable, given, files, options.image_range)
        step("running")
        started = time.perf_counter()
        results = {n: v.numpy() for n, v in executable.run(values).items()}
        seconds = time.perf_counter() - started
    for name, path in wanted.items():
        _write(Path(path), results[name])
    if options.as_json:
        facts = {
            "device": executable.backend.name, "ready_seconds": ready, "run_seconds": seconds,
            "outputs": {n: _facts(v, wanted.get(n)) for n, v in results.items()},
        }  # fmt: skip
        console.print_json(json.dumps(facts))
        return 0
    console.print(_table(results))
    for name, value in results.items():
        if _looks_like_classes(value):
            _print_classes(name, value, labels, console)
    for name, path in wanted.items():
        console.print(f"Wrote {name} to {path}")
    console.print(
        f"{executable.backend.name}: ready in {ready * 1e3:.1f} ms, ran in {seconds * 1e3:.2f} ms"
    )
    return 0


def _write(path: Path, value: np.ndarray) -> None:
    if path.suffix.lower() != ".npy":
        raise errors.ConfigError(
            "--output", "results are written as .npy files", received=str(path),
            advice="For example --output scores=scores.npy",
        )  # fmt: skip
    with path.open("wb") as file:
        np.save(file, value)


def _table(results: Mapping[str, np.ndarray]) -> Table:
    table = Table("result", "type", "smallest", "mean", "largest")
    for name, value in results.items():
        kind = f"{value.dtype.name}[{', '.join(map(str, value.shape))}]"
        numbers = [f"{f:.6g}" for f in _range(value)]
        table.add_row(Text(name), Text(kind), *(numbers or ["", "", ""]))
    return table


def _range(value: np.ndarray) -> list[float]:
    """Smallest, mean and largest element; nothing of an empty array."""
    if not value.size:
        return []
    wide = value.astype(np.float64)
    return [float(wide.min()), float(wide.mean()), float(wide.max())]


def _looks_like_classes(value: np.ndarray) -> bool:
    """One row of numbers, one for each class."""
    return (
        value.dtype.kind == "f" and value.size >= TOP and value.size == max(value.shape, default=0)
    )


def _print_classes(name: str, value: np.ndarray, labels: list[str], console: Console) -> None:
    flat = value.reshape(-1).astype(np.float64)
    best = np.argsort(-flat, kind="stable")[:TOP]
    rows = [f"{flat[i]:.4f} {labels[i] if i < len(labels) else f'class {i}'}" for i in best]
    console.print(Text(f"{name}: largest of {flat.size}: " + ", ".join(rows)))


def _facts(value: np.ndarray, path: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"dtype": value.dtype.name, "shape": list(value.shape)}
    if value.size:
        names = ("smallest", "mean", "largest")
        found |= {
            n: f if np.isfinite(f) else str(f) for n, f in zip(names, _range(value), strict=True)
        }
        found["largest_at"] = int(np.argmax(value))
    if value.size <= _FEW:
        found["values"] = [v if np.isfinite(v) else str(v) for v in value.reshape(-1).tolist()]
    return found if path is None else {**found, "file": path}
