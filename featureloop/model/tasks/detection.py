"""Detection: boxes around lesions, told by every position in the middle of one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featureloop.core.boxes import SYMBOLS, boxes_to_rows, decode_distances, distance_overlap
from featureloop.core.types import Float32, Frame, Recognition, Task, Truth, UInt8
from featureloop.model.manifest import Calibration, uncalibrated
from featureloop.model.tasks.base import TEMPERATURES, sigmoid, tempered
from featureloop.model.tasks.scores import expected_f1

Float64 = NDArray[np.float64]
DISTANCES = 4
BIASES = np.linspace(-3.0, 3.0, 25)
MATCH = 0.5
"""A box is right from this intersection over union with a true one of its label."""


class Detection:
    """A probability for each label and four distances at every position; right by the rows' F1.

    Reliability and quality are calculated over rows and not over boxes, so
    that they are the same where the order of the rows is gone.
    """

    form = "set"
    method = "expected-f1"
    risk = 0.2

    def outputs(self, labels: int) -> int:
        """One value a label, and the distances."""
        return labels + DISTANCES

    def flags(self, labels: int) -> int:
        """The labels."""
        return labels

    def rows(self, grid: int) -> int:
        """One row a position."""
        return grid**2

    def truth_rows(self, truth: Truth, *, labels: int, grid: int) -> UInt8 | None:
        """The boxes' rows, uint8 (N, K + 4)."""
        if truth.boxes is None or any(not 0 <= box.label < labels for box in truth.boxes):
            return None
        return boxes_to_rows(truth.boxes, labels=labels, grid=grid)

    def recognition(self, logits: Float32, calibration: Calibration) -> Recognition:
        """Sigmoid of each label's logit, calibrated, and of each distance's."""
        scores, distances = logits[:, :-DISTANCES], logits[:, -DISTANCES:]
        calibrated = sigmoid(tempered(scores, calibration.temperature) + np.float32(calibration.bias))
        return Recognition(Task.DETECTION, calibrated, sigmoid(tempered(distances, 1.0)))

    def raw_score(self, recognition: Recognition) -> float:
        """The expected F1 of the rows under the probabilities."""
        return expected_f1(recognition)

    def quality(self, recognition: Recognition, truth: UInt8) -> float:
        """F1 of the rows: a row is found where its label is right and its box overlaps the true one enough."""
        p, labels = recognition.probabilities, recognition.probabilities.shape[1]
        claimed, true = p.max(axis=1, initial=0.0) >= 0.5, truth[:, :labels].any(axis=1)
        total = int(claimed.sum()) + int(true.sum())
        found = claimed & _right(p, recognition.distances, truth)
        return 1.0 if total == 0 else 2.0 * int(found.sum()) / total

    def scaling(self, logits: Sequence[Float32], truths: Sequence[UInt8]) -> tuple[float, float]:
        """Temperature and bias by which the best label's score is the share of rows that are right."""
        plain = uncalibrated(self.method)
        scores, right = [], []
        for x, truth in zip(logits, truths, strict=True):
            found = self.recognition(x, plain)
            scores.append(x[:, :-DISTANCES].max(axis=1))
            right.append(_right(found.probabilities, found.distances, truth))
        z, y = np.concatenate(scores).astype(np.float64), np.concatenate(right).astype(np.float64)

        def cross_entropy(at: tuple[float, float]) -> float:
            x = z / at[0] + at[1]
            return float((np.logaddexp(0.0, x) - y * x).mean())

        every = [(float(t), float(b)) for t in TEMPERATURES for b in BIASES]
        return min(every, key=cross_entropy)

    def missing(self, frame: Frame) -> str:
        """No boxes."""
        return f"'{frame.name}' has no boxes of known labels; detection needs DIR/annotations.json or DIR/boxes.csv"


def _right(scores: Float32, distances: Float32 | None, truth: UInt8) -> NDArray[np.bool_]:
    """Where the best label is the true one and its box overlaps the true one enough, bool (N,)."""
    labels = scores.shape[1]
    if distances is None or not len(scores):
        return np.zeros(len(scores), np.bool_)
    ours = decode_distances(distances)
    theirs = decode_distances(truth[:, labels:] / SYMBOLS)
    labelled = truth[np.arange(len(truth)), scores.argmax(axis=1)] == 1
    return np.asarray(labelled & (distance_overlap(ours, theirs) >= MATCH))
