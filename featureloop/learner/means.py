"""The map of second opinions: frames that no network learned from are seen turned and mirrored, as a device does."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from featureloop.core.errors import InputError
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Frame, Recognition, Skipped, Task
from featureloop.model.manifest import Calibration
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import RULES, true_rows
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.reliability import with_mean_map
from featureloop.sharing.views import mean_of_views


def calibrated_means(
    runtime: Runtime,
    frames: Iterable[Frame | Skipped],
    calibration: Calibration,
    *,
    number: int,
    progress: Progress = silent,
) -> Calibration:
    """A calibration with a map of its own for what a second opinion by the same package finds.

    Parameters
    ----------
    runtime
        Runs a package's one task, or a view of it.
    frames
        Labelled ones; those that can't be used are left out.
    calibration
        Whose score the means are judged by.
    number
        How many frames there are, for the progress.

    Returns
    -------
    Calibration
        As it was, where no frame can be used.
    """
    m = runtime.package.manifest
    task = Task(m.task)
    means: list[Recognition] = []
    qualities: list[float] = []
    groups: list[str] = []
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
        means.append(mean)
        qualities.append(RULES[task].quality(mean, rows))
        groups.append(frame.group or frame.name)
    return with_mean_map(calibration, means, np.array(qualities), groups=groups) if means else calibration
