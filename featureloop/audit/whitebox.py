"""White-box inversion: an image is changed until what would leave of it is what left.

The attacker holds the extractor and follows its gradient. Rows have no order, so two bags are compared by their
projections on random directions, sorted (sliced Wasserstein distance, Rabin et al. 2012), and pooled vectors as they
are. The image is as smooth as total variation makes it, and begins as a decoder's guess.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from featureloop.audit.image_distance import SIDE
from featureloop.core.ports import Progress
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
        Of Adam on the image's pixels.
    smooth
        Weight of the total variation.
    """

    steps: int = 80
    rate: float = 0.03
    smooth: float = 0.02


def invert(
    extract: Callable[[Tensor], Tensor],
    distance: Distance,
    start: Float32,
    preprocessing: Preprocessing,
    *,
    search: Search,
    progress: Progress,
) -> Float32:
    """A picture float32 (3, 64, 64) in [0, 1] whose features are near; `start` is where the search begins."""
    pixels = torch.from_numpy(start[None].copy()).requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=search.rate)
    for step in range(search.steps):
        whole = functional.interpolate(pixels, size=(preprocessing.size,) * 2, mode="bilinear", align_corners=False)
        found = extract((whole * 255 - preprocessing.mean) / preprocessing.scale)
        rough = (pixels[..., 1:] - pixels[..., :-1]).abs().mean() + (pixels[..., 1:, :] - pixels[..., :-1, :]).abs().mean()
        loss = distance(found) + search.smooth * rough
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
        progress("white-box search", step + 1, search.steps)
    return pixels.detach().numpy()[0]


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


def enlarged(pictures: Float32) -> Float32:
    """Pictures of any size as float32 (M, 3, 64, 64)."""
    return functional.interpolate(torch.from_numpy(pictures), size=(SIDE, SIDE), mode="area").numpy()
