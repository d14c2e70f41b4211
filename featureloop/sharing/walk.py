"""The walk through the tree of a sorted bag: rows in parts, until each stands alone (`sharing.multiset`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import RecordError
from featureloop.core.types import Bool, UInt8
from featureloop.sharing.splits import Int64

EQUAL_AT = 4
"""The channel before which parts are asked whether all of their rows are equal: in a map of many channels hardly any
others are left, and those that are (the black border) need no further splits."""


class Teller(Protocol):
    """Who tells what a tree looks like: a bag itself, or a code stream."""

    def levels(self, c: int, rows: Int64, size: Int64) -> Int64:
        """How many rows of each level parts have in a channel, int64 (L, P).

        Parameters
        ----------
        rows
            int64 (M,), which rows the parts are of, those of one part together.
        size
            int64 (P,), how many rows each part has: at least two.
        """
        ...

    def at(self, c: int, rows: Int64) -> NDArray[np.integer[Any]]:
        """Symbols in a channel of rows that stand alone, (A,)."""
        ...

    def equal(self, start: Int64, size: Int64) -> Bool:
        """Whether all rows of parts are equal, int64 (P,) each to bool (P,); asked before channel `EQUAL_AT`."""
        ...


def walk(n: int, levels: Sequence[int], teller: Teller) -> UInt8:
    """Go through the tree of n sorted rows, from the first channel to the last: their symbols, uint8 (n, C).

    Raises
    ------
    ValueError
        A part was told to be larger than the whole.
    """
    out = np.zeros((len(levels), n), np.uint8)
    alone = np.full(n, n == 1)
    singles = alone.nonzero()[0]
    rows, size = np.arange(n if n > 1 else 0), np.full(min(n // 2, 1), n, np.int64)
    first = follow = rows[:0]
    # What was told since parts were last split or joined, of `singles` and of parts, not yet written.
    lone: list[NDArray[np.integer[Any]]] = []
    level: list[Int64] = []
    for c, count in enumerate(levels):
        if c == EQUAL_AT and len(size):
            lone, level = _written(out[:c], singles, lone), _written(out[:c], rows, level, size)
            start = rows.take(size.cumsum() - size)
            same = teller.equal(start, size)
            each = same.repeat(size)
            first, follow = start.repeat(size)[each], rows[each]
            alone[start[same]] = True
            singles, rows, size = alone.nonzero()[0], rows[~each], size[~same]
        if len(singles):
            lone.append(teller.at(c, singles))
        if not len(size):
            continue
        told = teller.levels(c, rows, size).T.ravel()
        (at,) = told.nonzero()
        if len(at) == len(size):
            level.append(at % count)
            continue
        lone, level = _written(out[: c + 1], singles, lone), _written(out[:c], rows, level, size)
        size = told.take(at)
        out[c, rows] = (at % count).repeat(size)
        many = size > 1
        kept = many.repeat(size)
        alone[rows[~kept]] = True
        singles, rows, size = alone.nonzero()[0], rows[kept], size[many]
    _written(out, singles, lone)
    _written(out, rows, level, size)
    out[:, follow] = out[:, first]
    return np.ascontiguousarray(out.T)


def _written(out: UInt8, rows: Int64, told: list[Any], size: Int64 | None = None) -> list[Any]:
    """Symbols of rows, or of parts of them, are written into the last of the channels so far; nothing is left."""
    if told:
        symbols = np.array(told)
        out[-len(told) :, rows] = symbols if size is None else symbols.repeat(size, axis=1)
    return []


class Sorted:
    """A sorted bag, asked for the levels of its parts; `walk` gives it back.

    Parameters
    ----------
    symbols
        uint8 (N, C) in canonical order.

    Raises
    ------
    RecordError
        They are not.
    """

    def __init__(self, symbols: UInt8, levels: Sequence[int]) -> None:
        self.symbols, self._levels = symbols, levels
        self._columns = np.ascontiguousarray(symbols.T)
        if len(symbols) > 1:
            one, other = symbols[:-1], symbols[1:]
            at = np.arange(len(one)), (one != other).argmax(axis=1)
            if (one[at] > other[at]).any():
                raise RecordError("the rows of a set are not in canonical order")

    def levels(self, c: int, rows: Int64, size: Int64) -> Int64:
        """How many rows of each level parts have, int64 (L, P)."""
        count = self._levels[c]
        cells = (count * np.arange(len(size))).repeat(size) + self._columns[c].take(rows)
        return np.bincount(cells, minlength=count * len(size)).reshape(-1, count).T

    def at(self, c: int, rows: Int64) -> UInt8:
        """Symbols of rows in a channel, uint8 (A,)."""
        return np.asarray(self._columns[c].take(rows))

    def equal(self, start: Int64, size: Int64) -> Bool:
        """Whether all rows of parts are equal, bool (P,): sorted, they are where the first and the last one are."""
        return np.asarray((self.symbols[start] == self.symbols[start + size - 1]).all(axis=1))
