"""The demo from end to end: train, draw, save, load into a fresh graph, classify."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import niello as nl
from niello import errors
from niello.cli.digits import data, network
from niello.cli.digits.training import Settings, Trainer

INTERRUPTED = 130  # what a shell reports after Ctrl-C
SHOWN = 5


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    data: Path | None
    device: str | None
    epochs: int | None
    batch: int
    target_accuracy: float
    out: Path
    resume: bool
    seed: int
    threads: int
    dropout: float

    @property
    def last_epoch(self) -> int:
        return self.epochs if self.epochs is not None else 30 if self.data is None else 3


class StopRequest:
    """True once the user pressed Ctrl-C; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C as a request to stop after the current step."""
        before = signal.getsignal(signal.SIGINT)

        def ask(number: int, frame: FrameType | None) -> None:
            self.asked = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def run(options: Options, console: Console) -> int:
    """Run the demo; returns the exit status."""
    if not 0 < options.target_accuracy <= 1:
        raise errors.ConfigError(
            "--target-accuracy",
            "must be a share, more than 0 and at most 1",
            received=options.target_accuracy,
            advice="0.99 means 99 of 100 held-out images",
        )
    digits = data.bundled() if options.data is None else data.from_directory(options.data)
    compiling = nl.CompileOptions(threads=options.threads)
    settings = Settings(
        digits.name, len(digits.train_labels), options.batch, options.seed, options.dropout
    )
    model = network.build(digits.size, options.seed, options.dropout)
    started = time.perf_counter()
    checkpoint = options.out / "digits.safetensors"
    trainer = Trainer(model, digits, settings, checkpoint, device=options.device, options=compiling)
    seconds = time.perf_counter() - started
    executable = trainer.executable
    console.print(
        f"{digits.name}: {len(digits.train_labels)} training and {len(digits.test_labels)} "
        f"held-out images of {digits.size}x{digits.size} pixels"
    )
    console.print(
        f"Compiled a training step for [bold]{executable.backend.name}[/]: "
        f"{executable.kernel_count} kernels, {executable.arena_bytes / 2**20:.1f} MiB of working "
        f"memory, in {seconds:.2f} s"
    )
    if options.resume:
        trainer.resume()
        done = trainer.progress
        console.print(f"Resuming {checkpoint} after epoch {done.epoch}, step {done.step}")
    stop = StopRequest()
    with stop.listening():
        whole = train(trainer, options, stop, console)
    if not whole:
        console.print(
            f"[yellow]Interrupted[/] after epoch {trainer.progress.epoch}, step "
            f"{trainer.progress.step}. Everything is in {checkpoint}; continue with the same "
            "options and [bold]--resume[/]."
        )
        return INTERRUPTED
    classify_afresh(checkpoint, digits, trainer, options, compiling, console)
    return 0


def train(trainer: Trainer, options: Options, stop: StopRequest, console: Console) -> bool:
    """Epoch by epoch, up to the target accuracy; False when interrupted."""
    progress = trainer.progress
    with _bar(console) as bar:
        while progress.epoch < options.last_epoch and not _reached(trainer, options):
            epoch = _Epoch(bar, trainer, options)
            whole = trainer.run_epoch(epoch.step, stop)
            bar.remove_task(epoch.task)
            if not whole:
                return False
            console.print(epoch.line())
    if _reached(trainer, options):
        console.print(f"Reached the target accuracy of {options.target_accuracy:.2%}")
    return True


class _Epoch:
    """What is shown of one epoch: a bar while it runs, a line afterwards."""

    def __init__(self, bar: Progress, trainer: Trainer, options: Options) -> None:
        self.bar, self.trainer, self.options = bar, trainer, options
        self.started, self.first = time.perf_counter(), trainer.progress.step
        self.task = bar.add_task(
            "", total=trainer.steps, epoch=trainer.progress.epoch + 1, loss="", rate=""
        )

    def speed(self, steps: int) -> str:
        images = (steps - self.first) * self.options.batch
        return f"{images / (time.perf_counter() - self.started):.0f} images/s"

    def step(self, loss: float) -> None:
        done = self.trainer.progress.step
        self.bar.update(self.task, completed=done, loss=f"loss {loss:.4f}", rate=self.speed(done))

    def line(self) -> str:
        progress, steps = self.trainer.progress, self.trainer.steps
        return (
            f"epoch {progress.epoch:2d}   loss {np.mean(progress.losses[-steps:]):.4f}   "
            f"accuracy {progress.accuracies[-1]:.2%}   "
            f"{time.perf_counter() - self.started:.1f} s   {self.speed(steps)}"
        )


def _reached(trainer: Trainer, options: Options) -> bool:
    measured = trainer.progress.accuracies
    return bool(measured) and measured[-1] >= options.target_accuracy


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def classify_afresh(
    checkpoint: Path,
    digits: data.Digits,
    trainer: Trainer,
    options: Options,
    compiling: nl.CompileOptions,
    console: Console,
) -> None:
    """Load the weights into a new graph, read the held-out images, draw the picture."""
    from niello.cli.digits import picture

    fresh = network.build(digits.size, options.seed + 1)
    fresh.graph.load_variables(checkpoint, strict=False)
    reader = network.Classifier(
        fresh, batch=trainer.classifier.batch, device=options.device, options=compiling
    )
    found = reader.probabilities(digits.pixels(digits.test_images))
    read = found.argmax(axis=1)
    accuracy = np.mean(read == digits.test_labels)
    console.print(
        f"Loaded {checkpoint} into a new graph: [bold]{accuracy:.2%}[/] of "
        f"{len(read)} held-out images read right"
    )
    for i in range(min(SHOWN, len(read))):
        truth = digits.test_labels[i]
        colour = "green" if read[i] == truth else "red"
        console.print(
            f"  image {i}: [{colour}]{read[i]}[/] with probability {found[i].max():.3f} "
            f"(it is a {truth})"
        )
    path = options.out / "digits.png"
    picture.draw(path, digits, trainer.progress, found)
    console.print(f"Drew {path}")
