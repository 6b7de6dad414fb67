"""Small IDX files for the tests."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

NAMES = {
    "train-images-idx3-ubyte": (96, 12, 12),
    "train-labels-idx1-ubyte": (96,),
    "t10k-images-idx3-ubyte": (40, 12, 12),
    "t10k-labels-idx1-ubyte": (40,),
}


def idx(array: np.ndarray, magic: int | None = None) -> bytes:
    """An array of bytes in IDX form."""
    head = [0x800 + array.ndim if magic is None else magic, *array.shape]
    return b"".join(n.to_bytes(4, "big") for n in head) + array.astype(np.uint8).tobytes()


def arrays() -> dict[str, np.ndarray]:
    """Images whose brightest row tells the label, so that they can be learned."""
    random = np.random.default_rng(3)
    found = {}
    for part, count in (("train", 96), ("t10k", 40)):
        labels = random.integers(0, 10, count)
        images = random.integers(0, 60, (count, 12, 12))
        images[np.arange(count), labels + 1] = 255
        found[f"{part}-images-idx3-ubyte"] = images
        found[f"{part}-labels-idx1-ubyte"] = labels
    return found


def write(folder: Path, *, zipped: bool = False) -> Path:
    """The four files."""
    for name, array in arrays().items():
        body = idx(array)
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(body))
        else:
            (folder / name).write_bytes(body)
    return folder
