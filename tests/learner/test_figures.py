"""Figures against the field's own implementations, and intervals that resample whole groups."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from featureloop.core.boxes import Box, box_between, code_distances, positions
from featureloop.core.components import SPECK, lesion_boxes
from featureloop.core.intervals import calibration_error
from featureloop.core.types import Frame, Recognition, Task, Truth
from featureloop.learner.box_matching import average_precisions
from featureloop.learner.figures import (
    Masks,
    Seen,
    compare_masks,
    figures_of,
    quality_of,
    see,
)
from featureloop.model.tasks import true_rows

GRID = 8


def boxes(rng: np.random.Generator, n: int, labels: int) -> list[Box]:
    corners = rng.uniform(0, 0.6, (n, 2))
    return [
        box_between(x, y, x + rng.uniform(0.1, 0.4), y + rng.uniform(0.1, 0.4), label=int(rng.integers(labels)))
        for x, y in corners
    ]


def ordered(corners: np.ndarray) -> list[float]:
    """Left, top, right, bottom of a box of some size: the oracle leaves out what is turned inside out."""
    (x0, y0), (x1, y1) = np.minimum(corners[:2], corners[2:]), np.maximum(corners[:2], corners[2:])
    return [float(x0), float(y0), float(x1 + 0.001), float(y1 + 0.001)]


def shaken(rng: np.random.Generator, found: list[Box]) -> list[Box]:
    """Boxes that miss the true ones by a little, some of another label, with scores."""
    return [
        box_between(
            *ordered(np.array(b.corners()) + rng.normal(0, 0.03, 4)),
            label=b.label if rng.random() < 0.8 else 0,
            score=float(rng.random()),
        )
        for b in found
        if rng.random() < 0.8
    ]


def between_grid_points(true: list[list[Box]]) -> list[list[Box]]:
    """Fewer boxes, so that no recall but 0 and 1 is one of the 101 at which both read precision.

    There, rounding would decide between two readings: recalls are j / n, so n shares no factor with 100.
    """
    kept = [list(each) for each in true]
    for label in {b.label for each in true for b in each}:
        n = sum(b.label == label for each in kept for b in each)
        while n % 2 == 0 or n % 5 == 0:
            each = next(e for e in kept if any(b.label == label for b in e))
            each.remove(next(b for b in each if b.label == label))
            n -= 1
            if n == 0:
                break
    return kept


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_average_precisions_are_those_of_pycocotools(seed: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    true = between_grid_points([boxes(rng, int(rng.integers(0, 4)), 2) for _ in range(12)] + [boxes(rng, 3, 2)])
    found = [shaken(rng, t) + shaken(rng, boxes(rng, 1, 2)) for t in true]

    def pixels(box: Box) -> list[float]:
        x0, y0, x1, y1 = (1000 * v for v in box.corners())
        return [x0, y0, x1 - x0, y1 - y0]

    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO()
        oracle.dataset = {
            "images": [{"id": i} for i in range(len(true))],
            "categories": [{"id": k} for k in sorted({b.label for each in true for b in each})],
            "annotations": [
                {"id": j + 1, "image_id": i, "category_id": b.label, "bbox": (p := pixels(b)), "area": p[2] * p[3],
                 "iscrowd": 0}
                for j, (i, b) in enumerate((i, b) for i, each in enumerate(true) for b in each)
            ],
        }  # fmt: skip
        oracle.createIndex()
        results = [
            {"image_id": i, "category_id": b.label, "bbox": pixels(b), "score": b.score}
            for i, each in enumerate(found)
            for b in each
        ]
        if not results:
            return
        evaluation = COCOeval(oracle, oracle.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = average_precisions(found, true)(np.arange(len(true)))
    assert ours["ap50:95"] == pytest.approx(evaluation.stats[0], abs=1e-6)
    assert ours["ap50"] == pytest.approx(evaluation.stats[1], abs=1e-6)


def classified(probabilities: np.ndarray, label: int, name: str, group: str | None = None) -> tuple[Frame, Recognition]:
    frame = Frame(np.zeros((4, 4, 3), np.uint8), name=name, group=group, truth=Truth(label=label))
    return frame, Recognition(Task.CLASSIFICATION, probabilities[None].astype(np.float32))


def look(frame: Frame, found: Recognition) -> Seen:
    task, labels = found.task, found.probabilities.shape[1]
    return see(frame, found, reliability=0.5, rows=true_rows(frame, task=task, labels=labels, grid=GRID), grid=GRID)


def test_figures_of_classes_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 90)
    p = rng.dirichlet(np.ones(3), 90) + 0.6 * np.eye(3)[labels] * rng.random((90, 1))
    p /= p.sum(axis=1, keepdims=True)
    pairs = [classified(x, int(k), f"{i}") for i, (x, k) in enumerate(zip(p, labels, strict=True))]
    seen = [look(f, r) for f, r in pairs]
    found = {f.name: f for f in figures_of(seen, labels=("a", "b", "c"), seed=1)}
    assert found["accuracy"].value == pytest.approx(accuracy_score(labels, p.argmax(1)))
    assert found["balanced accuracy"].value == pytest.approx(balanced_accuracy_score(labels, p.argmax(1)))
    assert found["auc"].value == pytest.approx(roc_auc_score(labels, p, multi_class="ovr"), abs=1e-4)
    for figure in found.values():
        assert figure.low <= figure.value <= figure.high or figure.name == "calibration error"


def test_an_interval_resamples_groups_and_not_frames() -> None:
    def width(groups: int) -> float:
        pairs = []
        for i in range(200):
            group = i % groups
            right = np.random.default_rng(group).random() < 0.5
            pairs.append(classified(np.array([1.0, 0.0]), 0 if right else 1, f"{i}", f"g{group}"))
        seen = [look(f, r) for f, r in pairs]
        accuracy = figures_of(seen, labels=("a", "b"), seed=1)[0]
        return accuracy.high - accuracy.low

    assert width(10) > 2.5 * width(200)


@given(st.integers(0, 2**31))
def test_dice_and_iou_of_masks_agree_with_monai_and_torchmetrics(seed: int) -> None:
    from monai.metrics import DiceMetric, MeanIoU
    from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

    rng = np.random.default_rng(seed)
    shares = rng.choice([0.0, 0.01, 0.3], 2)
    masks = [rng.random((30, 40)) < share for share in shares]
    found = compare_masks(*masks)
    nothing = Recognition(Task.SEGMENTATION, np.zeros((1, 1), np.float32))
    seen = Seen(nothing, Truth(), found, 0.5, 0.5, name="a", index=0, group="a")
    values = {f.name: f.value for f in figures_of([seen], labels=("lesion",), seed=1)}
    a, b = (torch.from_numpy(m)[None, None] for m in masks)
    empty = not a.any() and not b.any()
    for name, metric, second in (
        ("dice", DiceMetric(include_background=True, ignore_empty=False), binary_f1_score),
        ("iou", MeanIoU(include_background=True, ignore_empty=False), binary_jaccard_index),
    ):
        assert values[name] == pytest.approx(metric(a.float(), b.float()).item(), abs=1e-6)
        if not empty:
            # The frame of nothing on either side is 0 in torchmetrics; here and in MONAI it is right.
            assert values[name] == pytest.approx(second(a.int(), b.int()).item(), abs=1e-6)


def test_lesions_are_found_one_by_one_and_false_marks_counted() -> None:
    truth, mask = np.zeros((2, 100, 100), np.bool_)
    truth[10:30, 10:30] = truth[50:70, 50:70] = True
    mask[10:25, 10:30] = mask[50:55, 50:70] = True
    mask[80:95, 5:20] = True
    assert (compare_masks(mask, truth).found, compare_masks(mask, truth).lesions) == (1, 2)
    assert compare_masks(mask, truth).false == 1
    assert compare_masks(np.zeros_like(mask), np.zeros_like(mask)).dice == 1.0


def test_a_lesion_is_its_pixels_and_not_its_box() -> None:
    """A blob inside the bow of a C is another lesion; marking the blob doesn't find the C."""
    truth = np.zeros((100, 100), np.bool_)
    truth[20:80, 20:80] = True
    truth[23:77, 23:80] = False
    blob = np.zeros_like(truth)
    blob[30:70, 30:75] = True
    found = compare_masks(blob, truth | blob)
    assert (found.found, found.lesions, found.false) == (1, 2, 0)
    found = compare_masks(truth | blob, truth)
    assert (found.found, found.lesions, found.false) == (1, 1, 1)


