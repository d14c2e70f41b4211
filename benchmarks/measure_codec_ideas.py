#!/usr/bin/env python3
"""What ideas of the codec's design could bring at best, before any of them is built.

    benchmarks/measure_codec_ideas.py --package runs/polyps/P0 [--founding DIR] [--images DIR] [--frames 200]
        [--steps 400] [--seeds 2] [--ideas frame-before base background rdo] [--lines NAME ...]

- the frame before: each split's urn gets balls by the counts of the same sequence's frame before, weighed by one
  number for all frames, and by the best one of each frame as nobody can know it. Bytes by urns alone, of all
  consecutive frames and of those that `near_duplicates = 0.3` leaves. And what `sharing.likened` takes, which goes
  further: after the frame before, and in a random order of 128 frames after those already sent.
- a pooled base layer: mean and deviation of the package's channels as a pooled record codes them; bytes, and how well
  they tell the larger half of the lesions, cross-validated over sequences, against the set's sorted values.
- background: rows in which no lesion is recognized on steps 2 and 4 times as wide, and all rows. Bytes (whole sets,
  tables fitted anew; what rows of each kind cost by themselves), Dice of what is recognized from the decoded values,
  and, but for `--steps 0`, of recognizers taught by half of both sites' decoded records and their true targets (a
  lesion that the package misses is background to the codec), on the other halves' unchanged values.
- rdo: rate-distortion optimized quantization (`rate_distortion.py`) at several prices of a bit, of the package's own
  steps and of wider ones, all rows alike and by what the recognition feels of each row, beside wider steps alone.
  Bytes, squared errors in the package's steps, the recognized probabilities' divergence from those of float32, and
  Dice as above, less that of the package's own steps with its interval over the other site's sequences. `--lines`
  trains recognizers for some lines alone.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import constriction
import numpy as np
import torch
from bench_codec import Seen, bag_of, frames_of, look
from numpy.typing import NDArray
from rate_distortion import fitted_balls, optimized, quickly_optimized
from scipy.special import betaln
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featureloop.core.intervals import figure_maker, mean_of
from featureloop.core.types import Bag, Float32, Task, UInt8
from featureloop.learner.assembly import counted_form, plain_form
from featureloop.model.fit import BagSet, FitSettings, fit_recognizer
from featureloop.model.forms import parse_form
from featureloop.model.manifest import ReleasedForm
from featureloop.model.package import load_package
from featureloop.model.pooling import DEVIATION, MEAN
from featureloop.model.recognizers import build_recognizer
from featureloop.model.tasks import rules_of
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order, pool
from featureloop.sharing.multiset import MultisetModel
from featureloop.sharing.near import NearDuplicates, look_of, values_of
from featureloop.sharing.rows import ALL, BOTH, NONE, row_kinds

KINDS = ("background", "border", "lesion")
WIDER = (
    ("none", 1, False),
    ("background, x 2", 2, False),
    ("all rows, x 2", 2, True),
    ("background, x 4", 4, False),
)
IDEAS = ("frame-before", "base", "background", "rdo")
WIDTHS = (1.0, 1.1, 1.2, 1.35, 1.5, 2.0)
PRICES = (0.05, 0.1, 0.2, 0.4, 0.8)
ROW, DEVICE = ", by row", ", as a device could"
FLAT = 0.1
"""Share of a row's sensitivity that all rows have alike."""
WEIGHTS = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
SENT, TRIED = 128, 8
"""Frames in a random order, and how many of those already sent each is coded after."""
BATCH = 16
Nodes = dict[tuple[Any, ...], tuple[int, int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    polyps = Path(__file__).resolve().parents[2] / "shared" / "data" / "polyps"
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--founding", type=Path, default=polyps / "kvasir-seg")
    parser.add_argument("--images", type=Path, default=polyps / "cvc-clinicdb")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--steps", type=int, default=400, help="of each recognizer's training; 0: none")
    parser.add_argument("--seeds", type=int, default=2, help="recognizers trained for each line")
    parser.add_argument("--ideas", nargs="+", choices=IDEAS, default=list(IDEAS))
    parser.add_argument(
        "--lines", nargs="*", help="of `rdo`, those for which recognizers are trained; all, if not given"
    )
    args = parser.parse_args()
    package = load_package(args.package)
    seen, known = look(package, frames_of(args.images, 612)), look(package, frames_of(args.founding, 2 * args.frames))
    if "frame-before" in args.ideas:
        before(seen)
        likened(seen)
    if "base" in args.ideas:
        base(seen, known)
    if "background" in args.ideas:
        few = some_of(seen, list(range(len(seen.frames)))[:: max(1, len(seen.frames) // args.frames)])
        background(few, known, steps=args.steps, seeds=args.seeds)
    if "rdo" in args.ideas:
        few = some_of(seen, list(range(len(seen.frames)))[:: max(1, len(seen.frames) // args.frames)])
        rate_distortion(few, known, steps=args.steps, seeds=args.seeds, lines=args.lines)


def some_of(seen: Seen, at: Sequence[int]) -> Seen:
    return replace(seen, frames=[seen.frames[i] for i in at], truths=[seen.truths[i] for i in at], maps=seen.maps[at])


def background(seen: Seen, known: Seen, *, steps: int, seeds: int) -> None:
    """The last table."""
    released = seen.package.manifest.released
    rows = [seen.runtime.recognize(m).targets() for m in seen.maps]
    print("\n| wider steps | bytes of features | by themselves: " + " | ".join(KINDS), end=" ")
    print("| rows of each | Dice, decoded | taught so, founding's site | the other |\n" + "|---" * 9 + "|")
    for name, times, everywhere in WIDER:
        kept, learned = (
            [snapped(codec.quantize(m, released), r, released, times=times, everywhere=everywhere)
             for m, r in zip(of.maps, some, strict=True)]
            for of, some in ((seen, rows), (known, known.truths))
        )  # fmt: skip
        form = counted_form(released, [sorted_bag(s, r) for s, r in zip(learned, known.truths, strict=True)], [])
        size = np.mean([bare(sorted_bag(s, r), form) for s, r in zip(kept, rows, strict=True)])
        parts, counts = [], []
        for kind in (NONE, BOTH, ALL):
            some = [s[row_kinds(r, 16) == kind] for s, r in zip(learned, known.truths, strict=True)]
            own = counted_form(released, [sorted_bag(s, np.zeros((len(s), 16), np.uint8)) for s in some], [])
            left = [s[row_kinds(r, 16) == kind] for s, r in zip(kept, rows, strict=True)]
            parts.append(np.mean([bare(sorted_bag(s, np.zeros((len(s), 16), np.uint8)), own) - 8 for s in left]))
            counts.append(np.mean([len(s) for s in left]))
        decoded = seen.quality([codec.dequantize(s, released) for s in kept])
        dice = np.array(
            [taught(known, learned, seen, kept, steps=steps, seed=1 + k) for k in range(seeds if steps else 0)]
        )
        told = " | ".join(f"{d.mean():.4f} ({', '.join(f'{x:.4f}' for x in d)})" for d in dice.T) if steps else "- | -"
        print(f"| {name} | {size:.0f} | {' | '.join(f'{p:.0f}' for p in parts)} "
              f"| {', '.join(f'{n:.0f}' for n in counts)} | {decoded:.4f} | {told} |", flush=True)  # fmt: skip


def snapped(symbols: UInt8, rows: UInt8, form: ReleasedForm, *, times: int, everywhere: bool) -> UInt8:
    """Symbols on steps so many times as wide, of all rows or of those that show nothing; the middle level is kept."""
    top = np.array(form.levels) - 1
    coarse = np.rint(np.clip(np.rint((symbols - top / 2) / times) * times + top / 2, 0, top))
    return np.where((row_kinds(rows, 16) == NONE)[:, None] | everywhere, coarse, symbols).astype(np.uint8)


def sorted_bag(symbols: UInt8, rows: UInt8) -> Bag:
    return canonical_order(Bag(symbols, rows))


def in_order(symbols: UInt8) -> UInt8:
    return sorted_bag(symbols, np.zeros((len(symbols), 1), np.uint8)).symbols


def bare(bag: Bag, form: ReleasedForm) -> int:
    return len(codec.encode_features(bag.symbols, form, padded=False))


def taught(
    known: Seen, learned: Sequence[UInt8], seen: Seen, kept: Sequence[UInt8], *, steps: int, seed: int
) -> tuple[float, float]:
    """The means of `taught_frames`, of symbols on the package's own steps."""
    form = seen.package.manifest.released
    first, second = taught_frames(known, learned, seen, kept, form, steps=steps, seed=seed)
    return float(first.mean()), float(second.mean())


def taught_frames(
    known: Seen,
    learned: Sequence[UInt8],
    seen: Seen,
    kept: Sequence[UInt8],
    form: ReleasedForm,
    *,
    steps: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Quality of frames of both sites of a new recognizer taught by half of each one's records and their true targets.

    Tested is the other half: every other frame of the founding's, every other sequence of the other site's, from
    unchanged values on the package's own steps.

    Parameters
    ----------
    form
        Of the steps that the symbols are on.
    """
    manifest = seen.package.manifest
    levels, low, high = (np.array(x, np.float32) for x in (form.levels, form.low, form.high))
    sites = [(known, learned, [i % 2 == 1 for i in range(len(learned))]), (seen, kept, held_back(seen))]
    symbols = [s for _, own, held in sites for s, h in zip(own, held, strict=True) if not h]
    truths = [t for of, _, held in sites for t, h in zip(of.truths, held, strict=True) if not h]
    shares = np.concatenate([np.full(held.count(False), 0.5 / held.count(False)) for *_, held in sites])
    bags = BagSet(np.stack(symbols), np.stack(truths), shares, np.ones(len(symbols), np.float32),
                  (high - low) / (levels - 1), low)  # fmt: skip
    torch.manual_seed(seed)
    network = build_recognizer(manifest.recognizer, channels=form.channels)
    settings = FitSettings(epochs=steps * BATCH / len(symbols), seed=seed)
    fit_recognizer(network, bags, task=Task.SEGMENTATION, settings=settings)
    network.eval()
    first, second = (
        quality_by(network, some_of(of, [i for i, h in enumerate(held) if h])) for of, _, held in sites
    )  # fmt: skip
    return first, second


def held_back(seen: Seen) -> list[bool]:
    """Frames of every other sequence."""
    groups = [f.group or f.name for f in seen.frames]
    odd = set(sorted(set(groups))[1::2])
    return [g in odd for g in groups]


def quality_by(network: torch.nn.Module, seen: Seen) -> NDArray[np.float64]:
    released, rules = seen.package.manifest.released, rules_of(seen.package.manifest)
    found = []
    with torch.no_grad():
        for m, t in zip(seen.maps, seen.truths, strict=True):
            values = codec.dequantize(codec.quantize(m, released), released)
            told = torch.sigmoid(network(torch.from_numpy(values)[None])[0]).numpy()
            found.append(rules.quality(replace(seen.runtime.recognize(m), probabilities=told), t))
    return np.array(found)


Line = tuple[str, float, float, str]
"""A name, how much wider the steps are, the price of a bit, and how levels are chosen."""


def lines_of_rdo() -> list[Line]:
    wider = [(f"steps x {k:g}", k, 0.0, "") for k in WIDTHS]
    chosen = [(f"rdo {price:g}{how}", 1.0, price, how) for how in ("", ROW, DEVICE, DEVICE + ROW) for price in PRICES]
    return [*wider, *chosen, ("rdo 0.2, steps x 1.35", 1.35, 0.2, ""), ("rdo 0.2, steps x 2", 2.0, 0.2, "")]


def rate_distortion(seen: Seen, known: Seen, *, steps: int, seeds: int, lines: Sequence[str] | None) -> None:
    """The fourth table."""
    released, rules = seen.package.manifest.released, rules_of(seen.package.manifest)
    whole = [seen.runtime.recognize(m) for m in seen.maps]
    groups = np.array([f.group or f.name for f in seen.frames])
    held = groups[held_back(seen)]
    felt = [felt_of(of) for of in (known, seen)]
    felt = [FLAT + (1 - FLAT) * f / felt[0].mean() for f in felt]
    wide = (np.array(released.levels) - 1) / 2
    first: tuple[NDArray[Any], list[NDArray[Any]]] | None = None
    print(
        "\n| quantized | bytes of features | squared error | divergence, 1e-3 | Dice, decoded | gained, in points",
        end=" ",
    )
    print("| taught so, founding's site | the other | gained, in points |\n" + "|---" * 9 + "|")
    for name, times, price, how in lines_of_rdo():
        start, feel = (released if times == 1 else wider_form(released, times)), felt if ROW in how else None
        learned, kept, form = chosen(known, seen, start, price, feel, quick=DEVICE in how)
        size = np.mean([bare(sorted_bag(s, r.targets()), form) for s, r in zip(kept, whole, strict=True)])
        values = np.stack([codec.dequantize(s, form) for s in kept])
        error = (((values - seen.maps) * wide) ** 2).sum(axis=2).mean()
        found = [seen.runtime.recognize(v) for v in values]
        far = np.mean([divergence(a.probabilities, b.probabilities) for a, b in zip(whole, found, strict=True)])
        dice = np.array([rules.quality(r, t) for r, t in zip(found, seen.truths, strict=True)])
        taught_by = range(seeds if steps and (lines is None or name in lines) else 0)
        each = [taught_frames(known, learned, seen, kept, form, steps=steps, seed=1 + k) for k in taught_by]
        own = [np.mean(x, axis=0) for x in zip(*each, strict=True)]
        first = first or (dice, own)
        told = "- | - | -"
        if own:
            seeds_told = ", ".join(f"{x.mean():.4f}" for _, x in each)
            gained = apart(own[1], first[1][1], held) if first[1] else "-"
            told = f"{own[0].mean():.4f} | {own[1].mean():.4f} ({seeds_told}) | {gained}"
        print(f"| {name} | {size:.1f} | {error:.3f} | {1e3 * far:.3f} | {dice.mean():.4f}", end=" ")
        print(f"| {apart(dice, first[0], groups)} | {told} |", flush=True)


def wider_form(form: ReleasedForm, times: float) -> ReleasedForm:
    """The form with steps exactly so many times wider, of any number; the bounds are moved outwards to whole steps."""
    step = times * 2 / (np.array(form.levels) - 1.0)
    half = np.maximum(np.ceil(1 / step - 1e-9), 1)
    reach, levels = tuple((half * step).tolist()), tuple((2 * half + 1).astype(int).tolist())
    return replace(plain_form(form.form, levels, (), flags=form.flags), low=tuple(-x for x in reach), high=reach)


def apart(a: NDArray[Any], b: NDArray[Any], groups: NDArray[np.str_]) -> str:
    """Mean difference of frames' values in points, and its interval over groups."""
    if not (a - b).any():
        return "-"
    f = figure_maker(groups, seed=1)("difference", mean_of(100 * (a - b)), most=100.0)
    return f"{f.value:+.2f} ({f.low:+.2f} to {f.high:+.2f})"


def chosen(
    known: Seen, seen: Seen, form: ReleasedForm, price: float, felt: Sequence[NDArray[Any]] | None, *, quick: bool
) -> tuple[UInt8, UInt8, ReleasedForm]:
    """Both sites' symbols, and the form with tables that were fitted to the founding's, twice."""
    plain = np.stack([codec.quantize(m, form) for m in known.maps])

    def fitted(symbols: UInt8) -> ReleasedForm:
        return counted_form(form, [sorted_bag(s, r) for s, r in zip(symbols, known.truths, strict=True)], [])

    tables = fitted(plain)
    balls = fitted_balls(plain, tables)

    def of(maps: Float32, feel: NDArray[Any] | None) -> UInt8:
        if quick:
            feels = [None] * len(maps) if feel is None else feel
            found = [quickly_optimized(m, tables, price, balls, felt=f) for m, f in zip(maps, feels, strict=True)]
            return np.stack(found)
        return optimized(maps, tables, price, felt=feel)

    learned = plain
    for _ in range(2 if price else 0):
        learned = of(known.maps, None if felt is None else felt[0])
        tables = fitted(learned)
    return learned, of(seen.maps, None if felt is None else felt[1]), tables


def felt_of(seen: Seen) -> NDArray[np.float64]:
    """The Fisher information of what is recognized of each row, by its logits: float64 (M, N)."""
    found = np.stack([np.asarray(seen.runtime.recognize(m).probabilities, np.float64) for m in seen.maps])
    return np.asarray((found * (1 - found)).mean(axis=2))


def divergence(p: Float32, q: Float32) -> float:
    """The mean divergence of a flag's probability q from p, in nats."""
    a, b = (np.clip(x.astype(np.float64), 1e-9, 1 - 1e-9) for x in (p, q))
    return float((a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))).mean())


def before(seen: Seen) -> None:
    """The second table."""
    released = seen.package.manifest.released
    assert released.bag is not None  # noqa: S101  Of a set, as the package has to be.
    groups = [f.group or f.name for f in seen.frames]
    nodes = [nodes_of(codec.quantize(m, released), released.levels) for m in seen.maps]
    near, left = NearDuplicates(0.3, released.usually_apart), []
    for i, (m, group) in enumerate(zip(seen.maps, groups, strict=True)):
        own = look_of(m, seen.runtime.recognize(m), released)
        if not near.is_near(own, group):
            near.keep(own, group)
            left.append(i)
    print("\n| frames | pairs | bytes by urns | with the frame before, one weight | the best weight of each frame |")
    print("|---|---|---|---|---|")
    for name, at in (("consecutive", list(range(len(groups)))), ("that near-duplicates leave", left)):
        pairs = [(a, b) for a, b in pairwise(at) if groups[a] == groups[b]]
        bits = np.array([[bits_of(nodes[b], nodes[a], released.bag.urns, w) for w in WEIGHTS] for a, b in pairs]) / 8
        one = bits.mean(axis=0)
        print(f"| {name} | {len(pairs)} | {one[0]:.1f} | {one.min():.1f} (weight {WEIGHTS[int(one.argmin())]:g}) "
              f"| {bits.min(axis=1).mean():.1f} |", flush=True)  # fmt: skip


def likened(seen: Seen) -> None:
    """What follows the second table: bytes by the coder, without the state that a stream begins with."""
    released = seen.package.manifest.released
    assert released.bag is not None  # noqa: S101  Of a set, as the package has to be.
    model = MultisetModel(released.levels, released.bag.urns, released.frequencies)
    bags = [in_order(codec.quantize(m, released)) for m in seen.maps]
    groups = [f.group or f.name for f in seen.frames]
    looks = np.stack([values_of(m, released) for m in seen.maps])
    order = np.random.default_rng(1).permutation(len(bags))[:SENT].tolist()

    def size(i: int, *others: int) -> float:
        like = in_order(np.concatenate([bags[o] for o in others])) if others else None
        coder = constriction.stream.stack.AnsCoder()
        model.encode(coder, bags[i], like)
        return float(coder.num_valid_bits()) / 8

    def nearest(j: int) -> list[int]:
        apart = np.abs(looks[order[:j]] - looks[order[j]]).mean(axis=1).sum(axis=1)
        return [order[i] for i in apart.argsort(kind="stable")[:TRIED]]

    pairs = [(a, b) for a, b in pairwise(range(len(bags))) if groups[a] == groups[b]]
    later = range(1, len(order))
    lines: list[tuple[str, list[tuple[float, float]]]] = [
        ("consecutive, after the frame before", [(size(b), size(b, a)) for a, b in pairs])
    ]
    ways: dict[str, Callable[[int], float]] = {
        "after the nearest one sent": lambda j: size(order[j], nearest(j)[0]),
        "after the best of the 8 nearest": lambda j: min(size(order[j], o) for o in nearest(j)),
        "after the 8 nearest together": lambda j: size(order[j], *nearest(j)),
        "after the last 8 together": lambda j: size(order[j], *order[max(0, j - TRIED) : j]),
        "after all that were sent": lambda j: size(order[j], *order[:j]),
    }
    lines += [(f"{SENT} in random order, {way}", [(size(order[j]), of(j)) for j in later]) for way, of in ways.items()]
    print("\n| frames | pairs | bytes by themselves | after others | |\n" + "|---" * 5 + "|")
    for name, sizes in lines:
        alone, after = np.mean(sizes, axis=0)
        print(f"| {name} | {len(sizes)} | {alone:.1f} | {after:.1f} | {100 * (after / alone - 1):+.1f}% |", flush=True)


def nodes_of(symbols: UInt8, levels: Sequence[int]) -> Nodes:
    """Of each split of a bag's tree, named by what was told before it, how many rows it has and how many are below."""
    found: Nodes = {}
    rows = Counter(map(tuple, symbols.tolist()))
    for c, count in enumerate(levels):
        prefixes: dict[tuple[int, ...], Counter[int]] = {}
        for row, n in rows.items():
            prefixes.setdefault(row[:c], Counter())[row[c]] += n
        for prefix, told in prefixes.items():
            ranges = [(0, count, 0)]
            number = 0
            for low, high, split in ranges:
                middle = (low + high) // 2
                sizes = [sum(told[x] for x in range(*part)) for part in ((low, middle), (middle, high))]
                for part in ((low, middle), (middle, high)):
                    if part[1] - part[0] > 1:
                        number += 1
                        ranges.append((*part, number))
                if sum(sizes):
                    found[prefix, split] = (sum(sizes), sizes[0])
    return found


def bits_of(nodes: Nodes, earlier: Nodes, urns: Any, weight: float) -> float:
    """The bits of a bag whose urns have so much of the counts of another one's splits added."""
    told = [
        (n, k, *urns[len(prefix)][split], *earlier.get((prefix, split), (0, 0)))
        for (prefix, split), (n, k) in nodes.items()
    ]
    n, k, light, dark, n0, k0 = np.array(told, np.float64).T
    a, b = light / 16 + weight * k0, dark / 16 + weight * (n0 - k0)
    choices = -np.log(n + 1) - betaln(n - k + 1, k + 1)
    return float(-(choices + betaln(k + a, n - k + b) - betaln(a, b)).sum() / math.log(2))


def base(seen: Seen, known: Seen) -> None:
    """The third table."""
    released = seen.package.manifest.released
    pooling = (MEAN, DEVIATION)
    plain = plain_form(parse_form("pool"), released.levels, pooling, flags=1)

    def pooled(m: Float32) -> Float32:
        return pool(codec.dequantize(codec.quantize(m, released), released), pooling)

    result = np.zeros((1, 1), np.uint8)
    form = counted_form(plain, [Bag(codec.quantize(pooled(m), plain), result) for m in known.maps], [])
    symbols = [codec.quantize(pooled(m), form) for m in seen.maps]
    sizes = [(len(codec.encode_features(s, form, padded=False)), len(codec.encode_features(s, form))) for s in symbols]
    fitted = counted_form(released, [bag_of(m, t, released) for m, t in zip(known.maps, known.truths, strict=True)], [])
    bags = [bag_of(m, seen.runtime.recognize(m).targets(), fitted) for m in seen.maps]
    whole = [
        [
            len(codec.encode_features(b.symbols, fitted, padded=p))
            + len(codec.encode_rows(b.recognized, fitted, symbols=b.symbols, padded=p))
            for p in (False, True)
        ]
        for b in bags
    ]
    area = np.array([t.sum() for t in seen.truths])
    groups = np.array([f.group or f.name for f in seen.frames])
    large = area > np.median(area)
    base_values = np.stack([codec.dequantize(s, form)[0] for s in symbols])
    set_values = np.stack([values_of(m, released).reshape(-1) for m in seen.maps])
    print("\n| layer | bytes | padded | the larger half of the lesions, AUC |\n|---|---|---|---|")
    for name, size, values in (("pooled base", sizes, base_values), ("set and its targets", whole, set_values)):
        plain_size, padded = np.mean(size, axis=0)
        print(f"| {name} | {plain_size:.0f} | {padded:.0f} | {auc(values, large, groups):.3f} |", flush=True)


def auc(values: NDArray[Any], large: NDArray[np.bool_], groups: NDArray[np.str_]) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    told = cross_val_predict(model, values, large, groups=groups, cv=GroupKFold(5), method="predict_proba")[:, 1]
    return float(roc_auc_score(large, told))


if __name__ == "__main__":
    main()
