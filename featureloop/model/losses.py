"""The losses that recognizers learn by, the same in founding training and at the learner."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from featureloop.core.types import Task


def recognition_loss(logits: Tensor, targets: Tensor, *, task: Task, weights: Tensor | None = None) -> Tensor:
    """Loss of logits (B, N, T) against targets (B, N, T) in [0, 1], averaged with weights (B,).

    Segmentation: cross entropy plus soft Dice over each whole bag (Milletari
    et al. 2016, arXiv:1606.04797). Classification: cross entropy.
    """
    if task is Task.SEGMENTATION:
        each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((1, 2))
        p = torch.sigmoid(logits)
        overlap = (p * targets).sum((1, 2))
        each = each + 1.0 - (2.0 * overlap + 1.0) / (p.sum((1, 2)) + targets.sum((1, 2)) + 1.0)
    else:
        each = F.cross_entropy(logits[:, 0], targets[:, 0], reduction="none", label_smoothing=0.05)
    return each.mean() if weights is None else (each * weights).sum() / weights.sum()
