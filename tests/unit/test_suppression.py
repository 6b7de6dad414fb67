"""Non-maximum suppression against a plain loop, in every form."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, ShapeError

DEVICES = ("cpu", "numpy")


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of (low, low, high, high)."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(height, 0.0) * max(width, 0.0)
    area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return shared / (sum(area) - shared) if shared else 0.0


def plain(
    boxes: np.ndarray,
    candidates: list[tuple[float, int, int]],
    most: int,
    share: float,
    per_class: bool,
) -> list[tuple[int, int]]:
    """(box, class) of what stays of (score, box, class)."""
    left = sorted(candidates, key=lambda c: -c[0])
    kept: list[tuple[int, int]] = []
    for _, box, kind in left:
        if len(kept) < most and not any(
            overlap(boxes[box], boxes[k]) > share and (kind == other or not per_class)
            for k, other in kept
        ):
            kept.append((box, kind))
    return kept


def scene(batch: int, count: int, kinds: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    low = generator.random((batch, count, 2)) * 5
    boxes = np.concatenate([low, low + generator.random((batch, count, 2)) * 4], -1)
    return boxes.astype(np.float32), generator.random((batch, count, kinds)).astype(np.float32)


def in_coordinates(boxes: np.ndarray, coordinates: str) -> np.ndarray:
    y1, x1, y2, x2 = np.moveaxis(boxes.astype(np.float64), -1, 0)
    forms = {
        "corners_height_first": (y2, x1, y1, x2),  # any two opposite corners
        "corners_width_first": (x1, y1, x2, y2),
        "centers_height_first": ((y1 + y2) / 2, (x1 + x2) / 2, y2 - y1, x2 - x1),
        "centers_width_first": ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
    }
    return np.stack(forms[coordinates], -1).astype(np.float32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize(
    "coordinates",
    ["corners_height_first", "corners_width_first", "centers_height_first", "centers_width_first"],
)
def test_boxes_and_classes(coordinates: str, per_class: bool, device: str) -> None:
    boxes, scores = scene(2, 40, 3)
    graph = nl.Graph()
    x, s = graph.placeholder(boxes.shape), graph.placeholder(scores.shape)
    found = nl.non_maximum_suppression(
        x, s, max_output=12, iou_threshold=0.4, score_threshold=0.3, per_class=per_class,
        coordinates=coordinates,
    )  # fmt: skip
    feeds = {x: in_coordinates(boxes, coordinates), s: scores}
    result = graph.run(feeds, targets=list(found), device=device)
    indices, classes, values, number = (result[t].numpy() for t in found)
    for n in range(2):
        candidates = [
            (float(scores[n, b, k]), b, k)
            for b in range(40)
            for k in range(3)
            if scores[n, b, k] > 0.3
        ]
        kept = plain(boxes[n], candidates, 12, 0.4, per_class)
        assert number[n] == len(kept)
        pairs = list(zip(indices[n].tolist(), classes[n].tolist(), strict=True))
        assert pairs == kept + [(-1, -1)] * (12 - len(kept))
        assert values[n, : len(kept)].tolist() == [float(scores[n, b, k]) for b, k in kept]


def test_class_indices_and_gradient() -> None:
    boxes, scores = scene(1, 30, 1)
    kinds = np.random.default_rng(2).integers(0, 2, (1, 30)).astype(np.int32)
    graph = nl.Graph()
    x, s = graph.constant(boxes), graph.placeholder(scores.shape)
    found = nl.non_maximum_suppression(x, s, kinds, max_output=30, iou_threshold=0.2)
    slope = graph.gradients(found.scores.sum(), [s])[s]
    result = graph.run({s: scores}, targets=[found.indices, found.classes, slope])
    candidates = [(float(scores[0, b, 0]), b, int(kinds[0, b])) for b in range(30)]
    kept = plain(boxes[0], candidates, 30, 0.2, True)
    assert result[found.indices].numpy()[0, : len(kept)].tolist() == [b for b, _ in kept]
    assert result[found.classes].numpy()[0, : len(kept)].tolist() == [k for _, k in kept]
    assert set(np.flatnonzero(result[slope].numpy())) == {b for b, _ in kept}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("centred", [True, False])
def test_onnx_form(centred: bool, device: str) -> None:
    boxes, scores = scene(2, 25, 3, seed=4)
    scores = np.ascontiguousarray(np.moveaxis(scores, 2, 1))
    form = "centers_width_first" if centred else "corners_height_first"
    graph = nl.Graph()
    x, s = graph.placeholder((None, None, 4)), graph.placeholder(scores.shape)
    found = nl.non_max_suppression(
        x, s, max_output_boxes_per_class=6, iou_threshold=0.3, score_threshold=0.25,
        center_point_box=centred,
    )  # fmt: skip
    feeds = {x: in_coordinates(boxes, form), s: scores}
    result = graph.run(feeds, targets=list(found), device=device)
    indices, number = (result[t].numpy() for t in found)
    expected = []
    for n in range(2):
        for k in range(3):
            candidates = [
                (float(v), b, k) for b, v in enumerate(scores[n, k]) if v > np.float32(0.25)
            ]
            expected += [(n, k, b) for b, _ in plain(boxes[n], candidates, 6, 0.3, True)]
    assert indices.shape == (36, 3) and number == len(expected)
    assert [tuple(r) for r in indices[:number].tolist()] == expected
    assert (indices[number:] == -1).all()


def test_equal_scores_keep_their_order_and_nan_is_no_candidate() -> None:
    graph = nl.Graph()
    apart = np.array([[[i * 10, 0, i * 10 + 1, 1] for i in range(5)]], np.float32)
    scores = np.array([[[0.5], [np.nan], [0.5], [0.9], [0.5]]], np.float32)
    found = nl.non_maximum_suppression(graph.constant(apart), scores, max_output=6)
    result = graph.run(targets=[found.indices, found.number])
    assert result[found.indices].numpy().tolist() == [[3, 0, 2, 4, -1, -1]]
    assert result[found.number].numpy().tolist() == [4]


def test_refusals() -> None:
    graph = nl.Graph()
    boxes, scores = graph.placeholder((1, 5, 4)), graph.placeholder((1, 5, 2))
    with pytest.raises(AttributeValueError, match="from 0 to 1"):
        nl.non_maximum_suppression(boxes, scores, max_output=3, iou_threshold=1.5)
    with pytest.raises(AttributeValueError, match="'polar'"):
        nl.non_maximum_suppression(boxes, scores, max_output=3, coordinates="polar")
    with pytest.raises(ShapeError, match="boxes are"):
        nl.non_maximum_suppression(graph.placeholder((5, 4)), scores, max_output=3)
    with pytest.raises(ShapeError, match="one with indices"):
        nl.non_maximum_suppression(boxes, scores, graph.placeholder((1, 5), nl.int32), max_output=3)
    with pytest.raises(ShapeError, match="known sizes"):
        nl.non_max_suppression(boxes, graph.placeholder((1, 2, None)), max_output_boxes_per_class=1)
