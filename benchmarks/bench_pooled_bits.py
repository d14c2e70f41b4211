#!/usr/bin/env python3
"""How few bits of a pooled vector classes need, and what they are linked at: one founded package, more and fewer bits.

    benchmarks/bench_pooled_bits.py [--work runs/recognition/pneumonia] [--bits 100 40 20 12 8 5]
        [--data ../shared/data] [--near 0.3]

--work is bench_recognition.py's, with its package P0 of PneumoniaMNIST and the images. The recognizer stays as it was
founded; what a vector may take is shared among its values anew, by what recognition feels of each (ADR 15). Accuracy
and AUC are what the recognizer makes of decoded records of the official validation and test images; how much less than
the device's own, with 95% intervals over images. Linkage is that of ClinicDB's sequences by an attacker with
Kvasir-SEG, by the audit's attackers with smaller controls, without the near-duplicates that a device holds back.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_privacy_pooled import LINKAGE, MOST, POLYPS, SIZE
from bench_recognition import pneumonia_folder
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from featureloop.audit.linkage import attack_linkage
from featureloop.audit.material import Lab, Party, party
from featureloop.audit.provided import provided
from featureloop.core.types import Bag, Frame, Task
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.learner.assembly import counted_form
from featureloop.learner.founding import CALIBRATION_SHARE
from featureloop.learner.pooled_tables import pooled_vectors, sensitive_levels
from featureloop.model.package import WEIGHTS, Package, load_package
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors

RESAMPLES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--work", type=Path, default=root / "runs" / "recognition" / "pneumonia")
    parser.add_argument("--bits", type=float, nargs="+", default=[100, 40, 20, 12, 8, 5])
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--near", type=float, default=0.3)
    args = parser.parse_args()
    package = load_package(args.work / "P0")
    train = open_labelled(args.work / "train")
    learned, _ = split(train.items, hold_out=CALIBRATION_SHARE, seed=1)
    runtime = Runtime(package)
    known = pooled_vectors(runtime, [f for f in train.frames(learned) if isinstance(f, Frame)])
    tests = {part: side(pneumonia_folder(args.data / "chest", args.work / part), package) for part in ("val", "test")}
    own = {part: recognized(package, seen) for part, (seen, _) in tests.items()}
    mine, whole = (party(open_labelled(args.data / "polyps" / n).frames(), size=SIZE)[0] for n in POLYPS)
    heads = [f"{part}: accuracy, AUC | less AUC, points" for part in tests]
    print(f"| bits | bytes of a test image | {' | '.join(heads)} | records | linked, top-1 | AUC |\n|{'---|' * 9}")
    device = [f"{figures(own[part], true)} |" for part, (_, true) in tests.items()]
    print(f"| the device itself | | {' | '.join(device)} | | | |", flush=True)
    for bits in args.bits:
        fewer = with_bits(package, known, bits)
        cells: list[str] = []
        size = 0.0
        for part, (seen, true) in tests.items():
            found, size = decoded(fewer, seen)
            cells += [figures(found, true), lost(found, own[part], true)]
        theirs = provided(whole, fewer, near=args.near).thinned(MOST)
        lab = Lab(fewer, mine.thinned(MOST), theirs)
        linked = attack_linkage(lab, LINKAGE).headline
        said = [f"{m.value:.3f} ({m.low:.3f} to {m.high:.3f})" for m in (linked["linkage.top1"], linked["linkage.auc"])]
        print(f"| {bits:g} | {size:.0f} | {' | '.join(cells)} | {len(theirs)} | {' | '.join(said)} |", flush=True)


def with_bits(package: Package, known: NDArray[np.float32], bits: float) -> Package:
    """The package whose pooled values take so many bits; of vectors float32 (M, C) of founding frames."""
    manifest = package.manifest
    recognizer = build_recognizer(manifest.recognizer, channels=manifest.released.channels)
    recognizer.load_state_dict(load_file(package.file(WEIGHTS)))
    task = Task(manifest.task)
    form = sensitive_levels(manifest.released, recognizer, known, task=task, bits=bits, seed=1)
    runtime = Runtime(package)
    bags = [
        Bag(s[None], runtime.recognize(v[None]).targets())
        for s, v in zip(codec.quantize(known, form), known, strict=True)
    ]
    return replace(package, manifest=replace(manifest, released=counted_form(form, bags, [], vectors=known)))


def side(folder: LabelledFolder, package: Package) -> tuple[Party, NDArray[np.intp]]:
    """Images of a folder, and the class of each."""
    frames = [f for f in folder.with_classes(package.manifest.labels).frames() if isinstance(f, Frame) and f.truth]
    labels = np.array([f.truth.label for f in frames if f.truth], np.intp)
    return Party(tuple(frames), np.array([f.name for f in frames])), labels


def recognized(package: Package, seen: Party) -> NDArray[np.float32]:
    """Probability of the last class at the device, float32 (M,)."""
    runtime, released = Runtime(package), package.manifest.released
    vectors = [release_vectors(runtime.extract(f.pixels), released) for f in seen.frames]
    return np.array([runtime.recognize(v).probabilities[0, -1] for v in vectors], np.float32)


def decoded(package: Package, seen: Party) -> tuple[NDArray[np.float32], float]:
    """The same from decoded records, and the mean bytes of their payloads."""
    lab = Lab(package, Party((), np.array([], np.str_)), seen)
    found = [lab.runtime.recognize(r.values).probabilities[0, -1] for r in lab.theirs]
    return np.array(found, np.float32), float(np.mean([r.payload for r in lab.theirs]))


def figures(found: NDArray[np.float32], true: NDArray[np.intp]) -> str:
    """Accuracy and AUC."""
    return f"{((found > 0.5) == (true == 1)).mean():.3f}, {roc_auc_score(true == 1, found):.4f}"


def lost(found: NDArray[np.float32], own: NDArray[np.float32], true: NDArray[np.intp]) -> str:
    """AUC less than the device's, in points."""

    def less(at: Sequence[int] | NDArray[np.intp]) -> float:
        return float(roc_auc_score(true[at] == 1, own[at]) - roc_auc_score(true[at] == 1, found[at]))

    rng = np.random.default_rng(1)
    drawn = [less(rng.integers(0, len(true), len(true))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{100 * less(np.arange(len(true))):.2f} ({100 * low:.2f} to {100 * high:.2f})"


if __name__ == "__main__":
    main()
