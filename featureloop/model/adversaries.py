"""What tries to read a release while its neck is trained: where a vector stood, and whose frame a bag is of.

The heads see what leaves, standardized over the batch: nothing is hidden by making it small, only by making it
smaller than the quantization's noise. Losses are shares of what knowing nothing costs, so that 1 is chance and 0
knows all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.func import functional_call

PLACES = 3
"""Columns that say where a vector stood: x and y from -1 to 1, and the distance to the nearest border."""
WIDTH, EMBEDDED = 128, 64
TEMPERATURE = 0.1
LEAST_SPREAD = 1e-4


class PositionHead(nn.Module):
    """Where each vector stood, from the vector and from its bag's mean and spread: (B, R, C) to (B, R, 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.own = nn.Linear(channels, WIDTH)
        self.bag = nn.Linear(2 * channels, WIDTH)
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, PLACES))

    def forward(self, released: Tensor) -> Tensor:
        """Guess x, y and the distance to the border."""
        bag = self.bag(standardized(_moments(released)))[:, None]
        return cast(Tensor, self.layers(self.own(standardized(released)) + bag))


class LinkageHead(nn.Module):
    """Where a bag lies among others, (B, N, C) to unit vectors (B, 64): takes of the same patient close together."""

    def __init__(self, channels: int, *, rows: bool) -> None:
        super().__init__()
        self.rows = nn.Sequential(nn.Linear(channels, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)) if rows else None
        seen = 2 * channels + 2 * WIDTH if rows else channels
        self.straight = nn.Linear(seen, EMBEDDED)
        self.layers = nn.Sequential(nn.Linear(seen, WIDTH), nn.ReLU(), nn.Linear(WIDTH, EMBEDDED))
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))

    def forward(self, released: Tensor) -> Tensor:
        """Embed bags, whatever the order of their rows."""
        if self.rows is None:
            seen = standardized(released.squeeze(1))
        else:
            each = self.rows(standardized(released))
            seen = torch.cat([standardized(_moments(released)), each.mean(1), each.amax(1)], dim=1)
        return F.normalize(self.straight(seen) + self.layers(seen), dim=1)


@dataclass(frozen=True, slots=True)
class Told:
    """What a batch of releases tells the heads.

    Attributes
    ----------
    position
        (B,), the squared error of the places as a share of their variance; None where one vector is released.
    linkage
        (B,), the cross entropy of finding one's own among all others (van den Oord et al. 2018, arXiv:1807.03748),
        as a share of guessing's.
    """

    position: Tensor | None
    linkage: Tensor

    def loss(self) -> Tensor:
        """What the heads learn by, (B,)."""
        return self.linkage if self.position is None else self.linkage + self.position

    def told(self) -> Tensor:
        """How much they know in all: 0 at chance or below, and then there is nothing left to take away."""
        known = F.relu(1 - self.linkage.mean())
        return known if self.position is None else known + F.relu(1 - self.position.mean())


class Adversaries(nn.Module):
    """Both heads, of what `channels` values of each released vector tell."""

    def __init__(self, channels: int, *, rows: bool) -> None:
        super().__init__()
        self.position = PositionHead(channels) if rows else None
        self.linkage = LinkageHead(channels, rows=rows)

    def forward(self, released: Tensor, places: Tensor, groups: Tensor) -> Told:
        """Judge releases (B, N, C) with their places (B, N, 3) and the numbers of their groups (B,)."""
        position = None
        if self.position is not None:
            spread = (places - places.mean((0, 1))).square().mean((0, 1)).clamp_min(1e-6)
            position = ((self.position(released) - places).square() / spread).mean((1, 2))
        return Told(position, linkage_loss(self.linkage(released), groups, self.linkage.sharpness.exp()))

    def frozen(self, released: Tensor, places: Tensor, groups: Tensor) -> Told:
        """The same, with a gradient to the releases alone."""
        fixed = {name: p.detach() for name, p in self.named_parameters()}
        return cast(Told, functional_call(self, fixed, (released, places, groups)))


def linkage_loss(embedded: Tensor, groups: Tensor, sharpness: Tensor) -> Tensor:
    """Cross entropy of finding one of the same group among all other bags, (B,), as a share of guessing's.

    A bag without another one of its group costs what guessing costs.
    """
    count = len(embedded)
    itself = torch.eye(count, dtype=torch.bool, device=embedded.device)
    same = (groups[:, None] == groups) & ~itself
    near = (embedded @ embedded.T * sharpness.clamp(1.0, 100.0)).masked_fill(itself, -math.inf)
    right = torch.logsumexp(near.masked_fill(~same, -1e4), dim=1) - torch.logsumexp(near, dim=1)
    guessing = torch.log((count - 1) / same.sum(1).clamp_min(1)).clamp_min(math.log(2))
    alone = ~same.any(1)
    return torch.where(alone, torch.ones_like(right), -right / guessing)


def standardized(values: Tensor) -> Tensor:
    """Values (..., C) with each channel's mean 0 and deviation 1 over all others of the batch."""
    flat = values.flatten(0, -2)
    return (values - flat.mean(0)) / (flat.std(0, correction=0) + LEAST_SPREAD)


def _moments(released: Tensor) -> Tensor:
    """Mean and deviation over the rows, (B, N, C) to (B, 2 C)."""
    mean = released.mean(1)
    deviation = torch.sqrt((released - mean[:, None]).square().mean(1) + 1e-8)
    return torch.cat([mean, deviation], dim=1)
