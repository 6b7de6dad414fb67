"""`niello inspect`, from its options to what it prints and writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import niello as nl
from niello import errors
from niello.cli.inspection.model import Model, model_of
from niello.cli.inspection.subject import DEMOS, compile_subject, find, shapes

PICTURES = (".html", ".svg")


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    what: str
    picture: Path | None = None
    stage: str | None = None
    shapes: tuple[str, ...] = ()
    unknown: int = 64
    device: str | None = None
    function: str | None = None
    time: bool = False
    as_json: bool = False


def run(options: Options, console: Console) -> None:
    """Print the inspection, or one stage of it, and write the picture."""
    picture = options.picture
    if picture is not None and picture.suffix.lower() not in PICTURES:
        raise errors.ConfigError("--picture", "must end in .html or .svg", received=str(picture))
    executable, own = compiled(options)
    if options.stage is not None:
        console.print(executable.as_text(options.stage), markup=False)
    times = executable.time_commands() if options.time else []
    model = model_of(executable, source_lines=own, times=times)
    if picture is not None:
        _draw(executable, model, picture, Console(stderr=True) if options.as_json else console)
    if options.as_json:
        from niello.cli.inspection.facts import facts

        console.print_json(json.dumps(facts(executable, model)))
    elif options.stage is None:
        from niello.cli.inspection.report import show

        show(executable, model, console)


def compiled(options: Options) -> tuple[nl.Executable, bool]:
    """What is shown, and whether the user wrote the lines that its operations come from."""
    from niello.cli.models.sources import is_model, open_model

    sizes = shapes(options.shapes)
    if is_model(options.what):
        model = open_model(options.what, function=options.function)
        return model.executable(options.device, nl.CompileOptions(), sizes, {}), False
    subject = find(options.what)
    made = compile_subject(subject, sizes, options.unknown, options.device)
    return made, options.what not in DEMOS


def _draw(executable: nl.Executable, model: Model, picture: Path, console: Console) -> None:
    if picture.suffix.lower() == ".html":
        from niello.cli.inspection.page import page

        text = page(executable, model)
    else:
        from niello.cli.inspection.picture import draw

        text = draw(model)
    picture.write_text(text, encoding="utf-8")
    console.print(f"Wrote {picture} ({len(text) / 1024:.0f} KiB)")
