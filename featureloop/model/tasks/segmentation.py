"""Segmentation: which parts of a frame are lesion, in sub-cells of every position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featureloop.core.types import Float32, Frame, Recognition, Task, Truth, UInt8
from featureloop.model.manifest import Calibration
from featureloop.model.preprocess import SUBCELLS, mask_to_targets
from featureloop.model.tasks.base import TEMPERATURES, sigmoid, tempered
from featureloop.model.tasks.scores import expected_dice


class Segmentation:
    """A probability for each of a position's sub-cells; right by the Dice coefficient."""

    form = "set"
    method = "expected-dice"
    risk = 0.12

    def outputs(self, labels: int) -> int:  # noqa: ARG002  The one label is the lesion.
        """One value a sub-cell."""
        return SUBCELLS**2

    def flags(self, labels: int) -> int:  # noqa: ARG002
        """All of a row."""
        return SUBCELLS**2

    def rows(self, grid: int) -> int:
        """One row a position."""
        return grid**2

    def truth_rows(self, truth: Truth, *, labels: int, grid: int) -> UInt8 | None:  # noqa: ARG002
        """1 where at least half a sub-cell is lesion, uint8 (N, 16)."""
        return None if truth.mask is None else mask_to_targets(truth.mask, grid)

    def recognition(self, logits: Float32, calibration: Calibration) -> Recognition:
        """Sigmoid of each sub-cell's logit."""
        return Recognition(Task.SEGMENTATION, sigmoid(tempered(logits, calibration.temperature)))

    def raw_score(self, recognition: Recognition) -> float:
        """The expected Dice under the probabilities."""
        return expected_dice(recognition)

    def quality(self, recognition: Recognition, truth: UInt8) -> float:
        """Dice over the sub-cells."""
        return dice(recognition.targets(), truth)

    def scaling(self, logits: Sequence[Float32], truths: Sequence[UInt8]) -> tuple[float, float]:
        """By the cross entropy of the sub-cells."""
        x, y = np.concatenate(logits).astype(np.float64), np.concatenate(truths).astype(np.float64)

        def cross_entropy(t: float) -> float:
            return float((np.logaddexp(0.0, x / t) - y * x / t).mean())

        return float(min(TEMPERATURES, key=cross_entropy)), 0.0

    def missing(self, frame: Frame) -> str:
        """No mask."""
        return f"'{frame.name}' has no mask; segmentation needs DIR/images and DIR/masks"


def dice(a: UInt8, b: UInt8) -> float:
    """Dice coefficient of two arrays of 0 and 1; two empty ones agree wholly."""
    total = int(a.sum(dtype=np.int64)) + int(b.sum(dtype=np.int64))
    return 1.0 if total == 0 else 2.0 * int((a & b).sum(dtype=np.int64)) / total
