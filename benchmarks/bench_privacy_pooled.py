#!/usr/bin/env python3
"""What pooled forms give away, against what they recognize: who was learned from, and which records belong together.

PneumoniaMNIST: the official training images found (a tenth of them calibrates), and are the members; outsiders are the
calibration's and the official validation images, which MedMNIST drew from the same source as the training images (the
test images are from another one, and would look like outsiders for that alone). With --members N, the package is
founded on so many of the training images, and the others are outsiders besides. Which images are of one patient isn't
known: some outsiders may have a member's patient, which hides members. The attacker has half of the test images, and
trains 16 recognizers. Accuracy and AUC are of the official test images, from float32 as a device recognizes.
Linkage is that of ClinicDB's sequences by an attacker with Kvasir-SEG, as in bench_privacy.py: it needs patients with
several images. "From what leaves" is what the same recognizer makes of decoded records of the test images.

The backbone is tuned once; an arm is founded from there, with another training of the recognizer or another release.

    benchmarks/bench_privacy_pooled.py [--data ../shared/data] [--work runs/recognition/pneumonia]
        [--out runs/privacy-pooled] [--tuned FOLDER] [--members 1200] [--only "as founded" ...]

--work is bench_recognition.py's, with its package P0 and the images; --tuned is the checkpoint folder that a founding
of it left (made where it is missing: the founding is done again).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_recognition import pneumonia_parts
from PIL import Image
from sklearn.metrics import roc_auc_score

from featureloop.audit.linkage import LinkageSettings, attack_linkage
from featureloop.audit.material import Lab, Party, party, split_party
from featureloop.audit.membership import attack_membership
from featureloop.core.types import Frame, Task
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.evaluation import evaluate
from featureloop.learner.founding import CALIBRATION_SHARE, found_package
from featureloop.model import recognizers
from featureloop.model.checkpoint import Checkpoint, checkpoint_path
from featureloop.model.founding import train_networks
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import Package, load_package

SIZE = 96
POLYPS = ("kvasir-seg", "cvc-clinicdb")
MOST = 400
"""Polyp images of either side."""
LINKAGE = LinkageSettings(control=100, held_images=40, curve=())


@dataclass(frozen=True, slots=True)
class Arm:
    """Founding settings that aren't the default's, and the noise that the recognizer learns with."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    noise: float = recognizers.NOISE


