"""What a neck is trained on against what it must not tell: positions of several takes of each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featureloop.core.ports import Progress
from featureloop.core.types import Float32, Frame, UInt8
from featureloop.model.adversaries import PLACES
from featureloop.model.early_cache import EarlyCache
from featureloop.model.founding_features import LateRun, map_to_rows, pool_map
from featureloop.model.lesson import Batch
from featureloop.model.pooling import BOUNDS

POSITIONS = 100
"""Positions of each take, at most."""
POOLED_LEVELS = 255
TOLD = PLACES + 1
"""Columns beside the targets: places, and the group's number."""


@dataclass(frozen=True, slots=True, eq=False)
class Takes:
    """Versions of frames to learn from, those of one frame side by side, the original first.

    Attributes
    ----------
    values
        float16 (M, K, R): at R positions of each, the taps on a basis of K uncorrelated directions, of which 1 is
        five standard deviations.
    targets
        uint8 (M, R, T), or (M, 1, T) where the whole frame has one row.
    places
        float32 (M, R, 3): x and y of each position from -1 to 1, and its distance to the nearest border.
    groups
        float32 (M,), the number of each one's group.
    versions
        Of every frame.
    """

    values: NDArray[np.float16]
    targets: UInt8
    places: Float32
    groups: Float32
    versions: int

    def __len__(self) -> int:
        return len(self.values)

    @property
    def frames(self) -> int:
        """How many frames they are of."""
        return len(self) // self.versions

    @property
    def originals(self) -> NDArray[np.intp]:
        """The numbers of the frames as they were."""
        return np.arange(0, len(self), self.versions)

    def batch(self, at: NDArray[np.intp]) -> Batch:
        """Some of them; their rows of targets, places and group in one array (B, R, T + 4)."""
        rows = self.values.shape[2]
        targets = self.targets[at].astype(np.float32)
        targets = np.broadcast_to(targets, (len(at), rows, targets.shape[2]))
        groups = np.broadcast_to(self.groups[at][:, None, None], (len(at), rows, 1))
        y = np.concatenate([targets, self.places[at], groups], axis=2)
        return Batch(self.values[at].astype(np.float32), y, np.ones(len(at), np.float32))


def told_of(y: Tensor) -> tuple[Tensor, Tensor]:
    """Places (B, R, 3) and groups (B,) of a batch of takes."""
    return y[..., -TOLD:-1], y[:, 0, -1]


def group_numbers(frames: Sequence[Frame]) -> Float32:
    """The number of each frame's group, float32 (M,); a frame without one is its own."""
    names = [frame.group or f"{frame.name}#{frame.index}" for frame in frames]
    return np.unique(names, return_inverse=True)[1].astype(np.float32)


def gather_takes(
    late: LateRun, cache: EarlyCache, groups: Float32, *, versions: int, seed: int, progress: Progress
) -> Takes:
    """Positions of all cached versions, drawn by the seed.

    Parameters
    ----------
    late
        From early features to the basis of the takes, (B, K, G, G).
    groups
        float32 (frames,), the number of each frame's group.
    """
    rng = np.random.default_rng((seed, 5))
    own = cache.targets.shape[1] > 1
    values: list[NDArray[np.float16]] = []
    targets, places = [], []
    for found in late.over(cache, np.arange(len(cache)), what="takes", progress=progress):
        grid, rows = grid_places(found.shape[2]), found.reshape(*found.shape[:2], -1)
        for one in rows:
            at = rng.permutation(len(grid))[:POSITIONS]
            i = len(values)
            values.append(one[:, at].astype(np.float16))
            targets.append(cache.targets[i][at] if own else cache.targets[i])
            places.append(grid[at])
    return Takes(np.stack(values), np.stack(targets), np.stack(places), groups.repeat(versions), versions)


def grid_places(side: int) -> Float32:
    """Where the positions of a map are, float32 (side * side, 3): x, y from -1 to 1, distance to the nearest border."""
    y, x = np.mgrid[:side, :side]
    border = np.minimum(np.minimum(x, y), side - 1 - np.maximum(x, y))
    half = max(1.0, (side - 1) / 2)
    return np.stack([x / half - 1, y / half - 1, border / half], axis=-1).reshape(-1, PLACES).astype(np.float32)


class Pairs:
    """Two takes of the group of each of some frames: versions of the frame, or of two frames where the group has more.

    Parameters
    ----------
    takes
        To draw from; half of the first ones are the frames as they were.
    """

    def __init__(self, takes: Takes) -> None:
        self._versions, self._groups = takes.versions, takes.groups[takes.originals]
        self._members = {g: np.flatnonzero(self._groups == g) for g in np.unique(self._groups).tolist()}

    def __call__(self, frames: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
        """Numbers of takes, intp (2 B,), those of a pair side by side."""
        out = []
        for i in frames.tolist():
            members = self._members[float(self._groups[i])]
            other = int(rng.choice(members[members != i])) if len(members) > 1 and rng.random() < 0.5 else i
            first = 0 if rng.random() < 0.5 else int(rng.integers(self._versions))
            second = int(rng.integers(self._versions))
            if other == i and second == first:
                second = (first + 1) % self._versions
            out += [i * self._versions + first, other * self._versions + second]
        return np.array(out)


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """How what a neck makes is released, in training.

    Attributes
    ----------
    step
        float32 (C,), of the quantization of what is released.
    pooling
        Statistics of each channel; empty where vectors leave as they are.
    """

    step: Float32
    pooling: tuple[str, ...]

    @property
    def rows(self) -> bool:
        """Whether position vectors leave, and not one of their statistics."""
        return not self.pooling

    def of(self, z: Tensor) -> Tensor:
        """Maps (B, C, R, 1) as what leaves, (B, N, C), before its quantization."""
        return map_to_rows(z) if self.rows else pool_map(z, self.pooling)

    def dithered(self, released: Tensor) -> Tensor:
        """Releases with the quantization's error in the form of noise."""
        return released + torch.from_numpy(self.step).to(released) * (torch.rand_like(released) - 0.5)

    def quantized(self, released: Tensor) -> Tensor:
        """Releases as the codec leaves them: every bound is a level, and so is 0."""
        step = torch.from_numpy(self.step).to(released)
        return torch.round(released / step) * step


def form_of(levels: Sequence[int], pooling: tuple[str, ...]) -> Form:
    """The form in which channels of so many levels leave, pooled where statistics are named."""
    if not pooling:
        return Form(np.float32(2) / (np.array(levels, np.float32) - np.float32(1)), ())
    steps = [(BOUNDS[name][1] - BOUNDS[name][0]) / (POOLED_LEVELS - 1) for name in pooling for _ in levels]
    return Form(np.array(steps, np.float32), pooling)
