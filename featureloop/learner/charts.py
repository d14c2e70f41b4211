"""The curves of an evaluation, as PNG pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureloop.core.intervals import Float64, equal_bins, risks
from featureloop.core.types import Task
from featureloop.learner.class_figures import confusion_matrix, label_confusions
from featureloop.learner.evaluation import Evaluation
from featureloop.learner.figures import class_truths, label_truths, matched_scores
from featureloop.model.charts import ACCENT, COLOURS, SOFT, Chart, drawn, new_axes


def charts_of(found: Evaluation) -> list[Chart]:
    """All charts that suit an evaluation's task."""
    return [_reliability(found), _risk_coverage(found), *_CHARTS[found.task](found)]


def _reliability(found: Evaluation) -> Chart:
    """Reliability against quality, in the bins of the calibration error."""
    trust, values = found.reliabilities, np.array([s.promised for s in found.seen])
    bins = equal_bins(trust)
    figure, axes = new_axes("reliability", "quality")
    axes.plot([0, 1], [0, 1], color=SOFT, linestyle="--")
    axes.scatter(trust, values, s=6, color=SOFT, alpha=0.5)
    axes.plot([trust[b].mean() for b in bins], [values[b].mean() for b in bins], marker="o", color=ACCENT)
    known = found.guarantee
    if known is not None:
        axes.axvline(known.threshold, color=COLOURS[1], linewidth=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.03, 1.03)
    line = " Left of the thin line results are doubtful." if known is not None else ""
    return drawn(figure, f"Reliability diagram: on the dashed line, the reliability promises what is true.{line}")


def _risk_coverage(found: Evaluation) -> Chart:
    """Mean loss of the most reliable share of the frames."""
    risk = risks(found.reliabilities, 1 - found.values)
    figure, axes = new_axes("share of the frames, the most reliable first", "mean loss (1 - quality)")
    best = risks(found.values, 1 - found.values)
    axes.plot(np.arange(1, len(risk) + 1) / len(risk), best, color=SOFT, linestyle="--")
    axes.plot(np.arange(1, len(risk) + 1) / len(risk), risk, color=ACCENT)
    known, line = found.guarantee, ""
    if known is not None and known.accepted:
        share = float((found.reliabilities >= known.threshold).mean())
        axes.plot([0, share, share], [known.risk, known.risk, 0], color=COLOURS[1], linewidth=1)
        line = f" The thin line: {100 * share:.0f}% are above the threshold, with a guaranteed risk of {known.risk:g}."
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(0.05, 1.05 * float(risk.max())))
    area, least = float(risk.mean()), float(best.mean())
    return drawn(
        figure, f"Risk against coverage (AURC): area {area:.3f}; {least:.3f} if the order were perfect (dashed).{line}"
    )


def _segmentation(found: Evaluation) -> list[Chart]:
    figure, axes = new_axes("Dice", "frames")
    axes.hist(found.values, bins=np.linspace(0, 1, 21), color=ACCENT)
    return [drawn(figure, "How many frames have which Dice.")]


def _detection(found: Evaluation) -> list[Chart]:
    scores, right, there = matched_scores(found.seen)
    if not there:
        return []
    hits, false = hits_and_false(scores, right)
    figure, axes = new_axes("sensitivity", "precision")
    axes.plot(hits / there, hits / np.maximum(1, hits + false), color=ACCENT)
    shown = scores >= 0.5
    if shown.any():
        axes.scatter(right[shown].sum() / there, right[shown].mean(), color=COLOURS[1], zorder=3)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    free, per_frame = new_axes("false boxes per frame", "sensitivity")
    per_frame.plot(false / found.frames, hits / there, color=ACCENT)
    per_frame.set_ylim(0, 1.03)
    return [
        drawn(figure, "Precision against sensitivity at an overlap of one half; the dot is what is shown."),
        drawn(free, "Free-response curve: sensitivity against false boxes."),
    ]


