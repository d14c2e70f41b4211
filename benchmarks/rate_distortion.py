"""Rate-distortion optimized quantization of a set: of each value the level below or above, whichever costs less.

What a value costs is its squared error in steps, weighed, plus lambda bits for each bit of the record. A row's bits are
exactly what the urns of the package say of it beside the other rows of its frame (exchangeable draws, so that the
order in which they are told doesn't matter), less what the rows' order doesn't cost. Rows are chosen one after the
other, each against all others as they stand, for several rounds: as well as an encoder can do it, and slower than a
device would. All frames at once.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from featureloop.core.types import Float32, UInt8
from featureloop.model.manifest import ReleasedForm
from featureloop.sharing import codec
from featureloop.sharing.splits import tree_of
from featureloop.sharing.urns import UNIT

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
ROUNDS = 2
TURNS = 4
AT_ONCE = 100
"""Frames, for want of memory."""


class Splits:
    """All splits of a form's tree, one after the other, and which of them a row passes.

    Parameters
    ----------
    form
        Of few channels and levels: their product is how many different rows there can be.
    """

    def __init__(self, form: ReleasedForm) -> None:
        assert form.bag is not None  # noqa: S101  Of a set, as the package has to be.
        self.levels = form.levels
        before = np.cumprod([1, *form.levels])
        self.prefixes = before[:-1]
        widths = [n - 1 for n in form.levels]
        self.base = np.cumsum([0, *(p * w for p, w in zip(before, widths, strict=False))])
        self.count, self.rows = int(self.base[-1]), int(before[-1])
        self.paths, self.sides, self.own, self.both = [], [], [], []
        for levels, urns in zip(form.levels, form.bag.urns, strict=True):
            paths, sides, lengths = _ways(levels)
            balls = np.array(urns, np.float64) / UNIT
            self.paths.append(paths)
            self.sides.append(sides)
            self.own.append(np.where(lengths, balls[paths, sides], 1.0))
            self.both.append(np.where(lengths, balls[paths].sum(axis=2), 1.0))
        self.passed = [_ways(n)[2] for n in form.levels]
        self.alone = [-np.log2(np.array(f, np.float64) / sum(f)) for f in form.frequencies]


def _ways(levels: int) -> tuple[Int64, Int64, NDArray[np.bool_]]:
    """Of each level the splits from the root to it, the side it is on (0 below), and where the list goes on: (L, D)."""
    ranges = [(0, levels)]
    found: list[list[tuple[int, int]]] = [[] for _ in range(levels)]
    for number, (low, high) in enumerate(ranges):
        middle = (low + high) // 2
        ranges += [part for part in ((low, middle), (middle, high)) if part[1] - part[0] > 1]
        for level in range(low, high):
            found[level].append((number, int(level >= middle)))
    assert len(ranges) == levels - 1 == len(tree_of(levels).low)  # noqa: S101  Numbered as the codec does.
    deep = max(map(len, found))
    out = np.zeros((3, levels, deep), np.int64)
    for level, way in enumerate(found):
        out[:2, level, : len(way)] = np.array(way).T
        out[2, level, : len(way)] = 1
    return out[0], out[1], out[2] > 0


def optimized(
    maps: Float32, form: ReleasedForm, price: float, *, felt: Float64 | None = None, weights: Float64 | None = None
) -> UInt8:
    """Symbols uint8 (F, N, C) of maps float32 (F, N, C), at a price in squared steps for each bit.

    Parameters
    ----------
    felt
        How much an error of each row counts, float64 (F, N); None for all alike.
    weights
        How much an error of each channel counts, in its steps, float64 (C,); None for all alike.
    """
    frames, n, channels = maps.shape
    plain = np.stack([codec.quantize(m, form) for m in maps]).astype(np.int64)
    if not price:
        return plain.astype(np.uint8)
    if frames > AT_ONCE:
        parts = [slice(i, i + AT_ONCE) for i in range(0, frames, AT_ONCE)]
        felts = [None if felt is None else felt[part] for part in parts]
        return np.concatenate(
            [optimized(maps[p], form, price, felt=f, weights=weights) for p, f in zip(parts, felts, strict=True)]
        )
    low, high = np.array(form.low), np.array(form.high)
    top = np.array(form.levels) - 1
    exact = (maps - low) / (high - low) * top
    turns = np.array(list(product((0, 1), repeat=channels)))
    toward = np.where(exact >= plain, 1, -1)
    tree = Splits(form)
    flat = np.arange(frames)
    passed, sided = (np.zeros((frames, tree.count), np.int32) for _ in range(2))
    whole = np.zeros((frames, tree.rows), np.int32)
    order = np.stack([np.lexsort((*exact[f].T[::-1], *plain[f].T[::-1])) for f in flat])
    now = plain.copy()

    def count(symbols: Int64, by: int) -> None:
        at = symbols @ np.array(tree.prefixes)
        np.add.at(whole, (flat, at), by)
        prefix = np.zeros(frames, np.int64)
        for c in range(channels):
            s = symbols[:, c]
            nodes = (tree.base[c] + prefix * (tree.levels[c] - 1))[:, None] + tree.paths[c][s]
            on = tree.passed[c][s]
            np.add.at(passed, (flat[:, None], nodes), by * on)
            np.add.at(sided, (flat[:, None], nodes), by * (on & (tree.sides[c][s] == 0)))
            prefix += s * tree.prefixes[c]

    for i in range(n):
        count(now[:, i], 1)
    for _ in range(ROUNDS):
        for j in range(n):
            i = order[:, j]
            x, s, d = exact[flat, i], plain[flat, i], toward[flat, i]
            count(now[flat, i], -1)
            tried = s[:, None] + turns * d[:, None]
            inside = ((tried >= 0) & (tried <= top)).all(axis=2)
            tried = np.clip(tried, 0, top)
            error = (x[:, None] - tried) ** 2
            error = error.sum(axis=2) if weights is None else error @ weights
            if felt is not None:
                error = error * felt[flat, i][:, None]
            cost = np.where(inside, error + price * bits(tree, tried, passed, sided, whole), np.inf)
            now[flat, i] = tried[flat, cost.argmin(axis=1)]
            count(now[flat, i], 1)
    return now.astype(np.uint8)


def bits(
    tree: Splits, tried: Int64, passed: NDArray[np.int32], sided: NDArray[np.int32], whole: NDArray[np.int32]
) -> Float64:
    """What one more row costs beside those that were counted, in bits: int64 (F, K, C) to float64 (F, K)."""
    flat = np.arange(len(tried))[:, None]
    out = np.log2(whole[flat, tried @ np.array(tree.prefixes)] + 1.0)
    prefix = np.zeros(tried.shape[:2], np.int64)
    for c, levels in enumerate(tree.levels):
        s = tried[..., c]
        first = tree.base[c] + prefix * (levels - 1)
        alone = passed[flat, first] == 0
        nodes = first[..., None] + tree.paths[c][s]
        n, k = passed[flat[..., None], nodes], sided[flat[..., None], nodes]
        k = np.where(tree.sides[c][s] == 0, k, n - k)
        on = tree.passed[c][s]
        share = (tree.own[c][s] + k * on) / (tree.both[c][s] + n * on)
        out += np.where(alone, tree.alone[c][s], -np.log2(share.prod(axis=2)))
        prefix += s * tree.prefixes[c]
    return out


def quickly_optimized(
    values: Float32, form: ReleasedForm, price: float, balls: float, *, felt: Float64 | None = None
) -> UInt8:
    """Symbols uint8 (N, C) of one frame's values float32 (N, C), as a device could do it.

    A row's bits are those of one urn for whole rows, of so many balls in the shares that the channels' tables give,
    beside the frame's other rows. In each of `TURNS` turns rows of one colour, by the parity of their symbols' sum, may
    change one symbol each; that gives them the other colour, so what one row moves to doesn't move meanwhile.

    Parameters
    ----------
    balls
        As `fitted_balls` gives them.
    felt
        How much an error of each row counts, float64 (N,); None for all alike.
    """
    n, channels = values.shape
    low, high = np.array(form.low), np.array(form.high)
    top = np.array(form.levels) - 1
    plain = codec.quantize(values, form).astype(np.int64)
    error = (values - low) / (high - low) * top - plain
    way = np.where(error >= 0, 1, -1)
    way[(plain + way < 0) | (plain + way > top)] = 0
    taken, each = table_bits(form), np.arange(channels)
    strides = np.cumprod([1, *form.levels[:-1]])
    more = taken[each, plain + way] - taken[each, plain]
    far = np.where(way == 0, np.inf, 1 - 2 * np.abs(error))
    if felt is not None:
        far = far * felt[:, None]
    turned = np.ones((n, channels))
    key, rare, colour = plain @ strides, taken[each, plain].sum(axis=1), plain.sum(axis=1)
    step = way * strides
    for turn in range(TURNS):
        cells, at, count = np.unique(key, return_inverse=True, return_counts=True)
        (rows,) = ((colour + turn) % 2 == 0).nonzero()
        other = key[rows, None] + turned[rows].astype(np.int64) * step[rows]
        place = np.minimum(cells.searchsorted(other), len(cells) - 1)
        there = np.where(cells[place] == other, count[place], 0)
        rarer = rare[rows, None] + turned[rows] * more[rows]
        saved = urn_bits(count[at[rows]] - 1, rare[rows], balls)[:, None] - urn_bits(there, rarer, balls)
        gain = turned[rows] * far[rows] - price * saved
        best = gain.argmin(axis=1)
        moved = (gain[np.arange(len(rows)), best] < 0).nonzero()[0]
        who, what = rows[moved], best[moved]
        key[who], rare[who] = other[moved, what], rarer[moved, what]
        turned[who, what] *= -1
        colour[who] += 1
    return np.where(turned < 0, plain + way, plain).astype(np.uint8)


def urn_bits(there: NDArray[np.integer[Any]], rare: Float64, balls: float) -> Float64:
    """Bits of one more row of a kind of which there are so many, and which takes so many bits by itself."""
    return np.asarray(np.log2(there + 1.0) - np.log2(balls * 2.0**-rare + there))


def fitted_balls(symbols: UInt8, form: ReleasedForm) -> float:
    """The likeliest number of balls of the urn of whole rows, for frames' symbols uint8 (F, N, C)."""
    taken, strides = table_bits(form), np.cumprod([1, *form.levels[:-1]])
    best, found = -np.inf, 1.0
    for balls in 2.0 ** np.arange(0, 13):
        likelihood = 0.0
        for s in symbols.astype(np.int64):
            _, first, count = np.unique(s @ strides, return_index=True, return_counts=True)
            own = balls * 2.0 ** -taken[np.arange(form.channels), s[first]].sum(axis=1)
            likelihood += (gammaln(own + count) - gammaln(own)).sum() + gammaln(balls) - gammaln(balls + len(s))
        if likelihood > best:
            best, found = likelihood, float(balls)
    return found


