#!/usr/bin/env python3
"""Which score orders results best, and which frames are told to be unlike the founding ones, on real images.

    benchmarks/bench_reliability.py [--rows polyps polyp-boxes polyp-boxes-added pneumonia blood-cells capsule
        capsule-boxes] [--data ../shared/data] [--polyps runs/polyps/P0] [--work runs/recognition] [--folds 5] [--quick]
        [--cache runs/reliability] [--scores-only]

For every data set the area under the risk-coverage curve (AURC, the smaller the better) of each score, of the combined
one, and of the reliability that a package founded now would have (`auto`, with the doubt about unfamiliar frames),
against the maximum probability alone: of a segmentation the mean over its sub-cells, of a detection that of the best
box, or, where none is shown, of there being none (1 less the likeliest box's). Detections have two losses, 1 - F1 of
the rows, which the reliability is fitted to, and 1 - F1 of the boxes, which people see. Differences have 95%
intervals, resampled by group. Then how well the distance from founding frames tells other images from held-out ones
(AUC), and which share of them is doubtful by default.

`agreement` is by the package's own temperature.

Packages come from `bench_loop_polyps.py` and `bench_recognition.py`; that of polyp-boxes-added is --polyps with
detection as a further task on its extractor, a few minutes' work. Scores and the reference of founding frames are
fitted as founding does, on the founding images and the tenth of them that is held for calibration. Of capsules and
blood cells, the first --folds folds; what is not founded in --work is founded. What networks give is kept in --cache.
--quick founds with fewer passes: such packages err more, and are a minute's work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from bench_recognition import BOX_PARTS, CHANGED, PARTS, QUICK, SEED, Polyps, open_polyps, polyp_box_package
from looking import Looked, Looker
from numpy.typing import NDArray
from other_images import blur, changed, grey, strangers
from sklearn.metrics import roc_auc_score

from featureloop.core.intervals import risks
from featureloop.core.types import Frame, Recognition, Skipped, Task, Truth
from featureloop.images.labelled import LabelledFolder, open_labelled
from featureloop.images.truths import LabelledItem
from featureloop.learner.figures import Seen, quality_of
from featureloop.learner.founding import _calibrating, add_task
from featureloop.learner.references import crossed_distances, for_reference, founding_reference
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.manifest import Calibration, uncalibrated
from featureloop.model.package import Package, load_package
from featureloop.model.reference import outlying
from featureloop.model.score_words import AUTO, COMBINED, SCORES
from featureloop.sharing.reliability import calibrate, familiar_range, fit_reliability, raw_score, reliability

RESAMPLES = 400
BASELINES = ("max-probability", "mean-probability")
DEVICE = "reliability"
EVERY = {**PARTS, **BOX_PARTS}
Float64 = NDArray[np.float64]


class Founded:
    """A package with its scores, fitted as founding fits them."""

    def __init__(self, looker: Looker, known: Looked, held: Looked) -> None:
        self.looker = looker
        m = looker.manifest
        self.task = Task(m.task)
        steps = [for_reference(v, m.released) for v in known.vectors]
        self.reference = founding_reference(steps, known.groups)
        far = self.far(held)
        familiar = familiar_range([*far.tolist(), *crossed_distances(steps, known.groups)]) if self.reference else ()
        truths = [] if held.truths is None else list(held.truths)
        first = calibrate(
            list(held.logits),
            truths,
            task=self.task,
            risk=looker.rules.risk,
            outlying=far.tolist(),
            groups=held.groups,
            base=replace(uncalibrated(looker.rules.method), reference=self.reference, familiar=familiar),
        )
        self.by: dict[str, Calibration] = {AUTO: first}
        found = self.recognitions(held)
        qualities = np.array([looker.rules.quality(r, t) for r, t in zip(found, truths, strict=True)])
        for word in (*SCORES[self.task], COMBINED, AUTO):
            self.by[word] = fit_reliability(
                found, qualities, groups=held.groups, base=replace(first, score=word), risk=looker.rules.risk
            )

    def far(self, looked: Looked) -> Float64:
        """Of every frame its distance from the founding frames."""
        if self.reference is None:
            return np.zeros(len(looked.vectors))
        return np.array([outlying(v, self.reference, self.looker.manifest.released) for v in looked.vectors])

    def recognitions(self, looked: Looked) -> list[Recognition]:
        """What is recognized in every frame."""
        calibration = self.by[AUTO]
        far = self.far(looked)
        found = (self.looker.rules.recognition(x, calibration) for x in looked.logits)
        each = zip(found, far, looked.agreement, strict=True)
        return [replace(r, outlying=float(d), agreement=float(a)) for r, d, a in each]

    def scores(self, looked: Looked) -> tuple[dict[str, Float64], Float64]:
        """Of each score its values, and the losses."""
        found = self.recognitions(looked)
        truths = [] if looked.truths is None else list(looked.truths)
        losses = np.array([1 - self.looker.rules.quality(r, t) for r, t in zip(found, truths, strict=True)])
        values = {w: np.array([raw_score(r, c) for r in found]) for w, c in self.by.items() if w != AUTO}
        values[DEVICE] = np.array([reliability(r, self.by[AUTO]) for r in found])
        return values, losses

    def box_losses(self, looked: Looked) -> Float64:
        """Of detections 1 - F1 of the boxes that are shown, as `model evaluate` has it."""
        each = zip(self.recognitions(looked), looked.boxes, strict=True)
        return np.array([1 - quality_of(Seen(r, Truth(boxes=b), None, 0.0, 0.0, "", 0, "")) for r, b in each])

    def doubtful(self, looked: Looked) -> float:
        """Which share of the frames is doubtful by default."""
        c = self.by[AUTO]
        return float(np.mean([reliability(r, c) < c.threshold for r in self.recognitions(looked)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    rows = {"polyps": polyps, "polyp-boxes": polyp_boxes, "polyp-boxes-added": polyp_boxes_added}
    rows |= {name: folds(name) for name in EVERY}
    parser.add_argument("--rows", nargs="+", default=list(rows), choices=list(rows))
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--polyps", type=Path, default=root / "runs" / "polyps" / "P0")
    parser.add_argument("--work", type=Path, default=root / "runs" / "recognition")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=root / "runs" / "reliability")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--scores-only", action="store_true", help="no other images")
    args = parser.parse_args()
    if args.quick:
        CHANGED.update(QUICK)
    for row in args.rows:
        rows[row](args)


@dataclass(frozen=True, eq=False)
class PolypRuns:
    """A polyp package with its scores, and what it makes of Kvasir-SEG's held-out images and of ClinicDB."""

    images: Polyps
    founded: Founded
    held: Looked
    clinic: Looked


