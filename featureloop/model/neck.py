"""The neck: a learned bottleneck from the backbone's taps to the few channels that may leave.

Trained for recognition under quantization noise and a bit budget. The rate is
the entropy of soft-assigned quantization symbols per channel, so it is the
same figure that the codec's static tables reach.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn


class Neck(nn.Module):
    """Taps at strides 8, 16, 32 to (B, C, H/16, W/16), bounded to [-1, 1]."""

    def __init__(self, taps: tuple[int, int, int], channels: int, *, width: int = 128) -> None:
        super().__init__()
        self.from8 = nn.Conv2d(taps[0], width, 2, 2)
        self.from16 = nn.Conv2d(taps[1], width, 1)
        self.from32 = nn.Conv2d(taps[2], width, 1)
        self.mix = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(width, channels, 1)
        # Unit variance before the bound makes every channel use its levels, for what later training may ask of it.
        self.norm = nn.BatchNorm2d(channels, affine=False, momentum=0.05)

    def forward(self, taps: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Join the taps on the stride-16 grid; no padding, so none of its traces."""
        at8, at16, at32 = taps
        x = self.from8(at8) + self.from16(at16)
        x = F.relu(x + F.interpolate(self.from32(at32), scale_factor=2.0, mode="nearest"))
        x = x + F.relu(self.mix(x))
        return torch.tanh(self.norm(self.out(x)))


class Breadth(nn.Module):
    """What keeps the neck broad: the backbone's taps, predicted linearly from the released vectors.

    A neck trained for one site's lesions alone keeps only what tells those
    apart; a later recognizer for other sites can then learn little from it.
    Used in founding training only.
    """

    def __init__(self, taps: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.predict = nn.Linear(channels, 4 * taps[0] + taps[1] + taps[2])

    def forward(self, vectors: Tensor, taps: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Share of the taps' variance that vectors float32 (B, N, C) leave unexplained, about 0 to 1."""
        at8, at16, at32 = taps
        whole = [F.pixel_unshuffle(at8, 2), at16, F.interpolate(at32, scale_factor=2.0, mode="nearest")]
        wanted = torch.cat(whole, dim=1).detach().flatten(2).transpose(1, 2)
        mean, variance = wanted.mean((0, 1)), wanted.var((0, 1)) + 1e-4
        unexplained: Tensor = ((self.predict(vectors) - (wanted - mean) / variance.sqrt()) ** 2).mean()
        return unexplained


def add_quantization_noise(z: Tensor, *, levels: int, generator: torch.Generator) -> Tensor:
    """Add uniform noise of one quantization step to float32 z in [-1, 1] (Ballé et al. 2017, arXiv:1611.01704)."""
    step = 2.0 / (levels - 1)
    return z + (torch.rand(z.shape, generator=generator) - 0.5) * step


def rate(z: Tensor, *, levels: int) -> Tensor:
    """Bits per position vector of float32 (..., C) in [-1, 1]: the sum of the channels' entropies.

    Each value is shared linearly between its two neighbouring levels, so that
    the histogram, and with it the entropy, is differentiable.
    """
    position = (z.reshape(-1, z.shape[-1]) + 1.0) * (0.5 * (levels - 1))
    grid = torch.arange(levels, dtype=z.dtype)
    share = F.relu(1.0 - (position[:, :, None] - grid).abs())
    p = share.mean(0)
    return -(p * torch.log2(p + 1e-9)).sum()
