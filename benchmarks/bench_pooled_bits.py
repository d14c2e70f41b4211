#!/usr/bin/env python3
"""How few bits of a pooled vector classes need, and what they are linked at: one founded package, more and fewer bits.

    benchmarks/bench_pooled_bits.py [--work runs/recognition/pneumonia] [--forms 100 20 12 8 5 20:values 12:values]
        [--data ../shared/data] [--near 0.3] [--out runs/pooled-bits] [--crops FOLDER | --cells FOLDER]

--work is bench_recognition.py's, with its package P0 of PneumoniaMNIST and the images. The recognizer stays as it was
founded; what a vector may take is spent anew, by what recognition feels of it (ADR 20): on directions, or with
`:values` on each value by itself (ADR 15). Accuracy and AUC are what the recognizer makes of decoded records of the
official validation and test images; how much less than the device's own, with 95% intervals over groups. Linkage is
that of ClinicDB's sequences by an attacker with Kvasir-SEG, by the audit's attackers with smaller controls, without the
near-duplicates that a device holds back. --out keeps what draw_pareto.py draws.

With --crops runs/recognition/polyp-crops (bench_recognition.py's), the same of polyps: Kvasir-SEG's held-out crops, and
ClinicDB's.

With --cells runs/recognition (bench_recognition.py's packages, founded where they are missing), instead: five kinds of
white blood cells in five folds, accuracy and the mean AUC of the classes from decoded records of the held-out images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_codec_pooled import figures as figures_of
from bench_near_linkage import party_of
from bench_privacy_pooled import LINKAGE, MOST, POLYPS
from bench_recognition import PARTS, pneumonia_folder, polyp_crop_package
from measure_pooled_rdo import side as seen_side
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from featureloop.audit.linkage import attack_linkage
from featureloop.audit.material import Lab, Party
from featureloop.audit.provided import provided
from featureloop.core.intervals import figure_maker
from featureloop.core.types import Bag, Frame, Task
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.assembly import counted_form
from featureloop.learner.founding import CALIBRATION_SHARE
from featureloop.learner.pooled_tables import ASKED_FRAMES, pooled_vectors, sensitive_levels
from featureloop.model.package import WEIGHTS, Package, load_package
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.near import usually_apart, values_of

FORMS = ("100", "20", "12", "8", "5", "20:values", "12:values")
APART = 400
"""Founding images that say how many steps frames are usually apart, for what is a near-duplicate."""
CELLS = "blood-cells"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--work", type=Path, default=root / "runs" / "recognition" / "pneumonia")
    parser.add_argument("--forms", nargs="+", default=list(FORMS))
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--near", type=float, default=0.3)
    parser.add_argument("--out", type=Path, help="default: pooled-bits, or pooled-bits-crops, in runs")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--crops", type=Path)
    others.add_argument("--cells", type=Path)
    args = parser.parse_args()
    if args.cells is not None:
        cells_table(args.data, args.cells, args.forms)
        return
    out: Path = args.out or root / "runs" / ("pooled-bits-crops" if args.crops else "pooled-bits")
    out.mkdir(parents=True, exist_ok=True)
    package, known, tests = crops(args.data, args.crops) if args.crops else chest(args.data, args.work)
    own = {part: recognized(package, seen) for part, (seen, _) in tests.items()}
    mine, whole = (party_of(args.data / "polyps" / site, package) for site in POLYPS)
    heads = [f"{part}: accuracy, AUC | less AUC, points" for part in tests]
    print(f"| bits | bytes of a test image | {' | '.join(heads)} | records | linked, top-1 | AUC |\n|{'---|' * 9}")
    device = [f"{figures(own[part], true)} |" for part, (_, true) in tests.items()]
    last = list(tests)[-1]
    device_auc = float(roc_auc_score(tests[last][1] == 1, own[last]))
    print(f"| the device itself | | {' | '.join(device)} | | | |", flush=True)
    for form in args.forms:
        fewer = with_bits(package, known, form)
        cells: list[str] = []
        size, quality = 0.0, 0.0
        for part, (seen, true) in tests.items():
            found, size = decoded(fewer, seen)
            cells += [figures(found, true), lost(found, own[part], true, seen.groups)]
            quality = float(roc_auc_score(true == 1, found))
        theirs = provided(whole, fewer, near=args.near).thinned(MOST)
        lab = Lab(fewer, mine.thinned(MOST), theirs)
        linked = attack_linkage(lab, LINKAGE).headline
        said = [f"{m.value:.3f} ({m.low:.3f} to {m.high:.3f})" for m in (linked["linkage.top1"], linked["linkage.auc"])]
        kept = {
            "quality": quality,
            "device": device_auc,
            "linkage": {k: [m.value, m.low, m.high] for k, m in linked.items()},
        }
        (out / f"{form.replace(':', '-')}.json").write_text(json.dumps(kept, indent=1))
        print(f"| {form} | {size:.0f} | {' | '.join(cells)} | {len(theirs)} | {' | '.join(said)} |", flush=True)


Tests = dict[str, tuple[Party, NDArray[np.intp]]]
"""By name, images and the class of each; the last one is of another site."""


def chest(data: Path, work: Path) -> tuple[Package, NDArray[np.float32], Tests]:
    """PneumoniaMNIST's package, vectors of what it learned from (M, C), and the official validation and test images."""
    package = load_package(work / "P0")
    train = open_labelled(work / "train")
    folders = {part: pneumonia_folder(data / "chest", work / part) for part in ("val", "test")}
    tests = {part: side(folder, folder.items, package) for part, folder in folders.items()}
    return package, learned_from(package, train, train.items), tests


