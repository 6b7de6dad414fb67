"""Handwritten digits: scikit-learn's bundled set, or MNIST's IDX files from a directory."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from niello import errors

CLASSES = 10
SMALLEST = 8  # two poolings must leave something
CHUNK = 1 << 20
HELD_OUT = 360  # of the 1797 bundled images


@dataclass(frozen=True)
class Digits:
    """Images [N, size, size] of bytes from 0 to `white`, and their labels [N] from 0 to 9."""

    name: str
    white: int
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def size(self) -> int:
        return int(self.train_images.shape[1])

    def pixels(self, images: np.ndarray) -> np.ndarray:
        """float32[N, size, size, 1] from 0 to 1, as the network takes them."""
        return (images.astype(np.float32) / np.float32(self.white))[..., None]


def one_hot(labels: np.ndarray) -> np.ndarray:
    """float32[N, 10] with a one where the label is."""
    return np.eye(CLASSES, dtype=np.float32)[labels]


def bundled() -> Digits:
    """scikit-learn's 1797 images of 8x8 pixels, split once and for all."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = found.images[order].astype(np.uint8)
    labels = found.target[order].astype(np.int64)
    return Digits(
        "scikit-learn digits", 16,
        images[HELD_OUT:], labels[HELD_OUT:], images[:HELD_OUT], labels[:HELD_OUT],
    )  # fmt: skip


def from_directory(folder: Path) -> Digits:
    """MNIST, or anything in its four IDX files (gzipped or not).

    Raises CorruptFile for files that are not whole, not IDX, or do not belong together, and
    FileNotFoundError for files that are not there.
    """
    train_images, train_labels = _pair(folder, "train")
    test_images, test_labels = _pair(folder, "t10k")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise errors.CorruptFile(
            f"read {folder}",
            f"training images are {_size(train_images)} pixels, test images must be too",
            received=_size(test_images),
        )
    return Digits(folder.name, 255, train_images, train_labels, test_images, test_labels)


def _size(images: np.ndarray) -> str:
    return f"{images.shape[1]}x{images.shape[2]}"


def _pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of "train" or "t10k", checked against each other."""
    where = _find(folder, part, "images-idx3-ubyte")
    images = read_idx(where, rank=3)
    rows, columns = images.shape[1:]
    if rows != columns or rows < SMALLEST:
        raise errors.CorruptFile(
            f"read {where}",
            f"the network takes square images of {SMALLEST}x{SMALLEST} pixels or more",
            received=f"{rows}x{columns}",
        )
    named = _find(folder, part, "labels-idx1-ubyte")
    labels = read_idx(named, rank=1)
    if len(labels) != len(images) or not len(labels):
        raise errors.CorruptFile(
            f"read {named}",
            f"{where.name} has {len(images)} images, and each needs one label",
            received=f"{len(labels)} labels",
            advice="Take both files from the same set",
        )
    if labels.max() >= CLASSES:
        raise errors.CorruptFile(
            f"read {named}", "labels are digits from 0 to 9", received=int(labels.max())
        )
    return images, labels.astype(np.int64)


def _find(folder: Path, part: str, kind: str) -> Path:
    names = [f"{part}-{kind}", f"{part}-{kind.replace('-idx', '.idx')}"]
    for name in [n + end for n in names for end in ("", ".gz")]:
        if (folder / name).is_file():
            return folder / name
    wanted = str(folder / names[0])
    problem = "No such file, nor with .gz" if folder.is_dir() else "No such directory"
    raise FileNotFoundError(2, problem, wanted if folder.is_dir() else str(folder))


def read_idx(path: Path, rank: int) -> np.ndarray:
    """The bytes of an IDX file as an array of that rank. Raises CorruptFile."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            if zipped:
                with gzip.open(file) as stream:
                    return _parse(stream, path, rank)  # type: ignore[arg-type]
            return _parse(file, path, rank)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise errors.CorruptFile(
                f"read {path}",
                "the compressed data is damaged or cut off",
                received=str(error) or type(error).__name__,
                advice="Fetch the file again",
            ) from error


def _parse(stream: BinaryIO, path: Path, rank: int) -> np.ndarray:
    header = stream.read(4 + 4 * rank)
    magic = 0x800 + rank  # 8: unsigned bytes; then the number of dimensions
    found = int.from_bytes(header[:4], "big")
    if len(header) < 4 or found != magic:
        raise errors.CorruptFile(
            f"read {path}",
            f"an IDX file of bytes with {rank} dimension{'s' * (rank > 1)} starts with "
            f"{magic:#010x}",
            received=f"{found:#010x}" if len(header) >= 4 else f"{len(header)} bytes in all",
            advice="Give MNIST's own files",
        )
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
    wanted = math.prod(shape) if len(header) == 4 + 4 * rank else None
    body = _read(stream, wanted)
    if wanted is None or len(body) != wanted:
        more = wanted is not None and len(body) > wanted
        raise errors.CorruptFile(
            f"read {path}",
            f"the header promises {wanted if wanted is not None else 'more'} bytes of data",
            received=f"{'at least ' * more}{len(body)}",
            advice="Fetch the file again",
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def _read(stream: BinaryIO, wanted: int | None) -> bytes:
    """Up to one byte more than wanted, piece by piece: a header may lie about sizes."""
    body = bytearray()
    while len(body) <= (wanted or 0):
        piece = stream.read(min(CHUNK, (wanted or 0) + 1 - len(body)))
        if not piece:
            break
        body += piece
    return bytes(body)
