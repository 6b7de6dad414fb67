"""The commands and their options. What they do is in modules that are imported when they run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from niello.cli.failure import one_sentence
from niello.cli.models import commands

app = typer.Typer(
    help="Niello: build, differentiate, stitch and run graphs of tensors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
demos = typer.Typer(help="Programs that show what Niello does.", no_args_is_help=True)
app.add_typer(demos, name="demo")
commands.register(app)

Device = Annotated[
    str | None, typer.Option(help="Back end to run on, such as cpu (see `niello devices`).")
]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")]


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


@demos.command()
def digits(
    data: Annotated[
        Path | None,
        typer.Option(help="Directory of MNIST's IDX files; scikit-learn's digits without it."),
    ] = None,
    device: Device = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="At most so many epochs. [default: 3 with --data, 30]")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in one step.")] = 64,
    target_accuracy: Annotated[
        float, typer.Option(help="Stop when this share of held-out images is read right.")
    ] = 0.99,
    out: Annotated[Path, typer.Option(help="Directory for weights and picture.")] = Path(
        "demo-output"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and dropout.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 means all.")] = 0,
    dropout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of hidden values zeroed in training.")
    ] = 0.0,
    traceback: Traceback = False,
) -> None:
    """Train a convolutional network that reads handwritten digits."""
    with one_sentence(traceback):
        from niello.cli.digits.demo import Options, run

        options = Options(
            data, device, epochs, batch, target_accuracy, out, resume, seed, threads, dropout
        )
        status = run(options, _console())
    sys.exit(status)


@app.command()
def devices(traceback: Traceback = False) -> None:
    """List the back ends: which can run here, and what they have."""
    with one_sentence(traceback):
        from niello.cli.devices import table

        _console().print(table())


@app.command()
def inspect(
    what: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A model, a package, a graph in text form, FILE.py:graph, digits or "
            "digits-inference.",
        ),
    ],
    picture: Annotated[
        Path | None, typer.Option(help="Write a picture: a page (.html) or an .svg.")
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write the page beside you: the model's name, .html.")
    ] = False,
    stage: Annotated[
        str | None,
        typer.Option(help="Print one stage: input, graph, schedule, kernels or source."),
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="Sizes of an input: image=64,28,28,1 (repeatable).")
    ] = None,
    unknown: Annotated[
        int, typer.Option(min=1, help="Size of dimensions that the graph leaves open.")
    ] = 64,
    function: Annotated[
        str | None, typer.Option(help="Which function of a package that has several.")
    ] = None,
    time: Annotated[bool, typer.Option("--time", help="Measure each kernel.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    device: Device = None,
    traceback: Traceback = False,
) -> None:
    """Show a model: inputs, outputs, operations, kernels, memory, and time where asked."""
    with one_sentence(traceback):
        from niello.cli.inspection.command import Options, run

        if html and picture is None:
            picture = Path(f"{Path(what.partition(':')[0]).stem}.html")
        options = Options(
            what, picture, stage, tuple(shape or ()), unknown, device, function, time, as_json
        )
        run(options, _console())
