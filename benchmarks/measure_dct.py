#!/usr/bin/env python3
"""What a DCT over positions would bring where an order is kept, beside neighbours' prediction (`map/1`).

    benchmarks/measure_dct.py --packages runs/polyps/P0 [MORE ...] [--founding DIR] [--images DIR] [--frames 200]
        [--form none] [--sides 20 10 5 4]

Frames of --images under tables of twice as many of --founding. `map/1` on the package's own steps and on wider ones, in
real bytes without padding; and DCTs (orthonormal, over blocks of --sides positions) of each channel, or of the
channels' principal components, whose coefficients have one step each that is so many of the channel's own wide. They
are rounded at a half or later (a dead zone), and stand for what the founding's of that magnitude are a mean of.

The DCT's bits are counted, not written, in its favour: how large a coefficient is likely to be is fitted, by least
squares of logarithms, to the same one of the blocks to the left and above, those before it in its block, the same and
its neighbours in the channels before, and to its usual size; by that it falls into one of `CLASSES` tables of its
channel, which hold the founding's counts and a Laplace density for what was not seen. Blocks' means are predicted from
neighbouring blocks', as `map/1` predicts a map's. Only the count of rows, the checksum and the coder's last word are
added, as `map/1` has them. Of a form of windows, blocks know nothing of each other and their order is not paid for.

Below each DCT stand values that are predicted from their neighbours, with bits counted in the same way, on steps by
which each channel is as far off as by the DCT: what the DCT gains over these is no matter of how error is shared out.

Prints bytes a frame, squared errors in the package's steps, the recognized probabilities' divergence from those of
float32, and Dice of what is recognized from decoded values with what it gains over the package's own steps; last, the
bytes against `map/1` on steps as wide as give the same squared error, and the same divergence.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from bench_codec import Seen, frames_of, look
from bench_codec_forms import bags_of
from measure_codec_ideas import apart, divergence, wider_form
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from scipy.special import gammaln

from featureloop.core.types import Float32
from featureloop.learner.assembly import counted_form, plain_form
from featureloop.model.forms import Form, parse_form
from featureloop.model.package import load_package
from featureloop.model.tasks import rules_of
from featureloop.sharing import codec
from featureloop.sharing.ordered import lines_of

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
WIDTHS = (1.0, 0.6, 0.8, 0.9, 1.2, 1.5, 2.0, 3.0)
MOST_LEVELS = 256
STEPS = (0.8, 1.2, 1.6, 2.4, 3.2)
KINDS = ((0.5, False), (0.35, False), (0.5, True))
"""What is added to a magnitude in steps before it is cut to whole ones, and whether of components."""
CLASSES = 24
SPREADS = (1, 2, 4, 8, 16, 32)
"""Blocks' means are coded under another table from so many steps between their neighbours on."""
MOST = 4095
"""The largest difference that has a table's cell."""
FRAME = 12
"""Bytes around `map/1`'s bits: the count of rows, the checksum, and the coder's state."""


@dataclass(frozen=True, slots=True)
class Way:
    """A DCT over blocks of so many positions' side, its steps in the channel's own, its rounding; components or not."""

    side: int
    step: float
    rounded: float
    mixed: bool

    @property
    def name(self) -> str:
        """Of a line of the table."""
        over = "components, " if self.mixed else ""
        return f"DCT {self.side} x {self.side}, {over}steps x {self.step:g}, rounded at {1 - self.rounded:g}"


@dataclass(frozen=True, slots=True)
class Coded:
    """How values were coded: mean bytes a frame, and what is decoded, float32 (M, N, C)."""

    name: str
    size: float
    values: Float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    polyps = Path(__file__).resolve().parents[2] / "shared" / "data" / "polyps"
    parser.add_argument("--packages", type=Path, nargs="+", required=True)
    parser.add_argument("--founding", type=Path, default=polyps / "kvasir-seg")
    parser.add_argument("--images", type=Path, default=polyps / "cvc-clinicdb")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--form", type=parse_form, default="none")
    parser.add_argument("--sides", type=int, nargs="+", default=[20, 10, 5, 4])
    args = parser.parse_args()
    frames, known = frames_of(args.images, args.frames), frames_of(args.founding, 2 * args.frames)
    for path in args.packages:
        seen = look(load_package(path), frames)
        compared(seen, look(seen.package, known), args.form, args.sides)


