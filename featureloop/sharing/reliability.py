"""Reliability: how far a recognition can be trusted, calibrated, in [0, 1].

A raw score (`model.tasks.scores`, or several combined) is mapped to the quality (Dice, or the share that was right)
that held-out frames with that score really had. Where the frame's features are unlike all that the package was
founded on, it falls to 0, whatever the recognizer says. Source of the
threshold: conformal risk control, Angelopoulos et al. 2022 (arXiv:2208.02814).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import InputError
from featureloop.core.types import Float32, Recognition, Task, UInt8
from featureloop.model.manifest import Calibration, MeanMap, uncalibrated
from featureloop.model.score_words import AGREEMENT, AUTO, COMBINED, SCORES, check_score
from featureloop.model.tasks import RULES
from featureloop.model.tasks.scores import SCORE_OF
from featureloop.sharing.combining import combined, fit_combination, wins
from featureloop.sharing.score_maps import chosen_map

Float64 = NDArray[np.float64]
FAMILIAR = 0.9
"""Share of the calibration frames whose distance from founding frames doubts nothing."""
UNLIKE = 0.5
"""Below this familiarity people are told that a frame is unlike the founding ones; a few usual frames are, too."""


def reliability(recognition: Recognition, calibration: Calibration) -> float:
    """The calibrated reliability in [0, 1]."""
    value = np.interp(raw_score(recognition, calibration), calibration.raw, calibration.reliability)
    return float(np.clip(value * familiarity(recognition, calibration), 0.0, 1.0))


def mean_reliability(mean: Recognition, calibration: Calibration) -> float:
    """The same of the mean of several views' results (`sharing.views`): by its own map, where there is one."""
    known = calibration.of_mean
    if known is None:
        return reliability(mean, calibration)
    return reliability(mean, replace(calibration, raw=known.raw, reliability=known.reliability))


def raw_score(recognition: Recognition, calibration: Calibration) -> float:
    """The score that a calibration maps to a reliability, in [0, 1]."""
    known = SCORE_OF[recognition.task]
    if calibration.method != COMBINED:
        return known[calibration.method](recognition)
    scores = {p.score: np.array([known[p.score](recognition)]) for p in calibration.parts}
    return float(combined(scores, calibration.parts, calibration.intercept)[0])


def familiarity(recognition: Recognition, calibration: Calibration) -> float:
    """1 of a frame like those that the package was founded on, falling to 0; 1 where that isn't known."""
    if not calibration.familiar or recognition.outlying is None:
        return 1.0
    first, last = calibration.familiar
    return float(np.clip((last - recognition.outlying) / (last - first), 0.0, 1.0))


def is_unlike(recognition: Recognition, calibration: Calibration) -> bool:
    """Whether a frame is so unlike the founding ones that people should be told: its reliability was halved for it."""
    return familiarity(recognition, calibration) < UNLIKE


def calibrate(
    logits: Sequence[Float32],
    truths: Sequence[UInt8],
    *,
    task: Task,
    risk: float,
    outlying: Sequence[float] = (),
    groups: Sequence[str] = (),
    base: Calibration | None = None,
) -> Calibration:
    """Fit temperature, score, its map and the threshold on held-out frames.

    Parameters
    ----------
    logits
        Per frame float32 (N, T).
    truths
        Per frame the true rows of targets, uint8 (N, T).
    risk
        The mean loss (1 - Dice, or the error) that results above the
        threshold may have, in (0, 1).
    outlying
        Per frame its distance from founding frames (`model.reference`); none where there is no reference.
    groups
        Per frame whose it is; none where every frame is its own.
    base
        What is kept: the score that is asked for, the reference, and up to what distance frames are familiar.

    Raises
    ------
    InputError
        There is no held-out frame.
    """
    if not logits:
        raise InputError("no held-out frame to calibrate on; give more images or groups")
    rules = RULES[task]
    temperature, bias = rules.scaling(logits, truths)
    kept = uncalibrated(rules.method) if base is None else base
    plain = replace(kept, temperature=temperature, bias=bias)
    found = [rules.recognition(x, plain) for x in logits]
    if len(outlying):
        found = [replace(r, outlying=float(d)) for r, d in zip(found, outlying, strict=True)]
    qualities = np.array([rules.quality(r, t) for r, t in zip(found, truths, strict=True)])
    return fit_reliability(found, qualities, groups=groups, base=plain, risk=risk)


