"""Reliability: how far a recognition can be trusted, calibrated, in [0, 1].

The task's raw score (the expected Dice under the calibrated probabilities, or
the largest of them) is mapped to the quality (Dice, or the share that was
right) that held-out frames with that score really had. Source of the
threshold: conformal risk control, Angelopoulos et al. 2022 (arXiv:2208.02814).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import InputError
from featureloop.core.types import Float32, Recognition, Task, UInt8
from featureloop.model.manifest import Calibration, uncalibrated
from featureloop.model.tasks import RULES

Float64 = NDArray[np.float64]


def reliability(recognition: Recognition, calibration: Calibration) -> float:
    """The calibrated reliability in [0, 1]."""
    value = np.interp(RULES[recognition.task].raw_score(recognition), calibration.raw, calibration.reliability)
    return float(np.clip(value, 0.0, 1.0))


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
    rules = RULES[task]
    temperature, bias = rules.scaling(logits, truths)
    plain = uncalibrated(rules.method, temperature=temperature, bias=bias, risk=risk)
    found = [rules.recognition(x, plain) for x in logits]
    scores = np.array([rules.raw_score(r) for r in found])
    qualities = np.array([rules.quality(r, t) for r, t in zip(found, truths, strict=True)])
    raw, mapped = _monotone_map(scores, qualities)
    values = np.interp(scores, raw, mapped)
    return Calibration(
        temperature,
        rules.method,
        tuple(float(x) for x in raw),
        tuple(float(x) for x in mapped),
        _threshold(values, 1.0 - qualities, risk),
        risk,
        len(logits),
        bias,
    )


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
