"""Who is asked about doubtful results. The review page follows; the truth stands in for it in experiments."""

from __future__ import annotations

from dataclasses import dataclass

from featureloop.core.types import Change, ChangedBy, Frame, Recognition
from featureloop.model.manifest import Manifest
from featureloop.model.tasks import rules_of


@dataclass(frozen=True, slots=True)
class TruthReviewer:
    """Answers with the ground truth that came with the frame, in the physician's place.

    Attributes
    ----------
    manifest
        Of the package that recognizes, with all its tasks.
    """

    manifest: Manifest

    def review(self, frame: Frame, recognition: Recognition) -> Change | None:
        """The truth as rows of targets, marked as ground truth; None where the frame has none."""
        if frame.truth is None:
            return None
        manifest = self.manifest.for_task(recognition.task)
        labels, grid = len(manifest.labels), manifest.features.grid
        rows = rules_of(manifest).truth_rows(frame.truth, labels=labels, grid=grid)
        return None if rows is None else Change(rows, ChangedBy.GROUND_TRUTH)
