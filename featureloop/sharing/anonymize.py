"""Anonymizers: what is removed from a feature map before it leaves.

`pool` leaves one vector per frame. `set` leaves all position vectors in an
order that is computed from their values alone, so that where they stood can't
be read from it: any permutation of the positions gives the same record.
"""

from __future__ import annotations

import numpy as np

from featureloop.core.errors import PolicyError
from featureloop.core.types import Bag, Float32


def pool(vectors: Float32) -> Float32:
    """Each channel's mean and standard deviation: float32 (N, C) to (1, 2C).

    Computed in float64, so that the order of the rows does not show in the last bits.
    """
    x = np.sort(vectors.astype(np.float64), axis=0)
    mean = x.mean(axis=0)
    std = np.sqrt(((x - mean) ** 2).mean(axis=0) + 1e-12)
    return np.concatenate([mean, std]).astype(np.float32)[None]


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


def release_vectors(vectors: Float32, anonymizer: str) -> Float32:
    """The vectors that recognition and sharing work on, for a released form.

    Raises
    ------
    PolicyError
        The anonymizer is unknown.
    """
    if anonymizer == "pool":
        return pool(vectors)
    if anonymizer == "set":
        return vectors
    raise PolicyError(f"anonymizer '{anonymizer}' is unknown; known are pool, set")
