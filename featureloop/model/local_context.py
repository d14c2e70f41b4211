"""What stands around a position, put into its vector before anything leaves.

Where a recognizer sees every row by itself, nothing of a position's neighbours
could be recognized from it but what the backbone's taps hold. Residual 3x3
convolutions on the joined taps add it: they belong to the extractor, before the
computed neck, so rows still leave without their places. They are tuned with the backbone
under a linear recognizer of theirs; what that one feels (its Fisher
information, the same at every position) is then what the neck's few bits are
spent on. Measured: docs/adr/021.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from featureloop.model.manifest import RecognizerSpec

BLOCKS = 3
"""Convolutions that see their neighbours: seven positions across."""


class LocalContext(nn.Module):
    """Joined taps (B, D, G, G) to (B, W, G, G).

    The norms take a mean and a deviation of the whole frame's map, so a little of the frame is in every vector, too.

    Beyond the map's border its edge stands again: zeros would tell a vector how near to the border it stood.
    """

    def __init__(self, taps: int, *, width: int) -> None:
        super().__init__()
        self.lift = nn.Conv2d(taps, width, 1)
        self.blocks = nn.ModuleList(_block(width) for _ in range(BLOCKS))

    def forward(self, joined: Tensor) -> Tensor:
        """What stands at and around each position."""
        x = self.lift(joined)
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
    """What a backbone is tuned under: local context, and a linear recognizer of it.

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
