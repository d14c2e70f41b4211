"""Maps and combined scores: chosen by other groups' frames, and never at the cost of much."""

from __future__ import annotations

import numpy as np
import pytest

from featureloop.core.intervals import risks
from featureloop.model.manifest import ISOTONIC, LOGISTIC, Part
from featureloop.sharing.combining import combined, fit_combination, wins
from featureloop.sharing.score_maps import chosen_map, fitted_weights, folds, logistic_map, logit

Float64 = np.ndarray[tuple[int], np.dtype[np.float64]]


def sigmoid(x: Float64) -> Float64:
    return 1 / (1 + np.exp(-x))


def drawn(n: int, *, weight: float, seed: int) -> tuple[dict[str, Float64], Float64, list[str]]:
    """Right and wrong results by two scores, the second of which counts so much."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1.5, (2, n))
    right = (rng.random(n) < sigmoid(1 + a + weight * b)).astype(np.float64)
    return {"own": sigmoid(a), "other": sigmoid(b)}, right, [f"p{i // 2}" for i in range(n)]


def area(scores: Float64, qualities: Float64) -> float:
    return float(risks(scores, 1 - qualities).mean())


def test_a_score_that_knows_more_is_taken_in_and_orders_new_frames_better() -> None:
    scores, right, groups = drawn(400, weight=1.5, seed=1)
    assert wins(scores, right, groups)
    parts, intercept = fit_combination(scores, right)
    new, truth, _ = drawn(2000, weight=1.5, seed=2)
    assert area(combined(new, parts, intercept), truth) < 0.8 * area(new["own"], truth)


def test_a_score_that_knows_nothing_seldom_wins() -> None:
    won = [wins(*drawn(160, weight=0.0, seed=seed)) for seed in range(30)]
    assert np.mean(won) <= 0.2


@pytest.mark.parametrize("n", [20, 60])
def test_what_is_chosen_of_few_frames_loses_little_even_where_the_other_score_knows_nothing(n: int) -> None:
    new, truth, _ = drawn(4000, weight=0.0, seed=99)
    lost = []
    for seed in range(20):
        scores, right, groups = drawn(n, weight=0.0, seed=seed)
        if wins(scores, right, groups):
            parts, intercept = fit_combination(scores, right)
            lost.append(area(combined(new, parts, intercept), truth) - area(new["own"], truth))
        else:
            lost.append(0.0)
    assert np.mean(lost) < 0.005
    assert max(lost) < 0.05


def test_a_higher_score_never_lowers_the_combined_one() -> None:
    scores, right, _ = drawn(300, weight=-2.0, seed=3)
    parts, intercept = fit_combination(scores, right)
    assert all(p.weight > 0 for p in parts)
    assert [p.score for p in parts] == ["own"]
    assert combined({"own": np.array([0.2, 0.6])}, (Part("own", 2.0),), intercept)[1] > 0.2


def test_weights_without_a_pull_are_those_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    scores, right, _ = drawn(4000, weight=0.7, seed=4)
    z = np.stack([logit(x) for x in scores.values()], axis=1)
    weights, intercept = fitted_weights(z, right)
    oracle = LogisticRegression(C=1e6).fit(z, right)
    np.testing.assert_allclose(weights, oracle.coef_[0], atol=0.02)
    assert intercept == pytest.approx(float(oracle.intercept_[0]), abs=0.02)


def test_the_map_is_the_one_that_foretells_other_groups() -> None:
    rng = np.random.default_rng(5)
    groups = [str(i) for i in range(600)]
    scores = rng.random(600)
    smooth = (rng.random(600) < sigmoid(1.2 * logit(scores) + 0.5)).astype(np.float64)
    steps = (rng.random(600) < np.where(scores < 0.3, 0.05, np.where(scores < 0.9, 0.5, 0.98))).astype(np.float64)
    assert chosen_map(scores[:80], smooth[:80], groups[:80])[1] == LOGISTIC
    assert chosen_map(scores, steps, groups)[1] == ISOTONIC


def test_a_logistic_map_rises_and_promises_no_more_than_was_seen() -> None:
    rng = np.random.default_rng(6)
    scores = rng.random(50) * 0.5 + 0.4
    raw, mapped = logistic_map(scores, (rng.random(50) < scores).astype(np.float64))
    assert (np.diff(raw) > 0).all()
    assert (np.diff(mapped) >= 0).all()
    assert (raw[0], mapped[0]) == (0.0, 0.0)
    assert mapped[-1] <= 1 - 1 / 52


def test_a_group_is_on_one_side_of_every_fold_and_tried_on_once() -> None:
    groups = [f"p{i % 23}" for i in range(100)]
    tried = []
    for rest, held in folds(groups):
        assert not {groups[i] for i in rest} & {groups[i] for i in held}
        tried += held.tolist()
    assert sorted(tried) == list(range(100))
