"""Rows that keep an order, a window's or the map's, as what differs from what their neighbours let expect.

The first row of every unit (window or map) stands in an order computed from values, as a set's rows do, and is coded
as they are (`sharing.multiset`). Of each other one a channel's symbol is expected to be a weighted sum of those to the
left, above, above left and above right; what is coded is the difference modulo the number of levels, under one of
`CONTEXTS` tables of the channel: by how much the neighbours differ from each other, and how far from a whole level the
sum is. Differences are mirrored where the level expected is above the sum, so that both sides share their tables.

All of it is in whole numbers. Rows on one slanted line of all units need none of each other, and are coded together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import RecordError
from featureloop.core.types import Bool, UInt8
from featureloop.model.manifest import OrderTables
from featureloop.model.manifest_checks import CONTEXTS, ORDER_TOTAL
from featureloop.sharing.multiset import FAMILY, MultisetModel

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
ONE = 256
"""A neighbour's whole weight."""
SPREADS = (1, 2, 4, 8)
"""From so many levels between the neighbours on another table is taken, and from two eighths off a whole level on."""
_CLASSES = 2 * np.searchsorted(SPREADS, np.arange(256), side="right")
_WIDTHS = (16, 64, 256)


class Line(NamedTuple):
    """Rows of a unit that need none of each other: int64 (K,) their numbers, and (K, 4) those of their neighbours."""

    at: Int64
    beside: Int64


@lru_cache(maxsize=64)
def lines_of(side: int) -> tuple[Line, ...]:
    """The lines of a unit of side x side rows, in the order of coding, without its first row.

    Where a neighbour is beyond the unit, the nearest one known takes its place.
    """
    lines: dict[int, list[tuple[int, ...]]] = {}
    for y in range(side):
        for x in range(side):
            i = y * side + x
            left = i - 1 if x else i - side
            up = i - side if y else left
            corners = (up - 1 if y and x else up, up + 1 if y and x + 1 < side else up)
            lines.setdefault(x + 2 * y, []).append((i, left, up, *corners))
    numbers = [np.array(lines[t], np.int64) for t in sorted(lines) if t]
    return tuple(Line(n[:, 0], n[:, 1:]) for n in numbers)


class Expected(NamedTuple):
    """What neighbours let expect, each of int64 or bool (..., C): a level, whether it is above the sum, a context."""

    level: Int64
    above: Bool
    context: Int64

    def difference(self, symbols: Int64, levels: Int64) -> Int64:
        """Of symbols (..., C), modulo levels (C,)."""
        return np.asarray(np.where(self.above, self.level - symbols, symbols - self.level) % levels)

    def symbols(self, difference: Int64, levels: Int64) -> Int64:
        """The symbols that differ so."""
        return np.asarray((self.level + np.where(self.above, -difference, difference)) % levels)


def expected(beside: Int64, weights: Int64, levels: Int64) -> Expected:
    """What is expected of symbols by their neighbours'.

    Parameters
    ----------
    beside
        int64 (4, ..., C).
    weights
        int64 (5, C), as `OrderTables.weights`.
    levels
        int64 (C,).
    """
    top = levels - 1
    doubled = 2 * beside - top
    total = weights[4] + sum(d * w for d, w in zip(doubled, weights[:4], strict=True))
    # From 512ths of a level to eighths; shifting rounds down, everywhere alike.
    eighths = np.clip((total >> 6) + 4 * top, 0, 8 * top)
    level = (eighths + 4) >> 3
    off = eighths - 8 * level
    spread = beside.max(axis=0) - beside.min(axis=0)
    return Expected(level, off < 0, _CLASSES.take(spread) + (np.abs(off) >= 2))


class _Group(NamedTuple):
    """Channels whose tables stand together: (K,) their numbers, (K,) where their tables begin, (10 K, width)."""

    channels: Int64
    first: Int64
    tables: Float64


class OrderModel:
    """The coding of rows that keep an order under given tables.

    Parameters
    ----------
    levels
        Of each channel, 2 to 256.
    first
        The coding of the units' first rows.
    """

    def __init__(self, levels: Sequence[int], tables: OrderTables, first: MultisetModel) -> None:
        self._levels = np.array(levels, np.int64)
        self._weights = np.ascontiguousarray(np.array(tables.weights, np.int64).T)
        self._first = first
        self._groups = []
        for least, most in zip((0, *_WIDTHS), _WIDTHS, strict=False):
            channels = np.array([c for c, n in enumerate(levels) if least < n <= most], np.int64)
            if len(channels):
                rows = np.zeros((len(channels), CONTEXTS, max(levels[c] for c in channels)))
                for row, c in zip(rows, channels, strict=True):
                    row[:, : levels[c]] = np.array(tables.differences[c], np.float64) / ORDER_TOTAL
                first_of = CONTEXTS * np.arange(len(channels))
                self._groups.append(_Group(channels, first_of, rows.reshape(-1, rows.shape[2])))

    def encode(self, coder: Any, symbols: UInt8, side: int) -> None:
        """Put units of side x side rows, uint8 (U side**2, C), on a stack coder.

        Raises
        ------
        RecordError
            The units are not in canonical order.
        """
        n, c = symbols.shape
        units = symbols.reshape(n // side**2, side**2, c).astype(np.int64).transpose(1, 0, 2)
        for line in reversed(lines_of(side)):
            found = expected(units[line.beside.T], self._weights, self._levels)
            told = found.difference(units[line.at], self._levels).astype(np.int32)
            for group in reversed(self._groups):
                coder.encode_reverse(told[..., group.channels].reshape(-1), FAMILY, _tables(group, found.context))
        self._first.encode(coder, symbols[:: side**2])

    def decode(self, coder: Any, n: int, side: int) -> UInt8:
        """Take n rows in units of side x side from a stack coder: uint8 (n, C).

        Raises
        ------
        RecordError
            A difference is beyond its channel's levels, or the units' first rows are no valid code stream.
        """
        units = np.zeros((side**2, n // side**2, len(self._levels)), np.int64)
        units[0] = self._first.decode(coder, units.shape[1])
        for line in lines_of(side):
            found = expected(units[line.beside.T], self._weights, self._levels)
            told = np.empty(found.level.shape, np.int64)
            for group in self._groups:
                tables = _tables(group, found.context)
                told[..., group.channels] = coder.decode(FAMILY, tables).reshape(*told.shape[:-1], len(group.channels))
            # Of channels whose tables stand together, some have fewer levels than others.
            if (told >= self._levels).any():
                raise RecordError("a payload is no valid code stream")
            units[line.at] = found.symbols(told, self._levels)
        return np.ascontiguousarray(units.transpose(1, 0, 2).reshape(n, len(self._levels)).astype(np.uint8))


def _tables(group: _Group, context: Int64) -> Float64:
    return np.asarray(group.tables.take((context[..., group.channels] + group.first).reshape(-1), axis=0))
