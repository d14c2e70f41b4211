"""How a channel's levels are told apart: split at their middle, and either part again, until one is left.

For several parts of a bag at once: an array has a row for each split or level, and a column for each part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
FEW = 15
"""Parts of up to so many rows are coded together, in one call."""


class Depth(NamedTuple):
    """Splits as far from the root as each other, W of them, in the order in which they are coded.

    Attributes
    ----------
    whole
        Which of `Tree`'s cells hold the sizes of what is split: the first of W, or int64 (W,) where they are apart.
    below, above, end
        The first cell of their lower sides, the first one of their upper sides, and the one after these.
    first
        int64 (W,), of each split its number times FEW + 1: where its tables of small parts begin.
    """

    whole: int | Int64
    below: int
    above: int
    end: int
    first: Int64


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """The splits of a channel of L levels: L - 1 of them, numbered from the root on, those of lower levels first.

    Attributes
    ----------
    depths
        The splits, those nearer the root first.
    leaves
        int64 (L,), where in the 2 L - 1 cells the size of each level stands; cell 0 is the part as a whole.
    low, middle, high
        int64 (L - 1,), of each split in the order of coding: its first level, the first one of its upper side, and
        the one after its last.
    first
        int64 (L - 1, 1), those of all depths one after the other.
    ends
        int64 (D,), how many splits there are up to each depth.
    """

    depths: tuple[Depth, ...]
    leaves: Int64
    low: Int64
    middle: Int64
    high: Int64
    first: Int64
    ends: Int64

    def asked(self, levels: Int64) -> tuple[Int64, Int64, Int64, list[int]]:
        """What is coded of parts that have so many rows of each level, int64 (L, P), in the order of coding.

        Returns
        -------
        first, size, below
            Of each split that is not empty its `first`, how many rows it has, and how many of them are below: int64
            (M,) each.
        ends
            How many of them there are up to each depth.
        """
        size, below = self.counts(levels)
        (at,) = size.ravel().nonzero()
        first = (self.first + np.zeros_like(size)).ravel().take(at)
        ends = at.searchsorted(self.ends * levels.shape[1]).tolist()
        return first, size.ravel().take(at), below.ravel().take(at), ends

    def counts(self, levels: Int64) -> tuple[Int64, Int64]:
        """Of each split how many rows it has, and how many of them are below: int64 (L - 1, P) each."""
        upto = np.zeros((len(levels) + 1, levels.shape[1]), np.int64)
        levels.cumsum(axis=0, out=upto[1:])
        lower = upto.take(self.low, axis=0)
        return upto.take(self.high, axis=0) - lower, upto.take(self.middle, axis=0) - lower


@lru_cache(maxsize=512)
def tree_of(levels: int) -> Tree:
    """The splits of a channel of so many levels, each at its middle."""
    ranges = [(0, levels)]
    for low, high in ranges:
        middle = (low + high) // 2
        ranges += [part for part in ((low, middle), (middle, high)) if part[1] - part[0] > 1]
    number = {part: i for i, part in enumerate(ranges)}
    leaves: dict[int, int] = {}
    depths, order, block, cells = [], [], [(0, levels)], 0
    while block:
        leaves |= {low: cells + i for i, (low, high) in enumerate(block) if high - low == 1}
        inner = [i for i, (low, high) in enumerate(block) if high - low > 1]
        split = [block[i] for i in inner]
        if not split:
            break
        after, count = cells + len(block), len(split)
        whole = cells if count == len(block) else cells + np.array(inner, np.int64)
        first = (FEW + 1) * np.array([number[part] for part in split], np.int64)
        depths.append(Depth(whole, after, after + count, after + 2 * count, first))
        order += split
        middles = [(low, (low + high) // 2, high) for low, high in split]
        block, cells = [(a, m) for a, m, _ in middles] + [(m, b) for _, m, b in middles], after
    low, high = np.array(order, np.int64).T
    return Tree(
        tuple(depths),
        np.array([leaves[level] for level in range(levels)], np.int64),
        low,
        (low + high) // 2,
        high,
        np.concatenate([d.first for d in depths])[:, None],
        np.cumsum([len(d.first) for d in depths]),
    )