def crops(data: Path, work: Path) -> tuple[Package, NDArray[np.float32], Tests]:
    """The same of the polyps' crops."""
    package, learned, tests = polyp_crop_package(data, work)
    return package, learned_from(package, *learned), {name: side(*test, package) for name, test in tests.items()}


def learned_from(package: Package, folder: LabelledFolder, items: Sequence[LabelledItem]) -> NDArray[np.float32]:
    """Pooled vectors float32 (M, C) of the images that a package's recognizer learned from."""
    learned, _ = split(items, hold_out=CALIBRATION_SHARE, seed=1)
    return pooled_vectors(Runtime(package), [f for f in folder.frames(learned) if isinstance(f, Frame)])


def cells_table(data: Path, work: Path, forms: Sequence[str]) -> None:
    """Five kinds of cells: what is recognized from records, of all folds."""
    sides = [seen_side(part, work / CELLS, ASKED_FRAMES) for part in PARTS[CELLS](data, work / CELLS)]
    own = figures_of([s.images for s in sides], [s.images.recognized(list(s.images.vectors)) for s in sides])
    print("| bits | accuracy | AUC | less, points |\n|---|---|---|---|")
    print(f"| the device itself | {own[0]:.3f} | {own[1]:.4f} | |", flush=True)
    for form in forms:
        told = []
        for one in sides:
            package = one.images.runtime.package
            released = with_bits(package, one.known, form).manifest.released
            values = codec.dequantize(codec.quantize(one.images.vectors, released), released)
            told.append(one.images.recognized(list(values)))
        found = figures_of([s.images for s in sides], told)
        print(f"| {form} | {found[0]:.3f} | {found[1]:.4f} | {100 * (own[1] - found[1]):.2f} |", flush=True)


def with_bits(package: Package, known: NDArray[np.float32], text: str) -> Package:
    """The package whose pooled vectors take bits as a form's text says, by those of founding frames (M, C)."""
    budget, _, by = text.partition(":")
    bits, by_value = float(budget), by == "values"
    manifest = package.manifest
    recognizer = build_recognizer(manifest.recognizer, channels=manifest.released.channels)
    recognizer.load_state_dict(load_file(package.file(WEIGHTS)))
    task = Task(manifest.task)
    form = sensitive_levels(manifest.released, recognizer, known, task=task, bits=bits, seed=1, by_value=by_value)
    runtime = Runtime(package)
    bags = [
        Bag(s[None], runtime.recognize(v[None]).targets())
        for s, v in zip(codec.quantize(known, form), known, strict=True)
    ]
    form = counted_form(form, bags, [], vectors=known)
    some = [values_of(v[None], form) for v in known[:: max(1, len(known) // APART)]]
    form = replace(form, usually_apart=usually_apart(some, [str(i) for i in range(len(some))]))
    return replace(package, manifest=replace(manifest, released=form))


def side(folder: LabelledFolder, items: Sequence[LabelledItem], package: Package) -> tuple[Party, NDArray[np.intp]]:
    """Images of a folder, and the class of each."""
    labelled = folder.with_classes(package.manifest.labels)
    frames = [f for f in labelled.frames(items) if isinstance(f, Frame) and f.truth]
    labels = np.array([f.truth.label for f in frames if f.truth], np.intp)
    return Party(tuple(frames), np.array([f.group or f.name for f in frames])), labels


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


def lost(found: NDArray[np.float32], own: NDArray[np.float32], true: NDArray[np.intp], groups: NDArray[np.str_]) -> str:
    """AUC less than the device's, in points."""

    def less(at: NDArray[np.intp]) -> float:
        if len(set(true[at].tolist())) == 1:
            return float("nan")
        return float(roc_auc_score(true[at] == 1, own[at]) - roc_auc_score(true[at] == 1, found[at]))

    made = figure_maker(groups, seed=1)("less AUC", less, most=np.inf)
    return f"{100 * made.value:.2f} ({100 * made.low:.2f} to {100 * made.high:.2f})"


if __name__ == "__main__":
    main()
