"""Figures with 95% intervals: statistics of frames, resampled by whole groups (Efron & Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Statistic = Callable[[NDArray[np.intp]], float]
"""Of frames by their numbers; NaN where they don't determine it."""
RESAMPLES = 400
BINS = 10


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 95% interval, resampled by group."""

    name: str
    value: float
    low: float
    high: float


MakeFigure = Callable[[str, Statistic], Figure]


def figure_maker(groups: NDArray[np.str_], *, seed: int) -> MakeFigure:
    """What makes a figure of a name and a statistic, for frames of these groups, str (M,)."""
    names, member = np.unique(groups, return_inverse=True)
    order = np.argsort(member, kind="stable")
    members = np.split(order, np.searchsorted(member[order], np.arange(1, len(names))))
    return lambda name, statistic: _figure(name, statistic, members, seed)


def _figure(name: str, statistic: Statistic, members: Sequence[NDArray[np.intp]], seed: int) -> Figure:
    """A statistic of frame numbers with its interval."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        at = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        drawn.append(statistic(at))
    kept = np.array(drawn)[np.isfinite(drawn)]
    low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) else (np.nan, np.nan)
    return Figure(name, statistic(np.concatenate(members)), float(low), float(high))


def mean_of(values: Float64) -> Statistic:
    """The mean of values, those that are NaN left out."""

    def statistic(at: NDArray[np.intp]) -> float:
        own = values[at]
        own = own[np.isfinite(own)]
        return float(own.mean()) if len(own) else float("nan")

    return statistic


def ratio_of(parts: Float64, wholes: Float64) -> Statistic:
    """The sum of parts over the sum of wholes."""

    def statistic(at: NDArray[np.intp]) -> float:
        whole = wholes[at].sum()
        return float(parts[at].sum() / whole) if whole else float("nan")

    return statistic


def equal_bins(trust: Float64) -> list[NDArray[np.intp]]:
    """Frame numbers in bins of about equally many frames, from the least reliability on.

    Reliability has plateaus (isotonic regression makes them). Frames of one
    reliability share a bin, that of the middle one of them: which frame comes
    first decides nothing. A bin may be larger than others then, or missing.

    Parameters
    ----------
    trust
        float64 (M,).
    """
    if not len(trust):
        return []
    bins = min(BINS, max(1, len(trust) // 5))
    _, member, count = np.unique(trust, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2
    bin_of = np.floor(middle * bins / len(trust)).astype(np.intp)[member]
    return [np.flatnonzero(bin_of == k) for k in np.unique(bin_of)]


def calibration_error(trust: Float64, values: Float64) -> float:
    """Mean distance of reliability and quality over bins of about equally many frames (Naeini et al. 2015).

    Parameters
    ----------
    trust, values
        Per frame, float64 (M,) in [0, 1].

    Returns
    -------
    float
        In [0, 1]; NaN without a frame.
    """
    if not len(trust):
        return float("nan")
    bins = equal_bins(trust)
    return float(sum(len(b) * abs(trust[b].mean() - values[b].mean()) for b in bins) / len(trust))


def risks(trust: Float64, losses: Float64) -> Float64:
    """Mean loss of the 1, 2, ... M most reliable frames, float64 (M,) of the same.

    Of frames of one reliability none comes first: each counts with their mean loss.
    """
    _, member, count = np.unique(-trust, return_inverse=True, return_counts=True)
    mean = np.bincount(member, weights=losses) / count
    return np.asarray(np.cumsum(np.repeat(mean, count)) / np.arange(1, len(trust) + 1), np.float64)
