"""The tables by which forms that keep an order are coded, fitted to founding frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featureloop.core.types import UInt8
from featureloop.model.manifest import OrderTables
from featureloop.model.manifest_checks import CONTEXTS, ORDER_TOTAL
from featureloop.sharing.ordered import ONE, expected, lines_of

Float64 = NDArray[np.float64]
RIDGE = 10.0
"""Added to the neighbours' scatter, in squared levels of one row each."""
MOST = 1 << 15
"""The largest weight."""
USUAL = 2.0
"""So many rows of the channel's usual differences are added to each of its tables."""


def order_tables(levels: Sequence[int], bags: Sequence[UInt8], *, side: int) -> OrderTables:
    """Tables for units of side x side rows.

    Parameters
    ----------
    levels
        Of each channel.
    bags
        Symbols of founding frames, uint8 (N, C), in units one after the other.
    """
    symbols = np.concatenate([*bags, np.zeros((0, len(levels)), np.uint8)])
    units = symbols.reshape(len(symbols) // side**2, side**2, len(levels)).transpose(1, 0, 2)
    lines = lines_of(side)
    at, beside = (np.concatenate([line[i] for line in lines]) for i in (0, 1)) if lines else (np.zeros(0, int),) * 2
    weights, tables = [], []
    for c, count in enumerate(levels):
        own = units[at, :, c].reshape(-1).astype(np.int64)
        near = (
            units[beside, :, c].transpose(1, 0, 2).reshape(4, -1).astype(np.int64) if len(at) else np.zeros((4, 0), int)
        )
        weights.append(_weights(own, near, count))
        found = expected(near[..., None], np.array(weights[-1])[:, None], np.array([count]))
        cell = found.context * count + found.difference(own[:, None], np.array([count]))
        seen = np.bincount(cell.reshape(-1), minlength=CONTEXTS * count).reshape(CONTEXTS, count)
        tables.append(tuple(_frequencies(row + USUAL * _share(seen.sum(axis=0))) for row in seen))
    return OrderTables(tuple(weights), tuple(tables))


def _weights(own: NDArray[np.int64], near: NDArray[np.int64], count: int) -> tuple[int, ...]:
    """Of the four neighbours, and of none, by least squares of what is above a channel's middle."""
    x = np.concatenate([near - (count - 1) / 2, np.ones((1, near.shape[1]))])
    slope = np.linalg.solve(x @ x.T + RIDGE * np.eye(5), x @ (own - (count - 1) / 2))
    # Doubled values of neighbours are weighed in 512ths of a level, and so is what is added.
    return tuple(np.clip(np.rint(slope * (ONE, ONE, ONE, ONE, 2 * ONE)), -MOST, MOST).astype(int).tolist())


def _share(counts: NDArray[np.int64]) -> Float64:
    return np.asarray((counts + 0.5) / (counts + 0.5).sum())


def _frequencies(counts: Float64) -> tuple[int, ...]:
    """Counts to whole frequencies, each at least 1, summing to `ORDER_TOTAL`."""
    table = 1 + np.floor(counts / counts.sum() * (ORDER_TOTAL - len(counts))).astype(np.int64)
    table[int(table.argmax())] += ORDER_TOTAL - int(table.sum())
    return tuple(table.tolist())
