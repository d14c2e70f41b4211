"""Second opinions without a person: the same package on the frame turned and mirrored, or another package."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from featureloop.core.boxes import code_distances, decode_distances, positions
from featureloop.core.errors import PackageError, PolicyError
from featureloop.core.ports import SecondOpinion
from featureloop.core.types import Frame, Opinion, Recognition, Task
from featureloop.model.package import load_package
from featureloop.model.preprocess import SUBCELLS, rows_to_cells
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import RULES
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.policy import Policy
from featureloop.sharing.reliability import mean_reliability, reliability
from featureloop.sharing.views import cells_to_rows, mean_of_views, recognized


@dataclass(frozen=True, slots=True, eq=False)
class Otherwise:
    """The same package on the frame turned and mirrored: what all views and the frame itself say in the mean."""

    runtime: Runtime

    def look_again(self, frame: Frame, recognition: Recognition) -> Opinion | None:
        """The mean result, with the reliability that the package's calibration gives such means."""
        head = next(h for h in self.runtime.heads if h.package.manifest.task == recognition.task)
        calibration = head.package.manifest.calibration
        mean = mean_of_views(head, frame.pixels, recognition, calibration)
        return Opinion(mean, mean_reliability(mean, calibration))


@dataclass(frozen=True, slots=True, eq=False)
class Another:
    """Another package, of the same tasks and labels; its grid may be another one."""

    runtime: Runtime

    def look_again(self, frame: Frame, recognition: Recognition) -> Opinion | None:
        """What it finds, on the positions of the result in question; None where it doesn't have the task."""
        head = next((h for h in self.runtime.heads if h.package.manifest.task == recognition.task), None)
        if head is None:
            return None
        manifest = head.package.manifest
        vectors = release_vectors(self.runtime.extract(frame.pixels), manifest.released)
        found = recognized(head, frame.pixels, vectors)
        trust = reliability(found, manifest.calibration)
        return Opinion(_on_grid(found, math.isqrt(len(recognition.probabilities))), trust)


def second_opinion_for(policy: Policy, runtime: Runtime, *, threads: int = 0) -> SecondOpinion | None:
    """Who gives second opinions on a package's results under a policy; None where none is asked for.

    Raises
    ------
    PackageError
        The package that the policy names can't be loaded.
    PolicyError
        It has none of the tasks, or other labels.
    """
    share = policy.share
    if "second-opinion" not in share.steps:
        return None
    if share.second_opinion is None:
        return Otherwise(runtime)
    try:
        other = load_package(share.second_opinion)
    except PackageError as error:
        raise PackageError(f"the policy's second_opinion: {error}") from error
    own = runtime.package.manifest
    both = [task for task in own.tasks if task in other.manifest.tasks]
    for task in both:
        ours, theirs = own.for_task(task).labels, other.manifest.for_task(task).labels
        if ours != theirs:
            raise PolicyError(
                f"the policy's second_opinion '{share.second_opinion}' knows {', '.join(theirs)} in {task}, "
                f"the package in use {', '.join(ours)}; name a package of the same labels"
            )
    if not both:
        raise PolicyError(
            f"the policy's second_opinion '{share.second_opinion}' has the tasks {', '.join(other.manifest.tasks)}, "
            f"the package in use {', '.join(own.tasks)}; name a package of the same task"
        )
    return Another(Runtime(other, threads=threads))


def _on_grid(found: Recognition, grid: int) -> Recognition:
    """A result of a row for every position on a grid of another size; any other as it is."""
    other = math.isqrt(len(found.probabilities))
    if RULES[found.task].form != "set" or other == grid:
        return found
    if found.task is Task.SEGMENTATION:
        cells = Image.fromarray(np.ascontiguousarray(rows_to_cells(found.probabilities, other), np.float32))
        side = SUBCELLS * grid
        resized = np.asarray(cells.resize((side, side), Image.Resampling.BILINEAR), np.float32)
        return replace(found, probabilities=cells_to_rows(np.clip(resized, 0, 1), grid))
    # Of each position the nearest one, and the distances from where it stands itself.
    at = np.minimum((positions(grid) * other).astype(np.intp), other - 1)
    nearest = at[:, 1] * other + at[:, 0]
    if found.distances is None:
        return replace(found, probabilities=found.probabilities[nearest])
    moved = positions(grid) - positions(other)[nearest]
    sides = decode_distances(found.distances[nearest]) + np.concatenate([moved, -moved], axis=1)
    return replace(
        found, probabilities=found.probabilities[nearest], distances=code_distances(sides).astype(np.float32)
    )
