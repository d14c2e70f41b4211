"""Similarities of descriptors: by cosine after whitening, and by a siamese head that learned what a patient shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.core.ports import Progress, silent
from featureloop.core.types import Float32

WHITENED = (0, 16, 64, 192)
"""Components that a descriptor is whitened to; 0 takes its values as they are, standardized."""
LEAST_RATIO = 3
"""Records that a whitened component needs."""
REDUCED = 128
"""Components of every descriptor that the head sees."""
HIDDEN, TEMPERATURE = 256, 0.05
BATCH, RATE, DROPOUT = 64, 3e-4, 0.2


def cosine(a: Float32, b: Float32) -> Float32:
    """Cosines of rows, float32 (Q, R)."""
    return np.asarray(_unit(a) @ _unit(b).T, np.float32)


def _unit(x: Float32) -> Float32:
    return np.asarray(x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-9), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """An affine map of descriptors under which those it was made from are uncorrelated; made without any label.

    The searcher makes it from the records that it searches, as a learner can that holds them all.
    """

    mean: Float32
    matrix: Float32

    def __call__(self, x: Float32) -> Float32:
        """Descriptors float32 (M, D) to (M, K)."""
        return np.asarray((x - self.mean) @ self.matrix, np.float32)


def whitening(x: Float32, components: int) -> Whitening | None:
    """Of descriptors float32 (M, D); None where there are too few for so many components."""
    mean, spread = x.mean(0), x.std(0)
    scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0).astype(np.float32)
    if not components:
        return Whitening(mean, np.diag(scale))
    if len(x) < LEAST_RATIO * components or x.shape[1] < components:
        return None
    _, sizes, directions = np.linalg.svd((x - mean) * scale, full_matrices=False)
    strength = sizes[:components] / np.sqrt(len(x))
    matrix = scale[:, None] * directions[:components].T / (strength + 1e-3 * strength[0])
    return Whitening(mean, np.asarray(matrix, np.float32))


class Reduced:
    """All descriptors side by side, each by its leading components, standardized by the site's own records.

    Parameters
    ----------
    descriptors
        The attacker's, float32 (M, D) each.
    """

    def __init__(self, descriptors: Mapping[str, Float32]) -> None:
        self._basis: dict[str, Float32] = {}
        for name, x in descriptors.items():
            _, sizes, directions = np.linalg.svd(_standard(x, x), full_matrices=False)
            count = max(1, min(REDUCED, len(x) // 2, len(sizes)))
            strength = sizes[:count] / np.sqrt(len(x))
            # The square root of the deviation is halfway between whitened and not.
            self._basis[name] = np.asarray(directions[:count].T / np.sqrt(strength + 1e-2 * strength[0]), np.float32)

    def __call__(self, descriptors: Mapping[str, Float32], *, site: Mapping[str, Float32]) -> Float32:
        """Descriptors of a site's records, in units of what the `site` holds: float32 (M, K)."""
        parts = [_standard(descriptors[name], site[name]) @ basis for name, basis in self._basis.items()]
        whole = np.concatenate([p / np.sqrt(p.shape[1]) for p in parts], axis=1)
        return np.asarray(whole * np.sqrt(len(parts)), np.float32)


def _standard(x: Float32, site: Float32) -> Float32:
    return np.asarray(np.clip((x - site.mean(0)) / (site.std(0) + 1e-3), -6, 6), np.float32)


class Head(nn.Module):
    """Reduced descriptors (B, K) to embeddings (B, K) of length 1: at first themselves, so that it can only learn."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, inputs, bias=False)
        last = nn.Linear(HIDDEN, inputs)
        self.layers = nn.Sequential(
            nn.Dropout(DROPOUT), nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), last
        )
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Embed."""
        return F.normalize(self.linear(x) + self.layers(x), dim=1)


def train_head(x: Float32, labels: NDArray[np.intp], *, steps: int, seed: int, progress: Progress = silent) -> Head:
    """Train a head by contrast: records of one label are alike, all others are not (Khosla et al. 2020).

    Parameters
    ----------
    x
        Reduced descriptors, float32 (M, K).
    labels
        intp (M,): the patient of each, or the frame of each take where every patient has one frame.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, 77))
    head, data = Head(x.shape[1]), torch.from_numpy(x)
    members = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    members = [m for m in members if len(m) > 1]
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    head.train()
    for step in range(steps):
        chosen = rng.permutation(len(members))[:BATCH]
        at = np.concatenate([rng.choice(members[k], 2, replace=False) for k in chosen])
        z = head(data[at])
        logits = z @ z.T / TEMPERATURE
        logits.fill_diagonal_(-1e4)
        loss = F.cross_entropy(logits, torch.arange(len(at)) ^ 1)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        progress("siamese head", step + 1, steps)
    return head.eval()


def embed(head: Head, x: Float32) -> Float32:
    """Embeddings of reduced descriptors, float32 (M, E)."""
    with torch.no_grad():
        found: Float32 = head(torch.from_numpy(x)).numpy()
    return found