ARMS: Mapping[str, Arm] = {
    "as founded": Arm(),
    "noise of 2 deviations": Arm(noise=2.0),
    "4 passes of the recognizer": Arm({"recognizer_epochs": 4.0}),
    "9 levels": Arm({"release": "pool quantize=9"}),
    "5 levels": Arm({"release": "pool quantize=5"}),
    "16 channels": Arm({"channels": 16}),
    "8 channels, 9 levels": Arm({"channels": 8, "release": "pool quantize=9"}),
    "4 channels, 9 levels": Arm({"channels": 4, "release": "pool quantize=9"}),
    "4 channels": Arm({"channels": 4}),
    "2 channels": Arm({"channels": 2}),
    "2 channels, 9 levels": Arm({"channels": 2, "release": "pool quantize=9"}),
    "noise=0.1 in what leaves": Arm({"release": "pool noise=0.1"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=root / "runs" / "recognition" / "pneumonia")
    parser.add_argument("--out", type=Path, default=root / "runs" / "privacy-pooled")
    parser.add_argument("--tuned", type=Path)
    parser.add_argument("--members", type=int, help="found on so many images, not on all")
    parser.add_argument("--only", nargs="+", default=list(ARMS), choices=list(ARMS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train, test = (open_labelled(args.work / part) for part in ("train", "test"))
    others: Sequence[LabelledItem] = ()
    if args.members:
        some, others = split(train.items, hold_out=1 - args.members / len(train.items), seed=1)
        train = replace(train, items=some)
    known = validation(args.data, args.out / "val").frames()
    unseen = [replace(f, name=f"val/{f.name}") for f in known] + list(train.frames(others))
    outsiders = party(unseen, size=SIZE)[0]
    sides = split_party(party(test.frames(), size=SIZE)[0])
    polyps = [party(open_labelled(args.data / "polyps" / n).frames(), size=SIZE, most=MOST)[0] for n in POLYPS]
    print(
        "| form | accuracy, AUC | from what leaves | members told at 0.1% false ones | above every outsider | AUC |",
        end="",
    )
    print(" linked, top-1 | AUC |\n|---|---|---|---|---|---|---|---|")
    for name in args.only:
        kept = args.out / f"{name.replace(' ', '-')}.json"
        if not kept.exists():
            if name == "as founded" and not args.members:
                package = next(iter(pneumonia_parts(args.data, args.work)))[0]
            else:
                package = founded(name, train, args.out, args.tuned)
            figures = {f.name: f.value for f in evaluate(package, test, test.items).figures}
            found = {"figures": figures, "decoded": from_what_leaves(package, test)}
            found["measures"] = attacked(Lab(package, *sides, outsiders=outsiders))
            linked = attack_linkage(Lab(package, *polyps), LINKAGE)
            found["linkage"] = {k: [m.value, m.low, m.high] for k, m in linked.headline.items()}
            kept.write_text(json.dumps(found, indent=1))
        print(row(name, json.loads(kept.read_text())), flush=True)


def validation(data: Path, folder: Path) -> LabelledFolder:
    """The official validation images as a labelled folder."""
    images = np.load(data / "chest" / "pneumoniamnist.npz")
    for i, (pixels, label) in enumerate(zip(images["val_images"], images["val_labels"], strict=True)):
        place = folder / ("normal", "pneumonia")[int(label[0])] / f"{i:05}.png"
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place)
    return open_labelled(folder)


def founded(name: str, train: LabelledFolder, out: Path, tuned: Path | None) -> Package:
    """The package of an arm, founded from the tuned backbone."""
    arm, place = ARMS[name], out / name.replace(" ", "-")
    if place.exists():
        return load_package(place)
    tuned = tuned or tuned_backbone(train, out / "tuned")
    folder = checkpoint_path(place)
    folder.mkdir(parents=True, exist_ok=True)
    for path in tuned.iterdir():
        if path.name.startswith(("frames", "held", "fine-tuning")):
            shutil.copy(path, folder / path.name)
    with noise_of(arm.noise):
        settings = FoundingSettings(size=SIZE, seed=1, **arm.settings)
        return found_package(train, train.items, place, settings=settings, replay_versions=0).package


def tuned_backbone(train: LabelledFolder, folder: Path) -> Path:
    """The checkpoint of a founding, which it keeps."""
    if not (folder / "done").exists():
        settings = FoundingSettings(size=SIZE, seed=1)
        parts = split(train.items, hold_out=CALIBRATION_SHARE, seed=settings.seed)
        frames, held = ([f for f in train.frames(p) if isinstance(f, Frame)] for p in parts)
        train_networks(
            frames, task=Task.CLASSIFICATION, classes=len(train.classes), settings=settings, held=held,
            checkpoint=Checkpoint(folder, "bench_privacy_pooled"),
        )  # fmt: skip
        (folder / "done").touch()
    return folder


@contextmanager
def noise_of(deviations: float) -> Any:
    """A recognizer of pooled vectors that learns with other noise than usual."""
    usual = recognizers.NOISE
    recognizers.NOISE = deviations
    try:
        yield
    finally:
        recognizers.NOISE = usual


def from_what_leaves(package: Package, test: LabelledFolder) -> list[float]:
    """Accuracy and AUC of the package's recognizer from decoded records of the test images."""
    frames = [f for f in test.frames() if isinstance(f, Frame) and f.truth is not None]
    sides = Party(tuple(frames), np.array([f.name for f in frames])), Party((), np.array([], np.str_))
    lab = Lab(package, *sides)
    found = np.stack([lab.runtime.recognize(r.values).probabilities[0] for r in lab.release(frames)])
    truths = np.array([f.truth.label for f in frames if f.truth])
    return [float((found.argmax(1) == truths).mean()), float(roc_auc_score(truths, found[:, 1]))]


def attacked(lab: Lab) -> dict[str, Any]:
    """All figures of the attack, by whom."""
    started = time.process_time()
    found = attack_membership(lab)
    print(f"{time.process_time() - started:.0f} s of the processor; {found.budget}", file=sys.stderr, flush=True)
    print(f"{found.controls=}", *found.notes, sep="\n", file=sys.stderr, flush=True)
    return {f"{m.figure} | {m.by} | {m.arm}": [m.value, m.low, m.high, m.chance] for m in found.measures}


def row(name: str, kept: Mapping[str, Any]) -> str:
    """An arm's line: of every figure the package's strongest attacker."""

    def strongest(figure: str) -> str:
        names = (f"{figure} | {by} | release" for by in ("likelihood ratio", "likelihood ratio, offline", "loss alone"))
        value, low, high, _ = max(kept["measures"][name] for name in names)
        return f"{value:.4f} ({low:.4f} to {high:.4f})"

    figures = kept["figures"]
    said = [strongest(f) for f in ("TPR at 1e-3 FPR", "TPR above every outsider", "AUC")]
    said += ["{:.3f} ({:.3f} to {:.3f})".format(*kept["linkage"][k]) for k in ("linkage.top1", "linkage.auc")]
    own, left = (f"{a:.3f}, {b:.3f}" for a, b in ((figures["accuracy"], figures["auc"]), kept["decoded"]))
    return f"| {name} | {own} | {left} | {' | '.join(said)} |"


if __name__ == "__main__":
    main()