def hits_and_false(scores: Float64, right: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Right and false boxes from every score on, the highest first; no threshold parts boxes of one score.

    Parameters
    ----------
    scores, right
        Of all boxes, float64 and bool (B,).

    Returns
    -------
    tuple[NDArray[np.intp], NDArray[np.intp]]
        One of each for every distinct score.
    """
    _, member = np.unique(-scores, return_inverse=True)
    hits, false = (
        np.cumsum(np.bincount(member[kind], minlength=member.max(initial=-1) + 1)) for kind in (right, ~right)
    )
    return hits, false


def _classification(found: Evaluation) -> list[Chart]:
    p, true = class_truths(found.seen)
    shown = true[:, None] == np.arange(p.shape[1])
    return [_confusion(confusion_matrix(p, true), found.labels), *_curves(p, shown, found.labels)]


def _multilabel(found: Evaluation) -> list[Chart]:
    p, true = label_truths(found.seen)
    return [_confusions(label_confusions(p, true), found.labels), *_curves(p, true, found.labels)]


def _curves(p: NDArray[np.float32], true: NDArray[np.bool_], labels: Sequence[str]) -> list[Chart]:
    """ROC and precision curves of probabilities (M, K) against bool (M, K)."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    charts = []
    for curve, title_x, title_y, text in (
        (_roc(roc_curve), "1 - specificity", "sensitivity", "ROC curve of each class against the rest."),
        (_precision(precision_recall_curve), "sensitivity", "precision", "Precision against sensitivity."),
    ):
        figure, axes = new_axes(title_x, title_y)
        for k, name in enumerate(labels):
            if 0 < true[:, k].sum() < len(true):
                axes.plot(*curve(true[:, k], p[:, k]), color=COLOURS[k % len(COLOURS)], label=name)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
        charts.append(drawn(figure, text))
    return charts


Curve = Callable[[NDArray[np.bool_], NDArray[np.float32]], tuple[Any, Any]]


def _roc(roc_curve: Callable[..., Any]) -> Curve:
    return lambda true, scores: roc_curve(true, scores)[:2]


def _precision(precision_recall_curve: Callable[..., Any]) -> Curve:
    def curve(true: NDArray[np.bool_], scores: NDArray[np.float32]) -> tuple[Any, Any]:
        precision, recall, _ = precision_recall_curve(true, scores)
        return recall, precision

    return curve


def _confusion(matrix: NDArray[np.int64], labels: Sequence[str]) -> Chart:
    from matplotlib.figure import Figure

    side = max(3.4, 0.55 * len(labels) + 1.6)
    figure = Figure(figsize=(side, side), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    share = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    axes.imshow(share, cmap="GnBu", vmin=0, vmax=1)
    for i, j in np.ndindex(*matrix.shape):
        axes.text(j, i, str(matrix[i, j]), ha="center", va="center", color="white" if share[i, j] > 0.6 else "black")
    axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("recognized")
    axes.set_ylabel("true")
    return drawn(figure, "Confusion matrix: frames by their true and their recognized class.")


def _confusions(matrices: NDArray[np.int64], labels: Sequence[str]) -> Chart:
    """A line for each of several labels: its confusion matrix (K, 2, 2), laid flat."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 0.42 * len(labels) + 1.3), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    counts = matrices[:, [1, 1, 0, 0], [1, 0, 1, 0]]
    share = counts / np.maximum(1, np.repeat(matrices.sum(axis=2)[:, ::-1], 2, axis=1))
    axes.imshow(share, cmap="GnBu", vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(*counts.shape):
        axes.text(j, i, str(counts[i, j]), ha="center", va="center", color="white" if share[i, j] > 0.6 else "black")
    axes.axvline(1.5, color="white", linewidth=3)
    axes.set_xticks(range(4), ["there,\nfound", "there,\nmissed", "not there,\nfound", "not there,\nnot found"])
    axes.set_yticks(range(len(labels)), labels)
    return drawn(figure, "Confusion of each label: frames that show it and frames that don't, by what was recognized.")


_CHARTS: Mapping[Task, Callable[[Evaluation], list[Chart]]] = {
    Task.CLASSIFICATION: _classification,
    Task.DETECTION: _detection,
    Task.MULTILABEL: _multilabel,
    Task.SEGMENTATION: _segmentation,
}