def compared(seen: Seen, known: Seen, form: Form, sides: Sequence[int]) -> None:
    """One package's table."""
    released, rules = seen.package.manifest.released, rules_of(seen.package.manifest)
    print(f"\n{released.channels} channels of {', '.join(map(str, released.levels))} levels, `{form}`\n")
    print("| coded | bytes | squared error | divergence, 1e-3 | Dice, decoded | gained, in points", end=" ")
    print("| bytes against `map/1` of the same error | of the same divergence |\n" + "|---" * 8 + "|")
    wide = (np.array(released.levels) - 1) / 2
    whole = [seen.runtime.recognize(m).probabilities for m in seen.maps]
    groups = np.array([f.group or f.name for f in seen.frames])
    ways = [Way(s, k, r, m) for s in sides for r, m in KINDS for k in STEPS]
    curve: list[tuple[float, float, float]] = []
    own: NDArray[Any] | None = None
    lines = (by_neighbours(seen, known, form), *(by_dct(seen, known, form, w) for w in ways))
    for coded in chain.from_iterable(lines):
        error = float((((coded.values - seen.maps) * wide) ** 2).sum(axis=2).mean())
        found = [seen.runtime.recognize(v) for v in coded.values]
        far = float(np.mean([divergence(a, b.probabilities) for a, b in zip(whole, found, strict=True)]))
        dice = np.array([rules.quality(r, t) for r, t in zip(found, seen.truths, strict=True)])
        own = dice if own is None else own
        told = "- | -"
        if coded.name.startswith("`map/1`"):
            curve.append((coded.size, error, far))
        else:
            told = " | ".join(against(curve, j, x, coded.size) for j, x in ((1, error), (2, far)))
        print(f"| {coded.name} | {coded.size:.1f} | {error:.3f} | {1e3 * far:.3f} | {dice.mean():.4f} "
              f"| {apart(dice, own, groups)} | {told} |", flush=True)  # fmt: skip


def against(curve: Sequence[tuple[float, float, float]], by: int, value: float, size: float) -> str:
    """How many more bytes than `map/1` takes at the same value, in percent; by logarithms between its points."""
    points = np.log(sorted((p[by], p[0]) for p in curve))
    if not points[0, 0] <= math.log(value) <= points[-1, 0]:
        return "beyond"
    return f"{100 * (size / math.exp(np.interp(math.log(value), *points.T)) - 1):+.0f}%"


def by_neighbours(seen: Seen, known: Seen, form: Form) -> Iterator[Coded]:
    """`map/1` on the package's own steps, finer and wider ones."""
    released = seen.package.manifest.released
    plain = plain_form(form, released.levels, (), flags=released.flags)
    for times in WIDTHS:
        wider = plain if times == 1 else wider_form(plain, times)
        if max(wider.levels) > MOST_LEVELS:
            continue
        made = counted_form(wider, bags_of(wider, known, known.truths), [])
        rows = [np.zeros_like(t) for t in seen.truths]
        size = np.mean([len(codec.encode_features(b.symbols, made, padded=False)) for b in bags_of(made, seen, rows)])
        values = np.stack([codec.dequantize(codec.quantize(m, made), made) for m in seen.maps])
        yield Coded(f"`map/1`, steps x {times:g}", float(size), values)


def by_dct(seen: Seen, known: Seen, form: Form, way: Way) -> Iterator[Coded]:
    """Blocks' coefficients, a form's windows being the blocks; and values predicted as `map/1` does, as far off."""
    wide = (np.array(seen.package.manifest.released.levels) - 1) / 2
    turn = components(known.maps * wide) if way.mixed else np.eye(len(wide))
    exact = [coefficients(of.maps * wide / way.step @ turn, way.side) for of in (known, seen)]
    told = [rounded(x, way.rounded) for x in exact]
    alone = form.window > 0
    bits = bits_of(*told, alone=alone)
    if alone:
        bits -= float(gammaln(told[0][0, 0, ..., 0, 0].size + 1)) / math.log(2)
    back = [values_of(x - shrunk(exact[0], told[0], x)) @ turn.T * way.step for x in told]
    yield Coded(way.name, bits / 8 + FRAME, np.clip(back[1] / wide, -1, 1).astype(np.float32))
    if not alone and not way.mixed:
        steps = as_far(known.maps * wide, ((back[0] - known.maps * wide) ** 2).mean(axis=(0, 1)))
        told = [rounded(coefficients(of.maps * wide / steps, 1), 0.5) for of in (known, seen)]
        values = np.clip(values_of(told[1].astype(np.float64)) * steps / wide, -1, 1).astype(np.float32)
        yield Coded("as far off in each channel, predicted", bits_of(*told, alone=False) / 8 + FRAME, values)


