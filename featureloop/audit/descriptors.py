"""Descriptors: one vector of what a record holds, whatever the order and number of its rows.

Several, since none is the strongest for every form: means and deviations (what pooling keeps), quantiles (sorted
values), second moments (Carreira et al. 2012), and counts and residuals of a codebook (Sivic & Zisserman 2003;
Jégou et al. 2010); and, of a form that keeps some of the order, what the order tells. The rows of targets that go along
are described too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from featureloop.audit.material import Release
from featureloop.core.types import AnyArray, Float32

WORDS, COARSE = 512, 16
"""Entries of the codebook that rows are counted by, and of the one that residuals are taken from."""
QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
CELLS = 8
"""Per side of the ordered map of the positive control."""
SAMPLE, ROUNDS = 20_000, 8
"""Rows that a codebook is learned from, and rounds of its k-means."""


class Codebooks:
    """What the attacker knows of values: the scale of its channels, and its rows' clusters.

    Parameters
    ----------
    releases
        The attacker's.
    unit
        Rows that a record keeps together as they stood, a square of the map: 1, a window's, or the whole map's.
    """

    def __init__(self, releases: Sequence[Release], *, seed: int, unit: int = 1) -> None:
        self.side = math.isqrt(unit)
        rng = np.random.default_rng((seed, 31))
        rows = np.concatenate([r.values for r in releases])
        self.mean, self.spread = rows.mean(0), rows.std(0) + np.float32(1e-6)
        self.single = max(len(r.values) for r in releases) == 1
        sample = (rows[rng.permutation(len(rows))[:SAMPLE]] - self.mean) / self.spread
        self.words = k_means(sample, WORDS, rng) if not self.single else sample[:0]
        self.coarse = k_means(sample, COARSE, rng) if not self.single else sample[:0]

    def standard(self, values: Float32) -> Float32:
        """Values in units of their channels' deviation, float32 (N, C)."""
        return np.asarray((values - self.mean) / self.spread, np.float32)


def describe(releases: Sequence[Release], books: Codebooks) -> Mapping[str, Float32]:
    """Descriptors of records, float32 (M, D) each, by name.

    Of a pooled form there is one: the vector itself, with the recognition.
    """
    result = np.stack([_of_rows(r.rows) for r in releases])
    x = [books.standard(r.values) for r in releases]
    if books.single:
        return {"vector": np.concatenate([np.stack([v[0] for v in x]), result], axis=1)}
    moments = [np.concatenate([v.mean(0), v.std(0)]) for v in x]
    found = {
        "mean": np.stack([v.mean(0) for v in x]),
        "mean and deviation": np.concatenate([np.stack(moments), result], axis=1),
        "quantiles": np.stack([np.quantile(v, QUANTILES, axis=0).ravel() for v in x]),
        "second moments": np.stack([_second(v) for v in x]),
        "words": _inverse_frequency(np.stack([_counts(v, books.words) for v in x])),
        "residuals": np.stack([_residuals(v, books.coarse) for v in x]),
    }
    if books.side > 1:
        found["order"] = np.stack([_order(v, books.side) for v in x])
    return {name: np.asarray(d, np.float32) for name, d in found.items()}


def describe_ordered(maps: Float32) -> Mapping[str, Float32]:
    """Descriptors of ordered maps float32 (M, C, h, w): their cells' means in order, and their channels' moments."""
    m, c, h, _ = maps.shape
    k = max(1, h // CELLS)
    cut = maps[:, :, : h // k * k, : h // k * k].reshape(m, c, h // k, k, h // k, k).mean((3, 5))
    flat = maps.reshape(m, c, -1)
    moments = np.concatenate([flat.mean(2), flat.std(2)], axis=1)
    return {"ordered map": cut.reshape(m, -1).astype(np.float32), "mean and deviation": moments.astype(np.float32)}


def k_means(x: Float32, count: int, rng: np.random.Generator) -> Float32:
    """Centres of clusters of rows, float32 (K, C), K at most `count` (Lloyd's algorithm)."""
    centres = x[rng.permutation(len(x))[:count]].copy()
    for _ in range(ROUNDS):
        nearest = nearest_of(x, centres)
        counts = np.bincount(nearest, minlength=len(centres))
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, x)
        centres[counts > 0] = sums[counts > 0] / counts[counts > 0, None]
    return centres


def nearest_of(x: Float32, centres: Float32) -> NDArray[np.intp]:
    """The nearest centre of every row, intp (N,)."""
    return np.asarray((0.5 * (centres**2).sum(1) - x @ centres.T).argmin(1))


def _of_rows(rows: AnyArray) -> Float32:
    """What the recognition says: float32 (2 T,)."""
    return np.concatenate([rows.mean(0), rows.std(0)]).astype(np.float32) if len(rows) else np.zeros(0, np.float32)


def _order(v: Float32, side: int) -> Float32:
    """What rows kept as they stood tell: how channels change between neighbours, and of a whole map its cells."""
    squares = v.reshape(-1, side, side, v.shape[1])
    changes = [np.abs(np.diff(squares, axis=axis)).mean((0, 1, 2)) for axis in (1, 2)]
    if len(squares) > 1:
        return np.concatenate(changes)
    parts = np.array_split(np.arange(side), min(side, CELLS))
    cells = [squares[0][a][:, b].mean((0, 1)) for a in parts for b in parts]
    return np.concatenate([*changes, *cells])


def _second(v: Float32) -> Float32:
    """Mean and covariance, the signed roots of their entries."""
    centred = v - v.mean(0)
    upper = (centred.T @ centred / len(v))[np.triu_indices(v.shape[1])]
    return np.concatenate([v.mean(0), np.sign(upper) * np.sqrt(np.abs(upper))])


def _counts(v: Float32, words: Float32) -> Float32:
    return np.sqrt(np.bincount(nearest_of(v, words), minlength=len(words)) / np.float32(len(v))).astype(np.float32)


def _inverse_frequency(counts: Float32) -> Float32:
    """Words that few records hold count for more (Sivic & Zisserman 2003)."""
    held = (counts > 0).sum(0)
    return np.asarray(counts * np.log((1 + len(counts)) / (1 + held)), np.float32)


def _residuals(v: Float32, centres: Float32) -> Float32:
    """Mean distance of the rows of every cluster from its centre, in every channel (Jégou et al. 2010)."""
    nearest, out = nearest_of(v, centres), np.zeros_like(centres)
    np.add.at(out, nearest, v - centres[nearest])
    flat = out.ravel() / len(v)
    return np.sign(flat) * np.sqrt(np.abs(flat))
