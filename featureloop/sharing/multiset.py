"""The rows of a set as what they are: how many of each, and not which came when.

Rows without an order need up to log2 N! bits less than the same rows one after the other. Sorted, they are a tree:
all of them split at the middle of the first channel's levels, either part again, until its level is told; the rows
of one level by the second channel, and so on (`sharing.splits`). Only the sizes of the parts are coded, each under the
Polya urn of its split (`sharing.urns`), of which the package carries the parameters. A row that stands alone is coded
level by level.

Encoding and decoding walk the same tree; only where a size comes from differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import RecordError
from featureloop.core.types import Bool, UInt8
from featureloop.sharing.likened import LikenedModel
from featureloop.sharing.splits import FEW, Int64, tree_of
from featureloop.sharing.urns import TOTAL, urn_frequencies
from featureloop.sharing.walk import Sorted, walk

Urns = tuple[tuple[tuple[int, int], ...], ...]
"""Of each channel, of each of its splits by their numbers, the urn's light and dark balls, in sixteenths."""
Float64 = NDArray[np.float64]
KEPT = 1_024
"""Urns of up to so many balls are kept, so that whatever payloads come, all that are kept take some 20 MB."""
FAMILY = constriction.stream.model.Categorical(perfect=False)
_EVEN = constriction.stream.model.Uniform(2)


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
        self.trees = [tree_of(n) for n in levels]
        self.alone = [
            constriction.stream.model.Categorical(np.asarray(f, np.float64) / sum(f), perfect=False)
            for f in frequencies
        ]
        self._few: dict[int, Float64] = {}
        self._likened = LikenedModel(levels, urns, frequencies)

    def encode(self, coder: Any, symbols: UInt8, like: UInt8 | None = None) -> None:
        """Put a sorted bag uint8 (N, C) on a stack coder.

        Parameters
        ----------
        like
            Another bag uint8 (M, C), which the reader has already (`sharing.likened`).

        Raises
        ------
        RecordError
            The rows are not in canonical order.
        """
        if like is not None:
            self._likened.encode(coder, symbols, like)
            return
        writer = _Writer(self, Sorted(symbols, self.levels))
        walk(len(symbols), self.levels, writer)
        for step in reversed(writer.steps):
            coder.encode_reverse(*step)

    def decode(self, coder: Any, n: int, like: UInt8 | None = None) -> UInt8:
        """Take a bag of n rows from a stack coder: uint8 (n, C), sorted; `like` as it was encoded.

        Raises
        ------
        RecordError
            It holds a part that is larger than the whole.
        """
        if like is not None:
            return self._likened.decode(coder, n, like)
        try:
            return walk(n, self.levels, _Reader(self, coder))
        except ValueError as error:
            # A small part's table leaves room for sizes above its own; the rest is below zero then, and has no table.
            raise RecordError("a payload is no valid code stream") from error

    def few(self, c: int) -> Float64:
        """A channel's urns for parts of 0 to `FEW` rows, one split's after the other: float64 (16 S, 16)."""
        if c not in self._few:
            light, dark = np.array(self.urns[c], np.int64).T
            table = np.zeros((len(light), FEW + 1, FEW + 1))
            for n in range(1, FEW + 1):
                table[:, n, : n + 1] = urn_frequencies(n, light, dark) / TOTAL
            self._few[c] = table.reshape(-1, FEW + 1)
        return self._few[c]

    def urn(self, c: int, first: int, size: int) -> Any:
        """The model of how many are below, of a larger part at a split, which is told by its `first` (`Depth`)."""
        return (_kept_model if size <= KEPT else _model)(*self.urns[c][first // (FEW + 1)], size)


class _Writer:
    """Tells a bag's tree, and keeps what has to be coded, in the order of decoding."""

    def __init__(self, model: MultisetModel, bag: Sorted) -> None:
        self.steps: list[tuple[Any, ...]] = []
        self._model, self._bag = model, bag

    def levels(self, c: int, rows: Int64, size: Int64) -> Int64:
        told = self._bag.levels(c, rows, size)
        first, sizes, below, ends = self._model.trees[c].asked(told)
        k = below.astype(np.int32)
        few = self._model.few(c)
        if size.max(initial=0) <= FEW:  # Of all depths in one call.
            self.steps.append((k, FAMILY, few.take(first + sizes, axis=0)))
            return told
        for a, b in pairwise([0, *ends]):
            (small,) = (sizes[a:b] <= FEW).nonzero()
            if len(small):
                self.steps.append((k[a:b][small], FAMILY, few.take((first + sizes)[a:b][small], axis=0)))
            large = _large(first[a:b], sizes[a:b])
            self.steps += [(int(k[a + i]), self._model.urn(c, split, n)) for split, n, i in large]
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
        self._model, self._coder, self._small = model, coder, False

    def levels(self, c: int, rows: Int64, size: Int64) -> Int64:  # noqa: ARG002  As the bag is asked.
        tree, few, decode, p = self._model.trees[c], self._model.few(c), self._coder.decode, len(size)
        cells = np.zeros((2 * len(tree.leaves) - 1, p), np.int64)
        flat = cells.reshape(-1)
        flat[:p] = size
        # Parts only become smaller.
        self._small = self._small or int(size.max()) <= FEW
        for whole, below, above, end, first in tree.depths:
            n = flat[whole * p : below * p] if isinstance(whole, int) else cells.take(whole, axis=0).reshape(-1)
            k = flat[below * p : above * p]
            if not self._small and int(n.max()) > FEW:
                self._some_large(c, n, first.repeat(p), k)
            elif below == 1:  # The whole parts: none is empty.
                k[:] = decode(FAMILY, few.take(n, axis=0))
            else:
                (at,) = n.nonzero()
                if len(at):
                    keys = (n + (first if len(first) == 1 else first.repeat(p))).take(at)
                    k[at] = decode(FAMILY, few.take(keys, axis=0, mode="clip"))
            np.subtract(n, k, out=flat[above * p : end * p])
        return cells.take(tree.leaves, axis=0)

    def _some_large(self, c: int, n: Int64, first: Int64, k: Int64) -> None:
        """Take how many are below of n rows each, some of them large, into k."""
        model, decode = self._model, self._coder.decode
        (small,) = ((n != 0) & (n <= FEW)).nonzero()
        if len(small):
            k[small] = decode(FAMILY, model.few(c).take((n + first).take(small), axis=0, mode="clip"))
        for split, size, i in _large(first, n):
            k[i] = decode(model.urn(c, split, size))

    def at(self, c: int, rows: Int64) -> NDArray[np.int32]:
        found: NDArray[np.int32] = self._coder.decode(self._model.alone[c], len(rows))
        return found

    def equal(self, start: Int64, size: Int64) -> Bool:  # noqa: ARG002  As the bag is asked.
        return np.asarray(self._coder.decode(_EVEN, len(start)) == 1)


def _large(first: Int64, size: Int64) -> list[tuple[int, int, int]]:
    """The larger parts by split and size: the split's `first` (`Depth`), the size, and which it is.

    Of N rows there are less than N / 16, and hardly ever two of one split and size that could be coded in one call.
    """
    (large,) = (size > FEW).nonzero()
    return sorted((int(first[i]), int(size[i]), i) for i in large.tolist())


def _model(light: int, dark: int, n: int) -> Any:
    table = urn_frequencies(n, np.array([light]), np.array([dark]))[0]
    return constriction.stream.model.Categorical(table / TOTAL, perfect=False)


_kept_model = lru_cache(maxsize=4_096)(_model)
