"""Figures of each task with 95% intervals: what is measured of the frames, and how it is put together.

Averages are resampled by groups (Efron & Tibshirani 1993), as is everything
that is more than an average. Areas under curves are scikit-learn's, average
precisions MONAI's (COCO's definition).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from featureloop.core.boxes import Box
from featureloop.core.components import SPECK
from featureloop.core.intervals import Figure, MakeFigure, calibration_error, figure_maker, mean_of, ratio_of, risks
from featureloop.core.types import Bool, Float32, Frame, Recognition, Task, Truth, UInt8
from featureloop.learner.box_matching import Precisions, average_precisions, right_boxes
from featureloop.learner.class_figures import one_label_figures, several_label_figures
from featureloop.model.preprocess import probability_map
from featureloop.model.tasks import RULES

Float64 = NDArray[np.float64]
MARKED = 0.5
"""A lesion is found where at least this share of its area is marked."""


@dataclass(frozen=True, slots=True)
class Masks:
    """A recognized mask against the true one.

    Attributes
    ----------
    dice
        On the frame's own pixels; two empty masks agree wholly.
    found, lesions
        Connected lesions of which at least half the area is marked, and all of them.
    false
        Marked parts that touch no lesion. Specks are neither lesions nor parts.
    """

    dice: float
    found: int
    lesions: int
    false: int


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What was recognized in one frame, and what is true of it.

    Attributes
    ----------
    recognition
        The result.
    truth
        The frame's truth, its mask left out.
    masks
        How the recognized mask compares with the true one; None but in a segmentation.
    reliability, promised
        In [0, 1], and the quality that it promises: calculated like it, over rows of targets.
    name, index, group
        The frame's: its file, its number inside it from 0, its group; an image without a group is its own.
    """

    recognition: Recognition
    truth: Truth
    masks: Masks | None
    reliability: float
    promised: float
    name: str
    index: int
    group: str

    def boxes(self) -> tuple[Box, ...]:
        """The boxes that are shown: those that are rather right than wrong."""
        return tuple(box for box in self.recognition.boxes() if box.score >= 0.5)


def see(frame: Frame, recognition: Recognition, *, reliability: float, rows: UInt8, grid: int) -> Seen:
    """Keep of a frame what its figures need, and not its pixels; `rows` are its true rows of targets."""
    truth = frame.truth or Truth()
    masks = None
    if recognition.task is Task.SEGMENTATION and truth.mask is not None:
        height, width = truth.mask.shape
        masks = compare_masks(lesion_mask(recognition, grid, height=height, width=width) > 0, truth.mask)
    kept = replace(truth, mask=None)
    promised = RULES[recognition.task].quality(recognition, rows)
    group = frame.group or frame.name
    return Seen(recognition, kept, masks, reliability, promised, frame.name, frame.index, group)


def lesion_mask(recognition: Recognition, grid: int, *, height: int, width: int) -> UInt8:
    """The recognized lesion on the frame's own pixels, uint8 (height, width) of 0 and 1."""
    picture = probability_map(recognition.probabilities, grid, height=height, width=width)
    return (picture >= 0.5).astype(np.uint8)


def quality_of(seen: Seen) -> float:
    """How right one frame's result is: Dice on its pixels, F1 of its boxes, or 1 for the right class."""
    return _QUALITIES[seen.recognition.task](seen)


def figures_of(frames: Sequence[Seen], *, labels: Sequence[str], seed: int) -> tuple[Figure, ...]:
    """All figures of a task over frames, the first one being the mean quality."""
    task = frames[0].recognition.task
    figure = figure_maker(np.array([f.group for f in frames]), seed=seed)
    promised = np.array([f.promised for f in frames])
    trust = np.array([f.reliability for f in frames])
    values = np.array([quality_of(f) for f in frames])
    return (
        *_FIGURES[task](frames, labels, figure),
        figure("calibration error", lambda at: calibration_error(trust[at], promised[at])),
        figure("area under risk and coverage", lambda at: float(risks(trust[at], 1 - values[at]).mean())),
    )


def _segmentation(frames: Sequence[Seen], _labels: Sequence[str], figure: MakeFigure) -> list[Figure]:
    dice = np.array([_quality_of_mask(f) for f in frames])
    none = Masks(0.0, 0, 0, 0)
    lesions = np.array([(m.found, m.lesions, m.false) for m in (f.masks or none for f in frames)], np.float64)
    shown = lesions[:, 1] > 0
    found = [figure("dice", mean_of(dice)), figure("iou", mean_of(dice / (2 - dice)))]
    if not shown.all():
        # Frames of nothing are wholly right or wholly wrong, and can hide how lesions are outlined.
        found.append(figure("dice of frames with lesions", mean_of(np.where(shown, dice, np.nan)), needs=[shown]))
    return [
        *found,
        figure("lesion sensitivity", ratio_of(lesions[:, 0], lesions[:, 1]), needs=[shown]),
        figure("false lesions per frame", mean_of(lesions[:, 2]), most=math.inf),
    ]


def _quality_of_mask(seen: Seen) -> float:
    return float("nan") if seen.masks is None else seen.masks.dice


