#!/usr/bin/env python3
"""What is learned from the least reliable fifth of a site's frames, against all of them and a random fifth.

    benchmarks/bench_least_reliable.py [--package runs/polyps/P0] [--founding 50] [--seeds 1 2 3] [--share 0.2]
        [--steady] [--beside] [--data ../shared/data/polyps] [--work runs/least-reliable]

From today's default package little is left to learn at CVC-ClinicDB, so its recognizer is trained anew from a few of
the founding images, under the same extractor: that is the package that is to learn. For every seed another third of
ClinicDB's sequences is held back. Of the others the true masks of all frames, of the least reliable fifth (by the
package's own reliability), or of a random fifth are learned from; with --beside, all frames, too, where only such a
fifth has its true mask and the others what was recognized, weighed by their reliability as a learner weighs them.
Trained is by the learner's own function with replay and cross-validated interpolation, from what the codec leaves. Dice
over sub-cells on the sequences held back, as a device recognizes them. At the end the means over all seeds: gains, the
share of all frames' gain, and what the least reliable gain more than the others, and in how many seeds. --steady takes
all of the way instead of cross-validating it, a third of the time. What was trained in --work already is not trained
again.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from looking import Looked, Looker
from numpy.typing import NDArray

from featureloop.core.types import Task
from featureloop.images.labelled import open_labelled, split
from featureloop.learner.assembly import write_recognizer
from featureloop.learner.bags import ACCEPTED_WEIGHT, Bags, load_bags, training_set
from featureloop.learner.founding_records import FOUNDING_SITE, founding_records_path, load_records, save_records
from featureloop.learner.held_back import calibrated_by
from featureloop.learner.references import founding_reference
from featureloop.learner.training import TrainSettings, train_recognizer
from featureloop.model.fit import FitSettings, fit_recognizer
from featureloop.model.package import Package, load_package, seal_package
from featureloop.model.recognizers import build_recognizer
from featureloop.model.reference import outlying
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import rules_of
from featureloop.sharing import codec
from featureloop.sharing.reliability import reliability

SITE_HOLD_OUT = 1 / 3
FOUNDING_SEED = 1
STEPS = 800
"""Batches that founding trains a recognizer with, where frames are few."""
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
    parser.add_argument("--package", type=Path, default=root / "runs" / "polyps" / "P0")
    parser.add_argument("--founding", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--steady", action="store_true")
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--work", type=Path, default=root / "runs" / "least-reliable")
    args = parser.parse_args()
    package = founded(args)
    clinic = open_labelled(args.data / "cvc-clinicdb", task=Task.SEGMENTATION)
    looked = Looker(package, args.work / "cache").look("clinicdb", clinic.frames(clinic.items))
    trust = reliabilities(package, looked)
    channels, rows = package.manifest.released.channels, looked.vectors.shape[1]
    print(f"a recognizer of {args.founding} images; {rows} vectors of {channels} channels")
    print("| seed | frames with a true mask | of the way | Dice | gain |\n|---|---|---|---|---|")
    gains: dict[str, list[float]] = {}
    each_seed: dict[str, list[tuple[Float64, NDArray[np.str_]]]] = {}
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
        arms = {
            "all": (own, own),
            "the least reliable": (lowest, lowest),
            "random ones": (drawn, drawn),
        }
        if args.beside:
            arms["the least reliable, beside the others as recognized"] = (own, lowest)
            arms["random ones, beside the others as recognized"] = (own, drawn)
        for name, (at, true) in arms.items():
            kept = args.work / f"{args.founding}-{seed}-{name.replace(' ', '-')}-{args.steady}.npz"
            if not kept.exists():
                part = np.flatnonzero(held)
                made = learned(package, looked, at, true, trust=trust, held=part, seed=seed, steady=args.steady)
                np.savez(kept, frames=made.frames, share=made.share, dice=made.dice)
            data = np.load(kept)
            arm = Arm(int(data["frames"]), float(data["share"]), data["dice"])
            low, high = interval(arm.dice - before, names)
            gain = float((arm.dice - before).mean())
            gains.setdefault(name, []).append(gain)
            each_seed.setdefault(name, []).append((arm.dice - before, names))
            print(
                f"| {seed} | {arm.frames}, {name} | {arm.share:.2f} | {arm.dice.mean():.4f} | {100 * gain:+.2f} points "
                f"({100 * low:+.2f} to {100 * high:+.2f}) |",
                flush=True,
            )
    summary(gains, each_seed)


def summary(gains: dict[str, list[float]], each_seed: dict[str, list[tuple[Float64, NDArray[np.str_]]]]) -> None:
    """The means over all seeds, and what the least reliable frames gain more than others."""
    whole = float(np.mean(gains["all"]))
    for name, each in gains.items():
        low, high = of_means(each_seed[name], each_seed["all"], np.divide)
        print(
            f"{name}: {100 * np.mean(each):+.2f} points, {100 * np.mean(each) / whole:.0f}% "
            f"({100 * low:.0f}% to {100 * high:.0f}%) of all frames' gain"
        )
    own = np.array(gains["the least reliable"])
    for name in ("all", "random ones"):
        low, high = of_means(each_seed["the least reliable"], each_seed[name], np.subtract)
        more = own - np.array(gains[name])
        print(
            f"the least reliable less {name}: {100 * more.mean():+.2f} points ({100 * low:+.2f} to {100 * high:+.2f}), "
            f"more in {(more > 0).sum()} of {len(more)} seeds"
        )


def founded(args: argparse.Namespace) -> Package:
    """The package with a recognizer of a few founding images, and their records beside it, unless it is there yet."""
    out, whole = args.work / f"P{args.founding}", load_package(args.package)
    if out.exists():
        return load_package(out)
    m = whole.manifest
    records = load_records(founding_records_path(args.package))
    groups = sorted({r.group for r in records if r.site == FOUNDING_SITE and r.group})
    drawn = np.random.default_rng(FOUNDING_SEED).permutation(len(groups))[: args.founding]
    few = {groups[i] for i in drawn}
    kept = [r for r in records if r.site != FOUNDING_SITE or r.group in few]
    bags = load_bags(iter([kept]), m)
    torch.manual_seed(FOUNDING_SEED)
    recognizer = build_recognizer(m.recognizer, channels=m.released.channels)
    bag_set = training_set(bags, m, founding_share=1.0, chosen=~bags.held)
    fit = FitSettings(epochs=STEPS * 16 / len(bag_set), seed=FOUNDING_SEED)
    fit_recognizer(recognizer, bag_set, task=Task(m.task), settings=fit)
    draft = args.work / "draft"
    shutil.copytree(args.package, draft, dirs_exist_ok=True)
    write_recognizer(recognizer, draft, form=m.recognizer.form, channels=m.released.channels)
    steps = [x for x, held in zip(bags.symbols, bags.held, strict=True) if not held]
    reference = founding_reference(steps, bags.groups[~bags.held].tolist())
    made = replace(m, files={}, calibration=replace(m.calibration, reference=reference, familiar=()))
    sealed = seal_package(draft, made)
    calibrated = calibrated_by(bags, Runtime(sealed))
    seal_package(draft, replace(made, calibration=calibrated))
    save_records(kept, founding_records_path(out))
    draft.rename(out)
    return load_package(out)


def reliabilities(package: Package, looked: Looked) -> Float64:
    m = package.manifest
    found = [rules_of(m).recognition(x, m.calibration) for x in looked.logits]
    if m.calibration.reference is not None:
        far = [outlying(v, m.calibration.reference, m.released) for v in looked.vectors]
        found = [replace(r, outlying=d) for r, d in zip(found, far, strict=True)]
    return np.array([reliability(r, m.calibration) for r in found])


def learned(
    package: Package,
    looked: Looked,
    at: Numbers,
    true: Numbers,
    *,
    trust: Float64,
    held: Numbers,
    seed: int,
    steady: bool,
) -> Arm:
    """Train on the founding records and some frames, `true` of which have their true mask, as a learner does."""
    m = package.manifest
    founding = load_bags(iter([load_records(founding_records_path(package.path))]), m)
    truths = np.zeros(0, np.uint8) if looked.truths is None else looked.truths
    groups = [hashlib.sha256(looked.groups[i].encode()).hexdigest()[:32] for i in at]
    verified = np.isin(at, true)
    recognized = (rules_of(m).recognition(looked.logits[i], m.calibration).targets() for i in at)
    results = [truths[i] if known else found for i, known, found in zip(at, verified, recognized, strict=True)]
    weights = np.where(verified, 1.0, ACCEPTED_WEIGHT * trust[at]).astype(np.float32)
    bags = Bags(
        [*founding.symbols, *(codec.quantize(looked.vectors[i], m.released) for i in at)],
        [*founding.results, *results],
        np.concatenate([founding.sites, np.full(len(at), "clinic")]),
        np.concatenate([founding.groups, np.array(groups)]),
        np.concatenate([founding.verified, verified]),
        np.concatenate([founding.weights, weights]),
        np.concatenate([founding.held, np.zeros(len(at), np.bool_)]),
        0,
    )
    settings = TrainSettings(fit=FitSettings(seed=seed), interpolation=1.0 if steady else None)
    recognizer, choice = train_recognizer(package, bags, ~bags.held, settings=settings)
    return Arm(len(true), choice.share, dice_of(package, recognizer, looked, held))


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


def of_means(
    own: Sequence[tuple[Float64, NDArray[np.str_]]],
    other: Sequence[tuple[Float64, NDArray[np.str_]]],
    compared: Callable[[float, float], float],
) -> tuple[float, float]:
    """What two gains' means over all seeds come to: 95%, sequences resampled within each seed."""
    rng, drawn = np.random.default_rng(0), []
    members = [[np.flatnonzero(names == n) for n in np.unique(names)] for _, names in own]
    for _ in range(RESAMPLES):
        sums = np.zeros(2)
        for groups, (a, _), (b, _) in zip(members, own, other, strict=True):
            at = np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])
            sums += a[at].mean(), b[at].mean()
        drawn.append(compared(*(sums / len(members))))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
