#!/usr/bin/env python3
"""Which score orders results best, and which frames are told to be unlike the founding ones, on real images.

    benchmarks/bench_reliability.py [--rows polyps pneumonia capsule blood-cells] [--data ../shared/data]
        [--polyps runs/polyps/P0] [--work runs/recognition] [--folds 5] [--quick] [--cache runs/reliability]

For every data set the area under the risk-coverage curve (AURC, the smaller the better) of each score, of the combined
one, and of the reliability that a package founded now would have (`auto`, with the doubt about unfamiliar frames),
against the maximum probability alone: of a segmentation the mean over its sub-cells. Differences have 95% intervals,
resampled by group. Then how well the distance from founding frames tells other images from held-out ones (AUC), and
which share of them is doubtful by default.

Packages come from `bench_loop_polyps.py` and `bench_recognition.py`; scores and the reference of founding frames are
fitted as founding does, on the founding images and the tenth of them that is held for calibration. Of capsules and
blood cells, the first --folds folds; what is not founded in --work is founded. What networks give is kept in --cache.
--quick founds with fewer passes: such packages err more, and are a minute's work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_recognition import CHANGED, PARTS, SEED
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sklearn.metrics import roc_auc_score

from featureloop.core.errors import FeatureloopError
from featureloop.core.intervals import risks
from featureloop.core.types import Frame, Recognition, Skipped, Task, UInt8
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.phantom import HOSPITAL_A, HOSPITAL_B, phantom_frame
from featureloop.images.source import open_source
from featureloop.images.truths import LabelledItem
from featureloop.learner.founding import _calibrating
from featureloop.learner.references import founding_reference, steps_for_reference
from featureloop.model.manifest import Calibration, uncalibrated
from featureloop.model.package import Package, load_package
from featureloop.model.reference import outlying
from featureloop.model.runtime import Runtime
from featureloop.model.score_words import AUTO, COMBINED, SCORES
from featureloop.model.tasks import rules_of, true_rows
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.reliability import calibrate, raw_score, reliability

RESAMPLES = 400
QUICK = {"epochs": 4.0, "recognizer_epochs": 40.0, "augmentations": 1}
BASELINES = ("max-probability", "mean-probability", "expected-f1")
DEVICE = "reliability"
Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Looked:
    """What a package makes of frames: vectors float32 (M, N, C), logits (M, N, T), true rows (M, N, T) or none."""

    vectors: NDArray[np.float32]
    logits: NDArray[np.float32]
    truths: NDArray[np.uint8] | None
    groups: list[str]


class Looker:
    """Runs one package over frames, and keeps what it made of them."""

    def __init__(self, package: Package, cache: Path) -> None:
        self.package, self.manifest, self.rules = package, package.manifest, rules_of(package.manifest)
        self._runtime = Runtime(package)
        self._cache = cache / package.short
        self._cache.mkdir(parents=True, exist_ok=True)

    def look(self, name: str, frames: Iterable[Frame | Skipped], *, labelled: bool = True) -> Looked:
        """What the package makes of frames; of what was kept under this name, if there is something."""
        kept = self._cache / f"{name}.npz"
        if not kept.exists():
            np.savez(kept, **self._run(frames, labelled=labelled))
        data = np.load(kept)
        return Looked(data["v"], data["l"], data["t"] if labelled else None, data["g"].tolist())

    def _run(self, frames: Iterable[Frame | Skipped], *, labelled: bool) -> dict[str, Any]:
        m, found = self.manifest, []
        for frame in frames:
            if isinstance(frame, Skipped):
                continue
            try:
                vectors = release_vectors(self._runtime.extract(frame.pixels), m.released)
                rows = self._rows(frame) if labelled else np.zeros(0, np.uint8)
            except FeatureloopError:
                continue
            found.append((vectors, self._runtime.logits(vectors), rows, frame.group or frame.name))
        v, logits, t, g = zip(*found, strict=True)
        return {"v": np.stack(v), "l": np.stack(logits), "t": np.stack(t), "g": np.array(g)}

    def _rows(self, frame: Frame) -> UInt8:
        m = self.manifest
        return true_rows(frame, task=Task(m.task), labels=len(m.labels), grid=m.features.grid)


class Founded:
    """A package with its scores, fitted as founding fits them."""

    def __init__(self, looker: Looker, known: Looked, held: Looked) -> None:
        self.looker = looker
        m = looker.manifest
        self.task = Task(m.task)
        steps = [steps_for_reference(v, m.released) for v in known.vectors]
        self.reference = founding_reference(steps, known.groups)
        far = self.far(held)
        self.by: dict[str, Calibration] = {}
        for word in (*SCORES[self.task], COMBINED, AUTO):
            self.by[word] = calibrate(
                list(held.logits),
                [] if held.truths is None else list(held.truths),
                task=self.task,
                risk=looker.rules.risk,
                outlying=far.tolist(),
                groups=held.groups,
                base=replace(uncalibrated(looker.rules.method, score=word), reference=self.reference),
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
        return [replace(r, outlying=float(d)) for r, d in zip(found, far, strict=True)]

    def scores(self, looked: Looked) -> tuple[dict[str, Float64], Float64]:
        """Of each score its values, and the losses."""
        found = self.recognitions(looked)
        truths = [] if looked.truths is None else list(looked.truths)
        losses = np.array([1 - self.looker.rules.quality(r, t) for r, t in zip(found, truths, strict=True)])
        values = {w: np.array([raw_score(r, c) for r in found]) for w, c in self.by.items() if w != AUTO}
        values[DEVICE] = np.array([reliability(r, self.by[AUTO]) for r in found])
        return values, losses

    def doubtful(self, looked: Looked) -> float:
        """Which share of the frames is doubtful by default."""
        c = self.by[AUTO]
        return float(np.mean([reliability(r, c) < c.threshold for r in self.recognitions(looked)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    rows = {"polyps": polyps, **{name: classes(name) for name in PARTS}}
    parser.add_argument("--rows", nargs="+", default=list(rows), choices=list(rows))
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--polyps", type=Path, default=root / "runs" / "polyps" / "P0")
    parser.add_argument("--work", type=Path, default=root / "runs" / "recognition")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=root / "runs" / "reliability")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        CHANGED.update(QUICK)
    for row in args.rows:
        rows[row](args)


def polyps(args: argparse.Namespace) -> None:
    kvasir = open_labelled(args.data / "polyps" / "kvasir-seg", task=Task.SEGMENTATION)
    clinic = open_labelled(args.data / "polyps" / "cvc-clinicdb", task=Task.SEGMENTATION)
    rest, held = split(kvasir.items, hold_out=0.2, seed=SEED)
    looker = Looker(load_package(args.polyps), args.cache)
    founded = founded_on(looker, kvasir, rest)
    test = looker.look("held", kvasir.frames(held))
    shown("Kvasir-SEG, held-out 200", [founded.scores(test)], [test.groups], [founded])
    site = looker.look("clinicdb", clinic.frames(clinic.items))
    shown("CVC-ClinicDB, another site", [founded.scores(site)], [site.groups], [founded])
    stranger(founded, test, {**strangers(args.data), "CVC-ClinicDB": lambda: clinic.frames(clinic.items)}, kvasir, held)


def classes(name: str) -> Callable[[argparse.Namespace], None]:
    def row(args: argparse.Namespace) -> None:
        scores, groups, packages = [], [], []
        last: tuple[Founded, Looked, LabelledFolder, Sequence[LabelledItem]] | None = None
        for k, (package, folder, held) in enumerate(PARTS[name](args.data, args.work / name)):
            looker = Looker(package, args.cache)
            trained = learned_from(name, args, folder, held)
            founded = founded_on(looker, *trained)
            test = looker.look("held", folder.frames(held))
            scores.append(founded.scores(test))
            groups.append(test.groups)
            packages.append(founded)
            last = last or (founded, test, folder, held)
            if k + 1 == args.folds:
                break
        shown(f"{name}, {len(scores)} package(s)", scores, groups, packages)
        if last is not None:
            others = {k: v for k, v in strangers(args.data).items() if not k.startswith(OWN[name])}
            stranger(last[0], last[1], others, last[2], last[3])

    return row


OWN = {"pneumonia": "X-rays", "capsule": "capsule", "blood-cells": "blood"}


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


def shown(
    title: str,
    parts: Sequence[tuple[dict[str, Float64], Float64]],
    groups: Sequence[list[str]],
    packages: Sequence[Founded],
) -> None:
    """A table of the areas of all parts' frames together."""
    losses = np.concatenate([part[1] for part in parts])
    values = {w: np.concatenate([part[0][w] for part in parts]) for w in parts[0][0]}
    owners = np.array([g for part in groups for g in part])
    base = next(w for w in BASELINES if w in values)
    chosen = ", ".join(sorted({p.by[AUTO].method for p in packages}))
    print(f"\n**{title}**: {len(losses)} frames, mean loss {losses.mean():.3f}; `auto` takes {chosen}\n")
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


