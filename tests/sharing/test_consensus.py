"""Several results as one: means that an oracle calculates, whatever the task."""

from __future__ import annotations

import numpy as np
import pytest

from featureloop.core.boxes import Box, boxes_to_rows
from featureloop.core.types import Recognition, Task
from featureloop.sharing.consensus import combined

RNG = np.random.default_rng(1)


@pytest.mark.parametrize("task", [Task.SEGMENTATION, Task.CLASSIFICATION, Task.MULTILABEL])
def test_probabilities_are_means_position_by_position(task: Task) -> None:
    found = [Recognition(task, RNG.random((9, 4)).astype(np.float32)) for _ in range(3)]
    mean = combined(found)
    np.testing.assert_allclose(mean.probabilities, sum(r.probabilities for r in found) / 3, atol=1e-6)
    assert (mean.task, mean.probabilities.dtype, mean.distances) == (task, np.float32, None)


def test_one_result_is_its_own_mean() -> None:
    found = detection((Box(0.5, 0.5, 0.4, 0.4),), 0.9)
    mean = combined([found])
    np.testing.assert_allclose(mean.probabilities, found.probabilities, atol=1e-6)
    assert mean.distances is not None
    told = found.probabilities[:, 0] > 0.5
    np.testing.assert_allclose(mean.distances[told], found.distances[told], atol=1e-5)  # type: ignore[index]  # it has some


def detection(boxes: tuple[Box, ...], score: float) -> Recognition:
    rows = boxes_to_rows(boxes, labels=1, grid=12)
    scores = np.where(rows[:, :1] == 1, np.float32(score), np.float32(1e-4))
    return Recognition(Task.DETECTION, scores, (rows[:, 1:] / 255).astype(np.float32))


def test_boxes_that_agree_are_one_box_between_them() -> None:
    mean = combined([detection((Box(0.48, 0.5, 0.4, 0.4),), 0.9), detection((Box(0.52, 0.5, 0.4, 0.4),), 0.9)])
    (box,) = [b for b in mean.boxes() if b.score >= 0.5]
    assert box.x_center == pytest.approx(0.5, abs=0.01)
    assert box.width == pytest.approx(0.4, abs=0.02)


def test_a_box_that_one_of_three_sees_is_outvoted_and_its_sides_are_not_moved_by_those_who_see_none() -> None:
    box, nothing = Box(0.5, 0.5, 0.4, 0.3), detection((), 0.9)
    found = [detection((box,), 0.9), nothing, nothing]
    mean = combined(found)
    assert not [b for b in mean.boxes() if b.score >= 0.5]
    (seen,) = [b for b in mean.boxes() if b.score >= 0.2]
    assert (seen.width, seen.height) == (pytest.approx(0.4, abs=0.02), pytest.approx(0.3, abs=0.02))


def test_a_frame_unlike_those_of_founding_stays_so_among_neighbours() -> None:
    """Else an out-of-body frame between two others would be trusted."""
    p = np.full((4, 16), 0.9, np.float32)
    found = [Recognition(Task.SEGMENTATION, p, outlying=d) for d in (0.1, 0.8, None)]
    assert combined(found).outlying == 0.8
    assert combined(found[2:]).outlying is None
