"""The rows of a set as what they are: how many of each, and not which came when.

Rows without an order need up to log2 N! bits less than the same rows one after the other. Sorted, they are a tree:
all of them split at the middle of the first channel's levels, either part again, until its level is told; the rows
of one level by the second channel, and so on (`sharing.splits`). Only the sizes of the parts are coded, each under the
Polya urn of its split (`sharing.urns`), of which the package carries the parameters. A row that stands alone is coded
level by level.

Encoding and decoding walk the same tree; only where a size comes from differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import RecordError
from featureloop.core.types import Bool, UInt8
from featureloop.sharing.splits import FEW, Int64, tree_of
from featureloop.sharing.urns import TOTAL, urn_frequencies

Urns = tuple[tuple[tuple[int, int], ...], ...]
"""Of each channel, of each of its splits by their numbers, the urn's light and dark balls, in sixteenths."""
Float64 = NDArray[np.float64]
KEPT = 1_024
"""Urns of up to so many balls are kept, so that whatever payloads come, all that are kept take some 20 MB."""
EQUAL_AT = 4
"""The channel before which parts are asked whether all of their rows are equal: in a map of many channels hardly any
others are left, and those that are (the black border) need no further splits."""
FAMILY = constriction.stream.model.Categorical(perfect=False)
_EVEN = constriction.stream.model.Uniform(2)


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
    RecordError
        A part was told to be larger than the whole.
    """
    out = np.zeros((len(levels), n), np.uint8)
    alone = np.full(n, n == 1)
    singles = alone.nonzero()[0]
    rows, size = np.arange(n if n > 1 else 0), np.full(min(n // 2, 1), n, np.int64)
    first = follow = rows[:0]
    for c, count in enumerate(levels):
        if c == EQUAL_AT and len(size):
            start = rows.take(size.cumsum() - size)
            same = teller.equal(start, size)
            each = same.repeat(size)
            first, follow = start.repeat(size)[each], rows[each]
            alone[start[same]] = True
            singles, rows, size = alone.nonzero()[0], rows[~each], size[~same]
        if len(singles):
            out[c, singles] = teller.at(c, singles)
        if not len(size):
            continue
        told = teller.levels(c, rows, size).T.ravel()
        (at,) = told.nonzero()
        parts, size = len(size), told.take(at)
        try:
            out[c, rows] = (at % count).repeat(size)
        except ValueError as error:
            # A small part's table leaves room for sizes above its own, and the rest is below zero then.
            raise RecordError("a payload is no valid code stream") from error
        if len(at) > parts:
            many = size > 1
            kept = many.repeat(size)
            alone[rows[~kept]] = True
            singles, rows, size = alone.nonzero()[0], rows[kept], size[many]
    out[:, follow] = out[:, first]
    return np.ascontiguousarray(out.T)


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
        self.alone = [
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
        writer = _Writer(self, Sorted(symbols, self.levels))
        walk(len(symbols), self.levels, writer)
        for step in reversed(writer.steps):
            coder.encode_reverse(*step)

    def decode(self, coder: Any, n: int) -> UInt8:
        """Take a bag of n rows from a stack coder: uint8 (n, C), sorted.

        Raises
        ------
        RecordError
            It holds a part that is larger than the whole.
        """
        return walk(n, self.levels, _Reader(self, coder))

    def few(self, c: int) -> Float64:
        """A channel's urns for parts of 0 to `FEW` rows, one split's after the other: float64 (16 S, 16)."""
        if c not in self._few:
            light, dark = np.array(self.urns[c], np.int64).T
            table = np.zeros((len(light), FEW + 1, FEW + 1))
            for n in range(1, FEW + 1):
                table[:, n, : n + 1] = urn_frequencies(n, light, dark) / TOTAL
            self._few[c] = table.reshape(-1, FEW + 1)
        return self._few[c]

    def steps(self, c: int, first: Int64, size: Int64) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        """The calls that code splits of one depth: at which of them, and the model's arguments.

        Parameters
        ----------
        first, size
            int64 (M,), as `Tree.asked` gives them.
        """
        large = size > FEW
        if not large.all():
            small = slice(None) if not large.any() else (~large).nonzero()[0]
            yield small, (FAMILY, self.few(c).take(first[small] + size[small], axis=0, mode="clip"))
        (many,) = large.nonzero()
        for at in _alike(first, size, many):
            n = int(size[at[0]])
            urn = self.urns[c][int(first[at[0]]) // (FEW + 1)]
            yield at, ((_kept_model if n <= KEPT else _model)(*urn, n),)


class _Writer:
    """Tells a bag's tree, and keeps what has to be coded, in the order of decoding."""

    def __init__(self, model: MultisetModel, bag: Sorted) -> None:
        self.steps: list[tuple[Any, ...]] = []
        self._model, self._bag = model, bag

    def levels(self, c: int, rows: Int64, size: Int64) -> Int64:
        told = self._bag.levels(c, rows, size)
        first, size, below, ends = tree_of(self._model.levels[c]).asked(told)
        k = below.astype(np.int32)
        # The calls of several depths are one where all parts are small.
        bounds = pairwise([0, *ends]) if size.max(initial=0) > FEW else [(0, len(k))]
        for a, b in bounds:
            for at, model in self._model.steps(c, first[a:b], size[a:b]):
                self.steps.append((k[a:b][at], *model))
        return told

    def at(self, c: int, rows: Int64) -> UInt8:
        levels = self._bag.at(c, rows)
        self.steps.append((levels.astype(np.int32), self._model.alone[c]))
        return levels

    def equal(self, start: Int64, size: Int64) -> Bool:
        same = self._bag.equal(start, size)
        self.steps.append((same.astype(np.int32), _EVEN))
        return same


