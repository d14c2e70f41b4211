"""Evaluation of a package on labelled images, with intervals by grouped bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import InputError
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Float32, Frame, Recognition, Skipped, Task, UInt8
from featureloop.images.labelled import LabelledFolder, LabelledItem
from featureloop.learner.gate import bootstrap_means
from featureloop.model.package import Package
from featureloop.model.preprocess import probability_map
from featureloop.model.runtime import Runtime
from featureloop.model.tasks.segmentation import dice
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.reliability import reliability


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its 95% interval, resampled by group."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a package reaches on labelled frames.

    Attributes
    ----------
    figures
        Segmentation: Dice on the frame's own pixels, and the share of lesions'
        frames found at all (Dice over one half). Classification: accuracy,
        balanced accuracy, and AUC (of each class against the rest).
    frames, groups
        How many were evaluated.
    skipped
        What could not be read.
    values
        Per frame: Dice, or 1 where the class is right; float64 (M,).
    reliabilities
        Per frame, float64 (M,).
    names
        Per frame.
    """

    task: Task
    figures: tuple[Figure, ...]
    frames: int
    groups: int
    skipped: tuple[Skipped, ...]
    values: NDArray[np.float64]
    reliabilities: NDArray[np.float64]
    names: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "task": str(self.task),
            "frames": self.frames,
            "groups": self.groups,
            "figures": {f.name: {"value": f.value, "low": f.low, "high": f.high} for f in self.figures},
            "skipped": [{"name": s.name, "reason": s.reason} for s in self.skipped],
        }


def lesion_mask(recognition: Recognition, grid: int, *, height: int, width: int) -> UInt8:
    """The recognized lesion on the frame's own pixels, uint8 (height, width) of 0 and 1."""
    picture = probability_map(recognition.probabilities, grid, height=height, width=width)
    return (picture >= 0.5).astype(np.uint8)


def evaluate(
    package: Package,
    folder: LabelledFolder,
    items: Sequence[LabelledItem],
    *,
    seed: int = 1,
    progress: Progress = silent,
) -> Evaluation:
    """Run a package over labelled items and compare with their truth.

    Raises
    ------
    InputError
        The folder's task or classes are not the package's, or no frame could be read.
    """
    manifest = package.manifest
    task = Task(manifest.task)
    if folder.task is not task:
        raise InputError(f"the images are labelled for {folder.task}, the package is for {task}")
    if task is Task.CLASSIFICATION and folder.classes != manifest.labels:
        raise InputError(f"the images' classes {folder.classes} are not the package's {manifest.labels}")
    runtime = Runtime(package)
    values, trust, groups, names, probabilities, labels = [], [], [], [], [], []
    skipped: list[Skipped] = []
    for i, item in enumerate(folder.frames(items)):
        progress("evaluating", i + 1, len(items))
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        found = runtime.recognize(release_vectors(runtime.extract(item.pixels), manifest.released.anonymizer))
        values.append(_value(item, found, manifest.features.grid))
        trust.append(reliability(found, manifest.calibration))
        groups.append(item.group or item.name)
        names.append(item.name)
        probabilities.append(found.probabilities[0])
        labels.append(-1 if item.truth is None or item.truth.label is None else item.truth.label)
    if not values:
        raise InputError(f"none of the {len(items)} frames could be read; the first reason: {_first(skipped)}")
    array, group_array = np.array(values), np.array(groups)
    figures = [_interval("dice" if task is Task.SEGMENTATION else "accuracy", array, group_array, seed)]
    if task is Task.SEGMENTATION:
        figures.append(_interval("found", (array > 0.5).astype(np.float64), group_array, seed))
    else:
        figures += _class_figures(np.stack(probabilities), np.array(labels), group_array, seed)
    return Evaluation(
        task,
        tuple(figures),
        len(values),
        len(set(groups)),
        tuple(skipped),
        array,
        np.array(trust),
        tuple(names),
    )


def _value(frame: Frame, found: Recognition, grid: int) -> float:
    truth = frame.truth
    if truth is None:
        raise InputError(f"'{frame.name}' has no truth to compare with")
    if found.task is Task.SEGMENTATION:
        if truth.mask is None:
            raise InputError(f"'{frame.name}' has no mask to compare with")
        height, width = truth.mask.shape
        return dice(lesion_mask(found, grid, height=height, width=width), truth.mask.astype(np.uint8))
    return float(int(found.probabilities[0].argmax()) == truth.label)


def _first(skipped: Sequence[Skipped]) -> str:
    return f"{skipped[0].name}: {skipped[0].reason}" if skipped else "there was none"


def _interval(name: str, values: NDArray[np.float64], groups: NDArray[np.str_], seed: int) -> Figure:
    low, high = np.quantile(bootstrap_means(values, groups, seed=seed), [0.025, 0.975])
    return Figure(name, float(values.mean()), float(low), float(high))


def _class_figures(
    probabilities: Float32, labels: NDArray[np.int64], groups: NDArray[np.str_], seed: int
) -> list[Figure]:
    """Balanced accuracy and AUC (one against the rest), resampled by group."""
    from sklearn.metrics import roc_auc_score

    def balanced(at: NDArray[np.intp]) -> float:
        right = probabilities[at].argmax(1) == labels[at]
        return float(np.mean([right[labels[at] == k].mean() for k in np.unique(labels[at])]))

    def auc(at: NDArray[np.intp]) -> float:
        present = np.unique(labels[at])
        each = [roc_auc_score(labels[at] == k, probabilities[at, k]) for k in present]
        return float(np.mean(each))

    names, member = np.unique(groups, return_inverse=True)
    rows = [np.flatnonzero(member == i) for i in range(len(names))]
    rng = np.random.default_rng(seed)
    whole = np.arange(len(labels))
    if len(np.unique(labels)) < 2:
        return []
    drawn = []
    for _ in range(200):
        at = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        if len(np.unique(labels[at])) > 1:
            drawn.append((balanced(at), auc(at)))
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    return [
        Figure("balanced accuracy", balanced(whole), float(low[0]), float(high[0])),
        Figure("auc", auc(whole), float(low[1]), float(high[1])),
    ]
