"""The tables by which a package's sets are coded, fitted to its founding frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln

from featureloop.core.types import Bag, UInt8
from featureloop.model.manifest import BagTables
from featureloop.sharing.codec import frequency_table
from featureloop.sharing.coding import TOTAL
from featureloop.sharing.multiset import Urns
from featureloop.sharing.rows import ALL, BOTH, NEIGHBOURHOODS, NONE, neighbourhood, row_kinds
from featureloop.sharing.splits import FEW, Int64, tree_of
from featureloop.sharing.urns import MOST, UNIT
from featureloop.sharing.walk import Sorted, walk

Float64 = NDArray[np.float64]
CLASSES = 16
"""Classes of scores."""
FLAGGED = 8
"""So many times as much rows with a flag count when the classes' bounds are chosen: they say more."""
RIDGE = 1e-3
"""Of the symbols' mean scatter, where a score's weights are fitted."""
WEIGHT = 1 << 12
"""The largest weight of a score."""
BALLS = 2.0 ** np.arange(-3, 9)
"""Balls of an urn, of which the likeliest number is taken."""
UNCHANGED, KEPT = 50.0, 4.0
"""How often a kind, and a flag, is taken to have stayed as recognized, before any was seen."""


def bag_tables(
    levels: Sequence[int], bags: Sequence[Bag], doubted: Sequence[tuple[UInt8, UInt8]], *, flags: int, side: int = 1
) -> BagTables:
    """Tables for sets of rows.

    Parameters
    ----------
    levels
        Of each channel.
    bags
        Of founding frames, in canonical order, the truth as what was recognized.
    doubted
        What was recognized of frames that nothing was learned from, and their truth, uint8 (N, T) each.
    flags
        How many values of a row of targets are flags.
    side
        Positions per side of what keeps its order: only the first row of each such unit is one of a set.
    """
    symbols = np.concatenate([b.symbols for b in bags])
    rows = np.concatenate([b.recognized for b in bags])[:, :flags]
    weights, thresholds, kinds = _classes(symbols, rows)
    changed_kinds, changed_flags = _changes(doubted, flags)
    return BagTables(
        _urns(levels, [b.symbols[:: side * side] for b in bags]),
        weights,
        thresholds,
        kinds,
        _flags(rows),
        changed_kinds,
        changed_flags,
    )


class _Counter:
    """Tells a bag's tree, and counts."""

    def __init__(self, bag: Sorted, seen: Sequence[list[Int64]]) -> None:
        self._bag, self._seen = bag, seen
        self.at, self.equal = bag.at, bag.equal

    def levels(self, c: int, rows: Int64, size: Int64) -> Int64:
        told = self._bag.levels(c, rows, size)
        first, sizes, below, _ = tree_of(len(told)).asked(told)
        self._seen[c].append(np.stack([first // (FEW + 1), sizes, below]))
        return told


def _urns(levels: Sequence[int], bags: Sequence[UInt8]) -> Urns:
    seen: list[list[Int64]] = [[] for _ in levels]
    for symbols in bags:
        walk(len(symbols), levels, _Counter(Sorted(symbols, levels), seen))
    urns = []
    for own, count in zip(seen, levels, strict=True):
        split, size, below = np.concatenate([np.zeros((3, 0), np.int64), *own], axis=1)
        urns.append(tuple(fit_urn(size[split == t], below[split == t]) for t in range(count - 1)))
    return tuple(urns)


def fit_urn(drawn: Int64, light: Int64) -> tuple[int, int]:
    """The likeliest urn, in sixteenths of a ball, where of `drawn` balls `light` were light: int64 (M,) each."""
    if not len(drawn):
        return UNIT, UNIT
    (n, k), weight = np.unique(np.stack([drawn, light]), axis=1, return_counts=True)
    best, found = -np.inf, (UNIT, UNIT)
    for share in {(k * weight).sum() / (n * weight).sum(), (k / n * weight).sum() / weight.sum()}:
        p = (share * len(n) + 0.5) / (len(n) + 1)
        for balls in BALLS:
            a, b = (int(np.clip(round(UNIT * balls * x), 1, MOST)) for x in (p, 1 - p))
            likelihood = float((weight * (betaln(k + a / UNIT, n - k + b / UNIT) - betaln(a / UNIT, b / UNIT))).sum())
            if likelihood > best:
                best, found = likelihood, (a, b)
    return found


def _classes(symbols: UInt8, rows: UInt8) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Weights of the score, bounds of its classes, and how often rows of each are of which kind."""
    kinds = row_kinds(rows, rows.shape[1])
    if len(rows) != len(symbols):
        weights = np.zeros(symbols.shape[1], np.int64)
        return tuple(weights.tolist()), (), (frequency_table(np.bincount(kinds, minlength=3)),)
    x, y = symbols.astype(np.float64), rows.mean(axis=1, dtype=np.float64)
    centred = x - x.mean(axis=0)
    scatter = centred.T @ centred
    ridge = (RIDGE * np.trace(scatter) / len(scatter) + 1) * np.eye(len(scatter))
    slope = np.linalg.solve(scatter + ridge, centred.T @ y)
    weights = np.rint(WEIGHT * slope / max(float(np.abs(slope).max()), 1e-12)).astype(np.int64)
    scores = symbols.astype(np.int64) @ weights
    spread = np.concatenate([scores, np.repeat(scores[kinds != NONE], FLAGGED)])
    bounds = np.quantile(spread, np.arange(1, CLASSES) / CLASSES).round().astype(np.int64)
    classes = np.searchsorted(bounds, scores)
    tables = [np.bincount(kinds[classes == i], minlength=3) for i in range(CLASSES)]
    return tuple(weights.tolist()), tuple(bounds.tolist()), tuple(frequency_table(t) for t in tables)


def _flags(rows: UInt8) -> tuple[tuple[int, ...], ...]:
    both = rows[row_kinds(rows, rows.shape[1]) == BOTH]
    return tuple(
        _shares(neighbourhood(both, i), both[:, i], np.full(NEIGHBOURHOODS, 0.5)) for i in range(rows.shape[1])
    )


def _changes(
    doubted: Sequence[tuple[UInt8, UInt8]], flags: int
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Of changed rows the kinds by what was recognized, and the flags by the neighbourhood and what was recognized."""
    none = np.zeros((0, flags), np.uint8)
    said, true = (np.concatenate([none, *(pair[i][:, :flags] for pair in doubted)]) for i in (0, 1))
    before, after = row_kinds(said, flags), row_kinds(true, flags)
    table = UNCHANGED * np.eye(ALL + 2)
    np.add.at(table, (before, after), 1)
    both, known = true[after == BOTH], said[after == BOTH]
    prior = np.repeat([1 / (KEPT + 1), KEPT / (KEPT + 1)], NEIGHBOURHOODS)
    shares = (_shares(neighbourhood(both, i) + NEIGHBOURHOODS * known[:, i], both[:, i], prior) for i in range(flags))
    return tuple(frequency_table(t) for t in table), tuple(shares)


def _shares(at: Int64, ones: UInt8, prior: Float64) -> tuple[int, ...]:
    """How often a flag is 1 at each place of a table, of 4096."""
    count, one = (np.bincount(at, w, len(prior)) for w in (None, ones))
    share = (one + prior) / (count + 1)
    return tuple(np.clip(np.rint(TOTAL * share), 1, TOTAL - 1).astype(int).tolist())
