"""Evaluation of a package on labelled images, with intervals by grouped bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import InputError
from featureloop.core.intervals import Figure, cautions
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Skipped, Task
from featureloop.images.labelled import LabelledFolder
from featureloop.images.truths import LabelledItem
from featureloop.learner.class_figures import confusion_matrix, label_confusions
from featureloop.learner.figures import Seen, class_truths, figures_of, label_truths, quality_of, see
from featureloop.learner.guarantee import drift
from featureloop.model.manifest import Guarantee
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import true_rows
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.reliability import reliability
from featureloop.sharing.views import recognized, seen_otherwise

DRIFTED = 0.05
"""Below this p-value, a site's frames are not like the guarantee's."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a package reaches on labelled frames.

    Attributes
    ----------
    task, labels
        Of the package.
    figures
        The task's figures (`learner.figures`); the first is the mean quality.
    seen
        Per frame what was recognized, and what is true.
    skipped
        What could not be read.
    guarantee
        What the package guarantees of results above its threshold; None where it doesn't.
    """

    task: Task
    labels: tuple[str, ...]
    figures: tuple[Figure, ...]
    seen: tuple[Seen, ...]
    skipped: tuple[Skipped, ...]
    guarantee: Guarantee | None = None

    @property
    def frames(self) -> int:
        """How many were evaluated."""
        return len(self.seen)

    @property
    def groups(self) -> int:
        """Of how many groups they are."""
        return len({s.group for s in self.seen})

    @property
    def cautions(self) -> tuple[str, ...]:
        """What must be said: of intervals of too few groups, and where a guarantee doesn't hold."""
        return (*cautions(self.figures), *self._drifted())

    @property
    def drift(self) -> float | None:
        """How likely frames like these are, were the patients like the guarantee's; None without a guarantee."""
        if self.guarantee is None:
            return None
        return drift(self.guarantee, self.reliabilities, [s.group for s in self.seen], outlying=self.outlying)

    def _drifted(self) -> tuple[str, ...]:
        p = self.drift
        if self.guarantee is None or p is None or p >= DRIFTED:
            return ()
        return (
            f"These frames, by their reliabilities or features, are not like those of the {self.guarantee.groups} "
            f"patients that the threshold's guarantee is from (p = {p:.2g}): here it doesn't hold. Calibrate on this "
            "site's frames.",
        )

    @property
    def values(self) -> NDArray[np.float64]:
        """Per frame: Dice, F1 of the boxes, or 1 where the class is right; float64 (M,)."""
        return np.array([quality_of(s) for s in self.seen])

    @property
    def reliabilities(self) -> NDArray[np.float64]:
        """Per frame, float64 (M,)."""
        return np.array([s.reliability for s in self.seen])

    @property
    def outlying(self) -> NDArray[np.float64] | None:
        """Per frame how far its features are from founding frames', float64 (M,); None where the package can't tell."""
        each = [s.recognition.outlying for s in self.seen]
        known = [x for x in each if x is not None]
        return np.array(known) if len(known) == len(each) else None

    @property
    def names(self) -> tuple[str, ...]:
        """Per frame."""
        return tuple(s.name for s in self.seen)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; a figure that the frames don't determine is None."""
        return {
            "task": str(self.task),
            "frames": self.frames,
            "groups": self.groups,
            "figures": {
                f.name: {"value": _finite(f.value), "low": _finite(f.low), "high": _finite(f.high), "groups": f.groups}
                for f in self.figures
            },
            "cautions": list(self.cautions),
            **self._guarantee(),
            **self._confusion(),
            "skipped": [{"name": s.name, "reason": s.reason} for s in self.skipped],
        }

    def _guarantee(self) -> dict[str, Any]:
        """What is guaranteed, and whether these frames are like those that it is from."""
        g = self.guarantee
        if g is None:
            return {}
        said = {"risk": g.risk, "confidence": g.confidence, "threshold": g.threshold, "frames": g.frames}
        return {"guarantee": {**said, "groups": g.groups, "drift_p": self.drift, "holds": not self._drifted()}}

    def _confusion(self) -> dict[str, Any]:
        """Of classes: frames by true and recognized class; of several labels: for each, by no and yes."""
        if self.task is Task.CLASSIFICATION:
            return {"confusion": confusion_matrix(*class_truths(self.seen)).tolist(), "labels": list(self.labels)}
        if self.task is Task.MULTILABEL:
            return {"confusion": label_confusions(*label_truths(self.seen)).tolist(), "labels": list(self.labels)}
        return {}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def evaluate(
    package: Package,
    folder: LabelledFolder,
    items: Sequence[LabelledItem],
    *,
    seed: int = 1,
    views: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Run a package over labelled items and compare with their truth.

    Parameters
    ----------
    views
        Look at every frame turned and mirrored, though the package's own score doesn't need it.

    Raises
    ------
    InputError
        The folder's task is not the package's, it has a class that the package doesn't know, or no frame could be read.
    """
    manifest = package.manifest
    task = Task(manifest.task)
    if folder.task is not task:
        raise InputError(f"the images are labelled for {folder.task}, the package is for {task}")
    folder = folder.with_classes(manifest.labels)
    by_name = {item.name: item for item in folder.items}
    runtime = Runtime(package)
    seen: list[Seen] = []
    skipped: list[Skipped] = []
    begun: set[str] = set()
    for item in folder.frames([by_name[item.name] for item in items]):
        begun.add(item.name)
        progress("evaluating", len(begun), len(items))
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        try:
            rows = true_rows(item, task=task, labels=len(manifest.labels), grid=manifest.features.grid)
            vectors = release_vectors(runtime.extract(item.pixels), manifest.released)
        except InputError as error:
            skipped.append(Skipped(item.name, str(error)))
            continue
        found = recognized(runtime, item.pixels, vectors)
        if views and found.agreement is None:
            found = seen_otherwise(runtime, item.pixels, found, manifest.calibration)
        trust = reliability(found, manifest.calibration)
        seen.append(see(item, found, reliability=trust, rows=rows, grid=manifest.features.grid))
    if not seen:
        raise InputError(f"none of the {len(items)} frames could be read; the first reason: {_first(skipped)}")
    known = manifest.calibration.guarantee
    return of_frames(seen, task=task, labels=manifest.labels, skipped=skipped, guarantee=known, seed=seed)


def of_frames(
    seen: Sequence[Seen],
    *,
    task: Task,
    labels: tuple[str, ...],
    skipped: Sequence[Skipped],
    guarantee: Guarantee | None = None,
    seed: int = 1,
) -> Evaluation:
    """The evaluation of frames that were recognized; parameters as in `Evaluation`."""
    figures = figures_of(seen, labels=labels, seed=seed)
    return Evaluation(task, labels, figures, tuple(seen), tuple(skipped), guarantee)


def _first(skipped: Sequence[Skipped]) -> str:
    return f"{skipped[0].name}: {skipped[0].reason}" if skipped else "there was none"
