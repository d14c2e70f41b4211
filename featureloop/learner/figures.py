"""Figures of each task with 95% intervals: what is measured of the frames, and how it is put together.

Averages are resampled by groups (Efron & Tibshirani 1993), as is everything
that is more than an average. Areas under curves are scikit-learn's, average
precisions MONAI's (COCO's definition).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from featureloop.core.boxes import Box
from featureloop.core.components import SPECK, lesion_boxes
from featureloop.core.types import Bool, Frame, Recognition, Task, Truth, UInt8
from featureloop.learner.box_matching import Precisions, average_precisions, right_boxes
from featureloop.model.preprocess import probability_map
from featureloop.model.tasks import RULES

Float64 = NDArray[np.float64]
Statistic = Callable[[NDArray[np.intp]], float]
RESAMPLES = 400
MARKED = 0.5
"""A lesion is found where at least this share of its area is marked."""
BINS = 10


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 95% interval, resampled by group."""

    name: str
    value: float
    low: float
    high: float


MakeFigure = Callable[[str, Statistic], Figure]


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
    name, group
        The frame's; an image without a group is its own.
    """

    recognition: Recognition
    truth: Truth
    masks: Masks | None
    reliability: float
    promised: float
    name: str
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
    return Seen(recognition, kept, masks, reliability, promised, frame.name, frame.group or frame.name)


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
    groups = np.array([f.group for f in frames])
    members = _members(groups)
    promised = np.array([f.promised for f in frames])
    trust = np.array([f.reliability for f in frames])

    def figure(name: str, statistic: Callable[[NDArray[np.intp]], float]) -> Figure:
        return _figure(name, statistic, members, seed)

    return (
        *_FIGURES[task](frames, labels, figure),
        figure("calibration error", lambda at: calibration_error(trust[at], promised[at])),
    )


def _members(groups: NDArray[np.str_]) -> list[NDArray[np.intp]]:
    names, member = np.unique(groups, return_inverse=True)
    order = np.argsort(member, kind="stable")
    return np.split(order, np.searchsorted(member[order], np.arange(1, len(names))))


def _figure(name: str, statistic: Statistic, members: Sequence[NDArray[np.intp]], seed: int) -> Figure:
    """A statistic of frame numbers with its interval; NaN where the frames don't determine it."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        at = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        drawn.append(statistic(at))
    kept = np.array(drawn)[np.isfinite(drawn)]
    low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) else (np.nan, np.nan)
    return Figure(name, statistic(np.concatenate(members)), float(low), float(high))


def mean_of(values: Float64) -> Statistic:
    """The mean of values, those that are NaN left out."""

    def statistic(at: NDArray[np.intp]) -> float:
        own = values[at]
        own = own[np.isfinite(own)]
        return float(own.mean()) if len(own) else float("nan")

    return statistic


def ratio_of(parts: Float64, wholes: Float64) -> Statistic:
    """The sum of parts over the sum of wholes."""

    def statistic(at: NDArray[np.intp]) -> float:
        whole = wholes[at].sum()
        return float(parts[at].sum() / whole) if whole else float("nan")

    return statistic


