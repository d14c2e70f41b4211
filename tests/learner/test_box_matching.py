"""Average precision and matched boxes where there is little or nothing to match."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from featureloop.core.boxes import Box
from featureloop.learner.box_matching import average_precisions, right_boxes
from featureloop.learner.charts import hits_and_false

BOX = Box(0.5, 0.5, 0.4, 0.4)
SURE = Box(0.5, 0.5, 0.4, 0.4, score=0.9)
OTHER = Box(0.2, 0.2, 0.2, 0.2, label=2, score=0.8)


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [
        ([[], []], [[], []], np.nan),
        ([[SURE], [SURE]], [[], []], np.nan),
        ([[], []], [[BOX], []], 0.0),
        ([[SURE], []], [[BOX], []], 1.0),
        ([[SURE], [SURE]], [[BOX], []], 1.0),
        ([[], [SURE]], [[BOX], []], 0.0),
        ([[SURE, OTHER]], [[BOX]], 1.0),
    ],
    ids=["none at all", "only recognized", "only true", "right", "one false, equally sure", "wrong", "another label"],
)
def test_average_precision_where_there_are_hardly_any_boxes(
    found: list[list[Box]], true: list[list[Box]], expected: float
) -> None:
    """Without a true box there is no precision to average; with one that nothing finds it is 0."""
    precisions = average_precisions(found, true)
    ours = precisions(np.arange(len(true)))
    assert ours["ap50"] == pytest.approx(expected, nan_ok=True)
    assert ours["ap50:95"] == pytest.approx(expected, nan_ok=True)
    assert ours.get("ap50 0", np.nan) == pytest.approx(expected, nan_ok=True)
    assert np.isnan(ours.get("ap50 2", np.nan))


def test_a_resample_counts_a_frame_as_often_as_it_was_drawn() -> None:
    precisions = average_precisions([[SURE], []], [[BOX], [BOX]])
    assert precisions(np.array([0, 1]))["ap50"] == pytest.approx(0.5, abs=0.01)
    assert precisions(np.array([0, 0, 0, 1]))["ap50"] == pytest.approx(0.75, abs=0.01)
    assert precisions(np.array([1, 1]))["ap50"] == 0.0


def test_a_mean_over_labels_is_not_determined_without_one_of_them() -> None:
    """A resample whose frames lack a label would give the mean of the others, which is another figure."""
    precisions = average_precisions([[SURE], [OTHER]], [[BOX], [OTHER]])
    assert precisions(np.array([0, 1]))["ap50"] == pytest.approx(1.0)
    assert np.isnan(precisions(np.array([0, 0]))["ap50"])
    assert precisions(np.array([0, 0]))["ap50 0"] == pytest.approx(1.0)


def test_a_true_box_is_found_once_and_by_its_own_label() -> None:
    assert right_boxes([SURE, SURE], [BOX]) == [True, False]
    assert right_boxes([Box(0.5, 0.5, 0.4, 0.4, label=1)], [BOX]) == [False]
    assert right_boxes([], [BOX]) == []
    assert right_boxes([SURE], []) == [False]


@given(st.integers(0, 2**31), st.integers(0, 30))
def test_the_curve_of_boxes_is_scikit_learns_and_the_order_of_equal_scores_decides_nothing(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores, right = rng.choice([0.2, 0.5, 0.7, 0.9], n), rng.random(n) < 0.5
    hits, false = hits_and_false(scores, right)
    order = rng.permutation(n)
    for ours, again in zip((hits, false), hits_and_false(scores[order], right[order]), strict=True):
        np.testing.assert_array_equal(ours, again)
    assert len(hits) == len(np.unique(scores))
    if right.any():
        precision, recall, _ = precision_recall_curve(right, scores)
        np.testing.assert_allclose((hits / (hits + false))[::-1], precision[:-1])
        np.testing.assert_allclose((hits / right.sum())[::-1], recall[:-1])
