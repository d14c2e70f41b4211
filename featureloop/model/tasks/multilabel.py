"""Classification with several labels: each of K may be true of the whole frame, in one row of K probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featureloop.core.types import Float32, Frame, Recognition, Task, Truth, UInt8
from featureloop.model.manifest import Calibration
from featureloop.model.tasks.base import TEMPERATURES, WholeFrame, sigmoid, tempered
from featureloop.model.tasks.scores import mean_probability


class Multilabel(WholeFrame):
    """Independent labels: a sigmoid each; right by the share of labels that are told rightly."""

    method = "mean-probability"

    def truth_rows(self, truth: Truth, *, labels: int, grid: int) -> UInt8 | None:  # noqa: ARG002
        """1 at every true label, uint8 (1, K)."""
        known = truth.labels is not None and len(truth.labels) == labels
        return np.array([truth.labels], np.uint8) if known else None

    def recognition(self, logits: Float32, calibration: Calibration) -> Recognition:
        """Sigmoid of logits (1, K)."""
        x = tempered(logits, calibration.temperature)
        evidence = float(np.logaddexp(0.0, x.astype(np.float64)).sum())
        return Recognition(Task.MULTILABEL, sigmoid(x), energy=evidence)

    def raw_score(self, recognition: Recognition) -> float:
        """The expected share of labels that are told rightly."""
        return mean_probability(recognition)

    def quality(self, recognition: Recognition, truth: UInt8) -> float:
        """The share of labels that are told rightly."""
        return float((recognition.targets() == truth).mean())

    def scaling(self, logits: Sequence[Float32], truths: Sequence[UInt8]) -> tuple[float, float]:
        """By the cross entropy of the labels."""
        x, y = np.concatenate(logits).astype(np.float64), np.concatenate(truths).astype(np.float64)

        def cross_entropy(t: float) -> float:
            return float((np.logaddexp(0.0, x / t) - y * x / t).mean())

        return float(min(TEMPERATURES, key=cross_entropy)), 0.0

    def missing(self, frame: Frame) -> str:
        """No line in the table of labels."""
        return f"'{frame.name}' has no labels; several labels need DIR/labels.csv with a column for each class"
