"""What the held-back records of one task are for: calibration, and the gate's comparison with the live recognizer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import GateError
from featureloop.core.types import Float32, Recognition, Task, UInt8
from featureloop.learner.bags import Bags
from featureloop.learner.founding_records import FOUNDING_SITE, HELD_SITE
from featureloop.learner.gate import GateSettings, Verdict, judge
from featureloop.learner.interpolation import Choice
from featureloop.model.manifest import Calibration
from featureloop.model.package import Package
from featureloop.model.reference import outlying
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import rules_of
from featureloop.sharing import codec
from featureloop.sharing.reliability import calibrate


def calibrated_by(bags: Bags, runtime: Runtime) -> Calibration:
    """Calibrate on what is held back and verified: results that nobody looked at would confirm themselves.

    Where some records hold parts of frames, only on whole ones: a device sees those.

    How far other views of a frame agree isn't known here: a learner has no images. Where that score was asked for, it
    is the task's own one, until somebody asks for it again with images.
    """
    manifest = runtime.package.manifest
    task = Task(manifest.task)
    held = bags.held & bags.verified
    at = np.flatnonzero(held if bags.whole is None else held & bags.whole)
    vectors = [codec.dequantize(bags.symbols[i], manifest.released) for i in at.tolist()]
    before = manifest.calibration
    # What is familiar stays what it was when founded: records of doubtful frames would make the strange familiar.
    far = [] if before.reference is None else [outlying(v, before.reference, manifest.released) for v in vectors]
    return calibrate(
        [runtime.logits(v) for v in vectors],
        [bags.results[i] for i in at.tolist()],
        task=task,
        risk=before.threshold_risk,
        outlying=far,
        groups=[str(bags.groups[i]) for i in at],
        base=before,
    )


def judge_recognizer(
    bags: Bags,
    choice: Choice,
    live: Package,
    candidate: Package,
    *,
    settings: GateSettings,
    contributing: Mapping[str, int],
) -> Verdict:
    """Judge a task by the records that are held back, and by those of the cross-validation.

    Parameters
    ----------
    live, candidate
        Packages of this one task, or views.
    contributing
        Records that the candidate learned from, by site.

    Raises
    ------
    GateError
        Nothing verified is held back.
    """
    held = np.flatnonzero(bags.held & bags.verified)
    if not len(held):
        raise GateError("nothing verified is held back; import the founding records with the package")
    before, after = (_qualities(Runtime(package), bags, held) for package in (live, candidate))
    at = np.concatenate([held, choice.at])
    return judge(
        np.concatenate([before, choice.before]),
        np.concatenate([after, choice.after]),
        np.where(bags.sites[at] == HELD_SITE, FOUNDING_SITE, bags.sites[at]),
        bags.groups[at],
        settings=settings,
        contributing=contributing,
        task=live.manifest.task,
    )


def _qualities(runtime: Runtime, bags: Bags, at: np.ndarray[tuple[int], np.dtype[np.intp]]) -> NDArray[np.float64]:
    released = runtime.package.manifest.released

    def one(symbols: UInt8, truth: UInt8) -> float:
        vectors: Float32 = codec.dequantize(symbols, released)
        found: Recognition = runtime.recognize(vectors)
        return rules_of(runtime.package.manifest).quality(found, truth)

    return np.array([one(bags.symbols[i], bags.results[i]) for i in at.tolist()])
