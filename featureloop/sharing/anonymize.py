"""What anonymizers are made of: pooling, and an order that is computed from values alone.

`pool` leaves one vector per frame. Where position vectors leave, they stand in
canonical order, so that where they stood can't be read from it: any permutation
of the positions gives the same record. The way as a whole is `sharing.release`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featureloop.core.types import Bag, Float32, UInt8
from featureloop.model.forms import POOL
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


def canonical_order(bag: Bag, *, unit: int = 1) -> Bag:
    """The bag with its units of rows sorted by their quantized values, then by their targets.

    Units that are equal in both are interchangeable, so the result is
    bit-identical for every permutation of the input's units.

    Parameters
    ----------
    unit
        So many rows, one after the other, keep their order among themselves: a window's.
    """
    order = _order(bag, unit)
    if len(bag.recognized) != len(bag.symbols):
        return Bag(bag.symbols[order], bag.recognized, bag.changed, bag.soft)
    return Bag(
        bag.symbols[order],
        bag.recognized[order],
        None if bag.changed is None else bag.changed[order],
        bag.soft,
    )


def in_canonical_order(bag: Bag, *, unit: int = 1) -> bool:
    """Whether a bag's units of rows stand as `canonical_order` puts them."""
    return bool((_order(bag, unit) == np.arange(len(bag.symbols))).all())


def _order(bag: Bag, unit: int) -> NDArray[np.intp]:
    """The rows' numbers in canonical order, intp (N,)."""
    rows = [bag.symbols]
    if len(bag.recognized) == len(bag.symbols):
        rows += [r for r in (bag.recognized, bag.changed) if r is not None]
    # The symbols of a unit's rows come first, then the rows' targets.
    order = by_columns(np.concatenate([r.reshape(len(r) // unit, unit * r.shape[1]) for r in rows], axis=1))
    return np.asarray((order[:, None] * unit + np.arange(unit)).reshape(-1))


def by_columns(rows: UInt8) -> NDArray[np.intp]:
    """The numbers of rows uint8 (N, K) in their order by the first column, then the second, and so on: intp (N,)."""
    rows = np.ascontiguousarray(rows)
    # As opaque bytes they compare byte by byte.
    return rows.view(np.dtype((np.void, rows.shape[1]))).ravel().argsort(kind="stable")


def release_vectors(vectors: Float32, released: ReleasedForm) -> Float32:
    """The vectors that recognition works on for a released form: the pooled one, or the whole map's.

    What leaves of them is `sharing.release`'s business.
    """
    return pool(vectors, released.statistics) if released.form.base == POOL else vectors