def test_a_false_ring_around_a_lesion_is_a_false_part() -> None:
    truth, ring = np.zeros((2, 100, 100), np.bool_)
    truth[40:60, 40:60] = ring[20:80, 20:80] = True
    ring[30:70, 30:70] = False
    found = compare_masks(ring, truth)
    assert (found.found, found.lesions, found.false) == (0, 1, 1)
    found = compare_masks(ring | truth, truth)
    assert (found.found, found.lesions, found.false) == (1, 1, 1)


def test_parts_touch_by_corners_and_specks_are_none() -> None:
    truth = np.zeros((100, 100), np.bool_)
    truth[10:20, 10:20] = truth[20:30, 20:30] = True
    truth[50, 50] = True
    assert (compare_masks(truth, truth).lesions, compare_masks(truth, truth).found) == (1, 1)
    empty = np.zeros_like(truth)
    assert (compare_masks(empty, truth).found, compare_masks(truth, empty).false) == (0, 1)


@given(st.integers(0, 2**31))
def test_lesions_are_counted_as_in_the_boxes_that_are_drawn_around_them(seed: int) -> None:
    """Detection from masks and sensitivity per lesion speak of the same lesions."""
    truth = np.random.default_rng(seed).random((110, 100)) < 0.1
    assert compare_masks(truth, truth).lesions == len(lesion_boxes(truth, least=SPECK))


