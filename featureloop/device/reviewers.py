"""Who is asked about doubtful results. The review page follows; masks stand in for it in experiments."""

from __future__ import annotations

from dataclasses import dataclass

from featureloop.core.types import Change, ChangedBy, Frame, Recognition, Task
from featureloop.model.preprocess import label_to_targets, mask_to_targets


@dataclass(frozen=True, slots=True)
class TruthReviewer:
    """Answers with the ground truth that came with the frame, in the physician's place.

    Attributes
    ----------
    grid
        Positions per side of the package's feature map.
    """

    grid: int

    def review(self, frame: Frame, recognition: Recognition) -> Change | None:
        """The truth as rows of targets, marked as ground truth; None where the frame has none."""
        truth = frame.truth
        if truth is None:
            return None
        if recognition.task is Task.SEGMENTATION and truth.mask is not None:
            return Change(mask_to_targets(truth.mask, self.grid), ChangedBy.GROUND_TRUTH)
        classes = recognition.probabilities.shape[1]
        if recognition.task is Task.CLASSIFICATION and truth.label is not None and truth.label < classes:
            return Change(label_to_targets(truth.label, classes), ChangedBy.GROUND_TRUTH)
        return None
