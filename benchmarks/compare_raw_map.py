#!/usr/bin/env python3
"""What released forms cost against the raw feature map: all of the backbone's taps, in order, for any package's task.

    benchmarks/compare_raw_map.py [--package runs/polyps/P0] [--others runs/privacy/forms/...]
        [--data ../shared/data/polyps] [--work runs/raw-map] [--seeds 1 2 3]

Nothing is taken away from the raw map: no neck, no quantization, every vector where it stood. It is recognized by 3x3
convolutions; for boxes and classes also by founding's own kind of recognizer, which of classes takes statistics of each
tap, as the package does of its channels. All learn from the package's founding images and five changed versions of
each, as many steps as founding gives a recognizer, and keep what was best on the calibration images, as there. Compared
are the recognizers of the package and of others with the same extractor, as they were founded, each from the whole
frame's values as a device sees them. What they have less is less than the better of the raw map's, column by column.
Chance in training is worth a point or so of what is told of a few hundred images, and isn't in the intervals. With
several seeds each recognizer of the raw map is learned with each, and so is the package's, anew, from the extractor's
values (of sets also from unrounded ones alone, of boxes from rounded ones alone); the figures and what they have less
are means over the seeds.

Masks: Dice over sub-cells, boxes: AP50 and F1, both on Kvasir-SEG's held-out 200 and on ClinicDB. Classes: AUC and
accuracy; of a package of the polyps' crops (bench_recognition.py --rows polyp-crops) on those of the same images, of
another one on PneumoniaMNIST's official validation images, of the founding images' source, and test images, of another
one (--data ../shared/data/chest). The differences have 95% intervals over groups. What is in --work already isn't done
again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_recognition import CROPS, open_crops, open_polyps, pneumonia_folder
from compare_necks import taps_of
from numpy.typing import NDArray
from polyp_crops import CLASSES
from raw_maps import AGAIN, AS_FOUNDED, CONVOLVED, ROUNDED, UNROUNDED, Part, Rival, founded_again, labelled, rivals

from featureloop.core.intervals import Figure, Statistic, average_of, mean_of, ratio_of
from featureloop.core.types import Bool, Recognition, Task, Truth, UInt8
from featureloop.learner.box_matching import average_precisions, right_boxes
from featureloop.learner.class_figures import one_label_figures
from featureloop.learner.gate import RESAMPLES
from featureloop.model.founding_fit import UNROUNDED_FIRST
from featureloop.model.package import Package, load_package
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import RULES
from featureloop.model.tasks.detection import DISTANCES
from featureloop.sharing.anonymize import release_vectors

FIGURES = {
    Task.SEGMENTATION: ("Dice",),
    Task.DETECTION: ("AP50", "F1"),
    Task.CLASSIFICATION: ("AUC", "accuracy"),
}
FEWER = 1000
"""Resamples of figures that are no means, which take longer."""
Column = tuple[str, str]
"""A test, and a figure."""


@dataclass(frozen=True, slots=True, eq=False)
class Test:
    """Images that no recognizer learned from, with what is true of each, masks left out, and its group."""

    part: Part
    truths: Sequence[Truth]
    groups: NDArray[np.str_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, default=root / "runs" / "polyps" / "P0")
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    parser.add_argument("--data", type=Path, help="default: polyps or chest in ../shared/data, by the task")
    parser.add_argument("--work", type=Path, default=root / "runs" / "raw-map")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    package = load_package(args.package)
    task, shared = Task(package.manifest.task), root.parent / "shared" / "data"
    if task not in FIGURES:
        raise SystemExit(f"the package is for {task}; compared are packages for {', '.join(FIGURES)}")
    data = args.data or shared / ("chest" if source_of(package) == "chest" else "polyps")
    founding, tests = images_of(package, data, args.work)
    raw = raw_results(package, founding, tests, args.work, args.seeds)
    if len(args.seeds) > 1:
        raw |= own_results(package, founding, tests, args.work, args.seeds)
    columns = [(name, figure) for name in tests for figure in FIGURES[task]]
    titles = [name if len(FIGURES[task]) == 1 else f"{name}, {figure}" for name, figure in columns]
    print("| recognized from | " + " | ".join(f"{t} | less" for t in titles) + " |\n|---|" + "---|---|" * len(columns))
    found = averaged(package, tests, raw, args.seeds)
    again = {line: found.pop(line) for line in (AGAIN, UNROUNDED, ROUNDED) if line in found}
    for line, statistics in found.items():
        print(
            f"| {line} | " + " | ".join(f"{whole(statistics[c], tests[c[0]]):.4f} |" for c in columns) + " |",
            flush=True,
        )
    best = {c: max((s[c] for s in found.values()), key=partial(whole, test=tests[c[0]])) for c in columns}
    count = RESAMPLES if task is Task.SEGMENTATION else FEWER
    lost_by: dict[str, dict[str, float]] = {}
    ours: dict[str, dict[Column, Statistic]] = {}
    for path in (args.package, *args.others):
        other, name = load_package(path), path.name if path.name not in ours else str(path)
        ours[name] = statistics_of(other, tests, {name: recognized(other, test) for name, test in tests.items()})
    for name, statistics in (ours | again).items():
        cells = []
        for title, c in zip(titles, columns, strict=True):
            own, test = statistics[c], tests[c[0]]
            value, (less, low, high) = whole(own, test), compared(own, best[c], test, count)
            lost_by.setdefault(name, {})[title] = less
            cells.append(f"{value:.4f} | {100 * less:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    less_of = "less.json" if task is Task.SEGMENTATION else f"less-{task}.json"
    (args.work / less_of).write_text(json.dumps(lost_by, indent=1))


def source_of(package: Package) -> str:
    """Where the package's images are: `polyps`, `polyp crops` or `chest`."""
    if package.manifest.task != Task.CLASSIFICATION:
        return "polyps"
    return "polyp crops" if package.manifest.labels == CLASSES else "chest"


