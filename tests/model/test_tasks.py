"""What a task means: the same whatever order the rows are in, and right where the truth is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featureloop.core.boxes import SYMBOLS, Box, boxes_to_rows
from featureloop.core.errors import InputError
from featureloop.core.types import Float32, Frame, Recognition, Task, Truth, UInt8
from featureloop.model.losses import recognition_loss
from featureloop.model.manifest import uncalibrated
from featureloop.model.tasks import RULES, true_rows

TASKS = pytest.mark.parametrize("task", list(Task))
PLAIN = uncalibrated("")
GRID, LABELS = 6, 2


def drawn(task: Task, seed: int) -> tuple[Float32, UInt8]:
    """Random logits and a random truth of one frame."""
    rng, rules = np.random.default_rng(seed), RULES[task]
    logits = rng.normal(0, 2, (rules.rows(GRID), rules.outputs(LABELS))).astype(np.float32)
    boxes = tuple(Box(*rng.uniform(0.3, 0.5, 4), label=int(rng.integers(LABELS))) for _ in range(2))
    labels = tuple(bool(v) for v in rng.integers(0, 2, LABELS))
    truth = Truth(rng.random((60, 60)) < 0.5, int(rng.integers(LABELS)), boxes, labels)
    rows = rules.truth_rows(truth, labels=LABELS, grid=GRID)
    assert rows is not None
    return logits, rows


@TASKS
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_score_quality_and_loss_don_t_depend_on_the_order_of_the_rows(task: Task, seed: int) -> None:
    logits, rows = drawn(task, seed)
    order = np.random.default_rng(seed).permutation(len(rows))
    rules = RULES[task]
    a, b = rules.recognition(logits, PLAIN), rules.recognition(logits[order], PLAIN)
    assert rules.raw_score(a) == pytest.approx(rules.raw_score(b))
    assert rules.quality(a, rows) == pytest.approx(rules.quality(b, rows[order]))
    assert 0 <= rules.raw_score(a) <= 1
    assert 0 <= rules.quality(a, rows) <= 1

    def gradient(x: Float32, y: UInt8) -> tuple[float, torch.Tensor]:
        leaf = torch.from_numpy(x.astype(np.float64))[None].requires_grad_(True)
        loss = recognition_loss(leaf, torch.from_numpy(y.astype(np.float64))[None], task=task).mean()
        (g,) = torch.autograd.grad(loss, leaf)
        return loss.item(), g[0]

    (loss_a, grad_a), (loss_b, grad_b) = gradient(logits, rows), gradient(logits[order], rows[order])
    assert loss_a == pytest.approx(loss_b)
    torch.testing.assert_close(grad_a[torch.from_numpy(order)], grad_b)


@TASKS
def test_rows_are_as_wide_and_as_many_as_the_rules_say(task: Task) -> None:
    _, rows = drawn(task, 1)
    rules = RULES[task]
    assert rows.shape == (rules.rows(GRID), rules.outputs(LABELS))
    assert rows[:, : rules.flags(LABELS)].max() <= 1


@TASKS
def test_a_frame_whose_truth_says_nothing_of_the_task_is_named(task: Task) -> None:
    frame = Frame(np.zeros((8, 8, 3), np.uint8), name="case7.png", truth=Truth())
    for one in (frame, replace(frame, truth=None)):
        with pytest.raises(InputError, match=r"case7\.png"):
            true_rows(one, task=task, labels=LABELS, grid=GRID)


def exactly(boxes: tuple[Box, ...]) -> Recognition:
    """A detection that is sure of these boxes."""
    rows = boxes_to_rows(boxes, labels=LABELS, grid=GRID)
    scores = np.where(rows[:, :LABELS] == 1, 0.99, 0.001).astype(np.float32)
    return Recognition(Task.DETECTION, scores, (rows[:, LABELS:] / SYMBOLS).astype(np.float32))


def test_a_detection_is_right_by_label_and_by_its_box() -> None:
    rules = RULES[Task.DETECTION]
    box = Box(0.5, 0.5, 0.5, 0.5, label=1)
    truth = boxes_to_rows([box], labels=LABELS, grid=GRID)
    assert rules.quality(exactly((box,)), truth) == 1.0
    assert rules.quality(exactly((replace(box, label=0),)), truth) == 0.0
    assert rules.quality(exactly((replace(box, width=0.2, height=0.2),)), truth) == 0.0
    assert rules.quality(exactly(()), truth) == 0.0
    assert rules.quality(exactly(()), np.zeros_like(truth)) == 1.0


def test_a_detections_rows_are_those_of_the_boxes_it_shows() -> None:
    box = Box(0.45, 0.55, 0.4, 0.3, label=1)
    rows = exactly((box,)).targets()
    (found,) = exactly((box,)).boxes()
    np.testing.assert_array_equal(rows, boxes_to_rows([found], labels=LABELS, grid=GRID))
    assert not exactly(()).targets().any()


def test_a_detections_scores_are_scaled_to_the_share_of_rows_that_are_right() -> None:
    rng, rules = np.random.default_rng(3), RULES[Task.DETECTION]
    box = Box(0.5, 0.5, 0.9, 0.9)
    truth = boxes_to_rows([box], labels=1, grid=GRID)
    logits, truths = [], []
    for _ in range(300):
        rows = truth * (rng.random((len(truth), 1)) < 0.7).astype(np.uint8)
        distances = np.clip(truth[:, 1:] / SYMBOLS, 1e-3, 1 - 1e-3)
        # Where the lesion may stand, the network says one half; 0.7 of these rows are right.
        scores = np.where(truth[:, :1] == 1, 0.0, -9.0)
        logits.append(np.concatenate([scores, np.log(distances / (1 - distances))], axis=1).astype(np.float32))
        truths.append(rows)
    temperature, bias = rules.scaling(logits, truths)
    found = rules.recognition(logits[0], replace(PLAIN, temperature=temperature, bias=bias))
    assert found.probabilities[truth[:, 0] == 1].mean() == pytest.approx(0.7, abs=0.05)
    assert found.probabilities[truth[:, 0] == 0].max() < 0.1


def test_a_detection_is_reliable_as_far_as_its_rows_are_sure() -> None:
    rules = RULES[Task.DETECTION]
    sure = exactly((Box(0.5, 0.5, 0.5, 0.5),))
    unsure = Recognition(Task.DETECTION, np.full_like(sure.probabilities, 0.4), sure.distances)
    assert rules.raw_score(sure) > 0.95
    assert rules.raw_score(exactly(())) > 0.9
    assert rules.raw_score(unsure) < 0.1


def test_several_labels_are_right_one_by_one() -> None:
    rules = RULES[Task.MULTILABEL]
    found = Recognition(Task.MULTILABEL, np.array([[0.9, 0.2, 0.6, 0.1]], np.float32))
    assert found.targets().tolist() == [[1, 0, 1, 0]]
    assert rules.quality(found, np.array([[1, 0, 0, 0]], np.uint8)) == 0.75
    assert rules.raw_score(found) == pytest.approx((0.9 + 0.8 + 0.6 + 0.9) / 4)
    assert rules.truth_rows(Truth(labels=(True,)), labels=4, grid=GRID) is None
