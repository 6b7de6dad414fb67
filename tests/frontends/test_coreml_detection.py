"""Crops, samples at computed places, affine maps and suppression of Core ML, by their formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.models import datatypes  # noqa: E402
from coremltools.models.neural_network import NeuralNetworkBuilder  # noqa: E402

from niello import errors  # noqa: E402
from niello.frontends.coreml import load  # noqa: E402

RNG = np.random.default_rng(11)
IMAGES = RNG.standard_normal((2, 3, 5, 7)).astype(np.float32)


def program(
    body: Callable[..., Any], inputs: dict[str, tuple[int, ...]], where: Path, target: Any = None
) -> Any:
    """A program of inputs of these shapes, written as a package and read again."""
    target = target or ct.target.iOS15
    specs = [mb.TensorSpec(shape=shape) for shape in inputs.values()]
    made = mb.program(input_specs=specs, opset_version=target)(body)
    model = ct.convert(
        made, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32,
        skip_model_load=True, minimum_deployment_target=target,
    )  # fmt: skip
    model.save(str(where / "m.mlpackage"))
    return load(where / "m.mlpackage")


def sample(x: np.ndarray, row: float, column: float, outside: float | None = None) -> np.ndarray:
    """x [C, H, W] between four neighbours; places beyond repeat the edge, or are `outside`."""
    h, w = x.shape[1:]
    if outside is not None and not (0 <= row <= h - 1 and 0 <= column <= w - 1):
        return np.full(x.shape[0], outside, np.float32)
    row, column = np.clip(row, 0, h - 1), np.clip(column, 0, w - 1)
    r, c = int(row), int(column)
    r1, c1 = min(r + 1, h - 1), min(c + 1, w - 1)
    a, b = row - r, column - c
    top = x[:, r, c] * (1 - b) + x[:, r, c1] * b
    return np.asarray(top * (1 - a) + (x[:, r1, c] * (1 - b) + x[:, r1, c1] * b) * a)


def grid(start: float, end: float, mode: str, n: int) -> np.ndarray:
    """Places of n points over [start, end], as the specification defines them by linspace."""
    if mode == "ALIGN_CORNERS" and n == 1:
        return np.array([(start + end) / 2])
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        return np.linspace(start, end, n)
    size = end - start + 1
    if mode == "DEFAULT":
        return np.linspace(start, start + size - size / n, n)
    if mode == "OFFSET_CORNERS":
        step = max(1.0, end - start) / n
        return start + step / 2 + np.arange(n) * step
    return start + (np.arange(n) + 0.5) * size / n - 0.5


def cropped(x: np.ndarray, box: Any, mode: str, size: Any, outside: float | None) -> np.ndarray:
    """One crop [C, *size]; the box is (top, left, bottom, right)."""
    rows, columns = grid(box[0], box[2], mode, size[0]), grid(box[1], box[3], mode, size[1])
    found = [[sample(x, r, c, outside) for c in columns] for r in rows]
    return np.array(found, np.float32).transpose(2, 0, 1)


BOXES = np.array([[0.5, 1, 3, 5.5], [-1, 2, 4.5, 7]], np.float32)
MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(3, 4), (1, 2)])
def test_crop_resize_of_all_images(mode: str, size: Any, tmp_path: Path) -> None:
    def body(x: Any, roi: Any) -> Any:
        return mb.crop_resize(
            x=x, roi=roi, target_height=size[0], target_width=size[1], sampling_mode=mode,
            box_coordinate_mode="CORNERS_HEIGHT_FIRST", name="y",
        )  # fmt: skip

    model = program(body, {"x": IMAGES.shape, "roi": (2, 1, 4, 1, 1)}, tmp_path)
    found = model.run({"x": IMAGES, "roi": BOXES.reshape(2, 1, 4, 1, 1)})["y"].numpy()
    wanted = [[cropped(x, b, mode, size, None) for x in IMAGES] for b in BOXES]
    np.testing.assert_allclose(found, np.array(wanted), rtol=1e-5, atol=1e-5)


def test_crop_resize_of_the_image_that_a_box_names(tmp_path: Path) -> None:
    def body(x: Any, roi: Any) -> Any:
        return mb.crop_resize(
            x=x, roi=roi, target_height=2, target_width=2, normalized_coordinates=True,
            box_coordinate_mode="CENTER_SIZE_WIDTH_FIRST", sampling_mode="ALIGN_CORNERS",
            pad_value=7.0, spatial_scale=0.5, name="y",
        )  # fmt: skip

    centers = np.array([[1, 1, 1, 0.8, 0.6], [0, 1.6, 1, 1.2, 0.4]], np.float32)
    shape = (2, 1, 5, 1, 1)
    model = program(body, {"x": IMAGES.shape, "roi": shape}, tmp_path, ct.target.iOS16)
    found = model.run({"x": IMAGES, "roi": centers.reshape(shape)})["y"].numpy()
    for i, (image, x, y, w, h) in enumerate(centers):
        x, y, w, h = np.array([x * 6, y * 4, w * 6, h * 4]) / 2
        box = [y - h / 2, x - w / 2, y + h / 2, x + w / 2]
        wanted = cropped(IMAGES[int(image)], box, "ALIGN_CORNERS", (2, 2), 7.0)
        np.testing.assert_allclose(found[i, 0], wanted, rtol=1e-5, atol=1e-5)
    assert (found == 7.0).any()


def test_crop_resize_with_numbers_beside_the_boxes(tmp_path: Path) -> None:
    def body(x: Any, boxes: Any) -> Any:
        return mb.crop_resize(
            x=x, boxes=boxes, box_indices=np.array([1, 0], np.int32), target_height=3,
            target_width=2, pad_value=-1.0, sampling_mode="OFFSET_CORNERS", name="y",
        )  # fmt: skip

    model = program(body, {"x": IMAGES.shape, "boxes": (2, 4)}, tmp_path, ct.target.iOS17)
    found = model.run({"x": IMAGES, "boxes": BOXES})["y"].numpy()
    wanted = [
        cropped(IMAGES[1 - i], b, "OFFSET_CORNERS", (3, 2), -1.0) for i, b in enumerate(BOXES)
    ]
    np.testing.assert_allclose(found, np.array(wanted), rtol=1e-5, atol=1e-5)


def network(inputs: dict[str, tuple[int, ...]], outputs: tuple[str, ...] = ("y",)) -> Any:
    """A builder of a network of arrays."""
    features = [(n, datatypes.Array(*s)) for n, s in inputs.items()]
    return NeuralNetworkBuilder(
        features, [(n, None) for n in outputs], disable_rank5_shape_mapping=True
    )


@pytest.mark.parametrize("five", [False, True])
def test_crop_resize_layer(five: bool) -> None:
    count = 5 if five else 4
    made = network({"x": (1, *IMAGES.shape), "roi": (2, 1, count, 1, 1)})
    made.add_crop_resize(
        "c", ["x", "roi"], "y", 3, 2, mode="ROI_ALIGN_MODE", box_indices_mode="CORNERS_WIDTH_FIRST"
    )
    boxes = BOXES[:, [1, 0, 3, 2]]
    boxes = np.concatenate([[[1], [0]], boxes], 1) if five else boxes
    fed = {"x": IMAGES[None], "roi": boxes.astype(np.float32).reshape(2, 1, count, 1, 1)}
    found = load(made.spec).run(fed)["y"].numpy()
    every = np.array(
        [[cropped(x, b, "OFFSET_CORNERS", (3, 2), None) for x in IMAGES] for b in BOXES]
    )
    wanted = every[[0, 1], [1, 0]][:, None] if five else every
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def folded(place: float, size: int, padding: str) -> float:
    """A place brought back into the image, as the paddings define it."""
    low, high = (0.0, size - 1.0) if padding == "reflection" else (-0.5, size - 0.5)
    if padding in ("reflection", "symmetric"):
        while not low <= place <= high:
            place = 2 * low - place if place < low else 2 * high - place
    return place


@pytest.mark.parametrize("padding", ["border", "reflection", "symmetric"])
@pytest.mark.parametrize(
    "kind", ["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"]
)
@pytest.mark.parametrize("corners", [False, True])
def test_resample(padding: str, kind: str, corners: bool, tmp_path: Path) -> None:
    def body(x: Any, where: Any) -> Any:
        return mb.resample(
            x=x, coordinates=where, sampling_mode="bilinear", padding_mode=padding,
            padding_value=0.0, coordinates_mode=kind, align_corners=corners, name="y",
        )  # fmt: skip

    where = RNG.uniform(-0.3, 1.3, (2, 3, 4, 2)).astype(np.float32)
    sizes = np.array([7, 5])
    fed = where
    if kind == "unnormalized":
        fed = places = (where * (sizes - 1)).astype(np.float32)
    else:
        places = where * (sizes - 1) if corners else where * sizes - 0.5
        fed = where * 2 - 1 if kind == "normalized_minus_one_to_one" else where
    model = program(body, {"x": IMAGES.shape, "where": where.shape}, tmp_path, ct.target.iOS16)
    found = model.run({"x": IMAGES, "where": fed})["y"].numpy()
    for n, i, j in np.ndindex(2, 3, 4):
        column, row = (folded(p, s, padding) for p, s in zip(places[n, i, j], sizes, strict=True))
        np.testing.assert_allclose(
            found[n, :, i, j], sample(IMAGES[n], row, column), rtol=1e-4, atol=1e-4
        )


def test_resample_beyond_the_image_and_the_nearest(tmp_path: Path) -> None:
    def body(x: Any, where: Any) -> Any:
        return mb.resample(
            x=x, coordinates=where, sampling_mode="nearest", padding_mode="constant",
            padding_value=9.0, coordinates_mode="unnormalized", align_corners=True, name="y",
        )  # fmt: skip

    where = np.array([[[[1.2, 3.4], [-4, 0], [6.3, 0.8]]]] * 2, np.float32)
    model = program(body, {"x": IMAGES.shape, "where": where.shape}, tmp_path, ct.target.iOS16)
    found = model.run({"x": IMAGES, "where": where})["y"].numpy()
    wanted = np.stack([IMAGES[..., 3, 1], np.full((2, 3), 9.0), IMAGES[..., 1, 6]], -1)
    np.testing.assert_array_equal(found[:, :, 0], wanted)


@pytest.mark.parametrize("matrices", [1, 2])
def test_affine(matrices: int, tmp_path: Path) -> None:
    def body(x: Any, matrix: Any) -> Any:
        return mb.affine(
            x=x, transform_matrix=matrix, output_height=3, output_width=4,
            sampling_mode="bilinear", padding_mode="constant", padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one", align_corners=True, name="y",
        )  # fmt: skip

    matrix = np.array([[0.5, 0.25, 0.1, -0.25, 0.5, 0], [0, 0.6, 0, 0.7, 0, -0.2]], np.float32)
    matrix = matrix[:matrices]
    model = program(body, {"x": IMAGES.shape, "matrix": matrix.shape}, tmp_path)
    found = model.run({"x": IMAGES, "matrix": matrix})["y"].numpy()
    for n, i, j in np.ndindex(2, 3, 4):
        x, y = np.linspace(-1, 1, 4)[j], np.linspace(-1, 1, 3)[i]
        a, b, c, d, e, f = matrix[n % matrices]
        column, row = ((a * x + b * y + c + 1) * 3, (d * x + e * y + f + 1) * 2)
        np.testing.assert_allclose(
            found[n, :, i, j], sample(IMAGES[n], row, column), rtol=1e-4, atol=1e-4
        )


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of boxes (x, y, width, height) about their centres."""
    low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    shared = np.maximum(high - low, 0).prod()
    return float(shared / (a[2:].prod() + b[2:].prod() - shared))


