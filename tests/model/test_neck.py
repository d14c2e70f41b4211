"""The neck's transform: uncorrelated channels within a bit budget."""

import numpy as np
import pytest
import torch

from featureloop.model.neck import MAX_LEVELS, Neck, fit_transform, join_taps


def taps(rows: int = 4000, dimensions: int = 24, rank: int = 6, seed: int = 0) -> np.ndarray:
    """Taps of low rank with a little noise, of unequal scales and means, float32 (rows, dimensions)."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, rank)) * np.geomspace(4, 0.5, rank)
    x = hidden @ rng.normal(size=(rank, dimensions)) + 0.05 * rng.normal(size=(rows, dimensions))
    return (x * np.geomspace(0.1, 10, dimensions) + np.linspace(-3, 3, dimensions)).astype(np.float32)


def apply(neck: Neck, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return neck(torch.from_numpy(x.T[None, :, :, None].copy()))[0, :, :, 0].numpy().T


def entropy(symbols: np.ndarray) -> float:
    total = 0.0
    for column in symbols.T:
        _, counts = np.unique(column, return_counts=True)
        p = counts / counts.sum()
        total -= float((p * np.log2(p)).sum())
    return total


@pytest.mark.parametrize("budget", [4.0, 10.0, 25.0])
def test_quantized_vectors_cost_the_budget_and_not_more(budget: float) -> None:
    x = taps()
    transform = fit_transform(x, bits_per_vector=budget, max_channels=24)
    z = apply(transform.neck(), x)
    half = (np.array(transform.levels) - 1) / 2
    spent = entropy(np.rint(z * half).astype(int))
    assert spent == pytest.approx(transform.bits, abs=0.2)
    assert 0.8 * budget <= spent <= budget + 0.2


def test_channels_are_uncorrelated_bounded_and_ordered_by_variance() -> None:
    x = taps()
    transform = fit_transform(x, bits_per_vector=20.0, max_channels=24)
    z = apply(transform.neck(), x)
    assert np.abs(z).max() <= 1.0
    assert len(transform.levels) <= 8, "six hidden directions need no more channels"
    correlation = np.corrcoef(z.T) - np.eye(z.shape[1])
    assert np.abs(correlation).max() < 0.05
    assert list(transform.levels) == sorted(transform.levels, reverse=True)


def test_levels_are_odd_so_that_zero_is_one_and_fit_a_byte() -> None:
    fine = fit_transform(taps(), bits_per_vector=float("inf"), max_channels=5)
    assert len(fine.levels) == 5
    assert all(n % 2 == 1 and 3 <= n <= MAX_LEVELS for n in fine.levels)


def test_more_bits_keep_more_of_the_taps() -> None:
    x = taps()
    standard = (x - x.mean(0)) / x.std(0)
    lost = []
    for budget in (3.0, 8.0, 20.0):
        transform = fit_transform(x, bits_per_vector=budget, max_channels=24)
        half = (np.array(transform.levels) - 1) / 2
        z = np.rint(apply(transform.neck(), x) * half)
        design = np.c_[z, np.ones(len(z))]
        kept = design @ np.linalg.lstsq(design, standard, rcond=None)[0]
        lost.append(float(((standard - kept) ** 2).mean()))
    assert lost[0] > lost[1] > lost[2]


def test_bits_go_where_recognition_feels_them() -> None:
    """With few bits, a direction that recognition depends on is kept though its variance is small."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 12)).astype(np.float32)
    x[:, 1:7] += 3 * rng.normal(size=(4000, 1)).astype(np.float32)  # a strong common direction, of no use
    x *= np.geomspace(0.1, 10, 12, dtype=np.float32)
    information = np.zeros((12, 12))
    information[0, 0] = 1.0

    def left(known: np.ndarray | None) -> float:
        transform = fit_transform(x, bits_per_vector=4.0, max_channels=12, information=known)
        half = (np.array(transform.levels) - 1) / 2
        z = np.rint(apply(transform.neck(), x) * half)
        design = np.c_[z, np.ones(len(z))]
        kept = design @ np.linalg.lstsq(design, x[:, 0], rcond=None)[0]
        return float(((x[:, 0] - kept) ** 2).mean() / x[:, 0].var())

    assert left(information) < 0.1
    assert left(None) > 0.3
    assert left(np.zeros((12, 12))) == left(None)


def test_the_same_taps_give_the_same_transform() -> None:
    first, second = (fit_transform(taps(), bits_per_vector=12.0, max_channels=24) for _ in range(2))
    assert first.levels == second.levels
    np.testing.assert_array_equal(first.weight, second.weight)


def test_constant_taps_still_give_a_channel() -> None:
    transform = fit_transform(np.ones((100, 8), np.float32), bits_per_vector=10.0, max_channels=8)
    assert len(transform.levels) >= 1
    assert np.isfinite(transform.weight).all()


def test_taps_are_joined_position_by_position() -> None:
    at8 = torch.arange(1 * 2 * 8 * 8, dtype=torch.float32).reshape(1, 2, 8, 8)
    at16 = torch.arange(1 * 3 * 4 * 4, dtype=torch.float32).reshape(1, 3, 4, 4)
    at32 = torch.arange(1 * 1 * 2 * 2, dtype=torch.float32).reshape(1, 1, 2, 2)
    joined = join_taps((at8, at16, at32))
    assert joined.shape == (1, 4 * 2 + 3 + 1, 4, 4)
    assert set(joined[0, :4, 1, 2].tolist()) == set(at8[0, 0, 2:4, 4:6].flatten().tolist())
    assert joined[0, 8, 1, 2] == at16[0, 0, 1, 2]
    assert joined[0, 11, 1, 2] == at32[0, 0, 0, 1]