def fit_reliability(
    found: Sequence[Recognition],
    qualities: Float64,
    *,
    groups: Sequence[str],
    base: Calibration,
    risk: float,
) -> Calibration:
    """Fit score, its map and the threshold on recognitions of held-out frames; parameters as in `calibrate`.

    Where `agreement` is asked for and the frames were not seen otherwise, it is the task's own score.

    Parameters
    ----------
    qualities
        Of each result, float64 (M,) in [0, 1].
    """
    task = found[0].task
    owners = list(groups) or [str(i) for i in range(len(found))]
    check_score(task, base.score)
    scores = {w: np.array([SCORE_OF[task][w](r) for r in found]) for w in SCORES[task] if _is_known(w, found)}
    # What takes more looks at a frame than one is taken where it is asked for.
    single = {w: x for w, x in scores.items() if w != AGREEMENT}
    fitted = replace(base, method=SCORES[task][0], parts=(), intercept=0.0, guarantee=None, of_mean=None)
    if base.score == COMBINED or (base.score == AUTO and wins(single, qualities, owners)):
        parts, intercept = fit_combination(single, qualities)
        fitted = replace(fitted, method=COMBINED, parts=parts, intercept=intercept)
    elif base.score in scores:
        fitted = replace(fitted, method=base.score)
    elif base.score not in {AUTO, AGREEMENT}:
        raise InputError(f"the package can't tell the score '{base.score}': it has nothing to compare frames with")
    raw_scores = np.array([raw_score(r, fitted) for r in found])
    (raw, mapped), kind = chosen_map(raw_scores, qualities, owners)
    familiar = base.familiar or familiar_range([r.outlying for r in found if r.outlying is not None])
    fitted = replace(
        fitted,
        raw=tuple(float(x) for x in raw),
        reliability=tuple(float(x) for x in mapped),
        mapped=kind,
        familiar=familiar,
        threshold_risk=risk,
        samples=len(found),
    )
    values = np.array([reliability(r, fitted) for r in found])
    usual = np.array([familiarity(r, fitted) == 1.0 for r in found])
    return replace(fitted, threshold=_threshold(values, 1.0 - qualities, risk, usual=usual))


def with_mean_map(
    calibration: Calibration, means: Sequence[Recognition], qualities: Float64, *, groups: Sequence[str]
) -> Calibration:
    """A calibration with a map of its own for means of several views, fitted on held-out frames.

    Parameters
    ----------
    means
        Of each frame what all its views say together (`sharing.views`).
    qualities
        Of each mean, float64 (M,) in [0, 1].
    """
    raw_scores = np.array([raw_score(r, calibration) for r in means])
    (raw, mapped), kind = chosen_map(raw_scores, qualities, groups)
    knots = tuple(float(x) for x in raw), tuple(float(x) for x in mapped)
    return replace(calibration, of_mean=MeanMap(*knots, kind, len(means)))


def _is_known(word: str, found: Sequence[Recognition]) -> bool:
    """Whether the frames have what a score is calculated from."""
    if word == "distance":
        return all(r.outlying is not None for r in found)
    if word == AGREEMENT:
        return all(r.agreement is not None for r in found)
    return word != "energy" or all(r.energy is not None for r in found)


def familiar_range(distances: Sequence[float]) -> tuple[float, ...]:
    """Up to which distance frames are familiar, and from which on they are strange: as far again as from the median.

    Parameters
    ----------
    distances
        Of usual frames from a reference that they have no part in.
    """
    if not distances:
        return ()
    middle, first = np.quantile(distances, [0.5, FAMILIAR], method="higher")
    return float(first), float(first + max(1.0 * (first - middle), 1e-3))


def _threshold(values: Float64, losses: Float64, risk: float, *, usual: NDArray[np.bool_]) -> float:
    """The smallest threshold whose accepted results keep the corrected mean loss within `risk`; 1 if none does.

    What no familiar frame's reliability is as low as is doubtful, however good the results are: `usual` are those.
    """
    for threshold in np.unique(values[usual]):
        accepted = losses[values >= threshold]
        if (accepted.sum() + 1.0) / (len(accepted) + 1.0) <= risk:
            return float(threshold)
    return 1.0
