"""Nearest rows: two records are alike as far as the rarest rows of one have a like one among the other's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featureloop.audit.descriptors import Codebooks, nearest_of
from featureloop.audit.material import Release
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Float32

ASKING, ANSWERING = 32, 160
"""Rows of a record that ask, and that answer: those farthest from what all records hold."""
KEPT_SHARE = 0.95
"""Of the rows' variance, in the components that they are compared by."""


def row_votes(
    queries: Sequence[Release], gallery: Sequence[Release], books: Codebooks, *, progress: Progress = silent
) -> Float32:
    """Mean similarity of a query's rarest rows with their nearest rows of every record, float32 (Q, R)."""
    base = _basis(gallery, books)
    asked = [_rarest(r, books, base, ASKING) for r in queries]
    answers = [_rarest(r, books, base, ANSWERING) for r in gallery]
    starts = np.cumsum([0] + [len(a) for a in answers[:-1]])
    whole = np.concatenate(answers).T.copy()
    out = np.zeros((len(queries), len(gallery)), np.float32)
    for i, rows in enumerate(asked):
        out[i] = np.maximum.reduceat(rows @ whole, starts, axis=1).mean(0)
        progress("nearest rows", i + 1, len(asked))
    return out


def _basis(releases: Sequence[Release], books: Codebooks) -> Float32:
    """Whitening components of the rows that are searched, float32 (C, K)."""
    rows = np.concatenate([books.standard(r.values)[::8] for r in releases])
    sizes, directions = np.linalg.eigh(np.cov(rows.T) + 1e-6 * np.eye(rows.shape[1]))
    kept = np.cumsum(sizes[::-1]) <= KEPT_SHARE * sizes.sum()
    kept[0] = True
    return np.asarray(directions[:, ::-1][:, kept] / np.sqrt(sizes[::-1][kept]), np.float32)


def _rarest(release: Release, books: Codebooks, base: Float32, count: int) -> Float32:
    """The rows farthest from the coarse codebook, whitened, of length 1, float32 (at most count, K)."""
    x = books.standard(release.values)
    far = ((x - books.coarse[nearest_of(x, books.coarse)]) ** 2).sum(1)
    y = x[np.argsort(-far, kind="stable")[:count]] @ base
    return np.asarray(y / (np.linalg.norm(y, axis=1, keepdims=True) + 1e-9), np.float32)
