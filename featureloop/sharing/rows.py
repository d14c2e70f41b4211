"""Rows of targets as bytes: what was recognized at each vector, and what it was changed to.

A row is of a kind: all flags 0, all 1, or both; a row of both kinds has its flags coded, and where a flag is 1 its
coded values follow. In a set without an order (tables of `BagTables`) the kind is guessed from the row's own symbols, a
flag from those beside it in the cell, and what was changed from what was recognized, so that most rows cost next to
nothing.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import RecordError
from featureloop.core.types import UInt8
from featureloop.model.manifest import BagTables, ReleasedForm

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
NONE, ALL, BOTH = 0, 1, 2
"""Kinds of rows."""
NEIGHBOURHOODS = 16
_FAMILY = constriction.stream.model.Categorical(perfect=False)
_TOTAL = 4096
_BYTE = constriction.stream.model.Uniform(256)


def row_kinds(rows: UInt8, flags: int) -> Int32:
    """The kind of each row by its flags: uint8 (N, T) to int32 (N,)."""
    ones = rows[:, :flags].sum(axis=1)
    return np.where(ones == 0, NONE, np.where(ones == flags, ALL, BOTH)).astype(np.int32)


def score_classes(symbols: UInt8, tables: BagTables) -> Int64:
    """The class of each row's score: uint8 (N, C) to int64 (N,)."""
    scores = symbols.astype(np.int64) @ np.array(tables.weights, np.int64)
    return np.searchsorted(np.array(tables.thresholds, np.int64), scores).astype(np.int64)


@lru_cache(maxsize=64)
def beside_in_cell(flags: int) -> tuple[tuple[int, int, int, int], ...]:
    """Of each flag those to the left, above, above right and above left in its cell, or the nearest to these."""
    side = math.isqrt(flags)
    width = side if side * side == flags else flags
    out = []
    for i in range(flags):
        y, x = divmod(i, width)
        left = i - 1 if x else (i - width if y else -1)
        up = i - width if y else left
        out.append((left, up, up + 1 if y and x + 1 < width else up, up - 1 if y and x else left))
    return tuple(out)


def neighbourhood(flags: NDArray[Any], at: int) -> Int64:
    """The flags beside one, as a number from 0 to 15: (M, F) of 0 and 1 to int64 (M,)."""
    out = np.zeros(len(flags), np.int64)
    for i, beside in enumerate(beside_in_cell(flags.shape[1])[at]):
        if beside >= 0:
            out |= flags[:, beside].astype(np.int64) << i
    return out


