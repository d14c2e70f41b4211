"""A package whose threshold has a guarantee."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from featureloop.core.errors import InputError
from featureloop.learner.assembly import write_card
from featureloop.learner.evaluation import Evaluation, of_frames
from featureloop.learner.guarantee import guarantee
from featureloop.model.manifest import Calibration, Guarantee, Manifest
from featureloop.model.package import Package
from featureloop.model.reseal import reseal
from featureloop.sharing.reliability import familiarity, fit_reliability, reliability

LEAST = 0.01
"""Of a threshold, where the package can tell frames that are unlike the founding ones: their reliability is 0."""
FIT_SHARE = 1 / 3
"""Of the patients, whose frames fit another score; the others' choose the threshold."""


def rescored(view: Package, found: Evaluation, *, score: str, seed: int = 1) -> tuple[Calibration, Evaluation]:
    """Another score, fitted on a third of the patients, and what the others' frames are under it.

    A threshold is guaranteed only by patients that the score was not fitted on.

    Parameters
    ----------
    score
        One of the task's (`model.score_words`), `combined` or `auto`.

    Raises
    ------
    InputError
        The task has no such score, the package can't tell it, or there are fewer than two patients.
    """
    names = sorted({s.group for s in found.seen})
    if len(names) < 2:
        raise InputError("a score and its threshold need different patients; give images of at least two")
    fitting = set(np.random.default_rng(seed).permutation(names)[: max(1, round(FIT_SHARE * len(names)))].tolist())
    own, rest = ([s for s in found.seen if (s.group in fitting) is wanted] for wanted in (True, False))
    before = view.manifest.calibration
    made = fit_reliability(
        [s.recognition for s in own],
        np.array([s.promised for s in own]),
        groups=[s.group for s in own],
        base=replace(before, score=score, familiar=(), guarantee=None),
        risk=before.threshold_risk,
    )
    seen = [replace(s, reliability=reliability(s.recognition, made)) for s in rest]
    return made, of_frames(seen, task=found.task, labels=found.labels, skipped=found.skipped, seed=seed)


def with_guarantee(
    view: Package,
    found: Evaluation,
    *,
    risk: float,
    confidence: float,
    key: Ed25519PrivateKey | None = None,
    calibration: Calibration | None = None,
) -> tuple[Package, Guarantee]:
    """Choose a package's threshold on evaluated frames, and put it with its guarantee into the package's directory.

    Parameters
    ----------
    view
        The package, as if it had this one task.
    found
        Of frames that no network of it learned from.
    risk, confidence
        As in `learner.guarantee`; the loss is 1 minus the task's quality: 1 - Dice, the error, or 1 - F1 of the boxes.
    calibration
        Of another score (`rescored`), which gave the frames' reliabilities; None for the package's own.

    Raises
    ------
    InputError
        The risk or the confidence is outside (0, 1).
    PackageError
        The package is signed and there is no key.
    StorageError
        The directory can't be written.
    """
    own = view.manifest.calibration if calibration is None else calibration
    usual = [s.reliability for s in found.seen if familiarity(s.recognition, own) == 1.0]
    made, _ = guarantee(
        found.reliabilities,
        1.0 - found.values,
        [s.group for s in found.seen],
        risk=risk,
        confidence=confidence,
        outlying=found.outlying,
        # Frames unlike the founding ones are doubtful, however large the risk that is allowed.
        least=max(LEAST, min(usual, default=LEAST)) if own.familiar else 0.0,
    )
    calibrated = replace(own, threshold=made.threshold, threshold_risk=risk, guarantee=made)

    def change(work: Path, manifest: Manifest) -> Manifest:
        whole = manifest.with_task(replace(manifest.for_task(found.task), calibration=calibrated))
        write_card(whole, work)
        return whole

    return reseal(view, change, key=key), made