def strangers(data: Path) -> dict[str, Callable[[], Iterable[Frame | Skipped]]]:
    """Images of other kinds, by what they are."""
    return {
        "cholecystectomy": lambda: open_source(data / "video" / "cholecystectomy-720p-25fps.mp4"),
        "blood cells": lambda: open_source(data / "blood-cells" / "tecom"),
        "X-rays of the chest": lambda: xrays(data),
        "capsule endoscopy": lambda: open_source(data / "capsule-bleeding"),
        "colonoscopy": lambda: open_source(data / "polyps" / "kvasir-seg" / "images"),
        "DICOM files of many makers": lambda: open_source(data / "dicom" / "valid"),
        "photographs of a temple and a flower": photographs,
        "phantoms of hospital A": lambda: (phantom_frame(HOSPITAL_A, seed=i) for i in range(60)),
        "phantoms of hospital B": lambda: (phantom_frame(HOSPITAL_B, seed=i) for i in range(60)),
        "black, and one colour": plain,
        "noise": noise,
    }


def xrays(data: Path) -> Iterator[Frame]:
    for i, pixels in enumerate(np.load(data / "chest" / "pneumoniamnist.npz")["test_images"][:250]):
        yield Frame(np.repeat(pixels[..., None], 3, axis=2), f"x{i}")


