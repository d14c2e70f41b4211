"""What stands around a position, put into its vector before anything leaves.

Where a recognizer sees every row by itself, nothing of a position's neighbours
could be recognized from it but what the backbone's taps hold. Residual 3x3
convolutions on the joined taps add it: they belong to the extractor, before the
computed neck, so rows still leave without their places. They learn once the
backbone is tuned, under a linear recognizer of theirs; what that one feels (its
Fisher information, the same at every position) is then what the neck's few bits
are spent on. Measured: docs/adr/021.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from featureloop.core.types import Float32
from featureloop.model.manifest import RecognizerSpec

BLOCKS = 3
"""Convolutions that see their neighbours: seven positions across."""
MASKS_WIDTH = 88
"""Of masks' local context, unless another is asked for: as many weights as their recognizer of the taps had."""
LEAST_DEVIATION, LEAST_SHARE = 1e-3, 0.05
"""Added to taps' deviations; and the share of their median that each has at least, so that a tap that is dead at the
founding and isn't elsewhere stays small."""


class LocalContext(nn.Module):
    """Joined taps (B, D, G, G) to (B, W, G, G).

    The norms take a mean and a deviation of the whole frame's map, so a little of the frame is in every vector, too.

    Beyond the map's border its edge stands again: zeros would tell a vector how near to the border it stood.
    Taps are standardized first.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, taps: int, *, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(taps, 1, 1))
        self.register_buffer("scale", torch.ones(taps, 1, 1))
        self.lift = nn.Conv2d(taps, width, 1)
        self.blocks = nn.ModuleList(_block(width) for _ in range(BLOCKS))

    def standardize_by(self, maps: Iterable[Float32]) -> None:
        """Take the taps' mean and deviation from joined taps (B, D, G, G)."""
        count, total, squares = 0, np.zeros(len(self.mean)), np.zeros(len(self.mean))
        for joined in maps:
            count += joined[:, 0].size
            total += joined.sum((0, 2, 3), dtype=np.float64)
            squares += np.square(joined, dtype=np.float64).sum((0, 2, 3))
        mean = total / count
        deviation = np.sqrt((squares / count - mean**2).clip(0))
        deviation = np.maximum(deviation, LEAST_SHARE * np.median(deviation)) + LEAST_DEVIATION
        self.mean.copy_(torch.from_numpy(mean)[:, None, None])
        self.scale.copy_(torch.from_numpy(1 / deviation)[:, None, None])

    def forward(self, joined: Tensor) -> Tensor:
        """What stands at and around each position."""
        x = self.lift((joined - self.mean) * self.scale)
        for block in self.blocks:
            x = x + block(x)
        return cast(Tensor, x)


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(1, width),
        nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
        nn.ReLU(),
        nn.Conv2d(width, width, 1),
    )


class LocalHead(nn.Module):
    """Local context, and the linear recognizer of it under which it learns.

    Takes joined taps as rows in the order of the map, (B, G * G, D); gives logits (B, G * G, T).
    """

    def __init__(self, taps: int, spec: RecognizerSpec, *, width: int) -> None:
        super().__init__()
        self.context = LocalContext(taps, width=width)
        self.last = nn.Linear(width, spec.outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of each row's targets."""
        b, n, d = rows.shape
        grid = round(n**0.5)
        found = self.context(rows.transpose(1, 2).reshape(b, d, grid, grid))
        return cast(Tensor, self.last(found.flatten(2).transpose(1, 2)))