def polyp_runs(images: Polyps, package: Package, cache: Path) -> PolypRuns:
    looker = Looker(package, cache)
    founded = founded_on(looker, images.kvasir, images.rest)
    held = looker.look("held", images.kvasir.frames(images.held))
    return PolypRuns(images, founded, held, looker.look("clinicdb", images.clinic.frames(images.clinic.items)))


def polyps(args: argparse.Namespace) -> None:
    both_sites(
        polyp_runs(open_polyps(args.data / "polyps", Task.SEGMENTATION), load_package(args.polyps), args.cache), args
    )


def polyp_boxes(args: argparse.Namespace) -> None:
    images = open_polyps(args.data / "polyps", Task.DETECTION)
    both_sites(polyp_runs(images, polyp_box_package(images, args.work / "polyp-boxes"), args.cache), args)


def polyp_boxes_added(args: argparse.Namespace) -> None:
    """Detection as a further task on the extractor of the segmentation's package: minutes instead of an hour."""
    images, out = open_polyps(args.data / "polyps", Task.DETECTION), args.work / "polyp-boxes-added" / "P0"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        settings = FoundingSettings(size=320, seed=SEED)
        add_task(load_package(args.polyps), images.kvasir, images.rest, out, settings=settings, replay_versions=0)
    both_sites(polyp_runs(images, load_package(out).view(Task.DETECTION), args.cache), args)


def both_sites(runs: PolypRuns, args: argparse.Namespace) -> None:
    shown("Kvasir-SEG, held-out 200", [(runs.founded, runs.held)])
    shown("CVC-ClinicDB, another site", [(runs.founded, runs.clinic)])
    if args.scores_only:
        return
    clinic = runs.images.clinic
    others = {**strangers(args.data), "CVC-ClinicDB": lambda: clinic.frames(clinic.items)}
    stranger(runs.founded, runs.held, others, runs.images.kvasir, runs.images.held)


def folds(name: str) -> Callable[[argparse.Namespace], None]:
    def row(args: argparse.Namespace) -> None:
        tried: list[tuple[Founded, Looked]] = []
        first: tuple[LabelledFolder, Sequence[LabelledItem]] | None = None
        for package, folder, held in islice(EVERY[name](args.data, args.work / name), args.folds):
            looker = Looker(package, args.cache)
            founded = founded_on(looker, *learned_from(name, args, folder, held))
            tried.append((founded, looker.look("held", folder.frames(held))))
            first = first or (folder, held)
        shown(f"{name}, {len(tried)} package(s)", tried)
        if first is not None and not args.scores_only:
            others = {k: v for k, v in strangers(args.data).items() if not k.startswith(OWN[name])}
            stranger(*tried[0], others, *first)

    return row


OWN = {"pneumonia": "X-rays", "capsule": "capsule", "capsule-boxes": "capsule", "blood-cells": "blood"}


