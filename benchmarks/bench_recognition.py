#!/usr/bin/env python3
"""What the three tasks reach on real images, each by a founding training of its own.

    benchmarks/bench_recognition.py [--rows polyp-boxes polyp-crops pneumonia blood-cells capsule capsule-boxes]
        [--data ../shared/data] [--work runs/recognition] [--quick]

polyp-boxes: detection of the parts of Kvasir-SEG's masks, learned on 800 images, evaluated on the other 200 and on
all of CVC-ClinicDB. polyp-crops: whether a crop of the same images shows a polyp (polyp_crops.py). pneumonia:
PneumoniaMNIST, its official training and test images. blood-cells: white blood cells of one maker, five folds. capsule:
capsule endoscopy with and without bleeding, five folds over source frames. capsule-boxes: detection of the bleedings in
the same images; those without bleeding are without a box. Of folds, every image is recognized once, by a package that
did not learn from it, and the figures are those of all images.

The data are not part of the project. A row whose package is in --work already is not trained again. --quick founds with
fewer passes: such packages err more, and are a minute's work.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from polyp_crops import polyp_crops

from featureloop.core.intervals import Figure
from featureloop.core.types import Task
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.evaluation import evaluate
from featureloop.learner.figures import figures_of
from featureloop.learner.founding import found_package
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import Package, load_package
from featureloop.model.tasks import RULES

FOLDS = 5
SEED = 1
QUICK = {"epochs": 4.0, "recognizer_epochs": 40.0, "augmentations": 1}
CHANGED: dict[str, Any] = {}
"""Settings of the founding that are not its defaults: those of `QUICK`, where that is asked for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=root / "runs" / "recognition")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        CHANGED.update(QUICK)
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
        # Most tables are of whole sets; by default two rows of a frame leave (ADR 19).
        release = "set" if RULES[folder.task].form == "set" else ""
        settings = FoundingSettings(**{"size": size, "seed": SEED, "release": release, **CHANGED})
        founded = found_package(folder, items, out, settings=settings, replay_versions=0)
        (out.parent / f"{out.name}.json").write_text(json.dumps({"frames": founded.frames}))
    return load_package(out)


Part = tuple[Package, LabelledFolder, Sequence[LabelledItem]]
"""A package, and a folder's items that it did not learn from."""


@dataclass(frozen=True, slots=True)
class Polyps:
    """Kvasir-SEG, of which some is founded on and the rest held out, and all of another site's ClinicDB."""

    kvasir: LabelledFolder
    rest: Sequence[LabelledItem]
    held: Sequence[LabelledItem]
    clinic: LabelledFolder


def open_polyps(folder: Path, task: Task) -> Polyps:
    """The polyps' images, labelled for a task, split as founding splits them."""
    kvasir, clinic = (open_labelled(folder / name, task=task) for name in ("kvasir-seg", "cvc-clinicdb"))
    rest, held = split(kvasir.items, hold_out=0.2, seed=SEED)
    return Polyps(kvasir, rest, held, clinic)


def polyp_box_package(polyps: Polyps, work: Path) -> Package:
    """The package that finds polyps' boxes, founded where it is not there yet."""
    return trained(polyps.kvasir, polyps.rest, work / "P0", size=320)


def polyp_boxes(data: Path, work: Path) -> Result:
    """Detection of polyps."""
    polyps = open_polyps(data / "polyps", Task.DETECTION)
    package = polyp_box_package(polyps, work)
    return [
        ("polyp boxes, Kvasir-SEG 200", evaluate(package, polyps.kvasir, polyps.held).figures),
        ("polyp boxes, ClinicDB", evaluate(package, polyps.clinic, polyps.clinic.items).figures),
    ]


CROPS = "Kvasir-SEG, 200 crops"
Labelled = tuple[LabelledFolder, Sequence[LabelledItem]]


def open_crops(polyps: Path, folder: Path) -> Polyps:
    """The polyps' crops; what is held out is a part of the crops, and not all of the images that masks hold out."""
    kvasir, clinic = (polyp_crops(polyps, site, folder / site) for site in ("kvasir-seg", "cvc-clinicdb"))
    rest, held = split(kvasir.items, hold_out=0.2, seed=SEED)
    return Polyps(kvasir, rest, held, clinic)


def polyp_crop_package(data: Path, work: Path) -> tuple[Package, Labelled, dict[str, Labelled]]:
    """The package that tells crops with a polyp, founded where it is not there yet, what it learned from, and tests."""
    found = open_crops(data / "polyps", work / "crops")
    package = trained(found.kvasir, found.rest, work / "P0", size=224)
    tests = {CROPS: (found.kvasir, found.held), "ClinicDB": (found.clinic, found.clinic.items)}
    return package, (found.kvasir, found.rest), tests


