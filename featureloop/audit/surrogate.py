"""A surrogate extractor: an attacker without the package imitates it by the distribution of what leaves.

In the manner of FORA (Xu et al. 2024): a network of the attacker's own is trained so that the features of its own
images are distributed as the victims' (maximum mean discrepancy, Gretton et al. 2012, by random Fourier features); a
decoder of its features is then turned on the victims'.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from featureloop.audit.decoders import BATCH
from featureloop.audit.material import Release
from featureloop.core.ports import Progress
from featureloop.core.types import Float32

WIDTHS = (0.5, 1.0, 2.0, 4.0)
"""Of the kernels, in units of the channels' spread times the root of their number."""
FOURIER = 256
RATE = 2e-3


class Surrogate(nn.Module):
    """Pictures (B, 3, 64, 64) to rows (B, 64, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in (32, 64, 96):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.net = nn.Sequential(*layers, nn.Conv2d(before, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Standardized rows."""
        out: Tensor = self.net(x)
        return out.flatten(2).transpose(1, 2)


def imitate(releases: Sequence[Tensor], pictures: Float32, *, steps: int, seed: int, progress: Progress) -> Surrogate:
    """A surrogate whose features of pictures are distributed as the victims' standardized bags, each (1, N, C)."""
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, 53))
    channels = releases[0].shape[2]
    network = Surrogate(channels)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(channels, FOURIER, generator=generator) / channels**0.5
    phases = torch.rand(FOURIER, generator=generator) * 2 * torch.pi
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    own = torch.from_numpy(pictures)

    def embedded(rows: Tensor) -> Tensor:
        return torch.cat([torch.cos(rows @ directions / w + phases).mean(-2) for w in WIDTHS], dim=-1)

    with torch.no_grad():
        theirs = torch.cat([embedded(x) for x in releases])
        moments = torch.cat([_moments(x) for x in releases])
    for step in range(steps):
        rows = network(own[rng.integers(0, len(own), BATCH)])
        if releases[0].shape[1] == 1:
            rows = rows.mean(1, keepdim=True)
        mine = _moments(rows)
        # Frames' own embeddings are compared as distributions too: by their mean and their spread.
        found = embedded(rows)
        loss = ((found.mean(0) - theirs.mean(0)) ** 2).sum() + ((found.std(0) - theirs.std(0)) ** 2).sum()
        loss = loss + ((mine.mean(0) - moments.mean(0)) ** 2).mean() + ((mine.std(0) - moments.std(0)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress("surrogate", step + 1, steps)
    return network.eval()


def _moments(rows: Tensor) -> Tensor:
    """Means and deviations of bags (B, N, C): (B, 2 C)."""
    return torch.cat([rows.mean(1), rows.std(1) if rows.shape[1] > 1 else 0 * rows[:, 0]], dim=1)


def rows_as_releases(network: Surrogate, pictures: Float32) -> list[Tensor]:
    """The surrogate's bags of pictures, each (1, N, C)."""
    with torch.no_grad():
        return [network(torch.from_numpy(p)[None]) for p in pictures]


def pooled(rows: Sequence[Tensor], releases: Sequence[Release]) -> list[Tensor]:
    """The same as single vectors where the release is one."""
    return [r.mean(1, keepdim=True) for r in rows] if len(releases[0].values) == 1 else list(rows)
