"""A package whose threshold has a guarantee."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from featureloop.learner.assembly import write_card
from featureloop.learner.evaluation import Evaluation
from featureloop.learner.guarantee import guarantee
from featureloop.model.manifest import Guarantee, Manifest
from featureloop.model.package import Package
from featureloop.model.reseal import reseal


def with_guarantee(
    view: Package, found: Evaluation, *, risk: float, confidence: float, key: Ed25519PrivateKey | None = None
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

    Raises
    ------
    InputError
        The risk or the confidence is outside (0, 1).
    PackageError
        The package is signed and there is no key.
    StorageError
        The directory can't be written.
    """
    made, _ = guarantee(
        found.reliabilities, 1.0 - found.values, [s.group for s in found.seen], risk=risk, confidence=confidence
    )
    own = view.manifest
    calibrated = replace(own.calibration, threshold=made.threshold, threshold_risk=risk, guarantee=made)

    def change(work: Path, manifest: Manifest) -> Manifest:
        whole = manifest.with_task(replace(manifest.for_task(found.task), calibration=calibrated))
        write_card(whole, work)
        return whole

    return reseal(view, change, key=key), made
