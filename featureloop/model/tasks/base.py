"""The seam of a recognition task: what its rows of targets are, what a result is, and how right one is.

Numpy only: a device recognizes without torch. What training adds stands in
`model.losses`. T target values belong to each of N rows, K labels to a package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from featureloop.core.types import Float32, Frame, Recognition, Truth, UInt8
from featureloop.model.manifest import Calibration

_LOGIT_LIMIT = 50.0
TEMPERATURES = np.geomspace(0.25, 8.0, 41)


class TaskRules(Protocol):
    """What one task means.

    Attributes
    ----------
    form
        The recognizer's form that suits it: `set` or `global`.
    method
        How the raw score of its reliability is calculated, a word of the record's list.
    risk
        Mean loss (1 - quality) that results above the threshold may have, where nobody says otherwise.
    """

    form: str
    method: str
    risk: float

    def outputs(self, labels: int) -> int:
        """T, the values of a recognizer's row for K labels."""
        ...

    def flags(self, labels: int) -> int:
        """How many values of a row, from the first, are 0 or 1; the others are coded, 0 to 255, where a flag is 1."""
        ...

    def rows(self, grid: int) -> int:
        """N, the rows of targets of a frame on a grid x grid map."""
        ...

    def truth_rows(self, truth: Truth, *, labels: int, grid: int) -> UInt8 | None:
        """What is true of a frame as rows of targets, uint8 (N, T); None where its truth doesn't say."""
        ...

    def recognition(self, logits: Float32, calibration: Calibration) -> Recognition:
        """The result in logits float32 (N, T), calibrated."""
        ...

    def raw_score(self, recognition: Recognition) -> float:
        """The task's own score (`model.tasks.scores`) in [0, 1]; the order of the rows has no say."""
        ...

    def quality(self, recognition: Recognition, truth: UInt8) -> float:
        """How right a result is against rows of targets uint8 (N, T), in [0, 1]; likewise."""
        ...

    def scaling(self, logits: Sequence[Float32], truths: Sequence[UInt8]) -> tuple[float, float]:
        """Temperature to divide logits float32 (N, T) by, and bias to add then, for the least cross entropy."""
        ...

    def missing(self, frame: Frame) -> str:
        """What to tell whose frame lacks the truth that the task needs."""
        ...


class WholeFrame:
    """What tasks have in common whose result is one row of K flags for the whole frame."""

    form = "global"
    risk = 0.05

    def outputs(self, labels: int) -> int:
        """One value a label."""
        return labels

    def flags(self, labels: int) -> int:
        """All of a row."""
        return labels

    def rows(self, grid: int) -> int:  # noqa: ARG002  The same for every grid.
        """One row for the whole frame."""
        return 1


def tempered(logits: Float32, temperature: float) -> Float32:
    """Logits divided by a temperature, within what `exp` can take."""
    return np.asarray(np.clip(logits / np.float32(temperature), -_LOGIT_LIMIT, _LOGIT_LIMIT), np.float32)


def sigmoid(logits: Float32) -> Float32:
    """Probabilities of independent logits."""
    return np.asarray(1.0 / (1.0 + np.exp(-logits)), np.float32)