class _Reader:
    """Tells the tree that a code stream holds."""

    def __init__(self, model: MultisetModel, coder: Any) -> None:
        self._model, self._coder = model, coder

    def levels(self, c: int, rows: Int64, size: Int64) -> Int64:  # noqa: ARG002  As the bag is asked.
        tree, decode = tree_of(self._model.levels[c]), self._coder.decode
        cells = np.zeros((2 * len(tree.leaves) - 1, len(size)), np.int64)
        cells[0] = size
        few = None if size.max() > FEW else self._model.few(c)
        for depth in tree.depths:
            whole = cells[depth.whole]
            (at,) = whole.ravel().nonzero()
            below = cells[depth.below].reshape(-1)
            if few is not None:
                below[at] = decode(FAMILY, few.take((whole + depth.first).ravel().take(at), axis=0, mode="clip"))
            else:
                first = (depth.first + np.zeros_like(whole)).ravel().take(at)
                for some, model in self._model.steps(c, first, whole.ravel().take(at)):
                    below[at[some]] = decode(*model) if len(model) > 1 else decode(*model, len(some))
            np.subtract(whole, cells[depth.below], out=cells[depth.above])
        return cells.take(tree.leaves, axis=0)

    def at(self, c: int, rows: Int64) -> NDArray[np.int32]:
        return np.asarray(self._coder.decode(self._model.alone[c], len(rows)))

    def equal(self, start: Int64, size: Int64) -> Bool:  # noqa: ARG002  As the bag is asked.
        return np.asarray(self._coder.decode(_EVEN, len(start)) == 1)


def _alike(first: Int64, size: Int64, large: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Large parts, those of one split and size together."""
    if len(large) < 2:
        return [large] if len(large) else []
    key = (first[large] << 32) + size[large]
    order = key.argsort(kind="stable")
    key, large = key[order], large[order]
    bounds = [0, *((key[1:] != key[:-1]).nonzero()[0] + 1).tolist(), len(large)]
    return [large[a:b] for a, b in pairwise(bounds)]


def _model(light: int, dark: int, n: int) -> Any:
    table = urn_frequencies(n, np.array([light]), np.array([dark]))[0]
    return constriction.stream.model.Categorical(table / TOTAL, perfect=False)


_kept_model = lru_cache(maxsize=4_096)(_model)
