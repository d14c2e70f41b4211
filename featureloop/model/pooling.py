"""Pooling: which statistics of each channel make the one vector that is left of a frame.

The statistics themselves are computed twice: in numpy where vectors are
released (`sharing.anonymize.pool`), in torch where founding learns from them
(`model.founding_features.pool_map`). A test holds them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import InputError
from featureloop.core.types import Float32

Directions = tuple[tuple[float, ...], ...]
Float64 = NDArray[np.float64]

MEAN = "mean"
GENERALIZED_MEAN = "generalized-mean"
"""Of values shifted to [0, 1] and back (Radenović et al. 2018, arXiv:1711.02512): large values count for more."""
DEVIATION = "deviation"
"""The root of the second moment about the mean: how much a channel varies within the frame."""
BOUNDS = {MEAN: (-1.0, 1.0), GENERALIZED_MEAN: (-1.0, 1.0), DEVIATION: (0.0, 1.0)}
"""Exact bounds of each statistic of values in [-1, 1]."""
POOLING = (MEAN, DEVIATION)
"""What is taken where nothing is said."""
POOLED_BITS, BITS_A_CLASS = 4.0, 2.0
"""What a pooled vector may take: two bits for each class, and four at least (docs/benchmarks.md)."""
EXPONENT = 3
LEAST_POWER = 1e-12
"""A generalized mean's power is at least this, so that its root has a slope everywhere."""
LEAST_VARIANCE = 1e-12
"""Added to a variance, so that its root has a slope everywhere."""


def check_pooling(pooling: Sequence[str]) -> None:
    """Refuse statistics that are unknown or come twice.

    Raises
    ------
    InputError
        Which one, and what can be chosen.
    """
    for i, name in enumerate(pooling):
        if name not in BOUNDS:
            raise InputError(f"the pooling '{name}' is unknown; choose among {', '.join(BOUNDS)}")
        if name in pooling[:i]:
            raise InputError(f"the pooling '{name}' is given twice; give each of {', '.join(BOUNDS)} once at most")


def turned(vectors: Float32, directions: Directions) -> Float64:
    """What vectors (N, C) have along each of C directions, float64 (N, C): their products; without any, as they are."""
    values = vectors.astype(np.float64)
    return values @ _matrices(directions)[0].T if directions else values


def turned_back(coefficients: NDArray[np.floating], directions: Directions) -> Float32:
    """The vectors, float32 (N, C), of what `turned` made of them."""
    if not directions:
        return coefficients.astype(np.float32)
    values: Float32 = (coefficients.astype(np.float64) @ _matrices(directions)[1].T).astype(np.float32)
    return values


@lru_cache(maxsize=16)
def _matrices(directions: Directions) -> tuple[Float64, Float64]:
    """The directions as rows, and the matrix that undoes them, float64 (C, C)."""
    rows = np.array(directions)
    return rows, np.linalg.inv(rows)


def pooled_bits(classes: int) -> float:
    """What a pooled vector may take where nothing is said."""
    return max(POOLED_BITS, BITS_A_CLASS * classes)


def pooled_bounds(pooling: Sequence[str], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lowest and highest values of a pooled vector of a map of `channels`: one statistic of all after the other."""
    low = tuple(BOUNDS[name][0] for name in pooling for _ in range(channels))
    high = tuple(BOUNDS[name][1] for name in pooling for _ in range(channels))
    return low, high
