"""Frames that no network learned from, seen turned and mirrored as a device does: what calibration makes of that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import InputError
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Frame, Recognition, Skipped, Task
from featureloop.model.manifest import Calibration
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import RULES, true_rows
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.reliability import fit_reliability, with_mean_map
from featureloop.sharing.views import agreeing, mean_of_views


@dataclass(frozen=True, slots=True, eq=False)
class SeenOtherwise:
    """What was found in frames, and what all views of each say together.

    Attributes
    ----------
    found
        Results of the frames as they are; each says how far the other views agree.
    means
        Results of all views together.
    qualities, mean_qualities
        Of either against the truth, float64 (M,) in [0, 1].
    groups
        Per frame whose it is.
    """

    found: tuple[Recognition, ...]
    means: tuple[Recognition, ...]
    qualities: NDArray[np.float64]
    mean_qualities: NDArray[np.float64]
    groups: tuple[str, ...]


def see_otherwise(
    runtime: Runtime,
    frames: Iterable[Frame | Skipped],
    calibration: Calibration,
    *,
    number: int,
    progress: Progress = silent,
) -> SeenOtherwise:
    """Look at labelled frames turned and mirrored; those that can't be used are left out.

    Parameters
    ----------
    runtime
        Runs a package's one task, or a view of it.
    calibration
        Whose probabilities are meant.
    number
        How many frames there are, for the progress.
    """
    m = runtime.package.manifest
    task = Task(m.task)
    each: list[tuple[Recognition, Recognition, float, float, str]] = []
    for i, frame in enumerate(frames):
        progress("second opinions", i + 1, number)
        if isinstance(frame, Skipped):
            continue
        try:
            rows = true_rows(frame, task=task, labels=len(m.labels), grid=m.features.grid)
            found = runtime.recognize(release_vectors(runtime.extract(frame.pixels), m.released), calibration)
            mean = mean_of_views(runtime, frame.pixels, found, calibration)
        except InputError:
            continue
        own, together = (RULES[task].quality(r, rows) for r in (found, mean))
        each.append((agreeing(found, mean), mean, own, together, frame.group or frame.name))
    found_, means, qualities, mean_qualities, groups = zip(*each, strict=True) if each else ((), (), (), (), ())
    return SeenOtherwise(found_, means, np.array(qualities), np.array(mean_qualities), groups)


def calibrated_agreement(seen: SeenOtherwise, calibration: Calibration) -> Calibration:
    """A calibration fitted anew, now that it is known how far other views agree; as it was, where no frame can be used.

    Parameters
    ----------
    calibration
        Fitted on the same frames, none of which was seen otherwise.
    """
    if not seen.found:
        return calibration
    return fit_reliability(
        seen.found, seen.qualities, groups=seen.groups, base=calibration, risk=calibration.threshold_risk
    )


def calibrated_means(seen: SeenOtherwise, calibration: Calibration) -> Calibration:
    """A calibration with a map of its own for what a second opinion by the same package finds.

    Parameters
    ----------
    calibration
        Whose score the means are judged by.

    Returns
    -------
    Calibration
        As it was, where no frame can be used.
    """
    if not seen.means:
        return calibration
    return with_mean_map(calibration, seen.means, seen.mean_qualities, groups=seen.groups)
