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
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import RecordError
from featureloop.core.types import Bool, UInt8
from featureloop.sharing.urns import TOTAL, Int64, urn_frequencies

Urns = tuple[tuple[tuple[int, int], ...], ...]
"""Of each channel, of each of its splits in the order of `Splits`, the urn's light and dark balls, in sixteenths."""
Float64 = NDArray[np.float64]
FEW = 15
"""Parts of up to so many rows are coded together, in one call."""
KEPT = 1_024
"""Urns of up to so many balls are kept, so that whatever payloads come, all that are kept take some 20 MB."""
EQUAL_AT = 4
"""The channel before which parts are asked whether all of their rows are equal: in a map of many channels hardly any
others are left, and those that are (the black border) need no further splits."""
FAMILY = constriction.stream.model.Categorical(perfect=False)
_EVEN = constriction.stream.model.Uniform(2)


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """The splits of a channel of L levels, those nearer the root first: L - 1 of them.

    Attributes
    ----------
    middle
        int64 (L - 1,), the first level of the upper part.
    sides
        int64 (2, L - 1), what comes next below and above: another split's number, or -1 - level where that is told.
    """

    middle: Int64
    sides: Int64


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
    return Splits(np.array(middle, np.int64), np.ascontiguousarray(np.array(nexts, np.int64).T))


class Parts(NamedTuple):
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


class Teller(Protocol):
    """Who tells what a tree looks like: a bag itself, or a code stream."""

    def below(self, c: int, parts: Parts) -> Int64:
        """How many rows of a channel's parts are below their splits, int64 (P,)."""
        ...

    def at(self, c: int, rows: Int64) -> Int64:
        """Symbols in a channel of rows that stand alone, int64 (A,)."""
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
    out = np.zeros((n, len(levels)), np.uint8)
    start, size = np.zeros(min(n, 1), np.int64), np.full(min(n, 1), n, np.int64)
    single = size == 1
    for c, count in enumerate(levels):
        if c == EQUAL_AT and not single.all():
            single[~single] = teller.equal(start[~single], size[~single])
        # The parts are the whole bag, one after the other.
        if single.all():
            if n:
                rest = np.stack([teller.at(d, start) for d in range(c, len(levels))], axis=1)
                out[:, c:] = rest.astype(np.uint8).repeat(size, axis=0)
            break
        rows = start[single]
        level = teller.at(c, rows) if len(rows) else np.zeros(0, np.int64)
        whole = Parts(start[~single], size[~single], np.zeros(len(start) - len(rows), np.int64))
        told = _divided(c, whole, splits_of(count), teller.below)
        start, size = np.concatenate([rows, told.start]), np.concatenate([size[single], told.size])
        order = start.argsort()
        level = np.concatenate([level, told.split])[order]
        single = np.concatenate([np.ones(len(rows), np.bool_), told.size == 1])[order]
        start, size = start[order], size[order]
        # A small part's table leaves room for sizes above its own.
        if int(size.sum()) != n:
            raise RecordError("a payload is no valid code stream")
        out[:, c] = level.repeat(size)
    return out


def _divided(c: int, parts: Parts, splits: Splits, sizes: Callable[[int, Parts], Int64]) -> Parts:
    """Parts whose rows all have one level of a channel, which stands as their split."""
    done = [np.zeros((3, 0), np.int64)]
    while count := len(parts.start):
        k = sizes(c, parts)
        # Start, size and split of all lower sides, and then of all upper ones.
        sides = np.empty((3, 2, count), np.int64)
        sides[0, 0], sides[0, 1] = parts.start, parts.start + k
        sides[1, 0], sides[1, 1] = k, parts.size - k
        sides[2] = splits.sides.take(parts.split, axis=1)
        both = sides.reshape(3, -1)
        some, told = both[1] > 0, both[2] < 0
        done.append(both.take((some & told).nonzero()[0], axis=1))
        parts = Parts(*both.take((some & ~told).nonzero()[0], axis=1))
    start, size, split = np.concatenate(done, axis=1)
    return Parts(start, size, -1 - split)


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

    def alone(self, c: int) -> Any:
        """The model of a channel's levels, for rows that stand alone."""
        return self._alone[c]

    def few(self, c: int, parts: Parts) -> Float64:
        """Of small parts how likely each size below is, float64 (P, FEW + 1)."""
        return np.asarray(self._tables(c)[parts.split, parts.size])

    def urn(self, c: int, parts: Parts, at: int) -> Any:
        """The model of the size below, of a larger part."""
        n = int(parts.size[at])
        return (_kept_model if n <= KEPT else _model)(*self.urns[c][int(parts.split[at])], n)

    def _tables(self, c: int) -> Float64:
        """A channel's urns for parts of up to `FEW` rows: float64 (splits, FEW + 1, FEW + 1)."""
        if c not in self._few:
            light, dark = np.array(self.urns[c], np.int64).T
            table = np.zeros((len(light), FEW + 1, FEW + 1))
            for n in range(1, FEW + 1):
                table[:, n, : n + 1] = urn_frequencies(n, light, dark) / TOTAL
            self._few[c] = table
        return self._few[c]


