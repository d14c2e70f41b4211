"""Figures of a search: whom the nearest record belongs to, and how well pairs of one patient stand out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featureloop.audit.findings import Arm, Measure, as_measure
from featureloop.core.intervals import Float64, Statistic, average_of, figure_maker, mean_of
from featureloop.core.types import Bool, Float32

BINS = 1024
FALSE_POSITIVES = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """Every query against every record of a gallery.

    Attributes
    ----------
    mates
        bool (Q, R), what is right.
    allowed
        bool (Q, R), what may be found: a record doesn't find itself.
    groups
        str (Q,), for the intervals.
    """

    mates: Bool
    allowed: Bool
    groups: NDArray[np.str_]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mates", self.mates & self.allowed)

    @property
    def decided(self) -> Bool:
        """Queries that have something right to find, bool (Q,)."""
        return np.asarray(self.mates.any(1))

    @property
    def chance_top1(self) -> float:
        """Of a guess among all that may be found."""
        share = self.mates.sum(1) / np.maximum(1, self.allowed.sum(1))
        return float(share[self.decided].mean()) if self.decided.any() else float("nan")


def top1_of(similarity: Float32, search: Search) -> Float64:
    """Whether each query's nearest is right, float64 (Q,); NaN where nothing is; ties count by their share."""
    s = np.where(search.allowed, similarity, -np.inf)
    best = (s == s.max(1, keepdims=True)) & search.allowed
    right = (best & search.mates).sum(1) / np.maximum(1, best.sum(1))
    return np.where(search.decided, right, np.nan)


def precision_of(similarity: Float32, search: Search) -> Float64:
    """Average precision of each query's ranking, float64 (Q,); NaN where nothing is right."""
    out = np.full(len(similarity), np.nan)
    for q in np.flatnonzero(search.decided):
        own = search.allowed[q]
        # By the similarity alone: of equal ones the wrong ones come first.
        order = np.lexsort((search.mates[q, own], -similarity[q, own]))
        hits = search.mates[q, own][order]
        out[q] = (np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)).mean()
    return out


def top1(similarity: Float32, search: Search) -> float:
    """The mean of `top1_of`."""
    return mean_of(top1_of(similarity, search))(np.arange(len(similarity)))


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Counts of right and wrong pairs of each query in bins of similarity, float64 (Q, B), the most similar last."""

    right: Float64
    wrong: Float64

    def area(self, at: NDArray[np.intp]) -> float:
        """Area under the ROC curve of the pairs of some queries; ties count half."""
        right, wrong = self._counts(at)
        below = np.cumsum(wrong) - wrong
        total = right.sum() * wrong.sum()
        return float((right * (below + 0.5 * wrong)).sum() / total) if total else float("nan")

    def found(self, at: NDArray[np.intp]) -> float:
        """Share of the right pairs above the similarity that one wrong pair in a thousand exceeds."""
        right, wrong = (x[::-1] for x in self._counts(at))
        if not right.sum() or not wrong.sum():
            return float("nan")
        over = np.concatenate([[0.0], np.cumsum(wrong) / wrong.sum()])
        share = np.concatenate([[0.0], np.cumsum(right) / right.sum()])
        return float(share[over <= FALSE_POSITIVES].max())

    def _counts(self, at: NDArray[np.intp]) -> tuple[Float64, Float64]:
        """Of some queries together, each as often as it is named; a product, since resampling asks for it often."""
        often = np.bincount(at, minlength=len(self.right)).astype(np.float64)
        return often @ self.right, often @ self.wrong


def pairs_of(similarity: Float32, search: Search) -> Pairs:
    """All pairs, in bins whose edges are quantiles, finer towards the most similar."""
    shares = np.concatenate([np.linspace(0, 0.99, BINS // 2), 1 - np.geomspace(0.01, 1e-6, BINS // 2)[1:]])
    edges = np.unique(np.quantile(similarity[search.allowed], shares))
    where = np.searchsorted(edges, similarity, side="right")
    right, wrong = (np.zeros((len(similarity), len(edges) + 1), np.float64) for _ in range(2))
    for q in range(len(similarity)):
        right[q] = np.bincount(where[q, search.mates[q]], minlength=len(edges) + 1)
        wrong[q] = np.bincount(where[q, search.allowed[q] & ~search.mates[q]], minlength=len(edges) + 1)
    return Pairs(right, wrong)


def measures_of(
    draws: Sequence[Float32], search: Search, *, arm: Arm, by: str, seed: int, suffix: str = ""
) -> tuple[Measure, ...]:
    """Top-1, mean average precision, area under the curve and true positives, with intervals by patient.

    Parameters
    ----------
    draws
        Similarities float32 (Q, R) of the same queries with the same records, for each draw of what leaves of them:
        the figures are the means over the draws.
    """
    pairs, chance = [pairs_of(s, search) for s in draws], search.chance_top1
    make, needs = figure_maker(search.groups, seed=seed), (search.decided,)

    def measure(name: str, statistic: Statistic, chance: float | None) -> Measure:
        return as_measure(make(name + suffix, statistic, needs=needs), arm=arm, by=by, chance=chance)

    return (
        measure("top-1", mean_of(np.mean([top1_of(s, search) for s in draws], axis=0)), chance),
        measure("mAP", mean_of(np.mean([precision_of(s, search) for s in draws], axis=0)), chance),
        measure("AUC", average_of([p.area for p in pairs]), 0.5),
        measure("TPR at 1e-3 FPR", average_of([p.found for p in pairs]), FALSE_POSITIVES),
    )