def kept(
    boxes: np.ndarray, scores: np.ndarray, most: int, most_overlap: float, least: float, kinds: bool
) -> list[int]:
    best, kind = scores.max(1), scores.argmax(1)
    found: list[int] = []
    for i in np.argsort(-best, kind="stable"):
        if best[i] < least or len(found) == most:
            break
        rivals = [j for j in found if not kinds or kind[i] == kind[j]]
        if all(overlap(boxes[i], boxes[j]) <= most_overlap for j in rivals):
            found.append(int(i))
    return found


PLACES = np.concatenate([RNG.uniform(0, 4, (2, 30, 2)), RNG.uniform(1, 2, (2, 30, 2))], 2).astype(
    "f4"
)
SCORES = RNG.uniform(0, 1, (2, 30, 3)).astype("f4")


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize("most", [4, 25])
def test_suppression_layer(kinds: bool, most: int) -> None:
    made = network({"boxes": PLACES.shape, "scores": SCORES.shape}, ("b", "s", "i", "n"))
    made.add_nms("nms", ["boxes", "scores"], ["b", "s", "i", "n"], 0.3, 0.6, most, kinds)
    found = load(made.spec).run({"boxes": PLACES, "scores": SCORES})
    for row in range(2):
        wanted = kept(PLACES[row], SCORES[row], most, 0.3, 0.6, kinds)
        rest = most - len(wanted)
        assert found["i"].numpy()[row].tolist() == wanted + [-1] * rest
        assert found["n"].numpy()[row] == len(wanted)
        boxes = np.concatenate([PLACES[row, wanted], np.zeros((rest, 4))])
        np.testing.assert_array_equal(found["b"].numpy()[row], boxes.astype("f4"))
        scores = np.concatenate([SCORES[row, wanted], np.zeros((rest, 3))])
        np.testing.assert_array_equal(found["s"].numpy()[row], scores.astype("f4"))