def test_frames_without_a_lesion_are_told_apart_in_dice() -> None:
    """Nine empty frames that stay empty make a Dice of 0.95 of one lesion that is half outlined."""
    nothing = Recognition(Task.SEGMENTATION, np.zeros((1, 1), np.float32))
    masks = [Masks(1.0, 0, 0, 0)] * 9 + [Masks(0.5, 1, 1, 0)]
    seen = [Seen(nothing, Truth(), m, 0.5, 0.5, name=f"{i}", index=0, group=f"{i}") for i, m in enumerate(masks)]
    found = {f.name: f for f in figures_of(seen, labels=("lesion",), seed=1)}
    assert found["dice"].value == pytest.approx(0.95)
    assert found["dice of frames with lesions"].value == 0.5
    assert found["dice of frames with lesions"].groups == 1
    assert "dice of frames with lesions" not in {f.name for f in figures_of(seen[9:], labels=("lesion",), seed=1)}


def test_a_detection_is_as_right_as_its_boxes() -> None:
    at = positions(GRID)
    box = Box(0.5, 0.5, 0.5, 0.5)
    x0, y0, x1, y1 = box.corners()
    coded = code_distances(np.stack([at[:, 0] - x0, at[:, 1] - y0, x1 - at[:, 0], y1 - at[:, 1]], axis=1))
    scores = np.where((np.abs(at - 0.5) < 0.2).all(axis=1), 0.9, 0.01).astype(np.float32)[:, None]
    found = Recognition(Task.DETECTION, scores, coded.astype(np.float32))
    for true, quality in (((box,), 1.0), ((), 0.0), ((box, Box(0.1, 0.1, 0.1, 0.1)), 2 / 3)):
        frame = Frame(np.zeros((4, 4, 3), np.uint8), name="a", truth=Truth(boxes=true))
        assert quality_of(look(frame, found)) == pytest.approx(quality)


def test_the_calibration_error_is_the_distance_that_was_put_in() -> None:
    rng = np.random.default_rng(4)
    trust = rng.uniform(0.3, 0.8, 20_000)
    right = (rng.random(20_000) < trust + 0.1).astype(np.float64)
    assert calibration_error(trust, right) == pytest.approx(0.1, abs=0.02)
    assert calibration_error(trust, (rng.random(20_000) < trust).astype(np.float64)) < 0.02


def test_figures_of_several_labels_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(6)
    true = rng.random((80, 3)) < 0.4
    p = np.clip(0.5 * rng.random((80, 3)) + 0.4 * true, 0, 1).astype(np.float32)
    pairs = [
        (
            Frame(np.zeros((4, 4, 3), np.uint8), name=f"{i}", truth=Truth(labels=tuple(t.tolist()))),
            Recognition(Task.MULTILABEL, x[None]),
        )
        for i, (x, t) in enumerate(zip(p, true, strict=True))
    ]
    found = {f.name: f.value for f in figures_of([look(f, r) for f, r in pairs], labels=("a", "b", "c"), seed=1)}
    assert found["auc"] == pytest.approx(roc_auc_score(true, p))
    assert found["average precision"] == pytest.approx(average_precision_score(true, p))
    assert found["f1"] == pytest.approx(f1_score(true, p >= 0.5, average="micro"))
    assert found["accuracy of labels"] == pytest.approx(((p >= 0.5) == true).mean())
