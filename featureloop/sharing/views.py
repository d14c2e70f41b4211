"""A frame turned and mirrored, and what a package finds in all these views together (test-time augmentation)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from featureloop.core.types import Float32, Recognition, Task, UInt8
from featureloop.model.manifest import Calibration
from featureloop.model.preprocess import SUBCELLS, resize_frame, rows_to_cells
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import RULES
from featureloop.model.tasks.scores import expected_quality
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.consensus import combined


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
        if RULES[found.task].form != "set":
            return found
        grid = math.isqrt(len(found.probabilities))
        if found.task is Task.SEGMENTATION:
            cells = self._back(rows_to_cells(found.probabilities, grid))
            return replace(found, probabilities=cells_to_rows(cells, grid))
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


def views_for(pixels: UInt8) -> tuple[View, ...]:
    """The ways to see a frame uint8 (H, W, 3) that show what is in it as well."""
    grey = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
    return UPRIGHT if grey else FREE


def mean_of_views(runtime: Runtime, pixels: UInt8, recognition: Recognition, calibration: Calibration) -> Recognition:
    """What all views of a frame and the frame itself say in the mean.

    Parameters
    ----------
    runtime
        Runs a package's one task, or a head of it.
    pixels
        The frame, uint8 (H, W, 3).
    recognition
        What was found in it, under this calibration.
    """
    manifest = runtime.package.manifest
    # Turned after it is made square, so that a wide frame stays squeezed along its own width.
    square = resize_frame(pixels, manifest.preprocessing.size)
    found = [recognition]
    for view in views_for(pixels):
        vectors = release_vectors(runtime.extract(view.of(square)), manifest.released)
        found.append(view.undone(runtime.recognize(vectors, calibration)))
    return combined(found)


def recognized(runtime: Runtime, pixels: UInt8, vectors: Float32) -> Recognition:
    """What a package finds in a frame, looked at turned and mirrored where its reliability needs that.

    Parameters
    ----------
    runtime, pixels
        As in `mean_of_views`.
    vectors
        Released ones of the frame, float32 (N, C).

    Raises
    ------
    InputError
        The extractor gives NaN or infinity for the frame seen otherwise.
    """
    found, calibration = runtime.recognize(vectors), runtime.package.manifest.calibration
    return seen_otherwise(runtime, pixels, found, calibration) if calibration.asks_views else found


def seen_otherwise(runtime: Runtime, pixels: UInt8, recognition: Recognition, calibration: Calibration) -> Recognition:
    """A result that says how far the frame's other views agree with it; parameters as in `mean_of_views`."""
    return agreeing(recognition, mean_of_views(runtime, pixels, recognition, calibration))


def agreeing(recognition: Recognition, mean: Recognition) -> Recognition:
    """A result that says how far a mean of it and others agrees with it."""
    return replace(recognition, agreement=expected_quality(recognition, mean))


def cells_to_rows(cells: Float32, grid: int) -> Float32:
    """The inverse of `model.preprocess.rows_to_cells`."""
    s = SUBCELLS
    return np.ascontiguousarray(cells.reshape(grid, s, grid, s).transpose(0, 2, 1, 3).reshape(grid * grid, s * s))
