"""The gate: not worse for any site, better overall, and proved on whole groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featureloop.core.errors import GateError
from featureloop.learner.gate import GateSettings, Verdict, bootstrap_means, judge

RNG = np.random.default_rng(0)
SITES = np.array(["a"] * 60 + ["b"] * 60)
GROUPS = np.array([f"{s}{i % 60 // 3:02}" for i, s in enumerate(SITES)])
BEFORE = RNG.uniform(0.5, 0.8, 120)


def verdict(after: Any, *, contributing: dict[str, int] | None = None, margin: float = 0.005) -> Verdict:
    contributed = {"a": 60, "b": 60} if contributing is None else contributing
    return judge(BEFORE, after, SITES, GROUPS, settings=GateSettings(margin, 0.9), contributing=contributed)


def test_a_clearly_better_candidate_passes() -> None:
    found = verdict(BEFORE + RNG.normal(0.1, 0.02, 120))
    assert (found.passed, found.reasons, found.probability) == (True, (), 1.0)
    for site in found.sites:
        assert (site.frames, site.groups, site.worse) == (60, 20, False)
        assert 0 < site.low < site.after - site.before < site.high
    assert found.as_dict()["sites"][1]["site"] == "b"


def test_a_candidate_that_is_worse_for_one_site_fails_with_that_site_named() -> None:
    found = verdict(BEFORE + np.where(SITES == "b", -0.02, 0.3))
    assert not found.passed
    assert found.probability == 1.0
    (reason,) = found.reasons
    assert reason.startswith("worse for b: ")
    assert [s.worse for s in found.sites] == [False, True]


def test_a_loss_within_the_margin_is_not_worse() -> None:
    after = BEFORE + np.where(SITES == "b", -0.02, 0.3)
    assert verdict(after, margin=0.03).passed


def test_no_difference_fails_with_the_probability() -> None:
    found = verdict(BEFORE.copy())
    assert not found.passed
    assert found.probability == 0.0
    assert found.reasons == ("better overall only with probability 0.00, 0.90 is required",)
    noisy = verdict(BEFORE + np.where(np.arange(120) % 2, 0.05, -0.05))
    assert not noisy.passed
    assert 0.0 < noisy.probability < 0.9


def test_a_site_that_gave_nothing_is_protected_but_does_not_count_as_better() -> None:
    after = BEFORE + np.where(SITES == "a", 0.0, 0.3)
    assert verdict(after).passed
    found = verdict(after, contributing={"a": 60})
    assert not found.passed
    assert found.probability == 0.0
    assert "worse for b" in verdict(BEFORE + np.where(SITES == "a", 0.3, -0.1), contributing={"a": 60}).reasons[0]


@pytest.mark.parametrize("contributing", [{}, {"c": 9}])
def test_without_a_contributing_site_nothing_can_be_proved(contributing: dict[str, int]) -> None:
    with pytest.raises(GateError, match="no contributing site"):
        verdict(BEFORE + 0.1, contributing=contributing)


def test_every_contributing_site_counts_alike_however_many_records_it_has() -> None:
    sites = np.array(["large"] * 900 + ["small"] * 100)
    groups = np.array([str(i) for i in range(1000)])
    before = np.full(1000, 0.5)
    after = before + np.where(sites == "large", -0.001, 0.01)
    found = judge(before, after, sites, groups, settings=GateSettings(), contributing={"large": 900, "small": 100})
    assert found.passed


def test_sites_are_drawn_independently() -> None:
    # Two sites whose differences mirror each other about a small gain: drawn alike, the gain would seem certain.
    noise = np.random.default_rng(4).normal(0, 0.1, 60)
    noise -= noise.mean()
    found = verdict(BEFORE + 0.003 + np.concatenate([noise, -noise]), margin=1.0)
    assert 0.4 < found.probability < 0.9


def test_the_same_records_give_the_same_verdict() -> None:
    after = BEFORE + np.random.default_rng(5).normal(0.01, 0.1, 120)
    assert verdict(after) == verdict(after)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_the_bootstrap_draws_whole_groups_as_a_direct_loop_does(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, count, 30).astype(str)
    values = rng.normal(size=30)
    names = np.unique(groups)
    drawn = np.random.default_rng(seed).integers(0, len(names), (50, len(names)))
    expected = [np.concatenate([values[groups == names[i]] for i in row]).mean() for row in drawn]
    np.testing.assert_allclose(
        bootstrap_means(values, groups, seed=seed, resamples=50), expected, rtol=1e-9, atol=1e-12
    )


def test_frames_of_one_examination_do_not_make_a_mean_more_certain() -> None:
    rng = np.random.default_rng(1)
    per_group = rng.normal(0, 1, 25)
    values = np.repeat(per_group, 40)
    together = bootstrap_means(values, np.repeat(np.arange(25), 40).astype(str), seed=1)
    alone = bootstrap_means(values, np.arange(1000).astype(str), seed=1)
    # The standard error of 25 independent values, and not of 1000.
    assert together.std() == pytest.approx(per_group.std() / 5, rel=0.1)
    assert alone.std() == pytest.approx(per_group.std() / 1000**0.5, rel=0.1)


def test_a_big_group_carries_all_its_frames_into_the_mean() -> None:
    values = np.concatenate([np.ones(97), np.zeros(3)])
    groups = np.array(["big"] * 97 + ["x", "y", "z"])
    means = bootstrap_means(values, groups, seed=1)
    assert set(np.round(means, 6)) <= {round(97 * k / (97 * k + 4 - k), 6) for k in range(5)}
    # It is left out of a draw of four with a probability of (3/4)^4.
    assert (means == 0).mean() == pytest.approx(0.75**4, abs=0.04)


def test_one_group_says_nothing_about_the_spread() -> None:
    means = bootstrap_means(np.array([0.0, 1.0]), np.array(["g", "g"]), seed=1)
    assert set(means) == {0.5}
