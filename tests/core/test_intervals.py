"""Intervals resample whole groups, and are not determined where there is none to resample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from featureloop.core.intervals import Figure, average_of, cautions, figure_maker, mean_of, ratio_of
from featureloop.learner.class_figures import one_label_figures


def groups_of(n: int, groups: int) -> np.ndarray:
    return np.array([f"g{i % groups}" for i in range(n)])


def test_frames_of_one_group_give_no_interval_and_it_is_said_why() -> None:
    """Fifty frames of one video are one patient: how patients differ can't be told."""
    right = np.arange(50) % 2.0
    found = figure_maker(groups_of(50, 1), seed=1)("accuracy", mean_of(right))
    assert found.value == 0.5
    assert np.isnan([found.low, found.high]).all()
    assert (found.value_text, found.interval_text) == ("0.500", "not determined")
    assert cautions([found]) == (
        "All frames are of one group (a patient or an examination): intervals need at least two.",
    )


def test_intervals_of_few_groups_are_called_too_narrow_and_of_many_not() -> None:
    right = np.random.default_rng(1).random(60)
    few, many = (figure_maker(groups_of(60, n), seed=1)("accuracy", mean_of(right)) for n in (3, 20))
    assert cautions([few]) == (
        "Intervals of fewer than 10 groups (patients or examinations) are too narrow: all frames are of 3.",
    )
    assert cautions([many]) == ()
    assert (few.groups, many.groups) == (3, 20)


def test_a_class_of_one_group_has_no_interval_though_the_frames_have_many_groups() -> None:
    true = np.r_[np.zeros(27), np.ones(3)].astype(np.intp)
    p = np.random.default_rng(1).dirichlet([1, 1], 30).astype(np.float32)
    groups = np.array([f"{i}" for i in range(27)] + ["rare"] * 3)
    found = {f.name: f for f in one_label_figures(p, true, ("common", "rare"), figure_maker(groups, seed=1))}
    assert np.isfinite(found["accuracy"].low)
    for name in ("sensitivity of rare", "auc of rare", "auc", "balanced accuracy"):
        assert np.isfinite(found[name].value)
        assert (found[name].interval_text, found[name].groups) == ("not determined", 1)
    assert found["sensitivity of common"].groups == 27
    assert "the frames that decide the figure are of one group" in cautions(list(found.values()))[0]


def test_a_mean_over_classes_is_resampled_with_all_of_them() -> None:
    """A resample without the harder class would tell of another figure: the interval would reach beyond."""
    true = np.r_[np.zeros(20), np.ones(2)].astype(np.intp)
    p = np.where((np.arange(22) < 4)[:, None], [0.1, 0.9], [0.9, 0.1]).astype(np.float32)
    figure = figure_maker(np.arange(22).astype(str), seed=1)
    found = {f.name: f for f in one_label_figures(p, true, ("a", "b"), figure)}["balanced accuracy"]
    assert found.value == 0.4
    assert 0.2 < found.low < 0.35
    assert 0.4 < found.high <= 0.5


def test_groups_that_all_agree_give_what_so_many_trials_tell() -> None:
    """Twenty right of twenty don't prove that all are: Clopper and Pearson's interval, from 0.832 on."""
    figure = figure_maker(np.repeat(np.arange(20), 3).astype(str), seed=1)
    sure, never = figure("right", mean_of(np.ones(60))), figure("wrong", mean_of(np.zeros(60)))
    oracle = binomtest(20, 20).proportion_ci(0.95, method="exact")
    assert (sure.low, sure.high) == (pytest.approx(oracle.low), 1.0)
    assert (never.low, never.high) == (0.0, pytest.approx(1 - oracle.low))
    assert figure("dice", mean_of(np.full(60, 0.5))).interval_text == "not determined"
    assert figure("false ones", mean_of(np.zeros(60)), most=np.inf).interval_text == "not determined"


def test_a_figure_that_hardly_any_resample_determines_has_no_interval() -> None:
    figure = figure_maker(np.arange(30).astype(str), seed=1)

    def rare(at: np.ndarray) -> float:
        return 1.0 if len(np.unique(at)) > 24 else float("nan")

    assert figure("rare", rare).interval_text == "not determined"


@given(st.integers(2, 12), st.integers(0, 2**31))
def test_a_resample_holds_whole_groups_and_as_many_as_there_are(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, count, 40).astype(str)
    names = np.unique(groups)
    drawn = []

    def counted(at: np.ndarray) -> float:
        drawn.append(np.bincount(at, minlength=40))
        return 0.0

    figure_maker(groups, seed=seed)("drawn", counted)
    for times in drawn[:20]:
        of_group = [set(times[groups == name].tolist()) for name in names]
        assert all(len(each) == 1 for each in of_group)
        assert sum(each.pop() for each in of_group) == len(names)


def test_an_interval_is_as_wide_as_theory_has_it() -> None:
    """Of a mean: 1.96 standard errors to each side, those of the groups' means."""
    rng = np.random.default_rng(3)
    values = np.repeat(rng.normal(0.5, 0.1, 200), 5)
    found = figure_maker(np.repeat(np.arange(200), 5).astype(str), seed=1)("mean", mean_of(values))
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(200), rel=0.15)
    ratio = figure_maker(np.repeat(np.arange(200), 5).astype(str), seed=1)("r", ratio_of(values, np.ones(1000)))
    assert (ratio.low, ratio.high) == (pytest.approx(found.low), pytest.approx(found.high))


def test_what_is_not_determined_at_all_is_said_so() -> None:
    assert Figure("f1", float("nan"), float("nan"), float("nan"), 0).value_text == "not determined"


def test_several_statistics_average_over_the_same_frames() -> None:
    first, second = mean_of(np.array([1.0, 0.0, 0.0])), ratio_of(np.array([0.0, 1.0, 1.0]), np.ones(3))
    assert average_of([first])(np.array([0, 1])) == 0.5
    assert average_of([first, second])(np.array([0, 0, 1])) == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert average_of([first, second])(np.array([0, 0])) == 0.5
