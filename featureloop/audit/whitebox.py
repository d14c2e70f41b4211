"""White-box inversion: an image is changed until what would leave of it is what left.

The attacker holds the extractor and follows its gradient. Rows have no order, so two bags are compared by their
projections on random directions, sorted (sliced Wasserstein distance, Rabin et al. 2012), and pooled vectors as they
are. From what leaves, the search begins as a decoder's guess and stays among images like the attacker's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from featureloop.audit.image_distance import SIDE
from featureloop.core.types import Float32
from featureloop.model.manifest import Preprocessing

DIRECTIONS = 64

Distance = Callable[[Tensor], Tensor]
"""How far a map (1, C, h, w) is from what is to be met."""


@dataclass(frozen=True, slots=True)
class Search:
    """How an image is searched for.

    Attributes
    ----------
    steps, rate
        Of Adam on the image's pixels, or on its weights of components.
    smooth
        Weight of what is unlikely of an image.
    """

    steps: int = 80
    rate: float = 0.03
    smooth: float = 0.02


class Pixels:
    """A picture float32 (3, 64, 64) as its pixels."""

    def __init__(self, start: Float32) -> None:
        self.values = torch.from_numpy(start[None].copy()).requires_grad_()

    def picture(self) -> Tensor:
        """Float32 (1, 3, 64, 64)."""
        return self.values.clamp(0, 1)

    def unlikely(self) -> Tensor:
        """How rough it is: its total variation."""
        x = self.picture()
        return (x[..., 1:] - x[..., :-1]).abs().mean() + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()


class Components:
    """A picture as a mean and weights of principal components of the attacker's images, so that it looks like them."""

    def __init__(self, start: Float32, basis: tuple[Float32, Float32, Float32]) -> None:
        self._centre, self._basis, self._spread = (torch.from_numpy(b.astype(np.float32)) for b in basis)
        weights = (torch.from_numpy(start.reshape(-1)) - self._centre) @ self._basis.T / self._spread
        self.values = weights.clone().requires_grad_()

    def picture(self) -> Tensor:
        """Float32 (1, 3, 64, 64)."""
        flat = self._centre + (self.values * self._spread) @ self._basis
        return flat.reshape(1, 3, SIDE, SIDE).clamp(0, 1)

    def unlikely(self) -> Tensor:
        """The weights' squares, in units of their deviations."""
        return (self.values**2).mean()


def invert(
    extract: Callable[[Tensor], Tensor],
    distance: Distance,
    start: Pixels | Components,
    preprocessing: Preprocessing,
    *,
    search: Search,
) -> Float32:
    """A picture float32 (3, 64, 64) in [0, 1] whose features are near; `start` is what is changed."""
    optimizer = torch.optim.Adam([start.values], lr=search.rate)
    size = (preprocessing.size,) * 2
    for _ in range(search.steps):
        whole = functional.interpolate(start.picture(), size=size, mode="bilinear", align_corners=False)
        found = extract((whole * 255 - preprocessing.mean) / preprocessing.scale)
        loss = distance(found) + search.smooth * start.unlikely()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return np.asarray(start.picture().detach().numpy()[0], np.float32)


def to_bag(values: Float32, spread: Float32, *, seed: int) -> Distance:
    """The distance of a map's rows, in any order, from a bag float32 (N, C), in units of the channels' spread."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(values.shape[1], DIRECTIONS, generator=generator)
    directions = functional.normalize(directions, dim=0)
    scale = torch.from_numpy(spread)
    wanted = ((torch.from_numpy(values) / scale) @ directions).sort(dim=0).values
    axes = (torch.from_numpy(values) / scale).sort(dim=0).values

    def distance(z: Tensor) -> Tensor:
        rows = z[0].flatten(1).T / scale
        return _apart((rows @ directions).sort(dim=0).values, wanted) + _apart(rows.sort(dim=0).values, axes)

    return distance


def _apart(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared distance of sorted columns (N, D) and (K, D), at the quantiles of the fewer."""
    if len(found) != len(wanted):
        found, wanted = (
            functional.interpolate(x.T[None], size=min(len(found), len(wanted)), mode="linear", align_corners=True)[0]
            for x in (found, wanted)
        )
    return ((found - wanted) ** 2).mean()


def to_vector(vector: Float32, spread: Float32, pool: Callable[[Tensor], Tensor]) -> Distance:
    """The distance of a map's pooled vector from one float32 (D,)."""
    wanted, scale = torch.from_numpy(vector), torch.from_numpy(spread)
    return lambda z: (((pool(z).reshape(-1) - wanted) / scale) ** 2).mean()


def to_map(wanted: Float32) -> Distance:
    """The distance from an ordered map float32 (C, h, w): what the positive control is."""
    target = torch.from_numpy(np.ascontiguousarray(wanted))[None]
    return lambda z: ((z - target) ** 2).mean() / target.var()
