"""Reliability: how far a recognition can be trusted, calibrated, in [0, 1].

Segmentation: the expected Dice under the calibrated probabilities, mapped to
the Dice that held-out frames with that score really had. Classification: the
largest calibrated probability, mapped to the share that was right.
Sources: temperature scaling, Guo et al. 2017 (arXiv:1706.04599); conformal
risk control, Angelopoulos et al. 2022 (arXiv:2208.02814).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import InputError
from featureloop.core.types import Float32, Recognition, Task, UInt8
from featureloop.model.manifest import Calibration
from featureloop.model.runtime import probabilities

Float64 = NDArray[np.float64]
EMPTY_CELLS = 16.0
"""Sub-cells by which an empty result is smoothed: one position's worth."""
TEMPERATURES = np.geomspace(0.25, 8.0, 41)
METHODS = {Task.SEGMENTATION: "expected-dice", Task.CLASSIFICATION: "max-probability"}


def raw_score(recognition: Recognition) -> float:
    """The uncalibrated score in [0, 1]: expected Dice, or the largest probability."""
    p = recognition.probabilities.astype(np.float64)
    if recognition.task is Task.CLASSIFICATION:
        return float(p.max())
    hard = p >= 0.5
    overlap = p[hard].sum()
    return float((2 * overlap + EMPTY_CELLS) / (p.sum() + hard.sum() + EMPTY_CELLS))


def reliability(recognition: Recognition, calibration: Calibration) -> float:
    """The calibrated reliability in [0, 1]."""
    value = np.interp(raw_score(recognition), calibration.raw, calibration.reliability)
    return float(np.clip(value, 0.0, 1.0))


def quality(recognition: Recognition, truth: UInt8) -> float:
    """How right a recognition is against rows of targets uint8 (N, T): Dice, or 1 for the right class."""
    result = recognition.targets()
    if recognition.task is Task.CLASSIFICATION:
        return float(result[0].argmax() == truth[0].argmax())
    return dice(result, truth)


def dice(a: UInt8, b: UInt8) -> float:
    """Dice coefficient of two arrays of 0 and 1; two empty ones agree wholly."""
    total = int(a.sum(dtype=np.int64)) + int(b.sum(dtype=np.int64))
    return 1.0 if total == 0 else 2.0 * int((a & b).sum(dtype=np.int64)) / total


def calibrate(logits: Sequence[Float32], truths: Sequence[UInt8], *, task: Task, risk: float) -> Calibration:
    """Fit temperature, score map and threshold on held-out frames.

    Parameters
    ----------
    logits
        Per frame float32 (N, T).
    truths
        Per frame the true rows of targets, uint8 (N, T).
    risk
        The mean loss (1 - Dice, or the error) that results above the
        threshold may have, in (0, 1).

    Raises
    ------
    InputError
        There is no held-out frame.
    """
    if not logits:
        raise InputError("no held-out frame to calibrate on; give more images or groups")
    temperature = _temperature(logits, truths, task)
    plain = Calibration(temperature, METHODS[task], (0.0, 1.0), (0.0, 1.0), 0.0, risk, len(logits))
    found = [Recognition(task, probabilities(x, task=task, calibration=plain)) for x in logits]
    scores = np.array([raw_score(r) for r in found])
    qualities = np.array([quality(r, t) for r, t in zip(found, truths, strict=True)])
    raw, mapped = _monotone_map(scores, qualities)
    values = np.interp(scores, raw, mapped)
    return Calibration(
        temperature,
        METHODS[task],
        tuple(float(x) for x in raw),
        tuple(float(x) for x in mapped),
        _threshold(values, 1.0 - qualities, risk),
        risk,
        len(logits),
    )


def _temperature(logits: Sequence[Float32], truths: Sequence[UInt8], task: Task) -> float:
    """The temperature of least cross entropy on the held-out frames."""
    x = np.concatenate(logits).astype(np.float64)
    y = np.concatenate(truths).astype(np.float64)

    def cross_entropy(t: float) -> float:
        z = x / t
        if task is Task.SEGMENTATION:
            return float((np.logaddexp(0.0, z) - y * z).mean())
        return float((np.logaddexp.reduce(z, axis=1) - (y * z).sum(axis=1)).mean())

    return float(min(TEMPERATURES, key=cross_entropy))


def _monotone_map(scores: Float64, qualities: Float64) -> tuple[Float64, Float64]:
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
    # The rule of succession: n frames without an error don't promise more than 1 - 1 / (n + 2).
    best = 1.0 - 1.0 / (len(scores) + 2)
    if raw[0] > 0.0:
        raw, mapped = [0.0, *raw], [0.0, *mapped]
    return np.array(raw), np.minimum(np.maximum.accumulate(np.array(mapped)), best)


def _threshold(values: Float64, losses: Float64, risk: float) -> float:
    """The smallest threshold whose accepted results keep the corrected mean loss within `risk`; 1 if none does."""
    for threshold in np.unique(values):
        accepted = losses[values >= threshold]
        if (accepted.sum() + 1.0) / (len(accepted) + 1.0) <= risk:
            return float(threshold)
    return 1.0
