"""The features that founding trains on: the tuned taps, the neck that is computed from them, and what it leaves."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.core.ports import Progress
from featureloop.core.types import Float32, Task, UInt8
from featureloop.model.early_cache import EarlyCache
from featureloop.model.export import export_onnx
from featureloop.model.fit import BagSet
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.manifest import RecognizerSpec
from featureloop.model.neck import BREADTH, SET_BREADTH, Transform, fit_transform
from featureloop.model.pooling import (
    DEVIATION,
    EXPONENT,
    GENERALIZED_MEAN,
    LEAST_POWER,
    LEAST_VARIANCE,
    MEAN,
    POOLING,
)
from featureloop.model.runtime import open_session
from featureloop.model.sensitivity import fisher_information

SET_CHANNELS = 160
POOL_CHANNELS = 48
"""Channels of a map that is pooled: each makes one value a statistic."""
BASIS_CHANNELS = 192
"""Directions of the taps among which a neck that is trained may choose."""
SAMPLED_POSITIONS = 60_000
"""Position vectors that the neck's transform is computed from."""
ASKED_FRAMES = 400
"""Frames over which it is measured what recognition is sensitive to."""


def pool_map(z: Tensor, pooling: Sequence[str] = POOLING) -> Tensor:
    """(B, C, G, G) to (B, 1, P C) for P statistics of each channel, as `sharing.anonymize.pool`.

    Beyond [-1, 1], as taps may be, the generalized mean goes on above and takes what is below for -1.
    In float32, whatever the map is in: smaller floats can't hold the least power and variance.
    """
    z = z.float()
    mean = z.mean((2, 3))
    found = {
        MEAN: lambda: mean,
        DEVIATION: lambda: torch.sqrt(((z - mean[:, :, None, None]) ** 2).mean((2, 3)) + LEAST_VARIANCE),
        GENERALIZED_MEAN: lambda: _generalized_mean(z),
    }
    return torch.cat([found[name]() for name in pooling], dim=1)[:, None, :]


def _generalized_mean(z: Tensor) -> Tensor:
    power = (((z + 1) / 2).clamp_min(0) ** EXPONENT).mean((2, 3))
    return 2 * power.clamp_min(LEAST_POWER) ** (1 / EXPONENT) - 1


def map_to_rows(z: Tensor) -> Tensor:
    """(B, C, G, G) to position vectors (B, G * G, C)."""
    return z.flatten(2).transpose(1, 2)


def to_vectors(z: Tensor, spec: RecognizerSpec, pooling: Sequence[str]) -> Tensor:
    """A map (B, C, G, G) as what a recognizer of this form takes."""
    return map_to_rows(z) if spec.anonymizer == "set" else pool_map(z, pooling)


def frame_shares(targets: UInt8, *, task: Task) -> NDArray[np.float64]:
    """How often each frame is drawn, float64 (M,), summing to 1: those of rare classes more often.

    A class is drawn by the square root of its share, half of the way (in logarithms) to all classes alike.

    Parameters
    ----------
    targets
        uint8 (M, N, T).
    """
    if task is not Task.CLASSIFICATION:
        return np.full(len(targets), 1 / len(targets))
    labels = targets[:, 0].argmax(axis=1)
    shares = 1 / np.sqrt(np.bincount(labels)[labels])
    return np.asarray(shares / shares.sum())


class LateRun:
    """What follows the early features, in ONNX Runtime.

    Parameters
    ----------
    network
        Early features (B, E, h, w) to a map.
    cache
        Early features of the shape that it takes.
    batch
        Rows of a cache that are run at once.
    """

    def __init__(self, network: nn.Module, cache: EarlyCache, *, batch: int) -> None:
        self._batch = batch
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "late.onnx"
            example = torch.zeros(2, *cache.features.shape[1:])
            export_onnx(network, example, path, source="early", result="map", dynamic={0: "batch"})
            self._session = open_session(path)

    def maps(self, early: NDArray[np.float16]) -> Float32:
        """The maps of early features (B, E, h, w)."""
        return cast(Float32, self._session.run(None, {"early": early.astype(np.float32)})[0])

    def over(self, cache: EarlyCache, chosen: NDArray[np.intp], *, what: str, progress: Progress) -> Iterator[Float32]:
        """The maps of chosen cache rows, a batch at a time."""
        for start in range(0, len(chosen), self._batch):
            at = chosen[start : start + self._batch]
            yield self.maps(cache.features[at])
            progress(what, start + len(at), len(chosen))


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """Joined taps of many positions, float32 (M, D), and how much recognition depends on them, float64 (D, D)."""

    rows: Float32
    information: NDArray[np.float64]


def sample_taps(
    late: LateRun,
    head: nn.Module,
    cache: EarlyCache,
    spec: RecognizerSpec,
    *,
    task: Task,
    settings: FoundingSettings,
    rng: np.random.Generator,
    progress: Progress,
) -> Sampled:
    """Positions of the original frames and of one augmentation of each, and what recognition asks of them."""
    versions = settings.augmentations + 1
    frames = len(cache.targets) // versions
    originals = np.arange(frames) * versions
    chosen = np.unique(np.concatenate([originals, originals + versions - 1]))
    rows = []
    for joined in late.over(cache, chosen, what="taps", progress=progress):
        vectors = joined.reshape(*joined.shape[:2], -1).transpose(0, 2, 1)
        each = max(1, min(vectors.shape[1], SAMPLED_POSITIONS // len(chosen)))
        rows += [v[rng.choice(len(v), each, replace=False)] for v in vectors]
    asked = rng.permutation(chosen)[:ASKED_FRAMES]
    information = fisher_information(
        lambda joined: head(to_vectors(joined, spec, settings.statistics)),
        late.over(cache, asked, what="sensitivity", progress=progress),
        task=task,
        seed=settings.seed,
    )
    return Sampled(np.concatenate(rows), information)


def neck_transform(sampled: Sampled, spec: RecognizerSpec, settings: FoundingSettings) -> Transform:
    """Compute the neck's transform."""
    if spec.anonymizer == "set":
        budget, limit, breadth = settings.bits_per_vector, settings.channels or SET_CHANNELS, SET_BREADTH
    else:
        budget, limit, breadth = math.inf, settings.channels or POOL_CHANNELS, BREADTH
    return fit_transform(
        sampled.rows,
        bits_per_vector=budget,
        max_channels=limit,
        information=sampled.information,
        breadth=breadth if settings.breadth is None else settings.breadth,
    )


def basis_transform(sampled: Sampled) -> Transform:
    """The directions that a neck which is trained may choose among: the computed neck's, and those that come next."""
    return fit_transform(
        sampled.rows, bits_per_vector=math.inf, max_channels=BASIS_CHANNELS, information=sampled.information
    )


def device_bags(
    extractor: LateRun,
    cache: EarlyCache,
    spec: RecognizerSpec,
    *,
    task: Task,
    settings: FoundingSettings,
    progress: Progress,
) -> BagSet:
    """All cached versions as a device has them: position vectors or pooled vectors, float32, not rounded yet."""
    every = np.arange(len(cache.targets))
    values = np.concatenate(
        [
            to_vectors(torch.from_numpy(z), spec, settings.statistics).numpy()
            for z in extractor.over(cache, every, what="features", progress=progress)
        ]
    )
    channels, n = values.shape[2], len(values)
    one, zero = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    shares = frame_shares(cache.targets, task=task)
    return BagSet(values, cache.targets, shares, np.ones(n, np.float32), one, zero)
