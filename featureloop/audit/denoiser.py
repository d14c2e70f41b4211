"""The network of the diffusion attacker: it foretells noise on what a decoder's guess lacks, from what leaves.

A small U-Net (Ho et al. 2020; Dhariwal & Nichol 2021) on blocks of 2 x 2 pixels. What leaves comes in three ways: a
decoder that learns along guesses the picture, and its guess lies beside the noise (predict and refine, Whang et al.
2022); rows, or a map's cells, by attention; and what is common to them, with the time, in every block.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from featureloop.audit.decoders import MapDecoder, SetDecoder
from featureloop.audit.image_distance import SIDE

WIDTH, INNER = 32, 128
"""Channels of the U-Net at its finest; width of what a condition gives."""
BLOCK = 2
"""Pixels per side of what is one position of the U-Net."""
TIMES = 32


class Condition(NamedTuple):
    """What leaves, as the U-Net takes it.

    A guess (B, 3, 64, 64), a plan (B, P, 32, 32) to lie beside the noisy picture, rows (B, N, 128) in any order, and
    what is common to them (B, 128).
    """

    guess: Tensor
    plan: Tensor
    rows: Tensor
    common: Tensor


class SetCondition(nn.Module):
    """A bag of vectors (B, N, C) as a condition; `planned` channels of its plan."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.planned = 3 * BLOCK**2
        self.decoder = SetDecoder(channels, width=INNER)
        _begin_with_nothing(self.decoder)
        self.common = nn.Linear(3 * INNER, INNER)

    def forward(self, x: Tensor) -> Condition:
        """The same whatever the rows' order."""
        rows, common = self.decoder.rows(x)
        guess = self.decoder.from_common(common)
        return Condition(guess, functional.pixel_unshuffle(guess.detach(), BLOCK), rows, self.common(common))


class MapCondition(nn.Module):
    """An ordered map (B, C, 16, 16) as a condition: it lies beside the noisy picture, cell over cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.planned = 3 * BLOCK**2 + channels
        self.decoder = MapDecoder(channels)
        _begin_with_nothing(self.decoder)
        self.cells = nn.Linear(channels, INNER)
        self.common = nn.Linear(INNER, INNER)

    def forward(self, x: Tensor) -> Condition:
        """The map at the U-Net's resolution is part of the plan."""
        guess = self.decoder(x)
        large = functional.interpolate(x, size=SIDE // BLOCK, mode="nearest")
        cells = self.cells(x.flatten(2).transpose(1, 2))
        plan = torch.cat([functional.pixel_unshuffle(guess.detach(), BLOCK), large], dim=1)
        return Condition(guess, plan, cells, self.common(cells.mean(1)))


Conditioner = SetCondition | MapCondition


class Denoiser(nn.Module):
    """From a picture with noise at a time to the velocity between picture and noise (Salimans & Ho 2022).

    Pictures are what is left of standardized ones without the guess. It begins with a guess and a velocity of 0.
    """

    def __init__(self, condition: Conditioner, *, width: int = WIDTH) -> None:
        super().__init__()
        self.condition = condition
        w, deep, told = width, 2 * width, 4 * width
        self.told = nn.Sequential(nn.Linear(TIMES + INNER, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU())
        self.enter = nn.Conv2d(3 * BLOCK**2 + condition.planned, w, 3, padding=1)
        self.fine, self.middle, self.coarse = _Block(w, w, told), _Block(w, deep, told), _Block(deep, deep, told)
        self.look = _Look(deep)
        self.after, self.wider, self.finest = (
            _Block(deep, deep, told), _Block(2 * deep, deep, told), _Block(deep + w, w, told),
        )  # fmt: skip
        self.leave = nn.Sequential(nn.GroupNorm(8, w), nn.SiLU(), nn.Conv2d(w, 3 * BLOCK**2, 3, padding=1))
        _begin_with_nothing(self.leave)

    def forward(self, noisy: Tensor, time: Tensor, given: Condition) -> Tensor:
        """Velocities (B, 3, 64, 64) of pictures (B, 3, 64, 64) at times (B,) from 0, no noise, to 1, nothing else."""
        waves = torch.cos(math.pi * time[:, None] * torch.arange(TIMES, device=time.device))
        told = self.told(torch.cat([waves, given.common], dim=1))
        x = self.enter(torch.cat([functional.pixel_unshuffle(noisy, BLOCK), given.plan], dim=1))
        fine = self.fine(x, told)
        middle = self.middle(functional.avg_pool2d(fine, 2), told)
        x = self.coarse(functional.avg_pool2d(middle, 2), told)
        x = self.after(self.look(x, given.rows), told)
        x = self.wider(torch.cat([_twice(x), middle], dim=1), told)
        x = self.finest(torch.cat([_twice(x), fine], dim=1), told)
        return functional.pixel_shuffle(self.leave(x), BLOCK)


class _Block(nn.Module):
    """Two convolutions, scaled and shifted by what is told, beside the way around them."""

    def __init__(self, before: int, after: int, told: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.told = nn.Linear(told, 2 * after)
        self.norm = nn.GroupNorm(8, after)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.around = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told)[:, :, None, None].chunk(2, dim=1)
        y = functional.silu(self.norm(self.first(x)) * (1 + scale) + shift)
        out: Tensor = self.around(x) + self.second(y)
        return out


class _Look(nn.Module):
    """Every position of a map (B, D, h, w) looks at the rows (B, N, 128), and at all other positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.rows = nn.Linear(INNER, 2 * channels)
        self.own = nn.Linear(channels, 3 * channels)
        self.place = nn.Parameter(torch.randn(channels, (SIDE // BLOCK // 4) ** 2) / channels**0.5)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        # Written out: torch's fused attention has no backward pass that is the same every time on a GPU.
        here = (self.norm(x).flatten(2) + self.place).transpose(1, 2)
        asks, keys, values = self.own(here).chunk(3, dim=2)
        far_keys, far_values = self.rows(rows).chunk(2, dim=2)
        keys, values = torch.cat([keys, far_keys], dim=1), torch.cat([values, far_values], dim=1)
        weights = (asks @ keys.transpose(1, 2) / asks.shape[2] ** 0.5).softmax(dim=2)
        out: Tensor = x + self.out(weights @ values).transpose(1, 2).reshape(x.shape)
        return out


def _begin_with_nothing(network: nn.Module) -> None:
    """Let a network's last convolution give 0."""
    last = [m for m in network.modules() if isinstance(m, nn.Conv2d)][-1]
    for p in last.parameters():
        nn.init.zeros_(p)


def _twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
