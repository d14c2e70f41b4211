#!/usr/bin/env python3
"""What is learned from the least reliable fifth of a site's frames, against all of them and a random fifth.

    benchmarks/bench_least_reliable.py [--founding 100] [--bits-per-vector 66] [--breadth 0.02] [--seeds 1 2 3]
        [--share 0.2] [--data ../shared/data/polyps] [--work runs/least-reliable]

A package is founded on a few images of Kvasir-SEG, so that something is left to learn at CVC-ClinicDB. For every seed
another third of ClinicDB's sequences is held back. Of the others the true masks of all frames, of the least reliable
fifth (by the package's own reliability), or of a random fifth are learned from, by the learner's own training with
replay and cross-validated interpolation, from what the codec leaves. Dice over sub-cells on the sequences held back,
as a device recognizes them. --steady takes half of the way instead of cross-validating it, a third of the time.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from bench_reliability import Looked, Looker
from numpy.typing import NDArray

from featureloop.core.types import Task
from featureloop.images.labelled import open_labelled, split
from featureloop.learner.bags import Bags, load_bags
from featureloop.learner.founding import found_package
from featureloop.learner.founding_records import founding_records_path, load_records
from featureloop.learner.training import TrainSettings, train_recognizer
from featureloop.model.fit import FitSettings
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import Package, load_package
from featureloop.model.reference import outlying
from featureloop.model.tasks import rules_of
from featureloop.sharing import codec
from featureloop.sharing.reliability import reliability

SITE_HOLD_OUT = 1 / 3
FOUNDING_SEED = 1
RESAMPLES = 1000
Float64 = NDArray[np.float64]
Numbers = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Arm:
    """What one way of choosing frames led to: frames learned from, and the Dice of each held frame."""

    frames: int
    share: float
    dice: Float64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--founding", type=int, default=100)
    parser.add_argument("--bits-per-vector", type=float, default=66)
    parser.add_argument("--breadth", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--steady", action="store_true")
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--work", type=Path, default=root / "runs" / "least-reliable")
    args = parser.parse_args()
    package = founded(args)
    clinic = open_labelled(args.data / "cvc-clinicdb", task=Task.SEGMENTATION)
    looked = Looker(package, args.work / "cache").look("clinicdb", clinic.frames(clinic.items))
    trust = reliabilities(package, looked)
    channels, rows = package.manifest.released.channels, looked.vectors.shape[1]
    print(f"founded on {args.founding} images; {rows} vectors of {channels} channels")
    print("| seed | frames with a true mask | of the way | Dice | gain |\n|---|---|---|---|---|")
    gains: dict[str, list[float]] = {}
    for seed in args.seeds:
        _, held_items = split(clinic.items, hold_out=SITE_HOLD_OUT, seed=seed)
        held = np.isin(looked.groups, [i.group for i in held_items])
        own = np.flatnonzero(~held)
        number = round(args.share * len(own))
        lowest = own[np.argsort(trust[own], kind="stable")[:number]]
        drawn = np.sort(np.random.default_rng(seed).permutation(own)[:number])
        before = dice_of(package, None, looked, np.flatnonzero(held))
        names = np.array(looked.groups)[held]
        print(f"| {seed} | none | | {before.mean():.4f} | |", flush=True)
        for name, at in (("all", own), ("the least reliable", lowest), ("random ones", drawn)):
            arm = learned(package, looked, at, np.flatnonzero(held), seed=seed, steady=args.steady)
            low, high = interval(arm.dice - before, names)
            gain = float((arm.dice - before).mean())
            gains.setdefault(name, []).append(gain)
            print(
                f"| {seed} | {arm.frames}, {name} | {arm.share:.2f} | {arm.dice.mean():.4f} | {100 * gain:+.2f} points "
                f"({100 * low:+.2f} to {100 * high:+.2f}) |",
                flush=True,
            )
    whole = float(np.mean(gains["all"]))
    for name, each in gains.items():
        print(f"{name}: {100 * np.mean(each):+.2f} points, {100 * np.mean(each) / whole:.0f}% of all frames' gain")


def founded(args: argparse.Namespace) -> Package:
    """The founding package, trained on the first drawn images where it isn't there yet."""
    out = args.work / "P0"
    if not out.exists():
        kvasir = open_labelled(args.data / "kvasir-seg", task=Task.SEGMENTATION)
        rest, _ = split(kvasir.items, hold_out=0.2, seed=FOUNDING_SEED)
        drawn = np.random.default_rng(FOUNDING_SEED).permutation(len(rest))[: args.founding]
        settings = FoundingSettings(seed=FOUNDING_SEED, bits_per_vector=args.bits_per_vector, breadth=args.breadth)
        found_package(kvasir, [rest[i] for i in sorted(drawn)], out, settings=settings)
    return load_package(out)


def reliabilities(package: Package, looked: Looked) -> Float64:
    m = package.manifest
    found = [rules_of(m).recognition(x, m.calibration) for x in looked.logits]
    if m.calibration.reference is not None:
        far = [outlying(v, m.calibration.reference, m.released) for v in looked.vectors]
        found = [replace(r, outlying=d) for r, d in zip(found, far, strict=True)]
    return np.array([reliability(r, m.calibration) for r in found])


def learned(package: Package, looked: Looked, at: Numbers, held: Numbers, *, seed: int, steady: bool) -> Arm:
    """Train on the founding records and these frames with their true masks, as a learner does."""
    m = package.manifest
    founding = load_bags(iter([load_records(founding_records_path(package.path))]), m)
    truths = np.zeros(0, np.uint8) if looked.truths is None else looked.truths[at]
    groups = [hashlib.sha256(looked.groups[i].encode()).hexdigest()[:32] for i in at]
    ones = np.ones(len(at), np.bool_)
    bags = Bags(
        np.concatenate([founding.symbols, np.stack([codec.quantize(looked.vectors[i], m.released) for i in at])]),
        np.concatenate([founding.results, truths]),
        np.concatenate([founding.sites, np.full(len(at), "clinic")]),
        np.concatenate([founding.groups, np.array(groups)]),
        np.concatenate([founding.verified, ones]),
        np.concatenate([founding.weights, ones.astype(np.float32)]),
        np.concatenate([founding.held, ~ones]),
        0,
    )
    settings = TrainSettings(fit=FitSettings(seed=seed), interpolation=0.5 if steady else None)
    recognizer, choice = train_recognizer(package, bags, ~bags.held, settings=settings)
    return Arm(len(at), choice.share, dice_of(package, recognizer, looked, held))


def dice_of(package: Package, recognizer: torch.nn.Module | None, looked: Looked, at: Numbers) -> Float64:
    """Of frames, as a device recognizes them: from the vectors before quantization."""
    m = package.manifest
    rules, found = rules_of(m), []
    for i in at:
        logits = looked.logits[i]
        if recognizer is not None:
            with torch.no_grad():
                logits = recognizer(torch.from_numpy(looked.vectors[i])[None])[0].numpy()
        truth = np.zeros(0, np.uint8) if looked.truths is None else looked.truths[i]
        found.append(rules.quality(rules.recognition(logits, m.calibration), truth))
    return np.array(found)


def interval(differences: Float64, groups: Sequence[str] | NDArray[np.str_]) -> tuple[float, float]:
    _, member = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(member == i) for i in range(member.max() + 1)]
    rng = np.random.default_rng(0)
    drawn = [
        differences[np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])].mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
