#!/usr/bin/env python3
"""What three ideas of the codec's design could bring at best, before any of them is built.

    benchmarks/measure_codec_ideas.py --package runs/polyps/P0 [--founding DIR] [--images DIR] [--frames 200]
        [--steps 400] [--seeds 2] [--ideas frame-before base background]

- the frame before: each split's urn gets balls by the counts of the same sequence's frame before, weighed by one
  number for all frames, and by the best one of each frame as nobody can know it. Bytes by urns alone, of all
  consecutive frames and of those that `near_duplicates = 0.3` leaves.
- a pooled base layer: mean and deviation of the package's channels as a pooled record codes them; bytes, and how well
  they tell the larger half of the lesions, cross-validated over sequences, against the set's sorted values.
- background: rows in which no lesion is recognized on steps 2 and 4 times as wide, and all rows. Bytes (whole sets,
  tables fitted anew; what rows of each kind cost by themselves), Dice of what is recognized from the decoded values,
  and, but for `--steps 0`, of recognizers taught by half of both sites' decoded records and their true targets (a
  lesion that the package misses is background to the codec), on the other halves' unchanged values.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_codec import Seen, bag_of, frames_of, look
from numpy.typing import NDArray
from scipy.special import betaln
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

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
from featureloop.sharing.near import NearDuplicates, look_of, values_of
from featureloop.sharing.rows import ALL, BOTH, NONE, row_kinds

KINDS = ("background", "border", "lesion")
WIDER = (
    ("none", 1, False),
    ("background, x 2", 2, False),
    ("all rows, x 2", 2, True),
    ("background, x 4", 4, False),
)
IDEAS = ("frame-before", "base", "background")
WEIGHTS = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
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
    args = parser.parse_args()
    package = load_package(args.package)
    seen, known = look(package, frames_of(args.images, 612)), look(package, frames_of(args.founding, 2 * args.frames))
    if "frame-before" in args.ideas:
        before(seen)
    if "base" in args.ideas:
        base(seen, known)
    if "background" in args.ideas:
        few = some_of(seen, list(range(len(seen.frames)))[:: max(1, len(seen.frames) // args.frames)])
        background(few, known, steps=args.steps, seeds=args.seeds)


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


def bare(bag: Bag, form: ReleasedForm) -> int:
    return len(codec.encode_features(bag.symbols, form, padded=False))


def taught(
    known: Seen, learned: Sequence[UInt8], seen: Seen, kept: Sequence[UInt8], *, steps: int, seed: int
) -> tuple[float, float]:
    """Quality at both sites of a new recognizer taught by half of each one's decoded records and their true targets.

    Tested is the other half: every other frame of the founding's, every other sequence of the other site's, from
    unchanged quantized values.
    """
    manifest = seen.package.manifest
    released = manifest.released
    top = np.array(released.levels, np.float32) - 1
    groups = [f.group or f.name for f in seen.frames]
    odd = set(sorted(set(groups))[1::2])
    sites = [(known, learned, [i % 2 == 1 for i in range(len(learned))]), (seen, kept, [g in odd for g in groups])]
    symbols = [s for _, own, held in sites for s, h in zip(own, held, strict=True) if not h]
    truths = [t for of, _, held in sites for t, h in zip(of.truths, held, strict=True) if not h]
    shares = np.concatenate([np.full(held.count(False), 0.5 / held.count(False)) for *_, held in sites])
    bags = BagSet(np.stack(symbols), np.stack(truths), shares, np.ones(len(symbols), np.float32),
                  2 / top, -np.ones_like(top))  # fmt: skip
    torch.manual_seed(seed)
    network = build_recognizer(manifest.recognizer, channels=released.channels)
    settings = FitSettings(epochs=steps * BATCH / len(symbols), seed=seed)
    fit_recognizer(network, bags, task=Task.SEGMENTATION, settings=settings)
    network.eval()
    first, second = (
        quality_by(network, some_of(of, [i for i, h in enumerate(held) if h])) for of, _, held in sites
    )  # fmt: skip
    return first, second


def quality_by(network: torch.nn.Module, seen: Seen) -> float:
    released, rules = seen.package.manifest.released, rules_of(seen.package.manifest)
    found = []
    with torch.no_grad():
        for m, t in zip(seen.maps, seen.truths, strict=True):
            values = codec.dequantize(codec.quantize(m, released), released)
            told = torch.sigmoid(network(torch.from_numpy(values)[None])[0]).numpy()
            found.append(rules.quality(replace(seen.runtime.recognize(m), probabilities=told), t))
    return float(np.mean(found))


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
