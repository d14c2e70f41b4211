#!/usr/bin/env python3
"""What the three tasks reach on real images, each by a founding training of its own.

    benchmarks/bench_recognition.py [--rows polyp-boxes pneumonia blood-cells capsule] [--data ../shared/data]
        [--work runs/recognition]

polyp-boxes: detection of the parts of Kvasir-SEG's masks, learned on 800 images, evaluated on the other 200 and on
all of CVC-ClinicDB. pneumonia: PneumoniaMNIST, its official training and test images. blood-cells: white blood cells
of one maker, five folds. capsule: capsule endoscopy with and without bleeding, five folds over source frames. Of folds,
every image is recognized once, by a package that did not learn from it, and the figures are those of all images.

The data are not part of the project. A row whose package is in --work already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featureloop.core.intervals import Figure
from featureloop.core.types import Task
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.evaluation import evaluate
from featureloop.learner.figures import figures_of
from featureloop.learner.founding import found_package
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import Package, load_package

FOLDS = 5
SEED = 1
CHANGED: dict[str, Any] = {}
"""Settings of the founding that are not its defaults; `bench_reliability.py --quick` has some."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=root / "runs" / "recognition")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    print("| images | figure | value | 95% interval |\n|---|---|---|---|")
    for row in args.rows:
        started = time.perf_counter()
        for images, figures in ROWS[row](args.data, args.work / row):
            for f in figures:
                print(f"| {images} | {f.name} | {f.value:.3f} | {f.low:.3f} to {f.high:.3f} |", flush=True)
        print(f"| {row} | seconds | {time.perf_counter() - started:.0f} | |", flush=True)


Result = list[tuple[str, Sequence[Figure]]]


def trained(folder: LabelledFolder, items: Sequence[LabelledItem], out: Path, *, size: int) -> Package:
    """The founding package in `out`, trained on the items where it is not there yet."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        settings = FoundingSettings(size=size, seed=SEED, **CHANGED)
        founded = found_package(folder, items, out, settings=settings, replay_versions=0)
        (out.parent / f"{out.name}.json").write_text(json.dumps({"frames": founded.frames}))
    return load_package(out)


def polyp_boxes(data: Path, work: Path) -> Result:
    """Detection of polyps."""
    kvasir = open_labelled(data / "polyps" / "kvasir-seg", task=Task.DETECTION)
    clinic = open_labelled(data / "polyps" / "cvc-clinicdb", task=Task.DETECTION)
    rest, held = split(kvasir.items, hold_out=0.2, seed=SEED)
    package = trained(kvasir, rest, work / "P0", size=320)
    return [
        ("polyp boxes, Kvasir-SEG 200", evaluate(package, kvasir, held).figures),
        ("polyp boxes, ClinicDB", evaluate(package, clinic, clinic.items).figures),
    ]


Part = tuple[Package, LabelledFolder, Sequence[LabelledItem]]
"""A package, and a folder's items that it did not learn from."""


def pneumonia_parts(data: Path, work: Path) -> Iterator[Part]:
    """PneumoniaMNIST's official split."""
    images = np.load(data / "chest" / "pneumoniamnist.npz")
    folders = {}
    for part in ("train", "test"):
        folder = work / part
        for i, (pixels, label) in enumerate(zip(images[f"{part}_images"], images[f"{part}_labels"], strict=True)):
            place = folder / ("normal", "pneumonia")[int(label[0])] / f"{i:05}.png"
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(place)
        folders[part] = open_labelled(folder)
    package = trained(folders["train"], folders["train"].items, work / "P0", size=96)
    yield package, folders["test"], folders["test"].items


def blood_cell_parts(data: Path, work: Path) -> Iterator[Part]:
    """White blood cells in five folds."""
    return folds(open_labelled(data / "blood-cells" / "tecom"), work, size=160)


def capsule_parts(data: Path, work: Path) -> Iterator[Part]:
    """Capsule endoscopy in five folds; the same number in a name is the same source frame."""
    folder = open_labelled(data / "capsule-bleeding", task=Task.CLASSIFICATION)

    def source(item: LabelledItem) -> str:
        found = re.search(r"(\d+)", Path(item.name).stem)
        return found.group(1) if found else item.name

    grouped = replace(folder, items=tuple(replace(i, group=source(i)) for i in folder.items))
    return folds(grouped, work, size=224)


def folds(folder: LabelledFolder, work: Path, *, size: int) -> Iterator[Part]:
    """Every image in one part, with a package that learned from the other folds."""
    from sklearn.model_selection import StratifiedGroupKFold

    labels = np.array([i.label for i in folder.items])
    groups = np.array([i.group for i in folder.items])
    parts = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED).split(labels, labels, groups)
    for k, (rest, held) in enumerate(parts):
        package = trained(folder, [folder.items[i] for i in rest], work / f"P{k}", size=size)
        yield package, folder, [folder.items[i] for i in held]


def together(name: str, parts: Iterator[Part]) -> Result:
    """The figures of all parts' images, and of folds the mean of their balanced accuracies."""
    found = [evaluate(package, folder, items) for package, folder, items in parts]
    whole = figures_of([s for e in found for s in e.seen], labels=found[0].labels, seed=SEED)
    if len(found) == 1:
        return [(name, whole)]
    each = [next(f.value for f in e.figures if f.name == "balanced accuracy") for e in found]
    mean = Figure("mean of the folds' balanced accuracies", float(np.mean(each)), min(each), max(each), len(each))
    return [(name, (*whole, mean))]


PARTS: dict[str, Callable[[Path, Path], Iterator[Part]]] = {
    "pneumonia": pneumonia_parts,
    "blood-cells": blood_cell_parts,
    "capsule": capsule_parts,
}
NAMES = {
    "pneumonia": "PneumoniaMNIST, official test",
    "blood-cells": "blood cells, five folds",
    "capsule": "capsule bleeding, five folds",
}
ROWS: dict[str, Callable[[Path, Path], Result]] = {
    "polyp-boxes": polyp_boxes,
    **{row: lambda data, work, row=row: together(NAMES[row], PARTS[row](data, work)) for row in PARTS},
}

if __name__ == "__main__":
    main()
