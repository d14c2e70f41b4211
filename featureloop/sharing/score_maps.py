"""From a raw score to a reliability: monotone maps, chosen by cross-validation over groups.

Isotonic regression takes any monotone shape and needs many frames; a logistic curve of the score's logit (Platt 1999)
has two numbers. What foretells frames of other groups better is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from featureloop.model.manifest import ISOTONIC, LOGISTIC

Float64 = NDArray[np.float64]
Knots = tuple[Float64, Float64]
FOLDS = 5
LEAST_GROUPS = 20
"""Groups from which on cross-validation chooses anything."""
LEAST_LOGIT = 1e-9
POINTS = 33
"""Knots by which a logistic map is kept."""
SHRINK = 2.0
"""Pull of weights to where they begin, in frames of an undecided result."""


def logit(scores: Float64) -> Float64:
    """Scores in [0, 1] on the whole line, within what float64 tells apart."""
    s = np.clip(scores, LEAST_LOGIT, 1 - LEAST_LOGIT)
    return np.asarray(np.log(s / (1 - s)))


def chosen_map(scores: Float64, qualities: Float64, groups: Sequence[str]) -> tuple[Knots, str]:
    """The map from score to quality that foretells other groups best, as knots, and which one it is.

    Parameters
    ----------
    scores, qualities
        Of every frame, float64 (M,) in [0, 1].
    """
    each: dict[str, Callable[[Float64, Float64], Knots]] = {ISOTONIC: isotonic_map, LOGISTIC: logistic_map}
    if len(set(groups)) < LEAST_GROUPS:
        return isotonic_map(scores, qualities), ISOTONIC
    errors = dict.fromkeys(each, 0.0)
    for rest, held in folds(groups):
        for name, make in each.items():
            told = np.interp(scores[held], *make(scores[rest], qualities[rest]))
            errors[name] += float(((told - qualities[held]) ** 2).sum())
    best = min(each, key=lambda name: errors[name])
    return each[best](scores, qualities), best


def isotonic_map(scores: Float64, qualities: Float64) -> Knots:
    """Isotonic regression of quality on score, as knots at the means of its steps.

    Each step is shrunk a little towards the mean of all, as if two more frames
    of mean quality had been seen, so that a few lucky frames don't promise 1.
    Below the lowest score that was seen, the reliability falls to 0 in a line:
    a score that no held-out frame had is a reason for doubt.
    """
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(scores, kind="stable")
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(scores[order], qualities[order])
    raw, mapped = [], []
    for level in np.unique(fitted):
        inside = fitted == level
        n = int(inside.sum())
        raw.append(float(scores[order][inside].mean()))
        mapped.append((level * n + 2 * qualities.mean()) / (n + 2))
    return _finished(np.array(raw), np.array(mapped), len(scores))


def logistic_map(scores: Float64, qualities: Float64) -> Knots:
    """A rising logistic curve of the score's logit, as knots; below the lowest score as in `isotonic_map`."""
    z = logit(scores)[:, None]
    weights, intercept = fitted_weights(z, qualities)
    at = np.unique(np.quantile(scores, np.linspace(0, 1, POINTS)))
    mapped = 1 / (1 + np.exp(-(logit(at) * weights[0] + intercept)))
    return _finished(at, mapped, len(scores))


def _finished(raw: Float64, mapped: Float64, frames: int) -> Knots:
    # The rule of succession: n frames without an error don't promise more than 1 - 1 / (n + 2).
    best = 1.0 - 1.0 / (frames + 2)
    if raw[0] > 0.0:
        raw, mapped = np.concatenate([[0.0], raw]), np.concatenate([[0.0], mapped])
    return raw, np.minimum(np.maximum.accumulate(mapped), best)


def fitted_weights(z: Float64, qualities: Float64, start: Float64 | None = None) -> tuple[Float64, float]:
    """Weights (K,) of values (M, K), none negative, and an intercept, by cross entropy with the qualities.

    Parameters
    ----------
    start
        Where weights are pulled to, (K,) in units of each value's inverse deviation; None is 0.
    """
    from scipy.optimize import minimize

    mean, deviation = z.mean(axis=0), np.maximum(z.std(axis=0), 1e-6)
    x, prior = (z - mean) / deviation, np.zeros(z.shape[1]) if start is None else start

    def loss(at: Float64) -> tuple[float, Float64]:
        line = x @ at[1:] + at[0]
        pull = at[1:] - prior
        value = np.logaddexp(0.0, line).sum() - qualities @ line + 0.125 * SHRINK * pull @ pull
        off = 1 / (1 + np.exp(-line)) - qualities
        return float(value), np.concatenate([[off.sum()], x.T @ off + 0.25 * SHRINK * pull])

    first = np.concatenate([[0.0], prior])
    bounds = [(-30.0, 30.0), *[(0.0, 30.0)] * z.shape[1]]
    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds).x
    weights = found[1:] / deviation
    return weights, float(found[0] - mean @ weights)


def folds(groups: Sequence[str], *, seed: int = 0) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Frame numbers to learn from and to try on, five times: every group is tried on once."""
    names, member = np.unique(np.array(groups), return_inverse=True)
    part = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    return [(np.flatnonzero(part[member] != k), np.flatnonzero(part[member] == k)) for k in range(FOLDS)]
