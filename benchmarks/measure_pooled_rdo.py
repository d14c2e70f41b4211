#!/usr/bin/env python3
"""What rate-distortion optimized quantization brings to one pooled vector a frame (classification).

    benchmarks/measure_pooled_rdo.py [--rows pneumonia blood-cells] [--data ../shared/data] [--work runs/recognition]
        [--folds 5] [--known 1000] [--quick]

Packages, images and folds are those of bench_recognition.py in --work, whose values are told one by one (ADR 15): what
is missing is founded so. Each value takes
the level below or above, whichever costs less: its squared error from what the level stands for, in the package's steps
(which are as wide as the recognition feels each value), plus lambda for each bit under the package's tables; all images
alike, or an image's errors by how much its own result could change (Fisher information by its logits). Beside it wider
steps alone. Tables and what levels stand for are fitted anew to --known images that the package learned from,
quantized in the same way.

Prints bytes of features without padding, squared errors in the package's steps, the divergence of the classes'
probabilities from those of float32, and accuracy and AUC with what they gain over the package's own steps, in points.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from bench_codec_pooled import Images, figures
from bench_codec_pooled import seen as seen_part
from bench_recognition import CHANGED, PARTS, QUICK, Part
from numpy.typing import NDArray
from rate_distortion import pooled_optimized

from featureloop.core.types import Bag, Float32, Frame, UInt8
from featureloop.images.labelled import open_labelled
from featureloop.learner.assembly import counted_form
from featureloop.learner.pooled_tables import centroids, stepped
from featureloop.model.manifest import PooledTables, ReleasedForm
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors

Float64 = NDArray[np.float64]
WIDTHS = (1.0, 0.8, 0.9, 1.1, 1.2, 1.35, 1.5, 1.65, 2.0)
PRICES = (0.001, 0.05, 0.1, 0.15, 0.2, 0.4)
FLAT = 0.1
"""Share of an image's sensitivity that all images have alike."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Images with a package, the values float32 (M, C) of those it learned from, and how much each image feels."""

    images: Images
    known: Float32
    felt: Float64
    own: Float64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--rows", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=root / "runs" / "recognition")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--known", type=int, default=1000)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    CHANGED.update({"release": "pool quantize=255", "pooled_bits": 100.0})
    if args.quick:
        CHANGED.update(QUICK)
    print("| images | quantized | bytes of features | squared error | divergence, 1e-3 | accuracy, AUC | gained |")
    print("|---|---|---|---|---|---|---|")
    for row in args.rows:
        parts = list(islice(PARTS[row](args.data, args.work / row), args.folds))
        if along := [package.path for package, *_ in parts if package.manifest.released.directions]:
            raise SystemExit(f"'{along[0]}' tells vectors along directions; give another --work, to be founded there")
        sides = [side(part, args.work / row, args.known) for part in parts]
        lines = [(f"steps x {k:g}", k, 0.0, False) for k in WIDTHS]
        lines += [(f"rdo {p:g}{', by image' if own else ''}", 1.0, p, own) for own in (False, True) for p in PRICES]
        own = None
        for name, times, price, by_image in [*lines, ("rdo 0.2, steps x 1.35", 1.35, 0.2, False)]:
            size, error, far, found = line(sides, times, price, by_image)
            own = own or found
            gained = ", ".join(f"{100 * (a - b):+.1f}" for a, b in zip(found, own, strict=True))
            print(f"| {row} | {name} | {size:.1f} | {error:.3f} | {1e3 * far:.2f} | {found[0]:.3f}, {found[1]:.3f} "
                  f"| {gained} |", flush=True)  # fmt: skip


def side(part: Part, work: Path, most: int) -> Side:
    """A part with images that its package learned from: all that are not held out, or a folder's of their own."""
    package, folder, held = part
    images = seen_part(part)
    learned = open_labelled(work / "train") if (work / "train").exists() else folder
    names = {i.name for i in held} if learned is folder else set()
    items = [i for i in learned.items if i.name not in names]
    items = items[:: max(1, len(items) // most)]
    released = package.manifest.released
    frames = (f for f in learned.frames(items) if isinstance(f, Frame))
    known = np.concatenate([release_vectors(images.runtime.extract(f.pixels), released) for f in frames])
    felt, own = (sensitivity(images.recognized(list(v))) for v in (known, images.vectors))
    return Side(images, known, FLAT + (1 - FLAT) * felt / felt.mean(), FLAT + (1 - FLAT) * own / felt.mean())


def sensitivity(probabilities: Float32) -> Float64:
    """The Fisher information of each image's result by its logits, (M, K) to (M,)."""
    p = probabilities.astype(np.float64)
    return np.asarray((p * (1 - p)).sum(axis=1))


def line(
    sides: Sequence[Side], times: float, price: float, by_image: bool
) -> tuple[float, float, float, tuple[float, float]]:
    """Mean bytes, squared errors and divergences of all parts' images, and their accuracy and AUC."""
    sizes, errors, far, told = [], [], [], []
    for part in sides:
        released = part.images.runtime.package.manifest.released
        steps = (np.array(released.high) - np.array(released.low)) / (np.array(released.levels) - 1.0)
        form = fitted(part.known, stepped(released, times * steps, part.known) if times != 1 else released, price,
                      part.felt if by_image else None)  # fmt: skip
        symbols = pooled_optimized(part.images.vectors, form, price, felt=part.own if by_image else None)
        sizes += [len(codec.encode_features(s[None], form, padded=False)) for s in symbols]
        values = codec.dequantize(symbols, form)
        errors += list((((values - part.images.vectors) / steps) ** 2).sum(axis=1))
        whole, found = (part.images.recognized(list(v)) for v in (part.images.vectors, values))
        p, q = (np.clip(x.astype(np.float64), 1e-9, 1) for x in (whole, found))
        far += list((p * np.log(p / q)).sum(axis=1))
        told.append(found)
    return float(np.mean(sizes)), float(np.mean(errors)), float(np.mean(far)), figures([s.images for s in sides], told)


def fitted(known: Float32, form: ReleasedForm, price: float, felt: Float64 | None) -> ReleasedForm:
    """The form with tables, and what levels stand for, of the known values as they are quantized, fitted twice."""
    row = np.zeros((1, 1), np.uint8)
    form = counted_form(replace(form, pooled=None), [Bag(s[None], row) for s in plain(known, form)], [], vectors=known)
    for _ in range(2 if price else 0):
        symbols = pooled_optimized(known, form, price, felt=felt)
        usual = form.pooled.usual if form.pooled else (0, 0)
        counts = (np.bincount(symbols[:, c], minlength=n) for c, n in enumerate(form.levels))
        form = replace(
            form,
            frequencies=tuple(codec.frequency_table(x) for x in counts),
            pooled=PooledTables(centroids(form, known, symbols), usual),
        )
    return form


def plain(values: Float32, form: ReleasedForm) -> UInt8:
    return codec.quantize(values, replace(form, pooled=None))


if __name__ == "__main__":
    main()