def test_suppression_operator_of_rows(tmp_path: Path) -> None:
    def body(boxes: Any, scores: Any) -> Any:
        return mb.non_maximum_suppression(
            boxes=boxes, scores=scores, iou_threshold=0.3, score_threshold=0.5, max_boxes=9,
            per_class_suppression=True,
        )  # fmt: skip

    model = program(body, {"boxes": PLACES.shape, "scores": SCORES.shape}, tmp_path)
    found = [v.numpy() for v in model.run([PLACES, SCORES]).values()]
    wanted = [kept(b, s, 9, 0.3, 0.5, True) for b, s in zip(PLACES, SCORES, strict=True)]
    assert found[3].tolist() == [len(w) for w in wanted]
    assert [r[r >= 0].tolist() for r in found[2]] == wanted


def test_suppression_operator_of_columns(tmp_path: Path) -> None:
    def body(boxes: Any, scores: Any) -> Any:
        return mb.non_maximum_suppression(
            boxes=boxes, scores=scores, iou_threshold=0.2, max_boxes=40
        )

    columns = [np.ascontiguousarray(v.transpose(0, 2, 1)) for v in (PLACES, SCORES)]
    shapes = {"boxes": columns[0].shape, "scores": columns[1].shape}
    model = program(body, shapes, tmp_path, ct.target.iOS17)
    boxes, scores, indices = (v.numpy() for v in model.run(columns).values())
    for row in range(2):
        wanted = kept(PLACES[row], SCORES[row], 40, 0.2, -np.inf, False)
        assert indices[row, : len(wanted)].tolist() == wanted
        np.testing.assert_array_equal(boxes[row, :, : len(wanted)].T, PLACES[row, wanted])
        np.testing.assert_array_equal(scores[row, :, : len(wanted)].T, SCORES[row, wanted])


def test_boxes_of_three_numbers_are_refused() -> None:
    made = network({"x": (1, *IMAGES.shape), "roi": (2, 1, 3, 1, 1)})
    made.add_crop_resize("c", ["x", "roi"], "y", 3, 2)
    with pytest.raises(errors.FrontendError, match="four or five numbers"):
        load(made.spec).run({"x": IMAGES[None], "roi": np.zeros((2, 1, 3, 1, 1), np.float32)})
