"""How much recognition depends on each direction of the taps: the Fisher information of a recognizer's results.

For labels drawn from the recognizer's own probabilities, the second moments of
the gradient of their log likelihood by the taps (Amari 1998, Neural
Computation 10(2); drawn and not the true labels: Kunstner et al. 2019,
arXiv:1905.12558). A small error e of a position vector then costs e' F e / 2
of log likelihood, so F says where bits are well spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featureloop.core.types import Float32, Task

Float64 = NDArray[np.float64]


def fisher_information(
    recognize: Callable[[Tensor], Tensor], batches: Iterable[Float32], *, task: Task, seed: int
) -> Float64:
    """Mean Fisher information of a position vector.

    Parameters
    ----------
    recognize
        Joined taps (B, D, G, G) to logits (B, N, T).
    batches
        Joined taps, float32 (B, D, G, G).
    seed
        Of the drawn labels.

    Returns
    -------
    Float64
        (D, D), symmetric and positive semidefinite, in units of the taps.
    """
    generator = torch.Generator().manual_seed(seed)
    total, positions = np.zeros((0, 0)), 0
    for batch in batches:
        joined = torch.from_numpy(batch).requires_grad_(True)
        likelihood = _drawn_log_likelihood(recognize(joined), task, generator)
        (gradient,) = torch.autograd.grad(likelihood, joined)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1]).numpy().astype(np.float64)
        total = rows.T @ rows + (total if positions else 0.0)
        positions += len(rows)
    return total / max(1, positions)


def _drawn_log_likelihood(logits: Tensor, task: Task, generator: torch.Generator) -> Tensor:
    """Log likelihood of labels that are drawn from the logits' own probabilities, summed."""
    with torch.no_grad():
        if task is Task.SEGMENTATION:
            labels = torch.bernoulli(torch.sigmoid(logits), generator=generator)
        else:
            drawn = torch.multinomial(torch.softmax(logits[:, 0], dim=-1), 1, generator=generator)
            labels = torch.zeros_like(logits[:, 0]).scatter_(1, drawn, 1.0)[:, None]
    if task is Task.SEGMENTATION:
        return -torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    return (labels * torch.log_softmax(logits, dim=-1)).sum()