def compare_masks(mask: Bool, truth: Bool) -> Masks:
    """Compare two masks bool (H, W); their parts touch by sides or corners."""
    from scipy.ndimage import label

    def parts(picture: Bool) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        """Every pixel's part, from 1 on, and the parts that are no specks."""
        numbered = np.empty(picture.shape, np.int32)
        label(picture, structure=np.ones((3, 3)), output=numbered)
        return numbered, _beyond_specks(numbered)

    lesions, there = parts(truth)
    marks, marked = parts(mask)
    area, seen = (np.bincount(lesions[at], minlength=lesions.max(initial=0) + 1) for at in (truth, mask))
    right = np.bincount(marks[truth], minlength=marks.max(initial=0) + 1)
    found, false = (seen[there] >= MARKED * area[there]).sum(), (right[marked] == 0).sum()
    total = int(mask.sum()) + int(truth.sum())
    dice = 1.0 if total == 0 else 2.0 * int((mask & truth).sum()) / total
    return Masks(dice, int(found), len(there), int(false))


def _beyond_specks(numbered: NDArray[np.int32]) -> NDArray[np.intp]:
    """Which numbered parts int32 (H, W) have boxes of at least `SPECK` of the frame."""
    from scipy.ndimage import find_objects

    boxes = find_objects(numbered)
    sizes = np.array([(y.stop - y.start) * (x.stop - x.start) for y, x in boxes])
    return np.flatnonzero(sizes >= SPECK * numbered.size) + 1


def _detection(frames: Sequence[Seen], labels: Sequence[str], figure: MakeFigure) -> list[Figure]:
    counts = np.array([_matched(f.boxes(), f.truth.boxes or ()) for f in frames], np.float64)
    right, shown, there = counts.T
    precisions = average_precisions([f.recognition.boxes() for f in frames], [f.truth.boxes or () for f in frames])
    holds = [np.array([any(b.label == k for b in f.truth.boxes or ()) for f in frames]) for k in range(len(labels))]
    present = [kind for kind in holds if kind.any()]
    found = [
        figure("f1 of frames", mean_of(np.array([quality_of(f) for f in frames]))),
        figure("ap50", partial(_one, precisions, "ap50"), needs=present),
        figure("ap50:95", partial(_one, precisions, "ap50:95"), needs=present),
        figure("f1", ratio_of(2 * right, shown + there), needs=[shown + there > 0]),
        figure("precision", ratio_of(right, shown), needs=[shown > 0]),
        figure("sensitivity", ratio_of(right, there), needs=[there > 0]),
    ]
    if len(labels) > 1:
        found += [
            figure(f"ap50 of {name}", partial(_one, precisions, f"ap50 {k}"), needs=[holds[k]])
            for k, name in enumerate(labels)
        ]
    return found


def _one(precisions: Precisions, name: str, at: NDArray[np.intp]) -> float:
    return precisions(at).get(name, float("nan"))


def _matched(found: Sequence[Box], true: Sequence[Box]) -> tuple[int, int, int]:
    """Boxes that are right, boxes shown, boxes that are there."""
    return sum(right_boxes(found, true)), len(found), len(true)


def matched_scores(frames: Sequence[Seen]) -> tuple[Float64, NDArray[np.bool_], int]:
    """The scores of all boxes of detections, which of them are right, and how many true ones there are."""
    scores, right, there = [], [], 0
    for frame in frames:
        found = sorted(frame.recognition.boxes(), key=lambda b: -b.score)
        true = frame.truth.boxes or ()
        scores += [b.score for b in found]
        right += right_boxes(found, true)
        there += len(true)
    return np.array(scores), np.array(right, np.bool_), there


def _quality_of_boxes(seen: Seen) -> float:
    right, shown, there = _matched(seen.boxes(), seen.truth.boxes or ())
    return 1.0 if shown + there == 0 else 2 * right / (shown + there)


def class_truths(frames: Sequence[Seen]) -> tuple[Float32, NDArray[np.intp]]:
    """Probabilities float32 (M, K) and true labels (M,) of frames of one class each."""
    p = np.stack([f.recognition.probabilities[0] for f in frames])
    return p, np.array([-1 if f.truth.label is None else f.truth.label for f in frames])


def label_truths(frames: Sequence[Seen]) -> tuple[Float32, Bool]:
    """Probabilities float32 (M, K) and true flags bool (M, K) of frames of several labels."""
    p = np.stack([f.recognition.probabilities[0] for f in frames])
    return p, np.array([f.truth.labels for f in frames], np.bool_)


def _classification(frames: Sequence[Seen], labels: Sequence[str], figure: MakeFigure) -> list[Figure]:
    return one_label_figures(*class_truths(frames), labels, figure)


def _multilabel(frames: Sequence[Seen], labels: Sequence[str], figure: MakeFigure) -> list[Figure]:
    return several_label_figures(*label_truths(frames), labels, figure)


def _quality_of_labels(seen: Seen) -> float:
    told = seen.recognition.targets()[0]
    return float((told == np.array(seen.truth.labels)).mean())


def _quality_of_class(seen: Seen) -> float:
    return float(int(seen.recognition.probabilities[0].argmax()) == seen.truth.label)


_QUALITIES: Mapping[Task, Callable[[Seen], float]] = {
    Task.CLASSIFICATION: _quality_of_class,
    Task.DETECTION: _quality_of_boxes,
    Task.MULTILABEL: _quality_of_labels,
    Task.SEGMENTATION: _quality_of_mask,
}
_FIGURES: Mapping[Task, Callable[[Sequence[Seen], Sequence[str], MakeFigure], list[Figure]]] = {
    Task.CLASSIFICATION: _classification,
    Task.DETECTION: _detection,
    Task.MULTILABEL: _multilabel,
    Task.SEGMENTATION: _segmentation,
}
