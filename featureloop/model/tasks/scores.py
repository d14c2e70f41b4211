"""Scores of a result, each a pure function of it, in [0, 1]: the higher, the rather it is right.

None depends on the order of a result's rows, so that a learner, which knows no order, calibrates what a device
calculates. What is not known is no reason to trust: a score without its evidence is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from featureloop.core.boxes import decode_distances
from featureloop.core.types import Recognition, Task
from featureloop.model.score_words import AGREEMENT

Float64 = NDArray[np.float64]
Score = Callable[[Recognition], float]
EMPTY_CELLS = 16.0
"""Sub-cells by which an empty mask is smoothed: one position's worth."""
EMPTY_ROWS = 1.0
"""Rows by which an empty detection is smoothed."""
SHOWN = 0.5
COMPARED = 256
"""Rows of a detection that are compared with each other, the best."""


def largest_probability(found: Recognition, told: Recognition | None = None) -> float:
    """Classification: the largest probability (Hendrycks & Gimpel 2017, arXiv:1610.02136)."""
    at = int(found.probabilities[0].argmax())
    return float(_by(found, told)[0, at])


def margin(found: Recognition) -> float:
    """Classification: the largest probability less the second one; 1 of a single class."""
    best = np.sort(found.probabilities[0].astype(np.float64))[::-1]
    return float(best[0] - best[1]) if len(best) > 1 else 1.0


def certainty(found: Recognition) -> float:
    """Classification: 1 less the entropy of the probabilities as a share of the largest possible."""
    p = found.probabilities[0].astype(np.float64)
    return 1.0 - float(_entropy(p).sum() / np.log(len(p))) if len(p) > 1 else 1.0


def energy(found: Recognition) -> float:
    """Classification and several labels: the evidence for anything (Liu et al. 2020, arXiv:2010.03759).

    The logits' free energy with its sign turned, brought into [0, 1] by x / (1 + |x|), which never saturates.
    """
    if found.energy is None:
        return 0.0
    return 0.5 + 0.5 * found.energy / (1.0 + abs(found.energy))


def mean_probability(found: Recognition, told: Recognition | None = None) -> float:
    """Several labels: the expected share of them that is told rightly."""
    p = _by(found, told)
    return float(np.where(found.probabilities >= SHOWN, p, 1 - p).mean())


def least_margin(found: Recognition) -> float:
    """Several labels: how far from one half the least certain one is, times two."""
    return float(np.abs(2 * found.probabilities.astype(np.float64) - 1).min())


def label_certainty(found: Recognition) -> float:
    """Several labels: 1 less the mean entropy of each, in bits."""
    return 1.0 - float(_two_sided(found.probabilities).mean())


def expected_dice(found: Recognition, told: Recognition | None = None) -> float:
    """Segmentation: the expected Dice under the probabilities."""
    p = _by(found, told)
    hard = found.probabilities >= SHOWN
    return float((2 * p[hard].sum() + EMPTY_CELLS) / (p.sum() + hard.sum() + EMPTY_CELLS))


def lesion_score(found: Recognition) -> float:
    """Segmentation: the mean probability inside what is shown; of nothing, how improbable the likeliest place is."""
    p = found.probabilities.astype(np.float64)
    hard = p >= SHOWN
    return float(p[hard].mean()) if hard.any() else 1.0 - float(p.max(initial=0.0))


def cell_probability(found: Recognition) -> float:
    """Segmentation: the mean over all sub-cells of the likelier side's probability."""
    p = found.probabilities.astype(np.float64)
    return float(np.maximum(p, 1 - p).mean()) if p.size else 1.0


def expected_f1(found: Recognition, told: Recognition | None = None) -> float:
    """Detection: the expected F1 of the rows under the probabilities."""
    p = _best_label(told or found)
    hard = _best_label(found) >= SHOWN
    return float((2 * p[hard].sum() + EMPTY_ROWS) / (p.sum() + hard.sum() + EMPTY_ROWS))


def box_score(found: Recognition) -> float:
    """Detection: the mean score of the rows that show a box; of no box, how improbable the likeliest is."""
    p = _best_label(found)
    hard = p >= SHOWN
    return float(p[hard].mean()) if hard.any() else 1.0 - float(p.max(initial=0.0))


