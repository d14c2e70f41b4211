"""Scores: in [0, 1], the same in any order of the rows, and higher for what is rather right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featureloop.core.errors import InputError
from featureloop.core.types import Recognition, Task
from featureloop.model.manifest import uncalibrated
from featureloop.model.score_words import AUTO, METHODS, SCORES, check_score
from featureloop.model.tasks import RULES
from featureloop.model.tasks.scores import SCORE_OF

EACH = [(task, word) for task in Task for word in SCORES[task]]


def recognized(task: Task, logits: np.ndarray[Any, Any], outlying: float = 0.25) -> Recognition:
    return replace(RULES[task].recognition(logits.astype(np.float32), uncalibrated("")), outlying=outlying)


def logits_of(task: Task, rng: np.random.Generator, scale: float) -> np.ndarray[Any, Any]:
    shape = {Task.CLASSIFICATION: (1, 4), Task.MULTILABEL: (1, 4), Task.DETECTION: (30, 5), Task.SEGMENTATION: (30, 16)}
    return rng.normal(0, scale, shape[task])


def test_every_task_has_a_function_for_each_of_its_words_and_its_own_one_first() -> None:
    for task in Task:
        assert tuple(SCORE_OF[task]) == SCORES[task]
        assert SCORES[task][0] == RULES[task].method
        assert set(SCORES[task]) < set(METHODS)


@pytest.mark.parametrize(("task", "word"), EACH)
@pytest.mark.parametrize("scale", [0.1, 3.0, 200.0])
def test_a_score_is_in_0_1_and_knows_no_order_of_the_rows(task: Task, word: str, scale: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        found = recognized(task, logits_of(task, rng, scale))
        value = SCORE_OF[task][word](found)
        assert 0.0 <= value <= 1.0
        order = rng.permutation(len(found.probabilities))
        shuffled = replace(
            found,
            probabilities=found.probabilities[order],
            distances=None if found.distances is None else found.distances[order],
        )
        assert SCORE_OF[task][word](shuffled) == pytest.approx(value)


@pytest.mark.parametrize("word", ["max-probability", "margin", "entropy", "energy"])
def test_a_sure_class_scores_higher_than_an_unsure_one(word: str) -> None:
    score = SCORE_OF[Task.CLASSIFICATION][word]
    sure, unsure = (recognized(Task.CLASSIFICATION, np.array([x])) for x in ([6.0, 0, 0], [1.0, 0.9, 0.8]))
    assert score(sure) > score(unsure)


@pytest.mark.parametrize("word", ["mean-probability", "margin", "entropy", "energy"])
def test_sure_labels_score_higher_than_unsure_ones(word: str) -> None:
    score = SCORE_OF[Task.MULTILABEL][word]
    sure, unsure = (recognized(Task.MULTILABEL, np.array([x])) for x in ([6.0, -6, 7], [0.3, -0.2, 0.1]))
    assert score(sure) > score(unsure)


def test_entropy_and_margin_are_what_a_textbook_says() -> None:
    found = Recognition(Task.CLASSIFICATION, np.array([[0.5, 0.25, 0.25]], np.float32))
    assert SCORE_OF[Task.CLASSIFICATION]["entropy"](found) == pytest.approx(1 - 1.5 / np.log2(3))
    assert SCORE_OF[Task.CLASSIFICATION]["margin"](found) == pytest.approx(0.25)


@given(hnp.arrays(np.float32, (1, 3), elements=st.floats(-20, 20, width=32)))
def test_energy_is_a_rising_function_of_the_logits_free_energy(x: Any) -> None:
    found, higher = (recognized(Task.CLASSIFICATION, y) for y in (x, x + 0.5))
    assert found.energy == pytest.approx(float(np.log(np.exp(x.astype(np.float64)).sum())), abs=1e-5)
    assert SCORE_OF[Task.CLASSIFICATION]["energy"](higher) > SCORE_OF[Task.CLASSIFICATION]["energy"](found)


def test_without_its_evidence_a_score_is_no_reason_to_trust() -> None:
    found = Recognition(Task.CLASSIFICATION, np.array([[0.9, 0.1]], np.float32))
    assert SCORE_OF[Task.CLASSIFICATION]["energy"](found) == 0.0
    assert SCORE_OF[Task.CLASSIFICATION]["distance"](found) == 0.0


def boxes(*sizes: tuple[float, float]) -> Recognition:
    """Rows that each show a box of its width and height around themselves, and 20 that show none."""
    coded = np.sqrt((np.array([(w / 2, h / 2, w / 2, h / 2) for w, h in sizes]) + 1 / 16) / (1 + 1 / 16))
    scores = np.r_[np.full(len(sizes), 0.9), np.zeros(20)][:, None]
    rows = np.concatenate([coded, np.zeros((20, 4))])
    return Recognition(Task.DETECTION, scores.astype(np.float32), rows.astype(np.float32))


def test_rows_that_disagree_about_the_box_are_less_stable_and_two_lesions_are_no_disagreement() -> None:
    stable = SCORE_OF[Task.DETECTION]["box-stability"]
    assert stable(boxes(*[(0.3, 0.2)] * 8)) == pytest.approx(1.0, abs=1e-5)
    assert stable(boxes(*[(0.3, 0.2)] * 6, *[(0.1, 0.1)] * 8)) > 0.9
    assert stable(boxes(*[(0.05 * k, 0.7 / k) for k in range(1, 9)])) < 0.7
    nothing = replace(boxes((0.1, 0.1)), probabilities=np.full((21, 1), 0.2, np.float32))
    assert stable(nothing) == pytest.approx(0.8)


def test_a_frames_probability_is_its_best_boxs_or_that_of_there_being_none() -> None:
    score = SCORE_OF[Task.DETECTION]["max-probability"]
    assert score(boxes((0.3, 0.2))) == pytest.approx(0.9)
    unsure = replace(boxes((0.3, 0.2)), probabilities=np.r_[[[0.3]], np.zeros((20, 1))].astype(np.float32))
    assert score(unsure) == pytest.approx(0.7)
    assert score(replace(unsure, probabilities=unsure.probabilities[:0])) == 1.0


def test_the_lesions_score_is_the_mean_probability_inside_it() -> None:
    score = SCORE_OF[Task.SEGMENTATION]["lesion-score"]
    p = np.zeros((10, 16), np.float32)
    p[:2] = 0.8
    assert score(Recognition(Task.SEGMENTATION, p)) == pytest.approx(0.8)
    assert score(Recognition(Task.SEGMENTATION, p / 4)) == pytest.approx(0.8)
    assert score(Recognition(Task.SEGMENTATION, p[:0])) == 1.0


def test_a_score_of_another_task_is_refused() -> None:
    check_score(Task.SEGMENTATION, AUTO)
    with pytest.raises(InputError, match="segmentation has no score 'margin'; choose among auto, combined, expected"):
        check_score(Task.SEGMENTATION, "margin")
