"""The rows of a set by what another set, which the reader has already, had of each: one frame after another like it.

The tree is that of `sharing.multiset`. Each split's urn gets further balls by the rows of the other set that began
alike and come to the same split; rows that are near in the first channel, whose steps are the finest, count as well,
the less the farther they are. Where a row stands alone, levels of such rows are likelier than its channel's table says.

All of it is in whole numbers, so that both ends have the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import RecordError
from featureloop.core.types import Bool, UInt8
from featureloop.sharing.splits import FEW, Int64, tree_of
from featureloop.sharing.urns import QUICK, TOTAL, UNIT, frequencies_of_each, urn_frequencies
from featureloop.sharing.walk import Sorted, Teller, walk

BALLS = 32 * UNIT
"""What the other set's rows can add to an urn at most."""
DOUBT = 64
"""So many rows that began just so add half of that."""
ALONE = (1, 4)
"""A row of the other set that began just so counts this share of a channel's whole table where a row stands alone."""
REACH, MOST_REACH = 23, 4
"""In the first channel, rows count that are less than one level in so many away, and less than so many levels."""
SIZES = (0, FEW, 127, QUICK)
"""Parts up to these sizes have their tables built together."""
BLOCK = 1 << 16
"""Numbers of tables that are built at once, which bounds their memory."""
_FAMILY = constriction.stream.model.Categorical(perfect=False)
_EVEN = constriction.stream.model.Uniform(2)
Code = Callable[..., NDArray[Any]]
"""From symbols, known or not, and their model or tables to symbols."""


