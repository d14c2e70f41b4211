#!/usr/bin/env python3
"""What a package's means of founding frames (ADR 13) tell of which frames they are of.

    benchmarks/bench_reference_membership.py [--package runs/polyps/P0] [--shadows 32] [--fewer 200 100]

The attacker holds the package, and a frame's released values. It says "member" the nearer the frame is to the package's
means: to the nearest usual frame (as a device measures it), its rows to the nearest kinds, or both added. Asked are the
founding frames and those that were held for calibration, of the same hospital. The likelihood ratio compares that with
what references say that the same function made of random halves of the same frames (Carlini et al. 2022). Then each of
these references is attacked by the others, as are such of fewer frames: means of fewer tell more. Areas, and shares of
members found at 0.1% false alarms, have 95% intervals over frames. The last lines are the controls: of frames that no
reference knew half are called members, which must not be told; means of ten frames, drawn from forty,
must tell theirs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featureloop.audit.members import founding_pool, records_beside
from featureloop.audit.membership import found_at
from featureloop.audit.probes import area_of
from featureloop.audit.shadows import Shadows
from featureloop.core.intervals import figure_maker
from featureloop.learner.references import founding_reference
from featureloop.model.manifest import Reference
from featureloop.model.package import load_package
from featureloop.model.reference import shares_of
from featureloop.sharing import codec

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
WAYS = ("nearest usual frame", "rows to their kinds", "both")
ASKED = 40
"""Of the positive control: so that each is in a quarter of the references."""
EVERY = 10**9
"""More founding records than there are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, default=root / "runs" / "polyps" / "P0")
    parser.add_argument("--shadows", type=int, default=32)
    parser.add_argument("--fewer", type=int, nargs="*", default=[200, 100])
    args = parser.parse_args()
    package = load_package(args.package)
    path, reference = records_beside(package), package.manifest.calibration.reference
    if path is None or reference is None:
        parser.error(f"'{args.package}' has no means of founding frames, or its founding records aren't beside it")
    pool = founding_pool(package, path, members=EVERY, others=EVERY, rng=np.random.default_rng(1))
    steps = np.stack([codec.quantize(v, package.manifest.released) for v in pool.values])
    print(
        f"{pool.members.sum()} members, {(~pool.members).sum()} others; every mean is over at least "
        f"{reference.frames} frames of {reference.groups} patients"
    )
    print("| means of | attacker | AUC | found at 0.1% false alarms |\n|---|---|---|---|")
    half = Drawn(steps, pool.groups, frames=len(steps) // 2, count=args.shadows, seed=1)
    said = standard(nearness(steps, reference))
    for k, way in enumerate(WAYS):
        for by, scores in (("alone", said[k]), ("likelihood ratio", half.shadows(k).ratio(said[k]))):
            row("the package", f"{way}, {by}", scores, pool.members, pool.groups)
    for number in (len(steps) // 2, *args.fewer):
        drawn = (
            half if number == len(steps) // 2 else Drawn(steps, pool.groups, frames=number, count=args.shadows, seed=2)
        )
        for k, way in enumerate(WAYS):
            scores, knew = drawn.in_turn(k)
            row(
                f"{number} frames, in turn",
                f"{way}, likelihood ratio",
                scores,
                knew,
                np.tile(pool.groups, args.shadows),
            )
    scores, knew = half.in_turn(2)
    fake = np.random.default_rng(3).random(knew.shape) < 0.5
    groups = np.tile(pool.groups, args.shadows)
    row("control: frames that none knew", "both, likelihood ratio", scores[~knew], fake[~knew], groups[~knew])
    some = steps[:ASKED], pool.groups[:ASKED]
    few = Drawn(*some, frames=10, count=args.shadows, seed=4)
    scores, knew = few.in_turn(2)
    row("control: 10 frames of 40", "both, likelihood ratio", scores, knew, np.tile(some[1], args.shadows))


class Drawn:
    """References of random frames, and how near every frame is to each, by each way."""

    def __init__(
        self, steps: NDArray[np.uint8], groups: NDArray[np.str_], *, frames: int, count: int, seed: int
    ) -> None:
        rng, near, knew = np.random.default_rng(seed), [], []
        for _ in range(count):
            chosen = rng.permutation(len(steps)) < frames
            made = founding_reference(list(steps[chosen]), groups[chosen].tolist())
            if made is None:
                raise SystemExit(f"{frames} frames are of too few patients for a reference; ask for more")
            near.append(standard(nearness(steps, made)))
            knew.append(chosen)
        self._near, self._knew = np.stack(near, axis=1), np.stack(knew)

    def shadows(self, way: int) -> Shadows:
        """As shadow recognizers are: what each says of the frames, and whom it knew."""
        return Shadows(self._near[way], self._knew)

    def in_turn(self, way: int) -> tuple[Float64, Bool]:
        """Each attacked by the others: likelihood ratios and who was in, one after the other."""
        all_of = self.shadows(way)
        scores = [all_of.without(i).ratio(said) for i, said in enumerate(all_of.confidence)]
        return np.concatenate(scores), self._knew.ravel()


def nearness(steps: NDArray[np.uint8], reference: Reference) -> Float64:
    """How near frames (M, N, C) are to a reference, by each way: float64 (3, M), standardized where added."""
    kinds, usual, scale = (np.array(x) for x in (reference.kinds, reference.usual, reference.scale))
    root, out = np.sqrt(usual / usual.sum(axis=1, keepdims=True)), []
    for frame in steps:
        rows = frame / scale
        shares = shares_of(rows, kinds)
        apart = ((rows[:, None] - kinds[None]) ** 2).sum(-1).min(axis=1)
        out.append((float((root @ np.sqrt(shares)).max()), -float(apart.mean())))
    usual_near, kind_near = np.array(out).T
    return np.stack([usual_near, kind_near, sum(standard(np.stack([usual_near, kind_near])))])


def standard(values: Float64) -> Float64:
    """Each row (W, M) by its own mean and deviation over the frames."""
    return np.asarray((values - values.mean(axis=1, keepdims=True)) / (values.std(axis=1, keepdims=True) + 1e-12))


def row(of: str, by: str, scores: Float64, members: Bool, groups: NDArray[np.str_]) -> None:
    make, needs = figure_maker(groups, seed=1), (members, ~members)
    area = make("AUC", area_of(np.stack([-scores, scores], axis=1), members.astype(np.intp)), needs=needs)
    found = make("TPR", found_at(scores, members), needs=needs)
    told = [f"{f.value:.4f} ({f.low:.4f} to {f.high:.4f})" for f in (area, found)]
    print(f"| {of} | {by} | {told[0]} | {told[1]} |", flush=True)


if __name__ == "__main__":
    main()