def table_bits(form: ReleasedForm) -> Float64:
    """Bits of each channel's levels under the tables, float64 (C, L), L the most levels of a channel."""
    taken = np.full((form.channels, max(form.levels)), 64.0)
    for own, table in zip(taken, form.frequencies, strict=True):
        own[: len(table)] = -np.log2(np.array(table) / sum(table))
    return taken


def pooled_optimized(vectors: Float32, form: ReleasedForm, price: float, *, felt: Float64 | None = None) -> UInt8:
    """Symbols uint8 (M, C) of pooled vectors float32 (M, C), each value by itself, under the form's tables.

    Parameters
    ----------
    felt
        How much an error of each vector counts, float64 (M,); None for all alike.
    """
    plain = codec.quantize(vectors, form).astype(np.int64)
    if not price:
        return plain.astype(np.uint8)
    low, high = np.array(form.low), np.array(form.high)
    top = np.array(form.levels) - 1
    step = (high - low) / top
    exact = (vectors - low) / step
    other = np.clip(plain + np.where(exact >= plain, 1, -1), 0, top)
    channels = np.arange(form.channels)
    taken = table_bits(form)
    worth = 1.0 if felt is None else felt[:, None]

    def cost(s: Int64) -> Float64:
        error = (vectors - codec.dequantize(s.astype(np.uint8), form)) / step
        return np.asarray(worth * error**2 + price * taken[channels, s])

    return np.where(cost(other) < cost(plain), other, plain).astype(np.uint8)