def images_of(package: Package, data: Path, work: Path) -> tuple[Part, dict[str, Test]]:
    """The images that the package was founded on, and the tests."""
    task, labels, source = Task(package.manifest.task), package.manifest.labels, source_of(package)
    founding: Part
    tests: dict[str, Part]
    if source == "chest":
        train, own, other = (
            pneumonia_folder(data, work / "pneumonia" / part).with_classes(labels) for part in ("train", "val", "test")
        )
        founding = (train, train.items)
        tests = {"PneumoniaMNIST validation": (own, own.items), "PneumoniaMNIST test": (other, other.items)}
    else:
        crops = source == "polyp crops"
        found = open_crops(data, work / "crops") if crops else open_polyps(data, task)
        kvasir, clinic = (folder.with_classes(labels) for folder in (found.kvasir, found.clinic))
        founding = (kvasir, found.rest)
        tests = {CROPS if crops else "Kvasir-SEG 200": (kvasir, found.held), "ClinicDB": (clinic, clinic.items)}
    return founding, {name: opened(part, package) for name, part in tests.items()}


def opened(part: Part, package: Package) -> Test:
    """A test of a folder's items."""
    known = [(f.truth or Truth(), f.group or f.name) for f, _ in labelled(part, package)]
    return Test(part, [replace(truth, mask=None) for truth, _ in known], np.array([group for _, group in known]))


def lines_of(task: Task, seeds: Sequence[int]) -> tuple[str, ...]:
    """The names of what recognizes raw maps, and with several seeds of what recognizes as the package does."""
    raw = (CONVOLVED,) if task is Task.SEGMENTATION else (CONVOLVED, AS_FOUNDED)
    own = (AGAIN,) if task is Task.CLASSIFICATION else (AGAIN, UNROUNDED)
    own += (ROUNDED,) if task in UNROUNDED_FIRST else ()
    return (*raw, *own) if len(seeds) > 1 else raw


def key(line: str, test: str, seed: int) -> str:
    """Under which a test's results are in the file that is kept."""
    return f"{test}, {line}, {seed}"


