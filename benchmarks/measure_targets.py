#!/usr/bin/env python3
"""How much of the order that was removed can be restored from the rows of targets alone, without any feature vector.

    benchmarks/measure_targets.py --detection runs/D0 --segmentation runs/polyps/P0
        [--data ../shared/data/polyps/cvc-clinicdb]

Detection: two rows of one box differ in their distances by how their positions stand to each other; rounded to cells,
that is their offset. Reported are the share of pairs of rows of one box whose offset is exactly right, the share that
is right of all pairs that an attacker takes for one box's (as wide and as high as each other), and the bits that are
left of such rows' place in the frame (their box lies within it). The same for rows that say less, with what boxes
perfect rows of that kind, in their order and best scored in a box's middle, would still be decoded to: the
intersection over union with the truth.

Segmentation: each row is a piece of a puzzle of 4 x 4 sub-cells. For each piece of a lesion's border, the attacker
ranks the others by how well their edge continues its own. Reported is how often the best (of equal ones, any) is the
true neighbour, and how often it is by the one assignment of all pieces that is best.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featureloop.core.boxes import (
    SYMBOLS,
    Box,
    boxes_to_rows,
    code_distances,
    decode_distances,
    overlaps,
    positions,
    rows_to_boxes,
)
from featureloop.core.types import Frame, Task, UInt8
from featureloop.images.labelled import open_labelled
from featureloop.model.package import load_package
from featureloop.model.preprocess import mask_to_targets
from featureloop.model.runtime import Runtime

Float64 = NDArray[np.float64]
Coarsen = Callable[[Float64], Float64]
SUB = 4
"""Sub-cells along a side of a position."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps" / "cvc-clinicdb")
    parser.add_argument("--detection", type=Path, required=True, help="a package")
    parser.add_argument("--segmentation", type=Path, required=True, help="a package")
    args = parser.parse_args()
    detection(args.detection, args.data)
    segmentation(args.segmentation, args.data)


