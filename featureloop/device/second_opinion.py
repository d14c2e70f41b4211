"""Second opinions without a person: the same package on the frame turned and mirrored, or another package."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from featureloop.core.boxes import code_distances, decode_distances, positions
from featureloop.core.errors import PackageError, PolicyError
from featureloop.core.ports import SecondOpinion
from featureloop.core.types import Float32, Frame, Opinion, Recognition, Task, UInt8
from featureloop.model.package import load_package
from featureloop.model.preprocess import SUBCELLS, resize_frame, rows_to_cells
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import RULES
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.consensus import combined
from featureloop.sharing.policy import Policy
from featureloop.sharing.reliability import reliability


@dataclass(frozen=True, slots=True)
class View:
    """A way to see a square frame: mirrored left for right or not, then turned so many quarters to the left."""

    mirrored: bool
    quarters: int

    def of(self, pixels: UInt8) -> UInt8:
        """Pixels uint8 (S, S, 3), seen so."""
        seen = pixels[:, ::-1] if self.mirrored else pixels
        return np.ascontiguousarray(np.rot90(seen, self.quarters))

    def undone(self, found: Recognition) -> Recognition:
        """A result for the frame seen so, as one for the frame itself."""
        if _form(found) != "set":
            return found
        grid = math.isqrt(len(found.probabilities))
        if found.task is Task.SEGMENTATION:
            cells = self._back(rows_to_cells(found.probabilities, grid))
            return replace(found, probabilities=_cells_to_rows(cells, grid))
        rows = self._back(found.probabilities.reshape(grid, grid, -1)).reshape(grid * grid, -1)
        if found.distances is None:
            return replace(found, probabilities=rows)
        # Left, top, right, bottom: a turn to the right makes the left side the upper one.
        sides = np.roll(self._back(found.distances.reshape(grid, grid, 4)).reshape(-1, 4), self.quarters, axis=1)
        sides = sides[:, [2, 1, 0, 3]] if self.mirrored else sides
        return replace(found, probabilities=rows, distances=np.ascontiguousarray(sides))

    def _back(self, grid: Float32) -> Float32:
        turned = np.rot90(grid, -self.quarters)
        return np.ascontiguousarray(turned[:, ::-1] if self.mirrored else turned)


FREE = (View(True, 0), View(True, 2), View(False, 1), View(False, 3))
"""Of frames in colour, in which no direction is up: mirrored either way, and turned either way."""
UPRIGHT = (View(True, 0),)
"""Of grey frames, which show a patient whose direction is known: mirrored, as recognizers of them learn."""


@dataclass(frozen=True, slots=True, eq=False)
class Otherwise:
    """The same package on the frame turned and mirrored: what all views and the frame itself say in the mean."""

    runtime: Runtime

    def look_again(self, frame: Frame, recognition: Recognition) -> Opinion | None:
        """The mean result, with the reliability that the package's calibration gives it."""
        head = next(h for h in self.runtime.heads if h.package.manifest.task == recognition.task)
        manifest = head.package.manifest
        # Turned after it is made square, so that a wide frame stays squeezed along its own width.
        square = resize_frame(frame.pixels, manifest.preprocessing.size)
        found = [recognition]
        for view in views_for(frame.pixels):
            vectors = release_vectors(self.runtime.extract(view.of(square)), manifest.released)
            found.append(view.undone(head.recognize(vectors)))
        mean = combined(found)
        return Opinion(mean, reliability(mean, manifest.calibration))


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
        found = head.recognize(release_vectors(self.runtime.extract(frame.pixels), manifest.released))
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


def views_for(pixels: UInt8) -> tuple[View, ...]:
    """The ways to see a frame uint8 (H, W, 3) that show what is in it as well."""
    grey = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
    return UPRIGHT if grey else FREE


def _on_grid(found: Recognition, grid: int) -> Recognition:
    """A result of a row for every position on a grid of another size; any other as it is."""
    other = math.isqrt(len(found.probabilities))
    if _form(found) != "set" or other == grid:
        return found
    if found.task is Task.SEGMENTATION:
        cells = Image.fromarray(np.ascontiguousarray(rows_to_cells(found.probabilities, other), np.float32))
        side = SUBCELLS * grid
        resized = np.asarray(cells.resize((side, side), Image.Resampling.BILINEAR), np.float32)
        return replace(found, probabilities=_cells_to_rows(np.clip(resized, 0, 1), grid))
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


def _cells_to_rows(cells: Float32, grid: int) -> Float32:
    s = SUBCELLS
    return np.ascontiguousarray(cells.reshape(grid, s, grid, s).transpose(0, 2, 1, 3).reshape(grid * grid, s * s))


def _form(found: Recognition) -> str:
    return RULES[found.task].form
