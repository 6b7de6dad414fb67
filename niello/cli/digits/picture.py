"""The PNG of a training run: loss, accuracy, and what the network reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from niello.cli.digits.data import Digits
from niello.cli.digits.training import Progress

COLUMNS = 14
SAMPLE_ROWS = 4
MISTAKE_ROWS = 2
RIGHT, WRONG, LINE, FAINT = "#1a7f37", "#cf222e", "#0b5cad", "#b9d3ee"


def draw(path: Path, digits: Digits, progress: Progress, probabilities: np.ndarray) -> None:
    """Write the picture. `probabilities` are those of the held-out images, [N, 10]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    read = probabilities.argmax(axis=1)
    mistakes = np.flatnonzero(read != digits.test_labels)
    figure = Figure(figsize=(11, 10.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    rows = (4.2, SAMPLE_ROWS + 0.5, MISTAKE_ROWS + 0.5)
    parts: Any = figure.subfigures(3, 1, height_ratios=rows)
    curves, samples, errors = parts
    accuracy = np.mean(read == digits.test_labels)
    curves.suptitle(
        f"{digits.name}: {accuracy:.2%} of {len(read)} held-out images read right",
        fontsize=14, fontweight="bold",
    )  # fmt: skip
    _curves(curves, progress)
    samples.suptitle("Held-out images and what the network reads", fontsize=11)
    _grid(samples, digits, read, np.arange(len(read)), SAMPLE_ROWS)
    shown = min(len(mistakes), MISTAKE_ROWS * COLUMNS)
    errors.suptitle(
        f"{shown} of {len(mistakes)} mistakes (read, then truth)" if shown else "No mistakes",
        fontsize=11,
    )
    _grid(errors, digits, read, mistakes, MISTAKE_ROWS)
    figure.savefig(path)


def _curves(figure: Any, progress: Progress) -> None:
    left, right = figure.subplots(1, 2)
    losses = np.array(progress.losses)
    left.plot(np.arange(1, len(losses) + 1), losses, color=FAINT, linewidth=0.8)
    width = max(1, len(losses) // 50)
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    left.plot(np.arange(width, len(losses) + 1), smooth, color=LINE, linewidth=1.8)
    left.set(xlabel="step", ylabel="loss (nats)", yscale="log", title="Training loss")
    epochs = np.arange(1, len(progress.accuracies) + 1)
    percent = 100 * np.array(progress.accuracies)
    right.plot(epochs, percent, marker="o", color=LINE)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="epoch", ylabel="per cent", title="Accuracy on held-out images")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)


def _grid(figure: Any, digits: Digits, read: np.ndarray, chosen: np.ndarray, rows: int) -> None:
    cells = figure.subplots(rows, COLUMNS).ravel()
    for cell in cells:
        cell.axis("off")
    for cell, number in zip(cells, chosen, strict=False):
        truth, found = digits.test_labels[number], read[number]
        cell.imshow(digits.test_images[number], cmap="gray_r", vmin=0, vmax=digits.white)
        text = str(found) if found == truth else f"{found} ({truth})"
        cell.set_title(text, color=RIGHT if found == truth else WRONG, fontsize=10, pad=2)
