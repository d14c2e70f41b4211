"""Probes: what a linear and a non-linear classifier tell of a label, on patients that they did not learn from."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featureloop.core.intervals import Float64, Statistic
from featureloop.core.types import Bool, Float32

FOLDS, COMPONENTS = 5, 96
STRENGTH = 0.1
"""Inverse of the linear probe's penalty."""
HIDDEN, PENALTY, PASSES = 64, 1.0, 60

Probe = Literal["linear", "perceptron"]


def held_out_scores(
    x: Float32, labels: NDArray[np.intp], groups: NDArray[np.str_], *, judged: Bool, by: str, seed: int
) -> Float64:
    """Log-odds of each label for records whose patients the probe did not learn from, float64 (M, K).

    Parameters
    ----------
    x
        float32 (M, D).
    judged
        bool (M,), records that are told; the others are always learned from, and are NaN in the result.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    kinds = int(labels.max()) + 1
    out = np.full((len(x), kinds), np.nan)
    at = np.flatnonzero(judged)
    least = min(len(np.unique(groups[at[labels[at] == k]])) for k in range(kinds))
    folds = StratifiedGroupKFold(max(2, min(FOLDS, least)), shuffle=True, random_state=seed)
    for _, test in folds.split(x[at], labels[at], groups[at]):
        told = at[test]
        learned = np.setdiff1d(np.arange(len(x)), told)
        learned = learned[~np.isin(groups[learned], groups[told])]
        if len(np.unique(labels[learned])) == kinds:
            out[told] = log_odds(x[learned], labels[learned], x[told], by=by, seed=seed)
    return out


def log_odds(x: Float32, labels: NDArray[np.intp], others: Float32, *, by: str, seed: int) -> Float64:
    """Log-odds of each label of other records, float64 (O, K), by a probe that learned from x float32 (M, D)."""
    from sklearn.exceptions import ConvergenceWarning

    varies = np.ptp(x, axis=0) > 0
    if not varies.any():
        return np.zeros((len(others), int(labels.max()) + 1))
    x, others = x[:, varies], others[:, varies]
    probe = _pipeline(len(x), x.shape[1], by, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(x, labels)
    chances = np.clip(np.asarray(probe.predict_proba(others), np.float64), 1e-9, 1 - 1e-9)
    return np.asarray(np.log(chances) - np.log1p(-chances), np.float64)


def _pipeline(count: int, size: int, by: str, seed: int) -> Any:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    components = max(1, min(COMPONENTS, size, count // 3))
    last = (
        LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300)
        if by == "linear"
        else MLPClassifier((HIDDEN,), alpha=PENALTY, max_iter=PASSES, random_state=seed)
    )
    reduce = PCA(components, whiten=False, svd_solver="randomized", random_state=seed)
    return make_pipeline(StandardScaler(), reduce, StandardScaler(), last)


def area_of(scores: Float64, labels: NDArray[np.intp]) -> Statistic:
    """Area under the ROC curve of scores float64 (M, K), the mean over labels against all others; ties count half."""
    from scipy.stats import rankdata

    def statistic(at: NDArray[np.intp]) -> float:
        at = at[np.isfinite(scores[at]).all(1)]
        found, kinds = labels[at], scores.shape[1]
        areas = []
        for k in range(kinds if kinds > 2 else 1):
            right = found == k
            ones, others = int(right.sum()), int((~right).sum())
            if not ones or not others:
                return float("nan")
            ranks = rankdata(scores[at, k])
            areas.append((ranks[right].sum() - ones * (ones + 1) / 2) / (ones * others))
        return float(np.mean(areas))

    return statistic
