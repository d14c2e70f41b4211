"""Figures with 95% intervals: statistics of frames, resampled by whole groups (Efron & Tibshirani 1993)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featureloop.core.types import Bool

Float64 = NDArray[np.float64]
Statistic = Callable[[NDArray[np.intp]], float]
"""Of frames by their numbers; NaN where they don't determine it."""
RESAMPLES = 400
LEAST_RESAMPLES = 100
"""Resamples that must determine a figure, for its interval to be read from them."""
FEW = 10
"""Groups below which resampling gives intervals that are too narrow."""
BINS = 10
ROUNDING = 1e-9
UNKNOWN = "not determined"


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 95% interval, resampled by group.

    Attributes
    ----------
    value, low, high
        NaN where the frames don't determine it: an interval needs two groups.
    groups
        Of how many groups the frames are that decide it; of its rarest kind of frames, where it needs several.
    """

    name: str
    value: float
    low: float
    high: float
    groups: int

    @property
    def value_text(self) -> str:
        """For people: `0.812`, or that it is not determined."""
        return f"{self.value:.3f}" if math.isfinite(self.value) else UNKNOWN

    @property
    def interval_text(self) -> str:
        """For people: `0.774 to 0.846`, or that it is not determined."""
        known = math.isfinite(self.low) and math.isfinite(self.high)
        return f"{self.low:.3f} to {self.high:.3f}" if known else UNKNOWN


class MakeFigure(Protocol):
    """Makes a figure of a name and a statistic."""

    def __call__(self, name: str, statistic: Statistic, *, needs: Sequence[Bool] = (), most: float = 1.0) -> Figure:
        """Frames of each kind in `needs`, bool (M,), decide it, or all; it is from 0 to `most`."""
        ...


def figure_maker(groups: NDArray[np.str_], *, seed: int) -> MakeFigure:
    """What makes a figure of a name and a statistic, for frames of these groups, str (M,)."""
    names, member = np.unique(groups, return_inverse=True)
    order = np.argsort(member, kind="stable")
    members = np.split(order, np.searchsorted(member[order], np.arange(1, len(names))))

    def figure(name: str, statistic: Statistic, *, needs: Sequence[Bool] = (), most: float = 1.0) -> Figure:
        count = min((len(np.unique(member[kind])) for kind in needs), default=len(names))
        value = statistic(np.arange(len(groups)))
        low, high = _resampled(statistic, members, seed) if count > 1 else (np.nan, np.nan)
        if high - low < ROUNDING:
            low, high = _unanimous(value, count, most)
        return Figure(name, value, low, high, count)

    return figure


def _resampled(statistic: Statistic, members: Sequence[NDArray[np.intp]], seed: int) -> tuple[float, float]:
    """Between which values 95% of the resamples are that determine a statistic of frame numbers."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        at = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        drawn.append(statistic(at))
    kept = np.array(drawn)[np.isfinite(drawn)]
    low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) >= LEAST_RESAMPLES else (np.nan, np.nan)
    return float(low), float(high)


def _unanimous(value: float, groups: int, most: float) -> tuple[float, float]:
    """The interval of a value at its bound, where all groups agree and resampling tells nothing.

    As of so many trials with one outcome (Clopper & Pearson 1934); NaN inside the bounds, which it doesn't cover.
    """
    least = 0.025 ** (1 / groups)
    if value > most - ROUNDING:
        return most * least, most
    if value < ROUNDING and math.isfinite(most):
        return 0.0, most * (1 - least)
    return float("nan"), float("nan")


def cautions(figures: Sequence[Figure]) -> tuple[str, ...]:
    """What must be said of figures' intervals, in sentences; none where all are of enough groups."""
    most = max(f.groups for f in figures)
    if most < 2:
        return ("All frames are of one group (a patient or an examination): intervals need at least two.",)
    said = []
    if any(math.isfinite(f.value) and not math.isfinite(f.low) for f in figures):
        said.append(
            f"An interval is {UNKNOWN} where the frames that decide the figure are of one group, "
            "are missing from most resamples, or give the same in all."
        )
    few = [f.name for f in figures if 1 < f.groups < FEW]
    if few:
        which = f"all frames are of {most}" if most < FEW else ", ".join(few)
        said.append(f"Intervals of fewer than {FEW} groups (patients or examinations) are too narrow: {which}.")
    return tuple(said)


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


def average_of(each: Sequence[Statistic]) -> Statistic:
    """The mean of several statistics of the same frames, as of several seeds."""
    return each[0] if len(each) == 1 else lambda at: float(np.mean([statistic(at) for statistic in each]))


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
