"""Calibration error and risk against coverage: a second opinion, and the same in any order of the frames."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from featureloop.core.intervals import calibration_error, equal_bins, risks


@st.composite
def frames_of_few_reliabilities(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reliabilities with plateaus, qualities, and another order of the frames."""
    n = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    trust = rng.choice(rng.random(draw(st.integers(1, 12))), n)
    return trust, rng.random(n), rng.permutation(n)


@given(frames_of_few_reliabilities())
def test_the_order_of_frames_decides_nothing(
    frames: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Folders of classes are read class by class: frames of one reliability come with the right ones first."""
    trust, values, order = frames
    assert calibration_error(trust[order], values[order]) == pytest.approx(calibration_error(trust, values))
    np.testing.assert_allclose(risks(trust[order], values[order]), risks(trust, values))


@given(frames_of_few_reliabilities())
def test_bins_hold_every_frame_once_and_split_no_plateau(
    frames: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    trust, _, _ = frames
    bins = equal_bins(trust)
    assert sorted(np.concatenate(bins)) == list(range(len(trust)))
    assert all(trust[a].max() < trust[b].min() for a, b in itertools.pairwise(bins))


def test_a_plateau_that_promises_what_is_true_has_no_error() -> None:
    right = np.r_[np.ones(90), np.zeros(10)]
    assert calibration_error(np.full(100, 0.9), right) == pytest.approx(0.0)
    assert calibration_error(np.full(100, 0.7), right) == pytest.approx(0.2)
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0)))


@given(st.integers(0, 2**31), st.integers(5, 30))
def test_without_plateaus_the_error_is_that_of_scikit_learns_bins(seed: int, tens: int) -> None:
    rng = np.random.default_rng(seed)
    trust = rng.permutation(np.linspace(0.01, 0.99, 10 * tens)) ** rng.uniform(0.5, 2)
    right = (rng.random(10 * tens) < trust).astype(np.float64)
    true, promised = calibration_curve(right, trust, n_bins=10, strategy="quantile")
    assert calibration_error(trust, right) == pytest.approx(np.abs(true - promised).mean())


def test_where_bins_of_equal_mass_are_of_equal_width_the_error_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import binary_calibration_error

    trust = (np.arange(1000) + 0.5) / 1000
    right = (np.random.default_rng(1).random(1000) < trust**2).astype(np.float64)
    oracle = binary_calibration_error(torch.from_numpy(trust), torch.from_numpy(right).int(), n_bins=10)
    assert calibration_error(trust, right) == pytest.approx(oracle.item(), abs=1e-6)


def test_risk_without_plateaus_is_the_running_mean_of_the_losses() -> None:
    trust, losses = np.array([0.2, 0.9, 0.5]), np.array([1.0, 0.0, 0.5])
    np.testing.assert_allclose(risks(trust, losses), [0.0, 0.25, 0.5])
    np.testing.assert_allclose(risks(np.full(4, 0.5), np.array([0.0, 0.0, 1.0, 1.0])), [0.5] * 4)
