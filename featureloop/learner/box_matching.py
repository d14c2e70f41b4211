"""Recognized boxes against true ones: which are right, and the average precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureloop.core.boxes import Box, overlaps

Precisions = Callable[[NDArray[np.intp]], Mapping[str, float]]
MATCH = 0.5
"""A box is right from this intersection over union with a true one of its label."""


def right_boxes(found: Sequence[Box], true: Sequence[Box]) -> list[bool]:
    """Which boxes are right, from the best score on; each true one is found once."""
    taken: set[int] = set()
    right = []
    sides = np.array([b.corners() for b in true]).reshape(-1, 4)
    for box in sorted(found, key=lambda b: -b.score):
        overlap = overlaps(np.array([box.corners()]), sides)[0]
        fitting = [i for i in np.argsort(-overlap) if i not in taken and true[i].label == box.label]
        right.append(bool(fitting) and bool(overlap[fitting[0]] >= MATCH))
        if right[-1]:
            taken.add(int(fitting[0]))
    return right


def average_precisions(found: Sequence[Sequence[Box]], true: Sequence[Sequence[Box]]) -> Precisions:
    """Average precisions in COCO's definition over any frames, by their numbers.

    Returns
    -------
    Precisions
        Frame numbers to `ap50`, `ap50:95`, and `ap50 k` of each label k that is
        recognized or true anywhere. NaN for a label without a true box among
        these frames, and for the means where a label is missing that other
        frames have.
    """
    from monai.apps.detection.metrics.coco import COCOMetric
    from monai.apps.detection.metrics.matching import matching_batch

    labels = sorted({b.label for boxes in true for b in boxes} | {b.label for boxes in found for b in boxes})
    metric = COCOMetric(
        classes=[str(k) for k in labels], iou_list=[0.5], iou_range=(0.5, 0.95, 0.05), max_detection=[100]
    )
    index = {label: i for i, label in enumerate(labels)}

    def arrays(boxes: Sequence[Sequence[Box]]) -> tuple[list[Any], list[Any], list[Any]]:
        return (
            [np.array([b.corners() for b in each]).reshape(-1, 4) for each in boxes],
            [np.array([index[b.label] for b in each], np.intp) for each in boxes],
            [np.array([b.score for b in each]) for each in boxes],
        )

    (p_boxes, p_labels, p_scores), (t_boxes, t_labels, _) = arrays(found), arrays(true)
    matches = matching_batch(
        iou_fn=overlaps,
        iou_thresholds=metric.get_iou_thresholds(),
        pred_boxes=p_boxes,
        pred_classes=p_labels,
        pred_scores=p_scores,
        gt_boxes=t_boxes,
        gt_classes=t_labels,
    )

    everywhere = {index[b.label] for each in true for b in each}
    names = ("ap50", "ap50:95", *(f"ap50 {k}" for k in labels))

    known: dict[bytes, Mapping[str, float]] = {}

    def precisions(at: NDArray[np.intp]) -> Mapping[str, float]:
        # Every figure asks for the same resamples.
        key = at.tobytes()
        if key not in known:
            known[key] = calculated(at)
        return known[key]

    def calculated(at: NDArray[np.intp]) -> Mapping[str, float]:
        chosen = [matches[i] for i in at if matches[i]]
        present = {index[b.label] for i in at for b in true[i]}
        unknown = dict.fromkeys(names, float("nan"))
        if not present:
            return unknown
        every = metric(chosen)[0]
        each = {k: float(every[f"{k}_AP_IoU_0.50_MaxDet_100"]) for k in labels if index[k] in present}
        wide = [float(every[f"{k}_mAP_IoU_0.50_0.95_0.05_MaxDet_100"]) for k in each]
        if present == everywhere:
            unknown |= {"ap50": float(np.mean(list(each.values()))), "ap50:95": float(np.mean(wide))}
        return unknown | {f"ap50 {k}": v for k, v in each.items()}

    return precisions