def learned_from(
    name: str, args: argparse.Namespace, folder: LabelledFolder, held: Sequence[LabelledItem]
) -> tuple[LabelledFolder, Sequence[LabelledItem]]:
    """The images that a package of `bench_recognition.py` was founded on."""
    if name == "pneumonia":
        train = open_labelled(args.work / name / "train")
        return train, train.items
    names = {item.name for item in held}
    return folder, [item for item in folder.items if item.name not in names]


def founded_on(looker: Looker, folder: LabelledFolder, items: Sequence[LabelledItem]) -> Founded:
    calibrating = _calibrating([items], seed=SEED)
    parts = [[item for item in items if (item.group in calibrating) is wanted] for wanted in (False, True)]
    known, held = (looker.look(name, folder.frames(part)) for name, part in zip(("known", "cal"), parts, strict=True))
    return Founded(looker, known, held)


def shown(title: str, tried: Sequence[tuple[Founded, Looked]]) -> None:
    """Tables of the areas of all packages' frames together; of detections by either loss."""
    parts = [founded.scores(looked) for founded, looked in tried]
    values = {w: np.concatenate([part[0][w] for part in parts]) for w in parts[0][0]}
    owners = np.array([g for _, looked in tried for g in looked.groups])
    chosen = ", ".join(sorted({founded.by[AUTO].method for founded, _ in tried}))
    losses = {"": np.concatenate([part[1] for part in parts])}
    if tried[0][0].task is Task.DETECTION:
        by_boxes = np.concatenate([founded.box_losses(looked) for founded, looked in tried])
        losses = {", loss by rows": losses[""], ", loss by boxes": by_boxes}
    for loss, each in losses.items():
        print(f"\n**{title}{loss}**: {len(each)} frames, mean loss {each.mean():.3f}; `auto` takes {chosen}\n")
        areas(values, each, owners)


def areas(values: dict[str, Float64], losses: Float64, owners: NDArray[np.str_]) -> None:
    base = next(w for w in BASELINES if w in values)
    print(f"| score | AURC | less than {base} |\n|---|---|---|")
    for word, own in values.items():
        low, high = interval(values[base], own, losses, owners)
        gain = area(values[base], losses) - area(own, losses)
        print(f"| {word} | {area(own, losses):.4f} | {gain:+.4f} ({low:+.4f} to {high:+.4f}) |", flush=True)
    print(f"| the best order there is | {area(1 - losses, losses):.4f} | |", flush=True)


def area(scores: Float64, losses: Float64) -> float:
    return float(risks(scores, losses).mean())


def interval(base: Float64, own: Float64, losses: Float64, owners: NDArray[np.str_]) -> tuple[float, float]:
    _, member = np.unique(owners, return_inverse=True)
    members = [np.flatnonzero(member == i) for i in range(member.max() + 1)]
    rng = np.random.default_rng(SEED)
    drawn = []
    for _ in range(RESAMPLES):
        at = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        drawn.append(area(base[at], losses[at]) - area(own[at], losses[at]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def stranger(
    founded: Founded,
    test: Looked,
    sets: dict[str, Callable[[], Iterable[Frame | Skipped]]],
    folder: LabelledFolder,
    held: Sequence[LabelledItem],
) -> None:
    """A table of how other images are told from the held-out ones."""
    usual, reference = founded.far(test), founded.reference
    if reference is None:
        return
    print(f"\nmeans over at least {reference.frames} frames of {reference.groups} patients\n")
    print("| frames | number | AUC by distance | AUC by reliability | doubtful by default |\n|---|---|---|---|---|")
    trust = founded.scores(test)[0][DEVICE]
    print(f"| held-out ones | {len(usual)} | | | {100 * founded.doubtful(test):.0f}% |")

    def blurred(share: float) -> Callable[[], Iterator[Frame]]:
        return lambda: changed(folder.frames(held), lambda p: blur(p, share))

    own = {
        "the held-out ones, blurred by 1% of the width": blurred(0.01),
        "by 2%": blurred(0.02),
        "by 5%": blurred(0.05),
        "a sixth as bright": lambda: changed(folder.frames(held), lambda p: (p / 6).astype(np.uint8)),
        "grey": lambda: changed(folder.frames(held), grey),
    }
    for name, frames in {**sets, **own}.items():
        look = founded.looker.look(f"other {name}".replace("/", "-"), frames(), labelled=False)
        far = founded.far(look)
        told = np.array([reliability(r, founded.by[AUTO]) for r in founded.recognitions(look)])
        strange = np.r_[np.zeros(len(usual)), np.ones(len(far))]
        auc, by_trust = (roc_auc_score(strange, np.r_[a, b]) for a, b in ((usual, far), (-trust, -told)))
        doubt = 100 * founded.doubtful(look)
        print(f"| {name} | {len(far)} | {auc:.3f} | {by_trust:.3f} | {doubt:.0f}% |", flush=True)


if __name__ == "__main__":
    main()