def frame_probability(found: Recognition) -> float:
    """Detection: the probability of the best box; of no box, how improbable the likeliest is.

    What is shown of a frame hangs on its best row: a box, or none. This is that decision's probability, as
    `largest_probability` is a class's.
    """
    best = float(_best_label(found).max(initial=0.0))
    return max(best, 1.0 - best)


def box_stability(found: Recognition) -> float:
    """Detection: how well the rows agree on the width and height of what they show.

    Every row that shows a box tells its own; rows of one lesion should tell the same one. Each is compared
    (intersection over union, as if both had one centre, since where rows stand has no say) with the half of the rows
    that are likest, so that a second lesion of another size is no disagreement. Of no box it is `box_score`.
    """
    p = _best_label(found)
    order = np.argsort(-p, kind="stable")[:COMPARED]
    order = order[p[order] >= SHOWN]
    if found.distances is None or not len(order):
        return box_score(found)
    left, top, right, bottom = decode_distances(found.distances[order]).T
    sizes = np.maximum(np.stack([left + right, top + bottom], axis=1), 1e-6)
    shared = np.minimum(sizes[:, None], sizes[None]).prod(axis=2)
    area = sizes.prod(axis=1)
    overlap = np.sort(shared / (area[:, None] + area[None] - shared), axis=1)[:, ::-1]
    likest = overlap[:, : (len(order) + 1) // 2 + 1].mean(axis=1)
    return float(np.average(likest, weights=p[order]))


def nearness(found: Recognition) -> float:
    """How near the frame's features are to those of founding frames."""
    return 0.0 if found.outlying is None else 1.0 - found.outlying


def agreement(found: Recognition) -> float:
    """How good the result is expected to be by the frame seen otherwise, too; `expected_quality` by all views' mean."""
    return 0.0 if found.agreement is None else found.agreement


def expected_quality(found: Recognition, told: Recognition) -> float:
    """How good a hard result is expected to be under the probabilities of another one: the task's own score by them.

    Parameters
    ----------
    found
        What is shown.
    told
        Of the same task, its rows those of the same positions. `found` itself gives its own score.
    """
    return _OWN[found.task](found, told)


def _by(found: Recognition, told: Recognition | None) -> Float64:
    return (found if told is None else told).probabilities.astype(np.float64)


def _best_label(found: Recognition) -> Float64:
    return np.asarray(found.probabilities.max(axis=1, initial=0.0), np.float64)


def _entropy(p: Float64) -> Float64:
    return np.asarray(-p * np.log(np.maximum(p, 1e-300)))


def _two_sided(p: NDArray[np.float32]) -> Float64:
    x = p.astype(np.float64)
    return np.asarray((_entropy(x) + _entropy(1 - x)) / np.log(2))


SCORE_OF: Mapping[Task, Mapping[str, Score]] = {
    Task.CLASSIFICATION: {
        "max-probability": largest_probability,
        "margin": margin,
        "entropy": certainty,
        "energy": energy,
        "distance": nearness,
        AGREEMENT: agreement,
    },
    Task.DETECTION: {
        "expected-f1": expected_f1,
        "box-score": box_score,
        "box-stability": box_stability,
        "max-probability": frame_probability,
        "distance": nearness,
        AGREEMENT: agreement,
    },
    Task.MULTILABEL: {
        "mean-probability": mean_probability,
        "margin": least_margin,
        "entropy": label_certainty,
        "energy": energy,
        "distance": nearness,
        AGREEMENT: agreement,
    },
    Task.SEGMENTATION: {
        "expected-dice": expected_dice,
        "lesion-score": lesion_score,
        "max-probability": cell_probability,
        "distance": nearness,
        AGREEMENT: agreement,
    },
}
"""Of each task its scores by their words (`model.score_words`)."""
_OWN: Mapping[Task, Callable[[Recognition, Recognition], float]] = {
    Task.CLASSIFICATION: largest_probability,
    Task.DETECTION: expected_f1,
    Task.MULTILABEL: mean_probability,
    Task.SEGMENTATION: expected_dice,
}
"""The task's own score: of what is found, under the probabilities of what is told."""
