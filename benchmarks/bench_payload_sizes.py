#!/usr/bin/env python3
"""What a payload's size tells of the lesion, and what padding to a ladder of sizes costs and takes away.

    benchmarks/bench_payload_sizes.py --package runs/polyps/P0 [--data ../shared/data/polyps/cvc-clinicdb]

Every frame is released as the device does it, its recognition included. The mutual information is between a payload's
size and the recognized lesion's area in eight classes of as many frames each (3 bits would tell it). Of few frames the
plain estimate is too large; the mean over shuffled areas is what it would be if nothing was told, and is subtracted.
Bytes and sizes are of features, rows of targets, and both together; the codec's own sizes come last.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featureloop.core.types import Frame
from featureloop.images.labelled import open_labelled
from featureloop.model.package import load_package
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.release import joined, part_of
from featureloop.sharing.view import positions_in_view

Ints = NDArray[np.int64]
RATIOS = (2**0.125, 2**0.25, 2**0.5, 2.0)
CLASSES, SHUFFLES = 8, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps" / "cvc-clinicdb")
    args = parser.parse_args()
    vectors, features, rows, area = plain_sizes(args.package, args.data)
    print(f"{len(area)} frames, {(area == 0).sum()} of them without a recognized lesion\n")
    print("| ratio of the sizes | payload | mean bytes | different sizes | told of the area, bits |")
    print("|---|---|---|---|---|")
    for ratio in (None, *RATIOS):
        f, r = padded(features, ratio), padded(rows, ratio)
        for name, sizes in (("features", f), ("rows", r), ("both", f + r)):
            print(line("none" if ratio is None else f"{ratio:.3f}", name, sizes, area))
    of_features, of_rows = codec.ladders_of(load_package(args.package).manifest.released)
    f = np.array([of_features.rung(int(s), vectors) for s in features])
    r = np.array([of_rows.rung(int(s), vectors) for s in rows])
    for name, sizes in (("features", f), ("rows", r), ("both", f + r)):
        print(line("**the codec's own**", name, sizes, area))
    source = np.mean([item.image.stat().st_size for item in open_labelled(args.data).items])
    print(f"\nan image's file has a mean of {source:.0f} bytes, {source / (f + r).mean():.0f} times as much")


def plain_sizes(path: Path, data: Path) -> tuple[int, Ints, Ints, Ints]:
    """A frame's vectors; bytes of features and of rows without padding, and lesion sub-cells, int64 (M,) each."""
    package = load_package(path)
    released, grid = package.manifest.released, package.manifest.features.grid
    runtime = Runtime(package, threads=1)
    out = []
    for frame in open_labelled(data).frames():
        if not isinstance(frame, Frame):
            continue
        vectors = release_vectors(runtime.extract(frame.pixels), released)
        view = positions_in_view(frame.pixels, grid) if released.form.subset else None
        targets = runtime.recognize(vectors).targets()
        part = part_of(vectors, targets, released=released, grid=grid, view=view, secret=bytes(32))
        bag = joined([part], released=released, grid=grid)
        features = codec.encode_features(bag.symbols, released, padded=False)
        rows = codec.encode_rows(bag.recognized, released, symbols=bag.symbols, padded=False)
        out.append((len(features), len(rows), int(targets[:, : released.flags].sum())))
    features_, rows_, area = np.array(out, np.int64).T
    return released.form.rows(grid), features_, rows_, area


def padded(sizes: Ints, ratio: float | None) -> Ints:
    """These sizes on a ladder; None leaves them as they are."""
    return sizes if ratio is None else np.array([codec.Ladder(ratio).rung(int(s)) for s in sizes])


def line(ratio: str, name: str, sizes: Ints, area: Ints) -> str:
    """One row of the table."""
    told = max(0.0, told_bits(sizes, area))
    return f"| {ratio} | {name} | {sizes.mean():.0f} | {len(np.unique(sizes))} | {told:.2f} |"


def told_bits(sizes: Ints, area: Ints) -> float:
    """Mutual information of size and area class in bits, less what shuffled areas give."""
    edges = np.quantile(area, np.arange(1, CLASSES) / CLASSES)
    classes = np.searchsorted(edges, area, side="right")
    # Exact sizes are nearly all different; sixteen classes of them are what so few frames can show.
    kinds = np.unique(sizes)
    if len(kinds) > 2 * CLASSES:
        sizes = np.searchsorted(np.quantile(sizes, np.arange(1, 16) / 16), sizes, side="right")
    rng = np.random.default_rng(1)
    chance = np.mean([mutual(sizes, rng.permutation(classes)) for _ in range(SHUFFLES)])
    return mutual(sizes, classes) - float(chance)


def mutual(a: Ints, b: Ints) -> float:
    """The plain estimate of the mutual information of two series of numbers, in bits."""
    joint = np.zeros((len(np.unique(a)), len(np.unique(b))))
    np.add.at(joint, (np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]), 1 / len(a))
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    held = joint > 0
    return float((joint[held] * np.log2(joint[held] / apart[held])).sum())


if __name__ == "__main__":
    main()
