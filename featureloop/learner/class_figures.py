"""Figures of classes: scikit-learn's, one class against the rest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from featureloop.core.intervals import Figure, Float64, MakeFigure, mean_of, ratio_of
from featureloop.core.types import Bool, Float32


def one_label_figures(p: Float32, true: NDArray[np.intp], labels: Sequence[str], figure: MakeFigure) -> list[Figure]:
    """Of probabilities float32 (M, K) and true labels (M,)."""
    right = (p.argmax(axis=1) == true).astype(np.float64)
    shown = true[:, None] == np.arange(len(labels))
    present = [shown[:, k] for k in range(len(labels)) if shown[:, k].any()]
    found = [
        figure("accuracy", mean_of(right)),
        figure("balanced accuracy", partial(_mean_within, right, present), needs=present),
        _mean_area(p, shown, figure),
    ]
    for k, name in enumerate(labels):
        found.append(_sensitivity(name, right, shown[:, k], figure))
        found.append(_area_of(name, p[:, k], shown[:, k], figure))
    return found


def several_label_figures(p: Float32, true: Bool, labels: Sequence[str], figure: MakeFigure) -> list[Figure]:
    """Of probabilities float32 (M, K) and flags bool (M, K)."""
    told = p >= 0.5
    hits, claims, there = ((x).sum(1).astype(np.float64) for x in (told & true, told, true))
    found = [
        figure("accuracy of labels", mean_of((told == true).mean(axis=1))),
        figure("f1", ratio_of(2 * hits, claims + there), needs=[claims + there > 0]),
        _mean_area(p, true, figure),
        _mean_precision(p, true, figure),
    ]
    for k, name in enumerate(labels):
        found.append(_sensitivity(name, told[:, k].astype(np.float64), true[:, k], figure))
        found.append(_area_of(name, p[:, k], true[:, k], figure))
    return found


def _sensitivity(name: str, right: Float64, shown: Bool, figure: MakeFigure) -> Figure:
    return figure(f"sensitivity of {name}", mean_of(np.where(shown, right, np.nan)), needs=[shown])


def _area_of(name: str, scores: Float32, shown: Bool, figure: MakeFigure) -> Figure:
    return figure(f"auc of {name}", partial(_area, scores, shown), needs=[shown, ~shown])


def _mean_area(p: Float32, true: Bool, figure: MakeFigure) -> Figure:
    """The mean over the classes that some frames show and others don't."""
    known = [k for k in range(p.shape[1]) if true[:, k].any() and not true[:, k].all()]
    needs = [kind for k in known for kind in (true[:, k], ~true[:, k])]
    return figure("auc", lambda at: _mean([_area(p[:, k], true[:, k], at) for k in known]), needs=needs)


def _mean_precision(p: Float32, true: Bool, figure: MakeFigure) -> Figure:
    """The mean over the classes that some frames show."""
    known = [k for k in range(p.shape[1]) if true[:, k].any()]
    needs = [true[:, k] for k in known]
    return figure(
        "average precision", lambda at: _mean([_precision(p[:, k], true[:, k], at) for k in known]), needs=needs
    )


def _area(scores: Float32, true: Bool, at: NDArray[np.intp]) -> float:
    from sklearn.metrics import roc_auc_score

    mine = true[at]
    return float(roc_auc_score(mine, scores[at])) if mine.any() and not mine.all() else float("nan")


def _precision(scores: Float32, true: Bool, at: NDArray[np.intp]) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(true[at], scores[at])) if true[at].any() else float("nan")


def _mean_within(values: Float64, kinds: Sequence[Bool], at: NDArray[np.intp]) -> float:
    """The mean of the means of each kind of frames."""
    return _mean([float(values[at][kind[at]].mean()) if kind[at].any() else float("nan") for kind in kinds])


def _mean(values: Sequence[float]) -> float:
    """NaN where one is: a mean over fewer classes would be another figure."""
    return float(np.mean(values)) if values else float("nan")


def confusion_matrix(p: Float32, true: NDArray[np.intp]) -> NDArray[np.int64]:
    """Frames by their true (rows) and their recognized class, int64 (K, K), of p (M, K) and labels (M,)."""
    from sklearn.metrics import confusion_matrix as confusion

    return np.asarray(confusion(true, p.argmax(axis=1), labels=range(p.shape[1])), np.int64)


def label_confusions(p: Float32, true: Bool) -> NDArray[np.int64]:
    """For each of several labels, frames by whether they show it (rows) and whether it was recognized.

    Parameters
    ----------
    p, true
        Probabilities float32 (M, K) and flags bool (M, K).

    Returns
    -------
    NDArray[np.int64]
        (K, 2, 2), index 0 for no and 1 for yes, as scikit-learn's.
    """
    from sklearn.metrics import multilabel_confusion_matrix

    # Label by label: a single column would be taken for one label of two values.
    each = zip(true.T, (p >= 0.5).T, strict=True)
    found = [multilabel_confusion_matrix(mine, told, labels=[True])[0] for mine, told in each]
    return np.array(found, np.int64).reshape(-1, 2, 2)