class LikenedModel:
    """The coding of bags after others like them; the parameters are those of `MultisetModel`."""

    def __init__(
        self,
        levels: Sequence[int],
        urns: Sequence[Sequence[tuple[int, int]]],
        frequencies: Sequence[Sequence[int]],
    ) -> None:
        self.levels = tuple(levels)
        self.urns = [np.array(own, np.int64).T for own in urns]
        self.frequencies = [np.array(own, np.int64) for own in frequencies]
        self.plain = [constriction.stream.model.Categorical(f / f.sum(), perfect=False) for f in self.frequencies]
        self.reach = min(max(levels[0] // REACH, 1), MOST_REACH)

    def encode(self, coder: Any, symbols: UInt8, like: UInt8) -> None:
        """Put a sorted bag uint8 (N, C) on a stack coder, after another one uint8 (M, C).

        Raises
        ------
        RecordError
            The rows are not in canonical order.
        """
        steps: list[tuple[Any, ...]] = []

        def code(known: NDArray[Any], *model: Any) -> NDArray[Any]:
            steps.append((known.astype(np.int32), *model))
            return known

        self._told(len(symbols), like, Sorted(symbols, self.levels), code)
        for step in reversed(steps):
            coder.encode_reverse(*step)

    def decode(self, coder: Any, n: int, like: UInt8) -> UInt8:
        """Take a bag of n rows from a stack coder: uint8 (n, C), sorted.

        Raises
        ------
        RecordError
            It holds a part that is larger than the whole.
        """

        def code(known: NDArray[Any], model: Any, *tables: Any) -> NDArray[Any]:
            return np.asarray(coder.decode(model, *tables) if tables else coder.decode(model, len(known)))

        return self._told(n, like, _Unknown(self.levels), code)

    def balls(self, c: int, split: Int64, size: Int64, below: Int64) -> tuple[Int64, Int64]:
        """Light and dark balls, in sixteenths, of urns of a channel's splits, to which so many other rows come.

        The package's own balls count half where there are others: they say what is usual of any frame.
        """
        light, dark = self.urns[c].take(split, axis=1)
        some = (size > 0).astype(np.int64)
        doubt = size + DOUBT * self.reach
        return (
            np.maximum(light >> some, 1) + BALLS * below // doubt,
            np.maximum(dark >> some, 1) + BALLS * (size - below) // doubt,
        )

    def alone(self, c: int, seen: Int64) -> NDArray[np.float64]:
        """Tables of a channel's levels for rows that stand alone, float64 (A, L).

        Parameters
        ----------
        seen
            int64 (L, A), how many rows of the other set began as each, by their levels.
        """
        own = self.frequencies[c]
        count, whole = ALONE
        weights = whole * self.reach * own + count * int(own.sum()) * seen.T
        tables = 1 + weights * (TOTAL - len(own)) // weights.sum(axis=1, keepdims=True)
        tables[np.arange(len(tables)), weights.argmax(axis=1)] += TOTAL - tables.sum(axis=1)
        return np.asarray(tables / TOTAL)

    def _told(self, n: int, like: UInt8, bag: Teller, code: Code) -> UInt8:
        return walk(n, self.levels, _Likened(self, bag, _Beside(like, self.levels, self.reach, n), code))


class _Likened:
    """Tells a bag's tree while all of it is coded."""

    def __init__(self, model: LikenedModel, bag: Teller, other: _Beside, code: Code) -> None:
        self._model, self._bag, self._other, self._code = model, bag, other, code

    def levels(self, c: int, rows: Int64, size: Int64) -> Int64:
        tree, p = tree_of(self._model.levels[c]), len(size)
        _, known = tree.counts(self._bag.levels(c, rows, size))
        start = rows.take(size.cumsum() - size)
        seen, under = tree.counts(self._other.levels(c, start))
        cells = np.zeros((2 * len(tree.leaves) - 1, p), np.int64)
        flat = cells.reshape(-1)
        flat[:p] = size
        for (a, b), depth in zip(pairwise([0, *tree.ends.tolist()]), tree.depths, strict=True):
            n = cells[depth.whole : depth.below] if isinstance(depth.whole, int) else cells.take(depth.whole, axis=0)
            (at,) = n.ravel().nonzero()
            split = (depth.first // (FEW + 1)).repeat(p).take(at)
            seen_at, under_at, known_at = (x[a:b].ravel().take(at) for x in (seen, under, known))
            urns = self._model.balls(c, split, seen_at, under_at)
            k = np.zeros(n.shape, np.int64)
            k.reshape(-1)[at] = self._drawn(n.ravel().take(at), *urns, known_at)
            if (k > n).any():
                # A table leaves room for sizes above its own.
                raise RecordError("a payload is no valid code stream")
            cells[depth.below : depth.above], cells[depth.above : depth.end] = k, n - k
        told = cells.take(tree.leaves, axis=0)
        self._other.follow(c, rows, start, told)
        return np.asarray(told)

    def _drawn(self, n: Int64, light: Int64, dark: Int64, known: Int64) -> Int64:
        """How many of n balls each are light, int64 (U,), those of small parts first."""
        k = np.zeros(len(n), np.int64)
        for least, most in pairwise(SIZES):
            for at in _blocks((n > least) & (n <= most), BLOCK // most):
                tables = frequencies_of_each(n[at], light[at], dark[at])
                k[at] = self._code(known[at], _FAMILY, tables / TOTAL)
        for at in _blocks(n > QUICK, 1):
            tables = urn_frequencies(int(n[at[0]]), light[at], dark[at])
            k[at] = self._code(known[at], _FAMILY, tables / TOTAL)
        return k

    def at(self, c: int, rows: Int64) -> NDArray[np.integer[Any]]:
        known = self._bag.at(c, rows)
        told = np.zeros(len(rows), np.int64)
        some = self._other.has(rows)
        (others,) = (~some).nonzero()
        if len(others):
            told[others] = self._code(known[others], self._model.plain[c])
        for at in _blocks(some, BLOCK // len(self._model.frequencies[c])):
            told[at] = self._code(known[at], _FAMILY, self._model.alone(c, self._other.levels(c, rows[at])))
        self._other.keep(c, rows, told)
        return told

    def equal(self, start: Int64, size: Int64) -> Bool:
        return np.asarray(self._code(self._bag.equal(start, size), _EVEN) == 1)


class _Unknown:
    """Stands for a bag of which nothing is known yet."""

    def __init__(self, levels: Sequence[int]) -> None:
        self._levels = levels

    def levels(self, c: int, rows: Int64, size: Int64) -> Int64:  # noqa: ARG002  As a bag is asked.
        return np.zeros((self._levels[c], len(size)), np.int64)

    def at(self, c: int, rows: Int64) -> Int64:  # noqa: ARG002
        return np.zeros(len(rows), np.int64)

    def equal(self, start: Int64, size: Int64) -> Bool:  # noqa: ARG002
        return np.zeros(len(start), np.bool_)


class _Beside:
    """The rows of another bag, each beside the part or the row of this one that began as it did, while there is one.

    Equal rows are one here, which counts so many times. Parts and rows of this bag are named by where their first row
    stands.
    """

    def __init__(self, like: UInt8, levels: Sequence[int], reach: int, n: int) -> None:
        (at,) = np.append(like[:1, 0] >= 0, (like[1:] != like[:-1]).any(axis=1)).nonzero()
        like, times = like[at], np.diff(at, append=len(like))
        away = np.arange(1 - reach, reach).repeat(len(like))
        first = np.tile(like[:, 0], 2 * reach - 1) + away
        (self._row,) = ((first >= 0) & (first < levels[0])).nonzero()
        self._first, self._weight = first, (reach - np.abs(away)) * np.tile(times, 2 * reach - 1)
        self._levels, self._columns, self._n = levels, np.ascontiguousarray(like.T), n
        self._part = np.zeros(len(self._row), np.int64)

    def levels(self, c: int, start: Int64) -> Int64:
        """How many rows of each level began as parts or rows did, weighed, int64 (L, P)."""
        mine, cells = self._cells(c, start)
        weights = self._weight.take(self._row[mine])
        count = self._levels[c]
        found = np.bincount(cells, weights, minlength=count * len(start)).astype(np.int64)
        return found.reshape(-1, count).T

    def has(self, rows: Int64) -> Bool:
        """Whether any began as rows did that stand alone, bool (A,)."""
        return np.asarray(np.bincount(self._part, minlength=self._n)[rows] > 0)

    def follow(self, c: int, rows: Int64, start: Int64, told: Int64) -> None:
        """Parts were split, into told (L, P) rows of each level: those that began alike go with them."""
        mine, cells = self._cells(c, start)
        size = told.T.ravel()
        # Empty parts at the end have no first row.
        after = np.where(size > 0, rows.take(size.cumsum() - size, mode="clip"), -1)
        self._part[mine] = after.take(cells)
        self._only(self._part >= 0)

    def keep(self, c: int, rows: Int64, told: Int64) -> None:
        """Rows that stand alone have these levels: those of others are no longer beside them."""
        level = np.full(self._n, -1)
        level[rows] = told
        mine = level.take(self._part)
        self._only((mine < 0) | (mine == self._symbols(c, self._row)))

    def _cells(self, c: int, start: Int64) -> tuple[Bool, Int64]:
        """Which rows are beside parts, and for each of these which of their levels it is: P times L."""
        number = np.full(self._n, -1)
        number[start] = np.arange(len(start))
        part = number.take(self._part)
        mine = part >= 0
        return mine, self._levels[c] * part[mine] + self._symbols(c, self._row[mine])

    def _symbols(self, c: int, rows: Int64) -> NDArray[np.integer[Any]]:
        return np.asarray(self._columns[c].take(rows % self._columns.shape[1]) if c else self._first.take(rows))

    def _only(self, which: Bool) -> None:
        self._row, self._part = self._row[which], self._part[which]


def _blocks(which: Bool, most: int) -> Iterator[Int64]:
    """The numbers of what is true, up to so many at a time."""
    (at,) = which.nonzero()
    return (at[i : i + most] for i in range(0, len(at), most))
