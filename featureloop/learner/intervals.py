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


def calibration_error(trust: Float64, values: Float64) -> float:
    """Mean distance of reliability and quality over bins of equally many frames (Naeini et al. 2015)."""
    order = np.argsort(trust, kind="stable")
    bins = [b for b in np.array_split(order, min(BINS, max(1, len(order) // 5))) if len(b)]
    return float(sum(len(b) * abs(trust[b].mean() - values[b].mean()) for b in bins) / len(order))