def detection(path: Path, data: Path) -> None:
    """Print the tables of detection."""
    package = load_package(path)
    grid, runtime = package.manifest.features.grid, Runtime(package, threads=1)
    frames = list(readable(data, Task.DETECTION))
    truths = [f.truth.boxes for f in frames if f.truth is not None and f.truth.boxes]
    print("| rows | how coarse | offsets in one box restored | right, of those claimed | bits left of the place"
          " | mean IoU | IoU of at least 0.5 | of at least 0.75 |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for name, coarsen in COARSE.items():
        rows = [coarse_rows(boxes, grid, coarsen) for boxes in truths]
        quality = np.concatenate([decoded(r, boxes) for r, boxes in zip(rows, truths, strict=True)])
        found = line(restored(rows, truths, grid))
        print(f"| true | {name} | {found} | {quality.mean():.3f} | {(quality >= 0.5).mean():.3f} "
              f"| {(quality >= 0.75).mean():.3f} |")  # fmt: skip
    rows = [runtime.recognize(runtime.extract(f.pixels)).targets() for f in frames]
    print(f"| recognized | as they are | {line(restored(rows, None, grid))} | - | - | - |")
    print(f"\nWithout knowing anything, {2 * math.log2(grid):.1f} bits of the place are left.")


def readable(data: Path, task: Task) -> Iterator[Frame]:
    """The frames of a labelled folder."""
    return (f for f in open_labelled(data, task=task).frames() if isinstance(f, Frame))


def steps(n: int) -> Coarsen:
    """Coded distances in n steps instead of 255."""
    return lambda coded: np.rint(coded / SYMBOLS * n) / n * SYMBOLS


def size_only(coded: Float64) -> Float64:
    """Half of the box's width and height to either side: nothing of where in the box."""
    d = decode_distances(coded / SYMBOLS)
    half = (d[:, :2] + d[:, 2:]) / 2
    return np.rint(code_distances(np.concatenate([half, half], axis=1)) * SYMBOLS)


COARSE: dict[str, Coarsen] = {
    "255 steps (as it is)": lambda coded: coded,
    "63 steps": steps(63),
    "31 steps": steps(31),
    "15 steps": steps(15),
    "7 steps": steps(7),
    "size only": size_only,
    "size only, 15 steps": lambda coded: steps(15)(size_only(coded)),
}


def coarse_rows(boxes: Sequence[Box], grid: int, coarsen: Coarsen) -> UInt8:
    """Rows of boxes with coarser distances, uint8 (N, 1 + 4), of one label."""
    rows = boxes_to_rows([Box(b.x_center, b.y_center, b.width, b.height) for b in boxes], labels=1, grid=grid)
    told = rows[:, 0] == 1
    rows[told, 1:] = np.rint(coarsen(rows[told, 1:].astype(np.float64)))
    return rows


def decoded(rows: UInt8, boxes: Sequence[Box]) -> Float64:
    """Of each true box, the best intersection over union with what is decoded from rows in order."""
    true = np.array([b.corners() for b in boxes])
    at = positions(math.isqrt(len(rows)))
    middle = (true[:, None, :2] + true[:, None, 2:]) / 2
    far = (np.abs(at[None] - middle) / (true[:, None, 2:] - true[:, None, :2])).max(axis=2).min(axis=0)
    found = rows_to_boxes(rows[:, :1] * np.clip(1 - far, 0.1, 1)[:, None], rows[:, 1:] / SYMBOLS)
    return overlaps(true, np.array([b.corners() for b in found])).max(axis=1) if found else np.zeros(len(true))


def restored(rows: Sequence[UInt8], truths: Sequence[Sequence[Box]] | None, grid: int) -> tuple[float, float, float]:
    """Shares of offsets that are restored and of claims that are right, and the mean bits left of a cluster's place.

    Parameters
    ----------
    truths
        Say which rows are of one box; without them, rows whose decoded boxes overlap by more than a half are.
    """
    pairs = hits = claims = right = 0
    bits = []
    at = positions(grid)
    for i, frame in enumerate(rows):
        told = np.flatnonzero(frame[:, :-4].any(axis=1))
        if len(told) < 2:
            continue
        d = decode_distances(frame[told, -4:] / SYMBOLS)
        sides = np.concatenate([at[told] - d[:, :2], at[told] + d[:, 2:]], axis=1)
        first, second = np.triu_indices(len(told), 1)
        if truths is None:
            same = overlaps(sides, sides)[first, second] > 0.5
        else:
            owner = overlaps(owners(truths[i], grid)[told], np.array([b.corners() for b in truths[i]])).argmax(1)
            same = owner[first] == owner[second]
        true = np.rint((at[told[first]] - at[told[second]]) * grid)
        size = d[:, :2] + d[:, 2:]
        # Half a cell of tolerance: more than quantization, less than what tells boxes apart by a cell.
        alike = (np.abs(size[first] - size[second]) < 0.5 / grid).all(axis=1)
        by_left, by_right = d[first, :2] - d[second, :2], d[second, 2:] - d[first, 2:]
        guess = np.rint((by_left + by_right) / 2 * grid)
        exact = (guess == true).all(axis=1)
        pairs, hits = pairs + int(same.sum()), hits + int((same & exact).sum())
        claims, right = claims + int(alike.sum()), right + int((alike & exact).sum())
        room = np.maximum(1.0, np.floor((1 - np.clip(size.mean(axis=0), 0, 1)) * grid) + 1)
        bits.append(float(np.log2(room).sum()))
    return hits / max(1, pairs), right / max(1, claims), float(np.mean(bits))


def owners(boxes: Sequence[Box], grid: int) -> Float64:
    """For each row, the sides of its box before anything was made coarser, float64 (N, 4)."""
    fine = boxes_to_rows([Box(b.x_center, b.y_center, b.width, b.height) for b in boxes], labels=1, grid=grid)
    d, at = decode_distances(fine[:, 1:] / SYMBOLS), positions(grid)
    return np.concatenate([at - d[:, :2], at + d[:, 2:]], axis=1)


def line(found: tuple[float, float, float]) -> str:
    """A row's middle."""
    return f"{found[0]:.3f} | {found[1]:.3f} | {found[2]:.1f}"


def segmentation(path: Path, data: Path) -> None:
    """Print the table of segmentation."""
    package = load_package(path)
    grid, runtime = package.manifest.features.grid, Runtime(package, threads=1)
    true, recognized = [], []
    for frame in readable(data, Task.SEGMENTATION):
        if frame.truth is None or frame.truth.mask is None:
            continue
        true.append(mask_to_targets(frame.truth.mask, grid))
        recognized.append(runtime.recognize(runtime.extract(frame.pixels)).targets())
    print("\n| rows | border pieces a frame | true neighbour best | by chance | by assignment |")
    print("|---|---|---|---|---|")
    for name, rows in (("true", true), ("recognized", recognized)):
        pieces, best, chance, matched = puzzle(rows, grid)
        print(f"| {name} | {pieces:.1f} | {best:.3f} | {chance:.3f} | {matched:.3f} |")


def puzzle(rows: Sequence[UInt8], grid: int) -> tuple[float, float, float, float]:
    """Border pieces a frame, share of best edges that are the neighbour's, by chance, and by a joint assignment."""
    from scipy.optimize import linear_sum_assignment

    counts, best, chance, matched = [], [], [], []
    for frame in rows:
        cells = frame.reshape(-1, SUB, SUB)
        flags = frame.sum(axis=1)
        pieces = np.flatnonzero((flags > 0) & (flags < SUB * SUB))
        counts.append(len(pieces))
        if len(pieces) < 3:
            continue
        number = {int(p): i for i, p in enumerate(pieces)}
        for step, mine, theirs in ((1, np.s_[:, :, -1], np.s_[:, :, 0]), (grid, np.s_[:, -1, :], np.s_[:, 0, :])):
            a, b = cells[pieces][mine].astype(int), cells[pieces][theirs].astype(int)
            cost = np.abs(a[:, None] - b[None]).sum(axis=2).astype(float)
            np.fill_diagonal(cost, 99.0)
            own, other = linear_sum_assignment(cost)
            put = dict(zip(own.tolist(), other.tolist(), strict=True))
            for i, p in enumerate(pieces.tolist()):
                j = number.get(p + step) if step == grid or (p + 1) % grid else None
                if j is None:
                    continue
                ties = cost[i] == cost[i].min()
                best.append(ties[j] / ties.sum())
                chance.append(1 / (len(pieces) - 1))
                matched.append(put[i] == j)
    return float(np.mean(counts)), float(np.mean(best)), float(np.mean(chance)), float(np.mean(matched))


if __name__ == "__main__":
    main()
