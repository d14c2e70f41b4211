"""How much recognition depends on each direction of the taps: the Fisher information of a recognizer's results.

For labels drawn from the recognizer's own probabilities, the second moments of
the gradient of their log likelihood by the taps (Amari 1998, Neural
Computation 10(2); drawn and not the true labels: Kunstner et al. 2019,
arXiv:1905.12558). A small error e of a position vector then costs e' F e / 2
of log likelihood, so F says where bits are well spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featureloop.core.types import Float32, Task
from featureloop.model.tasks.detection import DISTANCES

Float64 = NDArray[np.float64]
DISTANCE_SPREAD = 0.05
"""Standard deviation of a detection's coded distances, where its likelihood is asked for."""


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
    return _LIKELIHOODS[task](logits, generator)


def _flags(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Independent flags (B, N, T)."""
    drawn = torch.bernoulli(torch.sigmoid(logits.detach()), generator=generator)
    return -torch.nn.functional.binary_cross_entropy_with_logits(logits, drawn, reduction="sum")


def _one_label(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One label of K: (B, 1, K)."""
    drawn = torch.multinomial(torch.softmax(logits[:, 0].detach(), dim=-1), 1, generator=generator)
    return torch.log_softmax(logits[:, 0], dim=-1).gather(1, drawn).sum()


def _boxes(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Flags, and distances that are normal around the recognized ones where a box stands: (B, N, K + 4)."""
    scores, coded = logits[..., :-DISTANCES], torch.sigmoid(logits[..., -DISTANCES:])
    noise = DISTANCE_SPREAD * torch.randn(coded.shape, generator=generator)
    stands = torch.sigmoid(scores.detach()).amax(-1, keepdim=True)
    far = (coded - coded.detach() - noise) / DISTANCE_SPREAD
    return _flags(scores, generator) - 0.5 * (stands * far.square()).sum()


_LIKELIHOODS: Mapping[Task, Callable[[Tensor, torch.Generator], Tensor]] = {
    Task.CLASSIFICATION: _one_label,
    Task.DETECTION: _boxes,
    Task.MULTILABEL: _flags,
    Task.SEGMENTATION: _flags,
}
