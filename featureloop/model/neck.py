"""The neck: from the backbone's taps to the few bits of each position that may leave.

A linear transform, computed and not trained: the Karhunen-Loeve transform of
the taps, so that the channels are uncorrelated, one quantization step for all
of them, so that every channel gets bits by its variance (reverse
water-filling: Cover & Thomas, Elements of Information Theory, 10.3.3), and no
channel that would get almost none. Variance is measured where recognition
feels it: in a metric that mixes the recognizer's Fisher information
(`model.sensitivity`) with the plain one of standardized taps, which keeps what
the founding labels don't ask for. Why it is computed and not trained end to
end, and what is not shown about that: docs/adr/001.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.core.types import Float32

Float64 = NDArray[np.float64]
REACH = 5.0
"""A channel is bounded at so many standard deviations; the extractor clips there, exactly."""
LEAST_BITS = 0.05
"""A channel with a smaller entropy is left out."""
MAX_LEVELS = 255
BREADTH, SET_BREADTH = 0.001, 0.02
"""Share of the metric that treats all standardized taps alike; of sets, whose bits are few (ADR 11)."""


def join_taps(taps: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Taps at strides 8, 16, 32 on the stride-16 grid, (B, 4 C8 + C16 + C32, H/16, W/16), without padding."""
    at8, at16, at32 = taps
    above = F.interpolate(at32, scale_factor=2.0, mode="nearest")
    return torch.cat([F.pixel_unshuffle(at8, 2), at16, above], dim=1)


class Neck(nn.Module):
    """Joined taps (B, D, G, G) to (B, C, G, G), bounded to [-1, 1].

    Parameters
    ----------
    hidden
        Width of a hidden layer beside the linear one, whose part is 0 at first; 0 for none.
    """

    def __init__(self, dimensions: int, channels: int, *, hidden: int = 0) -> None:
        super().__init__()
        self.transform = nn.Conv2d(dimensions, channels, 1)
        self.down = nn.Conv2d(dimensions, hidden, 1) if hidden else None
        self.up = nn.Conv2d(hidden, channels, 1, bias=False) if hidden else None
        if self.up is not None:
            nn.init.zeros_(self.up.weight)

    def forward(self, joined: Tensor) -> Tensor:
        """Transform and bound."""
        out = self.transform(joined)
        if self.down is not None and self.up is not None:
            out = out + self.up(torch.relu(self.down(joined)))
        return torch.clamp(out, -1.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """A neck's transform and its quantization.

    Attributes
    ----------
    weight, bias
        float32 (C, D) and (C,), from joined taps to channels of which 1 is the bound.
    levels
        Quantization levels of each channel over [-1, 1], odd, so that 0 is a level.
    bits
        The entropy of one quantized position vector under the channels' own statistics.
    """

    weight: Float32
    bias: Float32
    levels: tuple[int, ...]
    bits: float

    def neck(self) -> Neck:
        """The network that applies it."""
        c, d = self.weight.shape
        neck = Neck(d, c)
        with torch.no_grad():
            neck.transform.weight.copy_(torch.from_numpy(self.weight[:, :, None, None]))
            neck.transform.bias.copy_(torch.from_numpy(self.bias))  # type: ignore[union-attr]  # it has a bias
        return neck


def fit_transform(
    joined: Float32,
    *,
    bits_per_vector: float,
    max_channels: int,
    information: Float64 | None = None,
    breadth: float = BREADTH,
) -> Transform:
    """The transform and the finest common step whose position vectors fit the bit budget.

    Parameters
    ----------
    joined
        Joined taps of many positions, float32 (M, D).
    bits_per_vector
        The budget, in bits.
    max_channels
        No more than so many channels, those of most variance.
    information
        How much recognition depends on each direction of the taps, float64 (D, D);
        None where it is not known: then all standardized taps count alike.
    breadth
        Share of the metric that treats all standardized taps alike, in (0, 1].
    """
    mean, spread = joined.mean(axis=0, dtype=np.float64), joined.std(axis=0, dtype=np.float64) + 1e-3
    metric = metric_root(information, spread, breadth)
    x = (((joined - mean) / spread) @ metric).astype(np.float32)
    variances, axes = np.linalg.eigh(np.asarray(x.T @ x, np.float64) / len(x))
    order = np.argsort(variances)[::-1][:max_channels]
    axes = with_signs(axes[:, order])
    z = x @ axes.astype(np.float32)
    deviation = np.maximum(z.std(axis=0, dtype=np.float64), 1e-6)
    step = _step(z, bits_per_vector)
    entropy = entropies(z, step)
    kept = entropy >= LEAST_BITS
    if not kept.any():
        kept[0] = True
    # Odd, and no more than a byte holds; a channel of wide reach gets a coarser step instead of a clipped one.
    half = np.clip(np.ceil(REACH * deviation[kept] / step), 1, MAX_LEVELS // 2).astype(int)
    bound = np.where(half < MAX_LEVELS // 2, half * step, REACH * deviation[kept])
    weight = (metric @ axes[:, kept] / bound / spread[:, None]).T
    return Transform(
        weight.astype(np.float32),
        (-(weight @ mean)).astype(np.float32),
        tuple(int(2 * h + 1) for h in half),
        float(entropy[kept].sum()),
    )


def metric_root(information: Float64 | None, spread: Float64, breadth: float) -> Float64:
    """Symmetric square root of the metric of standardized values, float64 (D, D), whose mean diagonal is 1."""
    d = len(spread)
    if information is None or not np.trace(information) > 0:
        return np.eye(d)
    standardized = information * spread[:, None] * spread
    metric = (1 - breadth) * standardized * (d / np.trace(standardized)) + breadth * np.eye(d)
    values, axes = np.linalg.eigh(metric)
    return np.asarray((axes * np.sqrt(np.maximum(values, 0.0))) @ axes.T)


def with_signs(axes: Float64) -> Float64:
    """Each axis with its largest component positive, so that the transform is the same everywhere."""
    largest = np.abs(axes).argmax(axis=0)
    return np.asarray(axes * np.sign(axes[largest, np.arange(axes.shape[1])]))


def _step(z: Float32, budget: float) -> float:
    """The finest step whose entropies sum to at most the budget, by bisection."""
    scale = max(float(z.std()), 1e-6)
    low, high = 1e-3 * scale, 100.0 * scale
    if math.isinf(budget):
        return low
    for _ in range(30):
        middle = (low * high) ** 0.5
        if entropies(z, middle).sum() > budget:
            low = middle
        else:
            high = middle
    return high


def entropies(z: Float32, step: float) -> Float64:
    """Entropy in bits of each channel of float32 (M, C), quantized uniformly."""
    return symbol_entropies(np.rint(z / step).astype(np.int64))


def symbol_entropies(symbols: NDArray[np.integer[Any]]) -> Float64:
    """Entropy in bits of each column of whole numbers (M, C)."""
    out = np.empty(symbols.shape[1])
    for c in range(symbols.shape[1]):
        _, counts = np.unique(symbols[:, c], return_counts=True)
        p = counts / counts.sum()
        out[c] = -(p * np.log2(p)).sum()
    return out
