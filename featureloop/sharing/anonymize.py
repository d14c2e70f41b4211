"""Anonymizers: what is removed from a feature map before it leaves.

`pool` leaves one vector per frame. `set` leaves all position vectors in an
order that is computed from their values alone, so that where they stood can't
be read from it: any permutation of the positions gives the same record.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import PolicyError
from featureloop.core.types import Bag, Float32
from featureloop.model.manifest import ReleasedForm
from featureloop.model.pooling import (
    DEVIATION,
    EXPONENT,
    GENERALIZED_MEAN,
    LEAST_POWER,
    LEAST_VARIANCE,
    MEAN,
    POOLING,
    check_pooling,
)

Float64 = NDArray[np.float64]


def pool(vectors: Float32, pooling: Sequence[str] = POOLING) -> Float32:
    """Statistics of each channel, one of all channels after the other: float32 (N, C) to (1, P C).

    Computed in float64 and from sorted values, so that the order of the rows
    does not show in the last bits.

    Parameters
    ----------
    vectors
        Values in [-1, 1]; `model.pooling.BOUNDS` says the results' bounds.
    pooling
        Of `mean`, `generalized-mean` and `deviation`.

    Raises
    ------
    InputError
        A statistic is unknown or given twice.
    """
    check_pooling(pooling)
    x = np.sort(vectors.astype(np.float64), axis=0)
    return np.concatenate([_STATISTICS[name](x) for name in pooling]).astype(np.float32)[None]


def _mean(x: Float64) -> Float64:
    return np.asarray(x.mean(axis=0))


def _deviation(x: Float64) -> Float64:
    return np.asarray(np.sqrt(((x - x.mean(axis=0)) ** 2).mean(axis=0) + LEAST_VARIANCE))


def _generalized_mean(x: Float64) -> Float64:
    power = (np.maximum((x + 1) / 2, 0) ** EXPONENT).mean(axis=0)
    return np.asarray(2 * np.maximum(power, LEAST_POWER) ** (1 / EXPONENT) - 1)


_STATISTICS = {MEAN: _mean, GENERALIZED_MEAN: _generalized_mean, DEVIATION: _deviation}


def canonical_order(bag: Bag) -> Bag:
    """The bag with its rows sorted by their quantized values, then by their targets.

    Rows that are equal in both are interchangeable, so the result is
    bit-identical for every permutation of the input.
    """
    own = len(bag.recognized) == len(bag.symbols)
    rows = [bag.symbols]
    if own:
        rows += [r for r in (bag.recognized, bag.changed) if r is not None]
    keys = np.ascontiguousarray(np.concatenate(rows, axis=1))
    # Rows as opaque bytes compare byte by byte, the first column first.
    order = keys.view(np.dtype((np.void, keys.shape[1]))).ravel().argsort(kind="stable")
    if not own:
        return Bag(bag.symbols[order], bag.recognized, bag.changed)
    return Bag(
        bag.symbols[order],
        bag.recognized[order],
        None if bag.changed is None else bag.changed[order],
    )


def release_vectors(vectors: Float32, released: ReleasedForm) -> Float32:
    """The vectors that recognition and sharing work on, for a released form.

    Raises
    ------
    PolicyError
        The anonymizer is unknown.
    """
    if released.anonymizer == "pool":
        return pool(vectors, released.statistics)
    if released.anonymizer == "set":
        return vectors
    raise PolicyError(f"anonymizer '{released.anonymizer}' is unknown; known are pool, set")