def photographs() -> Iterator[Frame]:
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(SEED)
    for k, picture in enumerate(load_sample_images().images):
        for i in range(40):
            side = int(rng.integers(120, 400))
            y, x = (int(rng.integers(0, n - side)) for n in picture.shape[:2])
            yield Frame(np.ascontiguousarray(picture[y : y + side, x : x + side]), f"{k}-{i}", group=f"photo {k}")


def plain() -> Iterator[Frame]:
    rng = np.random.default_rng(SEED)
    for i in range(30):
        colour = rng.integers(0, 256, 3) if i >= 10 else np.full(3, i)
        yield Frame(np.full((200, 200, 3), colour, np.uint8), f"plain{i}")


def noise() -> Iterator[Frame]:
    rng = np.random.default_rng(SEED)
    for i in range(20):
        yield Frame(rng.integers(0, 256, (288, 384, 3)).astype(np.uint8), f"noise{i}")


def changed(frames: Iterable[Frame | Skipped], how: Callable[[UInt8], UInt8]) -> Iterator[Frame]:
    for frame in frames:
        if isinstance(frame, Frame):
            yield replace(frame, pixels=how(frame.pixels))


def blur(pixels: UInt8, share: float) -> UInt8:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(share * max(pixels.shape))))


def grey(pixels: UInt8) -> UInt8:
    return np.repeat(pixels.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)


if __name__ == "__main__":
    main()
