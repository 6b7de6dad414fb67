"""What a compilation shows: NIELLO_DEBUG lines, and numbered files in NIELLO_DUMP."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from niello.core import config
from niello.passes.computation import Computation
from niello.runtime.target import Loaded

if TYPE_CHECKING:
    from niello.executable.executable import Executable
    from niello.schedule.program import Scheduled

_compilations = itertools.count()


class Dump:
    """Writes the stages of one compilation; does nothing when no flag is set."""

    def __init__(self, name: str) -> None:
        self.level = config.DEBUG.integer(0, 6)
        chosen = config.DUMP.text()
        self.folder: Path | None = None
        if chosen:
            self.folder = Path(chosen) / f"{next(_compilations):04d}-{file_name(name)}"
            self.folder.mkdir(parents=True, exist_ok=True)
        self.count = 0

    def graph(self, stage: str, computation: Computation) -> None:
        if self.folder is None:
            return
        from niello.graph.text import print_graph

        self._write(f"{stage}.graph.txt", print_graph(computation.graph))

    def schedule(self, scheduled: Scheduled) -> None:
        if self.level >= 3:
            for line in scheduled.refusals:
                print(f"niello: {line}", file=sys.stderr)
        if self.folder is None:
            return
        from niello.executable.describe import commands_text, kernels_text

        self._write("schedule.txt", commands_text(scheduled))
        self._write("kernels.txt", kernels_text(scheduled.program))

    def source(self, loaded: Loaded) -> None:
        if self.level >= 4:
            print(loaded.source(), file=sys.stderr)
        if self.folder is not None:
            self._write("source.txt", loaded.source())

    def done(self, device: str, executable: Executable, seconds: float) -> None:
        if self.level < 1:
            return
        program = executable.program
        print(
            f"niello: compiled {len(executable.optimised.graph.operations)} operations into "
            f"{len(program.commands)} commands ({len(program.kernels)} kernels) for {device} in "
            f"{seconds * 1e3:.1f} ms; arena {program.arena_bytes} bytes",
            file=sys.stderr,
        )
        if self.level >= 2:
            from niello.executable.describe import commands_text

            print(commands_text(executable.scheduled), file=sys.stderr)

    def _write(self, name: str, text: str) -> None:
        assert self.folder is not None
        (self.folder / f"{self.count:02d}-{name}").write_text(text + "\n")
        self.count += 1


def file_name(text: str) -> str:
    """Text that users chose, as the name of a file."""
    return re.sub(r"[^\w.-]", "_", text)[:80] or "unnamed"