class _Writer:
    """Tells a bag's tree, and keeps what has to be coded, in the order of decoding."""

    def __init__(self, model: MultisetModel, bag: Sorted) -> None:
        self.steps: list[tuple[Any, ...]] = []
        self._model, self._bag = model, bag

    def below(self, c: int, parts: Parts) -> Int64:
        k = self._bag.below(c, parts)
        few, groups = _grouped(parts)
        if few is None:
            self.steps.append((k.astype(np.int32), FAMILY, self._model.few(c, parts)))
        elif len(few):
            self.steps.append((k[few].astype(np.int32), FAMILY, self._model.few(c, _some(parts, few))))
        for at in groups:
            self.steps.append((k[at].astype(np.int32), self._model.urn(c, parts, at[0])))
        return k

    def at(self, c: int, rows: Int64) -> Int64:
        levels = self._bag.at(c, rows)
        self.steps.append((levels.astype(np.int32), self._model.alone(c)))
        return levels

    def equal(self, start: Int64, size: Int64) -> Bool:
        same = self._bag.equal(start, size)
        self.steps.append((same.astype(np.int32), _EVEN))
        return same


class _Reader:
    """Tells the tree that a code stream holds."""

    def __init__(self, model: MultisetModel, coder: Any) -> None:
        self._model, self._coder = model, coder

    def below(self, c: int, parts: Parts) -> Int64:
        few, groups = _grouped(parts)
        if few is None:
            k = np.asarray(self._coder.decode(FAMILY, self._model.few(c, parts)), np.int64)
        else:
            k = np.zeros(len(parts.size), np.int64)
            if len(few):
                k[few] = self._coder.decode(FAMILY, self._model.few(c, _some(parts, few)))
        for at in groups:
            k[at] = self._coder.decode(self._model.urn(c, parts, at[0]), len(at))
        return k

    def at(self, c: int, rows: Int64) -> Int64:
        return np.asarray(self._coder.decode(self._model.alone(c), len(rows)), np.int64)

    def equal(self, start: Int64, size: Int64) -> Bool:  # noqa: ARG002  As the bag is asked.
        return np.asarray(self._coder.decode(_EVEN, len(start)) == 1)


def _some(parts: Parts, at: NDArray[np.intp]) -> Parts:
    return Parts(parts.start[at], parts.size[at], parts.split[at])


def _grouped(parts: Parts) -> tuple[NDArray[np.intp] | None, list[NDArray[np.intp]]]:
    """The small parts' numbers, None where all are small; and the others', those of one split and size together."""
    large = parts.size > FEW
    (many,) = large.nonzero()
    if not len(many):
        return None, []
    (few,) = (~large).nonzero()
    if len(many) < 2:
        return few, [many]
    key = (parts.split[many] << 32) + parts.size[many]
    order = key.argsort(kind="stable")
    key, many = key[order], many[order]
    bounds = [0, *((key[1:] != key[:-1]).nonzero()[0] + 1).tolist(), len(many)]
    return few, [many[a:b] for a, b in pairwise(bounds)]


def _model(light: int, dark: int, n: int) -> Any:
    table = urn_frequencies(n, np.array([light]), np.array([dark]))[0]
    return constriction.stream.model.Categorical(table / TOTAL, perfect=False)


_kept_model = lru_cache(maxsize=4_096)(_model)
