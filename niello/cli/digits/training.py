"""Training with checkpoints of single steps: stopping and resuming changes no result."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import niello as nl
from niello import errors
from niello.cli.digits.data import Digits, one_hot
from niello.cli.digits.network import Classifier, Network, training_step

IN_FLIGHT = 2
READ_AT_ONCE = 250  # held-out images
SECONDS_BETWEEN_CHECKPOINTS = 30.0
ENTRY = "digits"  # of the checkpoint's metadata


@dataclass(frozen=True)
class Settings:
    """What a run's results depend on; a checkpoint of other settings cannot be continued."""

    data: str
    images: int
    batch: int
    seed: int
    dropout: float


@dataclass
class Progress:
    """Where training stands: whole epochs, steps of the current one, and what was measured."""

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)  # one per step since the beginning
    accuracies: list[float] = field(default_factory=list)  # one per whole epoch, held-out images


class Trainer:
    """Trains a network on digits; `run_epoch` does what is left of the current epoch."""

    def __init__(
        self,
        network: Network,
        digits: Digits,
        settings: Settings,
        checkpoint: Path,
        *,
        device: str | None,
        options: nl.CompileOptions,
    ) -> None:
        self.network, self.digits, self.settings = network, digits, settings
        self.checkpoint = checkpoint
        self.progress = Progress()
        self.steps = len(digits.train_labels) // settings.batch  # a partial batch is left out
        if not 1 <= settings.batch <= len(digits.train_labels):
            raise errors.ConfigError(
                "--batch",
                f"must be from 1 to the {len(digits.train_labels)} training images",
                received=settings.batch,
            )
        size, batch = digits.size, settings.batch
        self.executable = network.graph.compile(
            {network.image: (batch, size, size, 1), network.label: (batch, 10)},
            [network.loss],
            training_step(network),
            device=device,
            options=options,
        )
        self.device, self.options = device, options

    @cached_property
    def classifier(self) -> Classifier:
        """The network without its training step."""
        rows = min(READ_AT_ONCE, len(self.digits.test_labels))
        return Classifier(self.network, batch=rows, device=self.device, options=self.options)

    # --- steps
    def run_epoch(self, on_step: Callable[[float], None], stop: Callable[[], bool]) -> bool:
        """Train to the end of the epoch and measure; False when `stop()` came true before.

        While a step runs the next batch is prepared. `on_step` receives each loss.
        """
        order = self.order(self.progress.epoch)
        waiting: deque[Future[Any]] = deque()
        saved = time.monotonic()

        def finish_one() -> None:
            loss = float(np.asarray(waiting.popleft().result()[0]))
            self.progress.step += 1
            self.progress.losses.append(loss)
            on_step(loss)

        with self.executable.in_flight(IN_FLIGHT) as queue:
            for step in range(self.progress.step, self.steps):
                if stop():
                    break
                if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                    while waiting:  # the variables must belong to a known step
                        finish_one()
                    self.save()
                    saved = time.monotonic()
                waiting.append(queue.submit(self.batch(order, step)))
                if len(waiting) == IN_FLIGHT:
                    finish_one()
            while waiting:
                finish_one()
        if self.progress.step < self.steps:
            self.save()
            return False
        self.progress.accuracies.append(self.accuracy())
        self.progress.epoch += 1
        self.progress.step = 0
        self.save()
        return True

    def order(self, epoch: int) -> np.ndarray:
        """The order of the images: a function of seed and epoch, so that it can be found again."""
        random = np.random.default_rng([self.settings.seed, 1, epoch])
        return random.permutation(len(self.digits.train_labels))

    def batch(self, order: np.ndarray, step: int) -> list[np.ndarray]:
        """Pixels and one-hot labels of one step."""
        chosen = order[step * self.settings.batch : (step + 1) * self.settings.batch]
        digits = self.digits
        return [digits.pixels(digits.train_images[chosen]), one_hot(digits.train_labels[chosen])]

    def accuracy(self) -> float:
        """The share of held-out images that the network reads right."""
        found = self.classifier.probabilities(self.digits.pixels(self.digits.test_images))
        return float(np.mean(found.argmax(axis=1) == self.digits.test_labels))

    # --- checkpoints
    def save(self) -> None:
        """Write variables, optimiser state and progress to one file, atomically."""
        about = {"settings": asdict(self.settings), "progress": asdict(self.progress)}
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        self.network.graph.save_variables(self.checkpoint, {ENTRY: json.dumps(about)})

    def resume(self) -> None:
        """Continue from the checkpoint. Raises CorruptFile, ConfigError and FileNotFoundError."""
        about = self.network.graph.load_variables(self.checkpoint)
        try:
            stored = json.loads(about[ENTRY])
            settings, progress = Settings(**stored["settings"]), Progress(**stored["progress"])
            if settings == self.settings and not 0 <= progress.step <= self.steps:
                raise ValueError(f"step {progress.step} of {self.steps}")
        except (KeyError, TypeError, ValueError) as error:
            raise errors.CorruptFile(
                f"resume {self.checkpoint}",
                "the file does not say where training stood",
                received=f"{type(error).__name__}: {error}",
                advice="Train anew, without --resume",
            ) from error
        if settings != self.settings:
            different = [
                f"{name} {getattr(settings, name)!r}"
                for name, value in asdict(self.settings).items()
                if getattr(settings, name) != value
            ]
            raise errors.ConfigError(
                f"--resume from {self.checkpoint}",
                f"the checkpoint was made with {', '.join(different)}",
                received=", ".join(f"{k} {v!r}" for k, v in asdict(self.settings).items()),
                advice="Give the same options, or train anew without --resume",
            )
        self.progress = progress