def calibration_error(trust: Float64, values: Float64) -> float:
    """Mean distance of reliability and quality over bins of equally many frames (Naeini et al. 2015)."""
    order = np.argsort(trust, kind="stable")
    bins = [b for b in np.array_split(order, min(BINS, max(1, len(order) // 5))) if len(b)]
    return float(sum(len(b) * abs(trust[b].mean() - values[b].mean()) for b in bins) / len(order))


def _segmentation(frames: Sequence[Seen], _labels: Sequence[str], figure: MakeFigure) -> list[Figure]:
    dice = np.array([_quality_of_mask(f) for f in frames])
    none = Masks(0.0, 0, 0, 0)
    lesions = np.array([(m.found, m.lesions, m.false) for m in (f.masks or none for f in frames)], np.float64)
    return [
        figure("dice", mean_of(dice)),
        figure("iou", mean_of(dice / (2 - dice))),
        figure("lesion sensitivity", ratio_of(lesions[:, 0], lesions[:, 1])),
        figure("false lesions per frame", mean_of(lesions[:, 2])),
    ]


def _quality_of_mask(seen: Seen) -> float:
    return float("nan") if seen.masks is None else seen.masks.dice


def compare_masks(mask: Bool, truth: Bool) -> Masks:
    """Compare two masks bool (H, W)."""

    def cut(picture: Bool, box: Box) -> tuple[slice, slice]:
        h, w = picture.shape
        x0, y0, x1, y1 = box.corners()
        return slice(round(y0 * h), round(y1 * h)), slice(round(x0 * w), round(x1 * w))

    there = [cut(truth, box) for box in lesion_boxes(truth, least=SPECK)]
    found = sum((mask & truth)[at].sum() >= MARKED * truth[at].sum() for at in there)
    false = sum(not truth[cut(mask, box)].any() for box in lesion_boxes(mask, least=SPECK))
    total = int(mask.sum()) + int(truth.sum())
    dice = 1.0 if total == 0 else 2.0 * int((mask & truth).sum()) / total
    return Masks(dice, int(found), len(there), int(false))


def _detection(frames: Sequence[Seen], labels: Sequence[str], figure: MakeFigure) -> list[Figure]:
    counts = np.array([_matched(f.boxes(), f.truth.boxes or ()) for f in frames], np.float64)
    right, shown, there = counts.T
    precisions = average_precisions([f.recognition.boxes() for f in frames], [f.truth.boxes or () for f in frames])
    found = [
        figure("f1 of frames", mean_of(np.array([quality_of(f) for f in frames]))),
        figure("ap50", partial(_one, precisions, "ap50")),
        figure("ap50:95", partial(_one, precisions, "ap50:95")),
        figure("f1", ratio_of(2 * right, shown + there)),
        figure("precision", ratio_of(right, shown)),
        figure("sensitivity", ratio_of(right, there)),
    ]
    if len(labels) > 1:
        found += [figure(f"ap50 of {name}", partial(_one, precisions, f"ap50 {k}")) for k, name in enumerate(labels)]
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


def _classification(frames: Sequence[Seen], labels: Sequence[str], figure: MakeFigure) -> list[Figure]:
    from sklearn.metrics import roc_auc_score

    p = np.stack([f.recognition.probabilities[0] for f in frames])
    true = np.array([-1 if f.truth.label is None else f.truth.label for f in frames])
    right = (p.argmax(axis=1) == true).astype(np.float64)

    def balanced(at: NDArray[np.intp]) -> float:
        return float(np.mean([right[at][true[at] == k].mean() for k in np.unique(true[at])]))

    def area(k: int, at: NDArray[np.intp]) -> float:
        mine = true[at] == k
        return float(roc_auc_score(mine, p[at, k])) if mine.any() and not mine.all() else float("nan")

    def mean_area(at: NDArray[np.intp]) -> float:
        each = np.array([area(k, at) for k in range(len(labels))])
        return float(each[np.isfinite(each)].mean()) if np.isfinite(each).any() else float("nan")

    found = [
        figure("accuracy", mean_of(right)),
        figure("balanced accuracy", balanced),
        figure("auc", mean_area),
    ]
    for k, name in enumerate(labels):
        found.append(figure(f"sensitivity of {name}", mean_of(np.where(true == k, right, np.nan))))
        found.append(figure(f"auc of {name}", partial(area, k)))
    return found


def _quality_of_class(seen: Seen) -> float:
    return float(int(seen.recognition.probabilities[0].argmax()) == seen.truth.label)


_QUALITIES: Mapping[Task, Callable[[Seen], float]] = {
    Task.CLASSIFICATION: _quality_of_class,
    Task.DETECTION: _quality_of_boxes,
    Task.SEGMENTATION: _quality_of_mask,
}
_FIGURES: Mapping[Task, Callable[[Sequence[Seen], Sequence[str], MakeFigure], list[Figure]]] = {
    Task.CLASSIFICATION: _classification,
    Task.DETECTION: _detection,
    Task.SEGMENTATION: _segmentation,
}
