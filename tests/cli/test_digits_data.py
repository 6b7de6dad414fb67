"""IDX files: what is read, and the sentence for each thing that can be wrong with them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from idx_files import NAMES, arrays, idx, write

from niello import errors
from niello.cli.digits import data

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("zipped", [False, True])
def test_reads_plain_and_gzipped_files(tmp_path: Path, zipped: bool) -> None:
    digits = data.from_directory(write(tmp_path, zipped=zipped))
    expected = arrays()
    np.testing.assert_array_equal(digits.train_images, expected[IMAGES])
    np.testing.assert_array_equal(digits.test_labels, expected["t10k-labels-idx1-ubyte"])
    assert digits.size == 12


def test_reads_names_with_a_dot(tmp_path: Path) -> None:
    write(tmp_path)
    for name in NAMES:
        (tmp_path / name).rename(tmp_path / name.replace("-idx", ".idx"))
    assert len(data.from_directory(tmp_path).train_labels) == 96


def test_pixels_are_from_zero_to_one(tmp_path: Path) -> None:
    digits = data.from_directory(write(tmp_path))
    pixels = digits.pixels(digits.train_images)
    assert pixels.dtype == np.float32 and pixels.shape == (96, 12, 12, 1)
    assert pixels.min() >= 0 and pixels.max() == 1


def test_bundled_digits_are_split_without_overlap() -> None:
    digits = data.bundled()
    assert (len(digits.train_labels), len(digits.test_labels)) == (1437, 360)
    assert digits.train_images.max() == digits.white == 16
    assert set(digits.test_labels) == set(range(10))


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such directory") as caught:
        data.from_directory(tmp_path / "nowhere")
    assert caught.value.filename == str(tmp_path / "nowhere")


@pytest.mark.parametrize("name", list(NAMES))
def test_missing_file(tmp_path: Path, name: str) -> None:
    (write(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"nor with \.gz") as caught:
        data.from_directory(tmp_path)
    assert caught.value.filename == str(tmp_path / name)


def _labels(*values: int) -> bytes:
    return idx(np.array(values))


ZIPPED = gzip.compress(idx(arrays()[IMAGES]))
BROKEN: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "empty": (IMAGES, lambda b: b"", "0 bytes in all"),
    "short header": (IMAGES, lambda b: b[:9], "promises more"),
    "truncated": (IMAGES, lambda b: b[:-5], "promises 13824 bytes of data; received 13819"),
    "too long": (IMAGES, lambda b: b + b"!", "promises 13824 bytes of data; received at least 138"),
    "wrong magic": (IMAGES, lambda b: b"\0\0\x08\x01" + b[4:], "starts with 0x00000803"),
    "not idx": (LABELS, lambda b: b"hello, world", "starts with 0x00000801"),
    "lying header": (IMAGES, lambda b: b[:4] + b"\xff" * 12 + b[16:], "promises 79228162458924"),
    "truncated gzip": (IMAGES, lambda b: ZIPPED[:-20], "damaged or cut off"),
    "corrupt gzip": (
        IMAGES,
        lambda b: ZIPPED[:200] + bytes(x ^ 255 for x in ZIPPED[200:240]) + ZIPPED[240:],
        "damaged or cut off",
    ),
    "fewer labels": (LABELS, lambda b: _labels(*[1] * 95), "96 images, and each needs one label"),
    "no labels": (LABELS, lambda b: _labels(), "each needs one label"),
    "label ten": (LABELS, lambda b: _labels(*[10] * 96), "from 0 to 9; received 10"),
    "not square": (IMAGES, lambda b: idx(np.zeros((96, 12, 8))), "square images"),
    "tiny": (IMAGES, lambda b: idx(np.zeros((96, 4, 4))), "8x8 pixels or more"),
    "other size": (IMAGES, lambda b: idx(np.zeros((96, 16, 16))), "received 12x12"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_broken_files_say_what_is_wrong(tmp_path: Path, case: str) -> None:
    name, damage, words = BROKEN[case]
    path = write(tmp_path) / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(errors.CorruptFile) as caught:
        data.from_directory(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)
