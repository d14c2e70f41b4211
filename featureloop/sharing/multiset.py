"""The rows of a set as what they are: how many of each, and not which came when.

Rows without an order need up to log2 N! bits less than the same rows one after the other. Sorted, they are a tree:
all of them split at the middle of the first channel's levels, either part again, until its level is told; the rows
of one level by the second channel, and so on. Only the sizes of the parts are coded, each under the Polya urn of its
split (`sharing.urns`), of which the package carries the parameters. A row that stands alone is coded level by level.

Encoding and decoding walk the same tree; only where a size comes from differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import RecordError
from featureloop.core.types import UInt8
from featureloop.sharing.urns import TOTAL, Int64, urn_frequencies

Urns = tuple[tuple[tuple[int, int], ...], ...]
"""Of each channel, of each of its splits in the order of `Splits`, the urn's light and dark balls, in sixteenths."""
Float64 = NDArray[np.float64]
FEW = 15
"""Parts of up to so many rows are coded together, in one call."""
_FAMILY = constriction.stream.model.Categorical(perfect=False)


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """The splits of a channel of L levels, those nearer the root first: L - 1 of them.

    Attributes
    ----------
    middle
        int64 (L - 1,), the first level of the upper part.
    below, above
        int64 (L - 1,), what comes next on either side: another split's number, or -1 - level where that is told.
    """

    middle: Int64
    below: Int64
    above: Int64


@lru_cache(maxsize=512)
def splits_of(levels: int) -> Splits:
    """The splits of a channel of so many levels, each at its middle."""
    ranges, middle, nexts = [(0, levels)], [], []
    for low, high in ranges:
        at = (low + high) // 2
        middle.append(at)
        sides = []
        for a, b in ((low, at), (at, high)):
            sides.append(-1 - a if b - a == 1 else len(ranges))
            if b - a > 1:
                ranges.append((a, b))
        nexts.append(sides)
    below, above = np.array(nexts, np.int64).T
    return Splits(np.array(middle, np.int64), below, above)


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Parts of a bag at splits of one channel, each at least two rows: all int64 (P,).

    Attributes
    ----------
    start, size
        Where a part's rows stand in the sorted bag, and how many there are.
    split
        Number of the split.
    """

    start: Int64
    size: Int64
    split: Int64


Sizes = Callable[[int, Parts], Int64]
"""Of a channel's parts how many rows are below the splits, int64 (P,)."""
Levels = Callable[[int, Int64], Int64]
"""A channel's levels of rows that stand alone, by where they stand, int64 (A,)."""


def walk(n: int, levels: Sequence[int], sizes: Sizes, alone: Levels) -> UInt8:
    """Go through the tree of n sorted rows, from the first channel to the last: their symbols, uint8 (n, C)."""
    out = np.zeros((n, len(levels)), np.uint8)
    start, size = np.zeros(min(n, 1), np.int64), np.full(min(n, 1), n, np.int64)
    for c, count in enumerate(levels):
        single = size == 1
        rows = start[single]
        if len(rows):
            out[rows, c] = alone(c, rows)
        whole = Parts(start[~single], size[~single], np.zeros(int((~single).sum()), np.int64))
        told = _divided(c, whole, splits_of(count), sizes)
        for level, a, b in zip(
            told.split.tolist(), told.start.tolist(), (told.start + told.size).tolist(), strict=True
        ):
            out[a:b, c] = level
        start = np.concatenate([rows, told.start])
        order = start.argsort()
        start, size = start[order], np.concatenate([np.ones(len(rows), np.int64), told.size])[order]
    return out


def _divided(c: int, parts: Parts, splits: Splits, sizes: Sizes) -> Parts:
    """Parts whose rows all have one level of a channel, which stands as their split."""
    done: list[Parts] = []
    while len(parts.start):
        k = sizes(c, parts)
        rest = parts.size - k
        start = np.concatenate([parts.start, parts.start + k])
        size = np.concatenate([k, rest])
        split = np.concatenate([splits.below[parts.split], splits.above[parts.split]])
        told, some = split < 0, size > 0
        done.append(Parts(start[told & some], size[told & some], -1 - split[told & some]))
        open_ = ~told & some
        parts = Parts(start[open_], size[open_], split[open_])
    return Parts(*(np.concatenate([getattr(p, name) for p in done] or [np.zeros(0, np.int64)]) for name in _FIELDS))


_FIELDS = ("start", "size", "split")