def as_far(values: Float64, errors: Float64) -> Float64:
    """Steps (C,) on which values (M, N, C) have such mean squared errors (C,)."""
    tried = np.geomspace(0.1, 8, 40)
    found = np.array([((values - s * np.rint(values / s)) ** 2).mean(axis=(0, 1)) for s in tried]).T
    logs = [np.log(np.maximum.accumulate(f)) for f in found]
    return np.exp([np.interp(math.log(e), f, np.log(tried)) for e, f in zip(errors, logs, strict=True)])


def components(values: Float64) -> Float64:
    """The channels' principal components of values in steps (M, N, C): float64 (C, C), a component a column."""
    return np.asarray(np.linalg.eigh(np.cov(values.reshape(-1, values.shape[2]).T))[1][:, ::-1])


def coefficients(values: Float64, side: int) -> Float64:
    """Values float64 (M, N, C) to coefficients (M, C, B, B, side, side) of B x B blocks."""
    m, n, c = values.shape
    b = math.isqrt(n) // side
    blocks = values.reshape(m, b, side, b, side, c).transpose(0, 5, 1, 3, 2, 4)
    return np.asarray(dctn(blocks, axes=(4, 5), norm="ortho"))


def values_of(found: Float64) -> Float64:
    """The way back."""
    m, c = found.shape[:2]
    return np.asarray(idctn(found, axes=(4, 5), norm="ortho").transpose(0, 2, 4, 3, 5, 1).reshape(m, -1, c))


def rounded(exact: Float64, more: float) -> Int64:
    """Whole coefficients; those of blocks' means at a half."""
    told = np.sign(exact) * np.floor(np.abs(exact) + more)
    told[..., 0, 0] = np.rint(exact[..., 0, 0])
    return told.astype(np.int64)


def shrunk(exact: Float64, known: Int64, told: Int64) -> Float64:
    """By how much coefficients of a channel are usually nearer to 0 than they are told, of magnitude 1 and of more."""
    out = np.zeros(told.shape)
    for c in range(told.shape[1]):
        size, own, at = np.abs(known[:, c]), np.abs(exact[:, c]), np.abs(told[:, c])
        for of, here in ((size == 1, at == 1), (size > 1, at > 1)):
            out[:, c][here] = (size - own)[of].mean() if of.any() else 0
    out[..., 0, 0] = 0
    return out * np.sign(told)


def bits_of(known: Int64, told: Int64, *, alone: bool) -> float:
    """Mean bits of a frame's coefficients under tables of the founding's."""
    usual = np.log2(1.0 + np.abs(known)).mean(axis=(0, 2, 3))
    looks = [beside(x, usual, alone=alone) for x in (known, told)]
    differences, classes = [x.copy() for x in (known, told)], [np.zeros_like(x) for x in (known, told)]
    for c in range(known.shape[1]):
        x, y = looks[0][:, :, c].reshape(len(looks[0]), -1), np.log2(1.0 + np.abs(known[:, c])).reshape(-1)
        slope = np.linalg.solve(x @ x.T + np.eye(len(x)), x @ y)
        for of, own in zip(looks, classes, strict=True):
            own[:, c] = np.digitize(np.tensordot(slope, of[:, :, c], 1), np.geomspace(0.01, 4, CLASSES - 1))
        means = [x[:, c, ..., 0, 0] for x in (known, told)]
        for i, (left, own) in enumerate(differences_of_means(*means, alone=alone)):
            differences[i][:, c, ..., 0, 0], classes[i][:, c, ..., 0, 0] = left, CLASSES + own
    return table_bits(*differences, *classes) / len(told)


