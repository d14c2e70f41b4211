"""A combined score: a task's scores weighed on held-out frames, where that tells right from wrong results better.

The weights are those of a logistic regression of the quality on the scores' logits. None is negative, so a score that
rises never lowers the reliability, and all are pulled to the task's own score alone, so that a few frames change
little. Whether it is better is judged by cross-validation over groups: its area under the risk-coverage curve must be
smaller by more than the standard error of the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from featureloop.core.intervals import risks
from featureloop.model.manifest import Part
from featureloop.sharing.score_maps import LEAST_GROUPS, fitted_weights, folds, logit

Float64 = NDArray[np.float64]
Scores = Mapping[str, Float64]
"""Of each score's word its values, float64 (M,) in [0, 1]; the task's own score comes first."""
RESAMPLES = 200
LEAST_WEIGHT = 1e-6
REPEATS = 3


def combined(scores: Scores, parts: Sequence[Part], intercept: float) -> Float64:
    """The combined score of every frame, float64 (M,) in [0, 1]."""
    line = sum((p.weight * logit(scores[p.score]) for p in parts), np.float64(intercept))
    return np.asarray(1 / (1 + np.exp(-np.clip(line, -50, 50))), np.float64)


def fit_combination(scores: Scores, qualities: Float64) -> tuple[tuple[Part, ...], float]:
    """Weights and intercept; a score of no weight is left out."""
    z = np.stack([logit(x) for x in scores.values()], axis=1)
    own, _ = fitted_weights(z[:, :1], qualities)
    start = np.zeros(z.shape[1])
    start[0] = own[0] * max(float(z[:, 0].std()), 1e-6)
    weights, intercept = fitted_weights(z, qualities, start)
    parts = tuple(Part(name, float(w)) for name, w in zip(scores, weights, strict=True) if w > LEAST_WEIGHT)
    return parts or (Part(next(iter(scores)), float(own[0])),), intercept


def wins(scores: Scores, qualities: Float64, groups: Sequence[str]) -> bool:
    """Whether a combined score orders other groups' frames better than the task's own score, by more than chance."""
    names, member = np.unique(np.array(groups), return_inverse=True)
    if len(names) < LEAST_GROUPS or np.ptp(qualities) == 0:
        return False
    own, losses = next(iter(scores.values())), 1 - qualities
    told = np.mean([_foretold(scores, qualities, groups, seed) for seed in range(REPEATS)], axis=0)
    gain = _area(own, losses) - _area(told, losses)
    members = [np.flatnonzero(member == i) for i in range(len(names))]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        at = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        drawn.append(_area(own[at], losses[at]) - _area(told[at], losses[at]))
    return bool(gain > np.std(drawn))


def _foretold(scores: Scores, qualities: Float64, groups: Sequence[str], seed: int) -> Float64:
    """Of every frame the combined score that was fitted on other groups."""
    told = np.empty(len(qualities))
    for rest, held in folds(groups, seed=seed):
        parts, intercept = fit_combination({k: v[rest] for k, v in scores.items()}, qualities[rest])
        told[held] = combined({k: v[held] for k, v in scores.items()}, parts, intercept)
    return told


def _area(scores: Float64, losses: Float64) -> float:
    """Under the risk-coverage curve."""
    return float(risks(scores, losses).mean())