class RowsModel:
    """The coding of rows of targets under a form's tables.

    Parameters
    ----------
    width
        T, values of a row.
    """

    def __init__(self, form: ReleasedForm, width: int) -> None:
        self.width, self.flags = width, width if form.flags is None else form.flags
        self.bag = form.bag
        self._kinds = _categorical(form.target_frequencies)
        self._coded = _categorical(form.coded_frequencies) if self.flags < width else None
        # Of a pooled vector's row the flags that don't fill a byte take their own bits alone.
        narrow = form.pooled is not None and self.flags % 8 > 0
        self._last = constriction.stream.model.Uniform(1 << self.flags % 8) if narrow else None

    def encode(self, coder: Any, rows: UInt8, symbols: UInt8 | None = None, before: UInt8 | None = None) -> None:
        """Put rows uint8 (N, T) on a stack coder.

        Parameters
        ----------
        symbols
            uint8 (N, C), of the vectors that the rows belong to, one for one.
        before
            uint8 (N, T), what was recognized, where these rows are what it was changed to.

        Raises
        ------
        RecordError
            A flag is not 0 or 1.
        """
        if rows[:, : self.flags].max(initial=0) > 1:
            raise RecordError("a flag in a row of targets is neither 0 nor 1; the frame can't be shared")
        kinds = row_kinds(rows, self.flags)
        if self._coded is not None:
            coder.encode_reverse(rows[kinds != NONE, self.flags :].reshape(-1).astype(np.int32), self._coded)
        both = rows[kinds == BOTH, : self.flags]
        if self.bag is None:
            self._put_bits(coder, np.packbits(both, axis=1))
            coder.encode_reverse(kinds, self._kinds)
            return
        known = None if before is None else before[kinds == BOTH, : self.flags]
        for i in reversed(range(self.flags if len(both) else 0)):
            coder.encode_reverse(both[:, i].astype(np.int32), _FAMILY, self._shares(both, i, known))
        self._put_kinds(coder, kinds, symbols, before)

    def decode(self, coder: Any, n: int, symbols: UInt8 | None = None, before: UInt8 | None = None) -> UInt8:
        """Take n rows from a stack coder, uint8 (n, T); the parameters are those of `encode`."""
        flags = self.flags
        kinds = self._take_kinds(coder, n, symbols, before)
        rows = np.zeros((n, self.width), np.uint8)
        rows[kinds == ALL, :flags] = 1
        count = int((kinds == BOTH).sum())
        if self.bag is None:
            rows[kinds == BOTH, :flags] = np.unpackbits(self._take_bits(coder, count), axis=1, count=flags)
        else:
            both = np.zeros((count, flags), np.uint8)
            known = None if before is None else before[kinds == BOTH, :flags]
            for i in range(flags if count else 0):
                both[:, i] = coder.decode(_FAMILY, self._shares(both, i, known))
            rows[kinds == BOTH, :flags] = both
        if self._coded is not None:
            told = kinds != NONE
            coded = coder.decode(self._coded, int(told.sum()) * (self.width - flags))
            rows[told, flags:] = coded.reshape(-1, self.width - flags)
        return rows

    def _put_bits(self, coder: Any, bits: UInt8) -> None:
        """Put rows' flags, eight a byte, uint8 (M, ceil(F / 8))."""
        if self._last is not None:
            coder.encode_reverse(bits[:, -1].astype(np.int32) >> 8 - self.flags % 8, self._last)
            bits = bits[:, :-1]
        coder.encode_reverse(bits.reshape(-1).astype(np.int32), _BYTE)

    def _take_bits(self, coder: Any, count: int) -> UInt8:
        each, last = -(-self.flags // 8), self._last is not None
        bits = np.zeros((count, each), np.uint8)
        bits[:, : each - last] = coder.decode(_BYTE, count * (each - last)).reshape(count, each - last)
        if last:
            bits[:, -1] = coder.decode(self._last, count) << 8 - self.flags % 8
        return bits

    def _put_kinds(self, coder: Any, kinds: Int32, symbols: UInt8 | None, before: UInt8 | None) -> None:
        shares = self._kind_shares(len(kinds), symbols, before)
        if shares is None:
            coder.encode_reverse(kinds, self._kinds)
        else:
            coder.encode_reverse(kinds, _FAMILY, shares)

    def _take_kinds(self, coder: Any, n: int, symbols: UInt8 | None, before: UInt8 | None) -> Int32:
        shares = self._kind_shares(n, symbols, before)
        found = coder.decode(self._kinds, n) if shares is None else coder.decode(_FAMILY, shares)
        return np.asarray(found, np.int32)

    def _kind_shares(self, n: int, symbols: UInt8 | None, before: UInt8 | None) -> Float64 | None:
        """Of each row how likely each kind is, float64 (n, 3); None where all rows are alike, or there are none."""
        if self.bag is None or not n:
            return None
        if before is not None and len(before) == n:
            table = np.array(self.bag.changed_kinds, np.float64) / _TOTAL
            return np.asarray(table[row_kinds(before, self.flags)])
        if symbols is not None and len(symbols) == n:
            table = np.array(self.bag.kinds, np.float64) / _TOTAL
            return np.asarray(table[score_classes(symbols, self.bag)])
        return None

    def _shares(self, both: UInt8, at: int, known: UInt8 | None) -> Float64:
        """Of each row how likely the flag is 0 or 1, after those before it: float64 (M, 2)."""
        assert self.bag is not None  # noqa: S101 - only sets have these tables
        beside = neighbourhood(both, at)
        if known is None:
            ones = np.array(self.bag.flags[at], np.float64)[beside]
        else:
            ones = np.array(self.bag.changed_flags[at], np.float64)[beside + NEIGHBOURHOODS * known[:, at]]
        return np.stack([_TOTAL - ones, ones], axis=1) / _TOTAL


@lru_cache(maxsize=4096)
def _categorical(frequencies: tuple[int, ...]) -> Any:
    return constriction.stream.model.Categorical(np.asarray(frequencies, np.float64) / _TOTAL, perfect=False)
