"""`niello inspect`, from its options to what it prints and writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from niello import errors
from niello.cli.inspection.model import model_of
from niello.cli.inspection.subject import DEMOS, compile_subject, find, shapes

PICTURES = (".html", ".svg")


def run(
    what: str,
    picture: Path | None,
    stage: str | None,
    given: Sequence[str],
    unknown: int,
    device: str | None,
    console: Console,
) -> None:
    """Print the inspection, or one stage of it, and write the picture."""
    if picture is not None and picture.suffix.lower() not in PICTURES:
        raise errors.ConfigError("--picture", "must end in .html or .svg", received=str(picture))
    executable = compile_subject(find(what), shapes(given), unknown, device)
    if stage is not None:
        console.print(executable.as_text(stage), markup=False)
    model = model_of(executable, source_lines=what not in DEMOS)
    if picture is not None:
        if picture.suffix.lower() == ".html":
            from niello.cli.inspection.page import page

            text = page(executable, model)
        else:
            from niello.cli.inspection.picture import draw

            text = draw(model)
        picture.write_text(text, encoding="utf-8")
        console.print(f"Wrote {picture} ({len(text) / 1024:.0f} KiB)")
    if stage is None:
        from niello.cli.inspection.report import show

        show(executable, model, console)
