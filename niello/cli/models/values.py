"""What `--input` gives: arrays from files and pictures, random numbers, zeros."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import niello as nl
from niello import errors
from niello.cli.models.sources import Model, unknown_names

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
# Bytes of a picture, from 0 to 255, to what a network was trained on.
RANGES = ("0..255", "0..1", "-1..1", "imagenet")
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's photographs
_SEED = 0


def assignments(given: Sequence[str], option: str = "--input") -> dict[str, str]:
    """`name=value` texts as a mapping. Raises ConfigError."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals or not value or name in found:
            raise errors.ConfigError(
                option, "must be NAME=VALUE, each name once", received=text,
                advice=f"For example {option} image=photo.png",
            )  # fmt: skip
        found[name] = value
    return found


def files_of(model: Model, given: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Arrays of the inputs that come from .npy files: they say sizes too."""
    unknown_names(model, given, "--input")
    return {n: _array(Path(v)) for n, v in given.items() if v.endswith(".npy")}


def sizes_of(
    model: Model, files: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The sizes that the user gave, by themselves or by files."""
    open_inputs = {n: a.shape for n, a in files.items() if not model.inputs[n].is_static}
    return {**open_inputs, **shapes}


def feeds(
    executable: nl.Executable,
    given: Mapping[str, str],
    files: Mapping[str, np.ndarray],
    range_name: str = "0..255",
) -> dict[str, np.ndarray]:
    """A value for each input of an executable: what the user gave, else random numbers.

    Random numbers are the same in every run: normal for floats, 0 and 1 for other types.
    Raises ConfigError and OSError.
    """
    if range_name not in RANGES:
        raise errors.ConfigError(
            "--image-range", f"is one of {', '.join(RANGES)}", received=range_name
        )
    rng = np.random.default_rng(_SEED)
    found = {}
    for name, kind in zip(executable.input_names, executable.input_types, strict=True):
        text = given.get(name, "random")
        if name in files:
            found[name] = files[name]
        elif text == "random":
            found[name] = random_value(kind, rng)
        elif text == "zeros":
            found[name] = np.zeros(kind.static_shape, kind.dtype.numpy)
        elif Path(text).suffix.lower() in PICTURES:
            found[name] = picture(Path(text), kind, range_name, name)
        else:
            found[name] = _number(text, kind, name)
    return found


def random_value(kind: nl.TensorType, rng: np.random.Generator) -> np.ndarray:
    """Random numbers of a type."""
    if kind.dtype.is_float:
        return rng.standard_normal(kind.static_shape).astype(kind.dtype.numpy)
    return rng.integers(0, 2, kind.static_shape).astype(kind.dtype.numpy)


def _array(path: Path) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise errors.CorruptFile(
            f"--input {path}", "this is not a complete .npy file", received=str(error)
        ) from error
    if not isinstance(found, np.ndarray):
        raise errors.CorruptFile(f"--input {path}", "this file holds several arrays")
    return found


def _number(text: str, kind: nl.TensorType, name: str) -> np.ndarray:
    try:
        value = float(text) if kind.dtype.is_float else int(text)
        return np.full(kind.static_shape, value, kind.dtype.numpy)
    except (ValueError, OverflowError):
        raise errors.ConfigError(
            f"--input {name}",
            "must be a .npy file, a picture, random, zeros or a number",
            received=text,
        ) from None


# --- pictures


def picture(path: Path, kind: nl.TensorType, range_name: str, name: str) -> np.ndarray:
    """A picture as a network takes it: resized, in its layout, channels and range.

    The layout is read from the type: [1, 3, height, width] or [1, height, width, 3], with one or
    three channels, and with or without the leading 1. Raises ConfigError.
    """
    channels_at, height, width, channels = _layout(kind, name)
    image = _opened(path).convert("L" if channels == 1 else "RGB").resize((width, height))
    pixels: Any = np.asarray(image, np.float32).reshape(height, width, channels)
    if range_name == "0..1":
        pixels = pixels / 255
    elif range_name == "-1..1":
        pixels = pixels / 127.5 - 1
    elif range_name == "imagenet":
        mean, deviation = np.array(_MEAN, np.float32), np.array(_DEVIATION, np.float32)
        pixels = (pixels / 255 - mean) / deviation
    if channels_at == -3:
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels.astype(kind.dtype.numpy).reshape(kind.static_shape))


def _layout(kind: nl.TensorType, name: str) -> tuple[int, int, int, int]:
    """(axis of channels, height, width, channels)."""
    shape = kind.static_shape
    if len(shape) == 2:
        return -1, shape[0], shape[1], 1
    if len(shape) == 3 or (len(shape) == 4 and shape[0] == 1):
        a, b, c = shape[-3:]
        if a in (1, 3):
            return -3, b, c, a
        if c in (1, 3):
            return -1, a, b, c
    raise errors.ConfigError(
        f"--input {name}",
        "a picture does not fit this input",
        received=str(kind),
        advice="Give a .npy file",
    )


def _opened(path: Path) -> Any:
    try:
        module = importlib.import_module("PIL.Image")
    except ModuleNotFoundError as error:
        raise errors.ConfigError(
            f"--input {path}",
            "reading pictures needs Pillow, which is not installed",
            advice="Install it with: pip install pillow, or give a .npy file",
        ) from error
    try:
        return module.open(path)
    except module.UnidentifiedImageError as error:
        raise errors.CorruptFile(
            f"--input {path}", "this is no picture", received=str(error)
        ) from error