def polyp_classes(data: Path, work: Path) -> Result:
    """Classification of crops with and without a polyp."""
    package, _, tests = polyp_crop_package(data, work)
    return [(f"polyp crops, {name}", evaluate(package, *test).figures) for name, test in tests.items()]


def pneumonia_folder(data: Path, folder: Path) -> LabelledFolder:
    """PneumoniaMNIST's official part that the folder is named for, written there where it is not there yet."""
    with np.load(data / "pneumoniamnist.npz") as images:
        known = zip(images[f"{folder.name}_images"], images[f"{folder.name}_labels"], strict=True)
    for i, (pixels, label) in enumerate(known):
        place = folder / ("normal", "pneumonia")[int(label[0])] / f"{i:05}.png"
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place)
    return open_labelled(folder)


def pneumonia_parts(data: Path, work: Path) -> Iterator[Part]:
    """PneumoniaMNIST's official split."""
    folders = {part: pneumonia_folder(data / "chest", work / part) for part in ("train", "test")}
    package = trained(folders["train"], folders["train"].items, work / "P0", size=96)
    yield package, folders["test"], folders["test"].items


def blood_cell_parts(data: Path, work: Path) -> Iterator[Part]:
    """White blood cells in five folds."""
    return folds(open_labelled(data / "blood-cells" / "tecom"), work, size=160)


def capsule_parts(data: Path, work: Path) -> Iterator[Part]:
    """Capsule endoscopy with and without bleeding, in five folds."""
    return folds(capsules(data, Task.CLASSIFICATION), work, size=224)


def capsule_box_parts(data: Path, work: Path) -> Iterator[Part]:
    """The bleedings' boxes in the same images, in five folds; half of the images have none."""
    return folds(capsules(data, Task.DETECTION), work, size=224)


def capsules(data: Path, task: Task) -> LabelledFolder:
    """Capsule endoscopy; the same number in a name is the same source frame."""
    folder = open_labelled(data / "capsule-bleeding", task=task)

    def source(item: LabelledItem) -> str:
        found = re.search(r"(\d+)", Path(item.name).stem)
        return found.group(1) if found else item.name

    return replace(folder, items=tuple(replace(i, group=source(i)) for i in folder.items))


def folds(folder: LabelledFolder, work: Path, *, size: int) -> Iterator[Part]:
    """Every image in one part, with a package that learned from the other folds.

    Each part has its share of every class; of boxes, of the images with and without one.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels = np.array([bool(i.boxes(i.name)) if i.boxes else i.label for i in folder.items])
    groups = np.array([i.group for i in folder.items])
    parts = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED).split(labels, labels, groups)
    for k, (rest, held) in enumerate(parts):
        package = trained(folder, [folder.items[i] for i in rest], work / f"P{k}", size=size)
        yield package, folder, [folder.items[i] for i in held]


def together(name: str, parts: Iterator[Part]) -> Result:
    """The figures of all parts' images, and of folds the mean of their second figure: balanced accuracy, or AP50."""
    found = [evaluate(package, folder, items) for package, folder, items in parts]
    whole = figures_of([s for e in found for s in e.seen], labels=found[0].labels, seed=SEED)
    if len(found) == 1:
        return [(name, whole)]
    figure = "ap50" if found[0].task is Task.DETECTION else "balanced accuracy"
    each = [next(f.value for f in e.figures if f.name == figure) for e in found]
    mean = Figure(f"mean of the folds' {figure}", float(np.mean(each)), min(each), max(each), len(each))
    return [(name, (*whole, mean))]


PARTS: dict[str, Callable[[Path, Path], Iterator[Part]]] = {
    "pneumonia": pneumonia_parts,
    "blood-cells": blood_cell_parts,
    "capsule": capsule_parts,
}
BOX_PARTS: dict[str, Callable[[Path, Path], Iterator[Part]]] = {"capsule-boxes": capsule_box_parts}
NAMES = {
    "pneumonia": "PneumoniaMNIST, official test",
    "blood-cells": "blood cells, five folds",
    "capsule": "capsule bleeding, five folds",
    "capsule-boxes": "capsule bleeding, boxes, five folds",
}
ROWS: dict[str, Callable[[Path, Path], Result]] = {
    "polyp-boxes": polyp_boxes,
    "polyp-crops": polyp_classes,
    **{
        row: lambda data, work, row=row, parts=parts: together(NAMES[row], parts(data, work))
        for row, parts in {**PARTS, **BOX_PARTS}.items()
    },
}

if __name__ == "__main__":
    main()
