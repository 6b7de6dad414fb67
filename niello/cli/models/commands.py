"""The commands on model files, and their options."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from niello.cli.failure import one_sentence

ModelFile = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="An ONNX or Core ML model, or a Niello package."),
]
Shapes = Annotated[
    list[str] | None, typer.Option("--shape", help="Sizes of an input: image=1,3,224,224.")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", help="NAME=file.npy, picture.png, random, zeros or a number (repeatable)."
    ),
]
FunctionName = Annotated[
    str | None, typer.Option("--function", help="Which function of a package.")
]
Device = Annotated[str | None, typer.Option(help="Back end to run on, such as cpu.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")]
Half = Annotated[
    str | None, typer.Option(help="Contractions in float16 or bfloat16 (mixed precision).")
]

INTERRUPTED = 130


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def convert(
    model: ModelFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="The package to write.")],
    target: Annotated[
        list[str] | None,
        typer.Option(help="cpu, cpu:avx2, cuda, cuda:sm_90, webgpu (repeatable)."),
    ] = None,
    shape: Shapes = None,
    inputs: Inputs = None,
    function: FunctionName = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add the targets to the package that is there.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare results with the source runtime's.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Of --check, as a share of the largest value. [default: by type]"),
    ] = None,
    half: Half = None,
    graph: Annotated[
        bool, typer.Option(help="Keep the graph, to compile for other machines from.")
    ] = True,
    directory: Annotated[
        bool, typer.Option("--directory", help="Write a directory in place of a file.")
    ] = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Compile a model ahead of time into a package that loads in milliseconds."""
    with one_sentence(traceback), _interruptible():
        from niello.cli.inspection.subject import shapes
        from niello.cli.models.convert import Options, run

        options = Options(
            model, out, tuple(target or ()), shapes(shape or []), tuple(inputs or ()), function,
            append, check, tolerance, half, graph, directory, as_json,
        )  # fmt: skip
        status = run(options, _console())
    sys.exit(status)


def run(
    model: ModelFile,
    inputs: Inputs = None,
    shape: Shapes = None,
    output: Annotated[
        list[str] | None, typer.Option(help="Write a result: NAME=file.npy (repeatable).")
    ] = None,
    function: FunctionName = None,
    device: Device = None,
    image_range: Annotated[
        str, typer.Option(help="Of pictures: 0..255, 0..1, -1..1 or imagenet.")
    ] = "0..255",
    labels: Annotated[
        Path | None, typer.Option(help="Text file with the name of a class on each line.")
    ] = None,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Run a model once and show its results."""
    with one_sentence(traceback), _interruptible():
        from niello.cli.inspection.subject import shapes
        from niello.cli.models.run import Options
        from niello.cli.models.run import run as run_model

        options = Options(
            model, tuple(inputs or ()), shapes(shape or []), tuple(output or ()), function,
            device, image_range, labels, as_json,
        )  # fmt: skip
        status = run_model(options, _console())
    sys.exit(status)


def benchmark(
    model: ModelFile,
    inputs: Inputs = None,
    shape: Shapes = None,
    function: FunctionName = None,
    device: Device = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long to measure.")] = 3.0,
    warm_up: Annotated[int, typer.Option(min=0, help="Runs before measuring.")] = 3,
    kernels: Annotated[bool, typer.Option(help="Time each kernel alone.")] = True,
    peer: Annotated[bool, typer.Option(help="Measure ONNX Runtime beside it.")] = True,
    half: Half = None,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Measure latency, throughput, memory and the time of each kernel."""
    with one_sentence(traceback), _interruptible():
        from niello.cli.inspection.subject import shapes
        from niello.cli.models.benchmark import Options
        from niello.cli.models.benchmark import run as run_benchmark

        options = Options(
            model, tuple(inputs or ()), shapes(shape or []), function, device, seconds, warm_up,
            kernels, peer, half, as_json,
        )  # fmt: skip
        status = run_benchmark(options, _console())
    sys.exit(status)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends a command with one line; what it was writing is taken back by whoever writes."""
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted: nothing was written.")
        sys.exit(INTERRUPTED)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (convert, run, benchmark):
        app.command()(command)