class Sorted:
    """A sorted bag, asked for the sizes of its parts; `walk` gives it back.

    Parameters
    ----------
    symbols
        uint8 (N, C) in canonical order.

    Raises
    ------
    RecordError
        They are not in order.
    """

    def __init__(self, symbols: UInt8, levels: Sequence[int]) -> None:
        self.symbols, self.levels = symbols, levels
        n, c = symbols.shape
        changes = np.zeros((n, c + 1), bool)
        changes[1:, 1:] = np.logical_or.accumulate(symbols[1:] != symbols[:-1], axis=1)
        # Of each row, how many different beginnings there were before it: with its next symbol, a key that rises.
        self._beginning = changes[:, :-1].cumsum(axis=0, dtype=np.int64).T
        self._keys = np.ascontiguousarray((self._beginning << 8) + symbols.T)
        if n and (np.diff(self._keys, axis=1) < 0).any():
            raise RecordError("the rows of a set are not in canonical order")

    def below(self, c: int, parts: Parts) -> Int64:
        """How many rows of parts are below their splits, int64 (P,)."""
        middle = splits_of(self.levels[c]).middle[parts.split]
        wanted = (self._beginning[c, parts.start] << 8) + middle
        return np.asarray(np.searchsorted(self._keys[c], wanted) - parts.start, np.int64)

    def at(self, c: int, rows: Int64) -> Int64:
        """Symbols of rows in a channel, int64 (A,)."""
        return np.asarray(self.symbols[rows, c], np.int64)


class MultisetModel:
    """The coding of bags under given tables.

    Parameters
    ----------
    levels
        Of each channel, 2 to 256.
    urns
        Of each channel's splits.
    frequencies
        Of each channel's levels, for rows that stand alone, summing to 4096.
    """

    def __init__(self, levels: Sequence[int], urns: Urns, frequencies: Sequence[Sequence[int]]) -> None:
        self.levels, self.urns = tuple(levels), urns
        self._alone = [
            constriction.stream.model.Categorical(np.asarray(f, np.float64) / sum(f), perfect=False)
            for f in frequencies
        ]
        self._few: dict[int, Float64] = {}

    def encode(self, coder: Any, symbols: UInt8) -> None:
        """Put a sorted bag uint8 (N, C) on a stack coder.

        Raises
        ------
        RecordError
            The rows are not in canonical order.
        """
        bag, steps = Sorted(symbols, self.levels), list[tuple[Any, ...]]()

        def sizes(c: int, parts: Parts) -> Int64:
            k = bag.below(c, parts)
            few, groups = _grouped(parts)
            if few.any():
                steps.append((k[few].astype(np.int32), _FAMILY, self._tables(c)[parts.split[few], parts.size[few]]))
            for at in groups:
                steps.append((k[at].astype(np.int32), self._urn(c, parts, at[0])))
            return k

        def alone(c: int, rows: Int64) -> Int64:
            steps.append((symbols[rows, c].astype(np.int32), self._alone[c]))
            return bag.at(c, rows)

        walk(len(symbols), self.levels, sizes, alone)
        for step in reversed(steps):
            coder.encode_reverse(*step)

    def decode(self, coder: Any, n: int) -> UInt8:
        """Take a bag of n rows from a stack coder: uint8 (n, C), sorted.

        Raises
        ------
        RecordError
            It holds a part that is larger than the whole.
        """

        def sizes(c: int, parts: Parts) -> Int64:
            k = np.zeros(len(parts.size), np.int64)
            few, groups = _grouped(parts)
            if few.any():
                k[few] = coder.decode(_FAMILY, self._tables(c)[parts.split[few], parts.size[few]])
            for at in groups:
                k[at] = coder.decode(self._urn(c, parts, at[0]), len(at))
            if (k > parts.size).any():
                raise RecordError("a payload is no valid code stream")
            return k

        def alone(c: int, rows: Int64) -> Int64:
            return np.asarray(coder.decode(self._alone[c], len(rows)), np.int64)

        return walk(n, self.levels, sizes, alone)

    def _tables(self, c: int) -> Float64:
        """A channel's urns for parts of up to `FEW` rows: float64 (splits, FEW + 1, FEW + 1)."""
        if c not in self._few:
            light, dark = np.array(self.urns[c], np.int64).T
            table = np.zeros((len(light), FEW + 1, FEW + 1))
            for n in range(1, FEW + 1):
                table[:, n, : n + 1] = urn_frequencies(n, light, dark) / TOTAL
            self._few[c] = table
        return self._few[c]

    def _urn(self, c: int, parts: Parts, at: int) -> Any:
        return _model(*self.urns[c][int(parts.split[at])], int(parts.size[at]))


def _grouped(parts: Parts) -> tuple[NDArray[np.bool_], list[NDArray[np.intp]]]:
    """Which parts are small, bool (P,); and the others' numbers, those of one split and size together."""
    few = parts.size <= FEW
    many = np.flatnonzero(~few)
    if len(many) < 2:
        return few, [many] if len(many) else []
    key = (parts.split[many] << 32) + parts.size[many]
    order = key.argsort(kind="stable")
    return few, np.split(many[order], np.flatnonzero(np.diff(key[order])) + 1)


@lru_cache(maxsize=16_384)
def _model(light: int, dark: int, n: int) -> Any:
    table = urn_frequencies(n, np.array([light]), np.array([dark]))[0]
    return constriction.stream.model.Categorical(table / TOTAL, perfect=False)