def differences_of_means(known: Int64, told: Int64, *, alone: bool) -> Iterator[tuple[Int64, Int64]]:
    """A channel's means of blocks (M, B, B) as they differ from what neighbours let expect, and their classes.

    As `sharing.ordered` does it, but for more classes and a sum that isn't in whole numbers.
    """
    side = known.shape[1]
    if alone or side == 1:
        yield from ((x, np.zeros_like(x)) for x in (known, told))
        return
    at, near = (np.concatenate([line[i] for line in lines_of(side)]) for i in (0, 1))
    means = [x.reshape(len(x), -1) for x in (known, told)]
    x = np.concatenate([means[0][:, near], np.ones((len(known), len(at), 1))], axis=2).reshape(-1, 5)
    slope = np.linalg.lstsq(x, means[0][:, at].reshape(-1), rcond=None)[0]
    for mean in means:
        around = mean[:, near]
        likely = around @ slope[:4] + slope[4]
        level = np.rint(likely).astype(np.int64)
        spread = around.max(axis=2) - around.min(axis=2)
        left, own = mean.copy(), np.zeros_like(mean)
        left[:, at] = np.where(likely < level, level - mean[:, at], mean[:, at] - level)
        own[:, at] = 1 + 2 * np.digitize(spread, SPREADS) + (np.abs(likely - level) >= 0.25)
        yield left.reshape(-1, side, side), own.reshape(-1, side, side)


def beside(told: Int64, usual: Float64, *, alone: bool) -> Float64:
    """What is known of each coefficient before it is told: (K, M, C, B, B, side, side)."""
    size = np.log2(1.0 + np.abs(told))
    side = told.shape[4]
    band = np.add.outer(np.arange(side), np.arange(side)).reshape(-1)
    lower = (band[:, None] < band) / np.maximum((band[:, None] < band).sum(axis=0), 1)
    excess = (size - usual[:, None, None]).reshape(*size.shape[:4], -1) @ lower
    channel = earlier(size, 1)
    others = (np.cumsum(size, axis=1) - size) / np.maximum(np.arange(size.shape[1]), 1)[:, None, None, None, None]
    around = sum(earlier(channel, a, k) for a in (4, 5) for k in (-1, 1))
    blocks = [] if alone else [earlier(size, 2), earlier(size, 3), earlier(earlier(size, 2), 3)]
    inside = [earlier(size, a, k) for a in (4, 5) for k in (1, 2)]
    fixed = np.broadcast_to(usual[:, None, None], size.shape)
    inside.append(earlier(earlier(size, 4), 5))
    channels = [channel, around, others]
    return np.stack([*blocks, *inside, excess.reshape(size.shape), *channels, fixed, np.ones(size.shape)])


def earlier(x: Float64, axis: int, by: int = 1) -> Float64:
    """Each place's value so many before it, 0 where there is none."""
    out = np.zeros_like(x)
    n = x.shape[axis]
    to, of = (slice(max(by, 0), n + min(by, 0)), slice(max(-by, 0), n - max(by, 0)))
    before = (slice(None),) * axis
    out[(*before, to)] = x[(*before, of)]
    return out


def table_bits(known: Int64, told: Int64, known_class: Int64, told_class: Int64) -> float:
    """Bits of all that is told: tables of each channel and class hold counts, and a Laplace density for new values.

    The density has as much weight as there were different values (escapes as in PPM's method C).
    """
    total, values = 0.0, np.arange(-MOST, MOST + 1)
    for c in range(known.shape[1]):
        for k in np.unique(told_class[:, c]):
            own, left = known[:, c][known_class[:, c] == k], told[:, c][told_class[:, c] == k]
            own = own if own.size else known[:, c].reshape(-1)
            counts = np.bincount(own + MOST, minlength=len(values))
            middle = np.rint(own.mean())
            density = np.exp(-np.abs(values - middle) / (np.abs(own - middle).mean() + 0.1))
            kinds = np.count_nonzero(counts)
            shares = (counts + kinds * density / density.sum()) / (own.size + kinds)
            total -= np.log2(np.maximum(shares[left + MOST], 2.0**-40)).sum()
    return float(total)


if __name__ == "__main__":
    main()