def raw_results(
    package: Package, founding: Part, tests: Mapping[str, Test], work: Path, seeds: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """What is kept of every test frame's results from its raw map, by recognizers of the founding images' maps."""

    def made() -> dict[str, NDArray[Any]]:
        return of_each(rivals(package, founding, work, seeds=seeds), taps_of(package), package, tests, seeds)

    return kept(work / f"{named('raw', package, seeds)}.npz", made)


def own_results(
    package: Package, founding: Part, tests: Mapping[str, Test], work: Path, seeds: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """The same from what the package releases, by recognizers like its own."""
    runtime, released = Runtime(package), package.manifest.released

    def seen(pixels: UInt8) -> NDArray[Any]:
        return release_vectors(runtime.extract(pixels), released)

    def made() -> dict[str, NDArray[Any]]:
        return of_each(founded_again(package, founding, seeds=seeds), seen, package, tests, seeds)

    return kept(work / f"{named('own', package, seeds)}.npz", made)


def named(what: str, package: Package, seeds: Sequence[int]) -> str:
    """A file's name."""
    return f"{what}-{package.short}-{'-'.join(map(str, seeds))}"


def kept(path: Path, made: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """What is in a file, or is made now and kept there."""
    if not path.exists():
        np.savez(path, **made())  # type: ignore[arg-type]  # Arrays by name.
    with np.load(path) as found:
        return dict(found)


def of_each(
    by_line: Mapping[str, Sequence[Rival]],
    values_of: Callable[[UInt8], NDArray[Any]],
    package: Package,
    tests: Mapping[str, Test],
    seeds: Sequence[int],
) -> dict[str, NDArray[Any]]:
    """What is kept of every test frame's results, by recognizers of values of its pixels, one of each seed."""
    out: dict[str, NDArray[Any]] = {}
    for name, test in tests.items():
        found: dict[tuple[str, int], list[NDArray[Any]]] = {}
        for frame, rows in labelled(test.part, package):
            values = values_of(frame.pixels)
            for line, each in by_line.items():
                for seed, rival in zip(seeds, each, strict=True):
                    found.setdefault((line, seed), []).append(result(rival.recognition(values), rows))
        out |= {key(line, name, seed): np.stack(each) for (line, seed), each in found.items()}
    return out


def recognized(package: Package, test: Test) -> NDArray[Any]:
    """What is kept of every frame's result as a device recognizes it."""
    runtime, released = Runtime(package), package.manifest.released
    return np.stack(
        [
            result(runtime.recognize(release_vectors(runtime.extract(frame.pixels), released)), rows)
            for frame, rows in labelled(test.part, package)
        ]
    )


def result(found: Recognition, rows: UInt8) -> NDArray[Any]:
    """What is kept of a result: Dice of a mask, else probabilities float32 (N or 1, K), with boxes' four distances."""
    if found.task is Task.SEGMENTATION:
        return np.array(RULES[found.task].quality(found, rows))
    return found.probabilities if found.distances is None else np.hstack([found.probabilities, found.distances])


def statistics_of(
    package: Package, tests: Mapping[str, Test], kept: Mapping[str, NDArray[Any]]
) -> dict[Column, Statistic]:
    """The figures of what is kept of the tests' frames, as functions of frame numbers."""

    def each(test: Test, values: NDArray[Any]) -> dict[str, Statistic]:
        if values.ndim == 1:
            return {"Dice": mean_of(values)}
        if package.manifest.task == Task.DETECTION:
            return box_statistics(values, test.truths)
        return class_statistics(values, test.truths, package.manifest.labels)

    return {(name, figure): s for name, test in tests.items() for figure, s in each(test, kept[name]).items()}


def box_statistics(kept: NDArray[Any], truths: Sequence[Truth]) -> dict[str, Statistic]:
    """Of boxes in rows (M, N, K + 4); F1 is of those that are shown."""
    results = [Recognition(Task.DETECTION, rows[:, :-DISTANCES], rows[:, -DISTANCES:]) for rows in kept]
    found, true = [r.boxes() for r in results], [t.boxes or () for t in truths]
    shown = [[box for box in boxes if box.score >= 0.5] for boxes in found]
    right = np.array([sum(right_boxes(s, t)) for s, t in zip(shown, true, strict=True)], np.float64)
    total = np.array([len(s) + len(t) for s, t in zip(shown, true, strict=True)], np.float64)
    precisions = average_precisions(found, true)
    return {"AP50": lambda at: precisions(at)["ap50"], "F1": ratio_of(2 * right, total)}


def class_statistics(kept: NDArray[Any], truths: Sequence[Truth], labels: Sequence[str]) -> dict[str, Statistic]:
    """Of one row of probabilities a frame, (M, 1, K)."""
    found: dict[str, Statistic] = {}

    def noted(name: str, statistic: Statistic, *, needs: Sequence[Bool] = (), most: float = 1.0) -> Figure:  # noqa: ARG001
        found[name] = statistic
        return Figure(name, np.nan, np.nan, np.nan, 0)

    true = np.array([-1 if t.label is None else t.label for t in truths])
    one_label_figures(kept[:, 0], true, labels, noted)
    return {"AUC": found["auc"], "accuracy": found["accuracy"]}


def whole(statistic: Statistic, test: Test) -> float:
    """A figure of all frames."""
    return statistic(np.arange(len(test.groups)))


def averaged(
    package: Package, tests: Mapping[str, Test], raw: Mapping[str, NDArray[Any]], seeds: Sequence[int]
) -> dict[str, dict[Column, Statistic]]:
    """Of every line the figures' means over the seeds."""
    out = {}
    for line in lines_of(Task(package.manifest.task), seeds):
        each = [statistics_of(package, tests, {name: raw[key(line, name, seed)] for name in tests}) for seed in seeds]
        out[line] = {c: average_of([statistics[c] for statistics in each]) for c in each[0]}
    return out


def compared(ours: Statistic, raw: Statistic, test: Test, count: int) -> tuple[float, float, float]:
    """How much ours is more, and its 95% interval: both of the same resampled groups."""
    drawn = [ours(at) - raw(at) for at in resamples(test.groups, count)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return whole(ours, test) - whole(raw, test), float(low), float(high)


def resamples(groups: NDArray[np.str_], count: int) -> Iterator[NDArray[np.intp]]:
    """Frame numbers of as many groups as there are, drawn anew so many times: always the same ones."""
    _, member = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(member == group) for group in range(member.max() + 1)]
    for row in np.random.default_rng(1).integers(0, len(members), (count, len(members))):
        yield np.concatenate([members[group] for group in row])


if __name__ == "__main__":
    main()
