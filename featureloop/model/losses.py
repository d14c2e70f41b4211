"""The losses that recognizers learn by, the same in founding training and at the learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from featureloop.core.boxes import OUTSIDE, SYMBOLS
from featureloop.core.types import Task
from featureloop.model.tasks.detection import DISTANCES


def recognition_loss(logits: Tensor, targets: Tensor, *, task: Task) -> Tensor:
    """Loss of each item's logits (B, N, T) against its rows of targets (B, N, T), (B,)."""
    return LOSSES[task](logits, targets)


def segmentation_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy plus MONAI's soft Dice over each whole bag (Milletari et al. 2016, arXiv:1606.04797), (B,)."""
    each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((1, 2))
    # MONAI wants (B, channel, voxels); a bag's rows and sub-cells are the voxels of one lesion.
    overlap: Tensor = _soft_dice()(logits.flatten(1)[:, None], targets.flatten(1)[:, None])
    return each + overlap.flatten()


@cache
def _soft_dice() -> nn.Module:
    """MONAI's loss, imported when it is first asked for: that takes seconds."""
    from monai.losses.dice import DiceLoss

    loss: nn.Module = DiceLoss(sigmoid=True, reduction="none", smooth_nr=1.0, smooth_dr=1.0)
    return loss


def classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of the one true label, (B,).

    Not smoothed: smoothed labels make right and wrong results harder to tell apart by their probability, which is
    what reliability is calculated from (Xia et al. 2024, arXiv:2403.14715).
    """
    return F.cross_entropy(logits[:, 0], targets[:, 0], reduction="none")


def multilabel_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of the labels, (B,)."""
    return F.binary_cross_entropy_with_logits(logits[:, 0], targets[:, 0], reduction="none").mean(1)


def detection_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Quality focal loss of the labels plus generalized overlap of the boxes, (B,).

    A label's target is the overlap of the box that the row draws with the true
    one, so that a score says how good its box is. Both boxes are seen from the
    same position, so no coordinate is needed. Sources: Li et al. 2020
    (arXiv:2006.04388), Rezatofighi et al. 2019 (arXiv:1902.09630).
    """
    scores, drawn = logits[..., :-DISTANCES], distances(torch.sigmoid(logits[..., -DISTANCES:]))
    flags, true = targets[..., :-DISTANCES], distances(targets[..., -DISTANCES:] / SYMBOLS)
    inside = flags.amax(-1)
    overlap, generalized = _overlaps(drawn, true)
    wanted = flags * overlap.detach()[..., None]
    gap = (wanted - torch.sigmoid(scores)).abs().square()
    labels = (gap * F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")).sum((1, 2))
    boxes = ((1.0 - generalized) * inside).sum(1)
    rows = inside.sum(1)
    return labels / rows.clamp_min(8.0) + boxes / rows.clamp_min(1.0)


def distances(coded: Tensor) -> Tensor:
    """Coded distances in [0, 1] to shares of the frame, as `core.boxes.decode_distances`."""
    return coded.square() * (1.0 + OUTSIDE) - OUTSIDE


def _overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and the generalized one, of boxes seen from the same positions: (B, N, 4) to (B, N)."""
    sides_a, sides_b = (x[..., :2] + x[..., 2:] for x in (a, b))
    shared = (torch.minimum(a[..., :2], b[..., :2]) + torch.minimum(a[..., 2:], b[..., 2:])).clamp_min(0.0).prod(-1)
    around = (torch.maximum(a[..., :2], b[..., :2]) + torch.maximum(a[..., 2:], b[..., 2:])).clamp_min(1e-6).prod(-1)
    union = (sides_a.clamp_min(1e-3).prod(-1) + sides_b.clamp_min(1e-3).prod(-1) - shared).clamp_min(1e-6)
    overlap = shared / union
    return overlap, overlap - (around - union).clamp_min(0.0) / around


LOSSES: Mapping[Task, Callable[[Tensor, Tensor], Tensor]] = {
    Task.CLASSIFICATION: classification_loss,
    Task.DETECTION: detection_loss,
    Task.MULTILABEL: multilabel_loss,
    Task.SEGMENTATION: segmentation_loss,
}
