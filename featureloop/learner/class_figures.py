"""Figures of classes: scikit-learn's, one class against the rest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from featureloop.core.types import Bool, Float32
from featureloop.learner.intervals import Figure, MakeFigure, mean_of, ratio_of


def one_label_figures(p: Float32, true: NDArray[np.intp], labels: Sequence[str], figure: MakeFigure) -> list[Figure]:
    """Of probabilities float32 (M, K) and true labels (M,)."""
    right = (p.argmax(axis=1) == true).astype(np.float64)

    def balanced(at: NDArray[np.intp]) -> float:
        return float(np.mean([right[at][true[at] == k].mean() for k in np.unique(true[at])]))

    found = [
        figure("accuracy", mean_of(right)),
        figure("balanced accuracy", balanced),
        figure("auc", partial(_mean_area, p, true[:, None] == np.arange(len(labels)))),
    ]
    for k, name in enumerate(labels):
        found.append(figure(f"sensitivity of {name}", mean_of(np.where(true == k, right, np.nan))))
        found.append(figure(f"auc of {name}", partial(_area, p[:, k], true == k)))
    return found


def several_label_figures(p: Float32, true: Bool, labels: Sequence[str], figure: MakeFigure) -> list[Figure]:
    """Of probabilities float32 (M, K) and flags bool (M, K)."""
    told = p >= 0.5
    hits, claims, there = ((x).sum(1).astype(np.float64) for x in (told & true, told, true))
    found = [
        figure("accuracy of labels", mean_of((told == true).mean(axis=1))),
        figure("f1", ratio_of(2 * hits, claims + there)),
        figure("auc", partial(_mean_area, p, true)),
        figure("average precision", partial(_mean_precision, p, true)),
    ]
    for k, name in enumerate(labels):
        found.append(figure(f"sensitivity of {name}", mean_of(np.where(true[:, k], told[:, k], np.nan))))
        found.append(figure(f"auc of {name}", partial(_area, p[:, k], true[:, k])))
    return found


def _area(scores: Float32, true: Bool, at: NDArray[np.intp]) -> float:
    from sklearn.metrics import roc_auc_score

    mine = true[at]
    return float(roc_auc_score(mine, scores[at])) if mine.any() and not mine.all() else float("nan")


def _mean_area(p: Float32, true: Bool, at: NDArray[np.intp]) -> float:
    return _mean([_area(p[:, k], true[:, k], at) for k in range(p.shape[1])])


def _mean_precision(p: Float32, true: Bool, at: NDArray[np.intp]) -> float:
    from sklearn.metrics import average_precision_score

    known = [k for k in range(p.shape[1]) if true[at, k].any()]
    return _mean([float(average_precision_score(true[at, k], p[at, k])) for k in known])


def _mean(values: Sequence[float]) -> float:
    kept = [v for v in values if np.isfinite(v)]
    return float(np.mean(kept)) if kept else float("nan")
