"""Classification: one of K labels for the whole frame, in one row of K probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featureloop.core.types import Float32, Frame, Recognition, Task, Truth, UInt8
from featureloop.model.manifest import Calibration
from featureloop.model.preprocess import label_to_targets
from featureloop.model.tasks.base import TEMPERATURES, WholeFrame, tempered
from featureloop.model.tasks.scores import largest_probability


class Classification(WholeFrame):
    """One label: softmax over the labels; right is 1, wrong 0."""

    method = "max-probability"

    def truth_rows(self, truth: Truth, *, labels: int, grid: int) -> UInt8 | None:  # noqa: ARG002
        """1 at the true label, uint8 (1, K)."""
        known = truth.label is not None and 0 <= truth.label < labels
        return label_to_targets(truth.label, labels) if known and truth.label is not None else None

    def recognition(self, logits: Float32, calibration: Calibration) -> Recognition:
        """Softmax of logits (1, K)."""
        x = tempered(logits, calibration.temperature)
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        p = np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)
        return Recognition(Task.CLASSIFICATION, p, energy=float(np.logaddexp.reduce(x.astype(np.float64), axis=None)))

    def raw_score(self, recognition: Recognition) -> float:
        """The largest probability."""
        return largest_probability(recognition)

    def quality(self, recognition: Recognition, truth: UInt8) -> float:
        """1 for the right label."""
        return float(recognition.probabilities[0].argmax() == truth[0].argmax())

    def scaling(self, logits: Sequence[Float32], truths: Sequence[UInt8]) -> tuple[float, float]:
        """By the cross entropy of the true label (Guo et al. 2017, arXiv:1706.04599)."""
        x, y = np.concatenate(logits).astype(np.float64), np.concatenate(truths).astype(np.float64)

        def cross_entropy(t: float) -> float:
            return float((np.logaddexp.reduce(x / t, axis=1) - (y * x / t).sum(axis=1)).mean())

        return float(min(TEMPERATURES, key=cross_entropy)), 0.0

    def missing(self, frame: Frame) -> str:
        """No class label."""
        return f"'{frame.name}' has no class label; classification needs DIR/<class>/*"
