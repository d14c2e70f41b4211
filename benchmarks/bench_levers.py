#!/usr/bin/env python3
"""What each lever of the founding training brings at a site that it never saw, and what it costs in bytes.

One founding on Kvasir-SEG's 800 images as a user gets it, and one more for every lever, with that lever alone put
back or pulled further; at last one with all of them put back. No loop, no frame of the new site: Dice on the frames'
own pixels on Kvasir-SEG's held-out 200 and on all of CVC-ClinicDB, with 95% intervals of the difference from the
usual founding by a bootstrap over groups, and bytes of a frame's coded features. What the neck's breadth brings is
told by `compare_necks.py`.

    benchmarks/bench_levers.py [--data ../shared/data/polyps] [--work runs/levers] [--only usual "one tap" ...]

A lever whose result is in --work already is not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from featureloop.core.types import Frame
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.evaluation import evaluate
from featureloop.learner.founding import found_package
from featureloop.learner.gate import bootstrap_means
from featureloop.model.backbone import LateStages
from featureloop.model.backbones import Backbone, JoinedTaps, TorchBackbone, efficientnet_lite0
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors

USUAL = FoundingSettings(blank_border=False, release="set")
"""Of whole sets; as it was before the border was made black by default, which the last row tells apart."""
SIMPLE = {"augmentations": 0, "width": 64, "blocks": 1}
LEVERS: dict[str, dict[str, Any]] = {
    "usual": {},
    "one tap, at stride 16, for three": {},
    "no augmented versions for five": {"augmentations": 0},
    "recognizer of 1 block of width 64 for 3 of 128": {"width": 64, "blocks": 1},
    "attention among the rows, 4 heads": {"heads": 4},
    "half the bits of a vector": {"bits_per_vector": USUAL.bits_per_vector / 2},
    "twice the bits of a vector": {"bits_per_vector": USUAL.bits_per_vector * 2},
    "one tap, no augmented versions, the small recognizer": SIMPLE,
    "black outside the field of view, the default now": {"blank_border": True},
}


class OneTap(JoinedTaps):
    """The default backbone's late stages up to stride 16, with that tap alone."""

    def forward(self, early: Tensor) -> Tensor:
        """Map (B, 40, S/8, S/8) to (B, 112, S/16, S/16)."""
        x = early
        for block in self.stages.blocks[:6]:
            x = block(x)
        return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--work", type=Path, default=root / "runs" / "levers")
    parser.add_argument("--only", nargs="+", default=list(LEVERS), choices=list(LEVERS))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    kvasir, clinic = (open_labelled(args.data / name) for name in ("kvasir-seg", "cvc-clinicdb"))
    rest, held = split(kvasir.items, hold_out=0.2, seed=USUAL.seed)
    tests = {"Kvasir-SEG 200": (kvasir, held), "ClinicDB": (clinic, clinic.items)}
    print(f"| lever | channels | bytes of a frame's features | {' | '.join(tests)} |\n|---|---|---|---|---|")
    usual: dict[str, Any] | None = None
    for name in args.only:
        kept = args.work / f"{list(LEVERS).index(name)}.json"
        if not kept.exists():
            package = founded(name, kvasir, rest, args.work)
            kept.write_text(json.dumps(measured(package, tests)))
        found = json.loads(kept.read_text())
        usual = found if name == "usual" else usual
        other = None if usual is None or usual is found else usual["dice"]
        cells = [cell(found["dice"][part], other and other[part]) for part in tests]
        print(f"| {name} | {found['channels']} | {found['bytes']:.0f} | {' | '.join(cells)} |", flush=True)
    print("\n| lever, on ClinicDB's held-back sequences | third 1 | third 2 | third 3 |\n|---|---|---|---|")
    for name in args.only:
        found = json.loads((args.work / f"{list(LEVERS).index(name)}.json").read_text())["dice"]["ClinicDB"]
        print(f"| {name} | {' | '.join(f'{dice:.4f}' for dice in thirds(found, clinic))} |")


def thirds(found: dict[str, Any], clinic: LabelledFolder) -> list[float]:
    """Mean Dice of the sequences that `bench_loop_polyps.py` and `bench_upper_bound.py` hold back, for each seed."""
    values, groups = np.array(found["values"]), np.array(found["groups"])
    held = [{i.group for i in split(clinic.items, hold_out=1 / 3, seed=seed)[1]} for seed in (1, 2, 3)]
    return [float(values[np.isin(groups, sorted(names))].mean()) for names in held]


def founded(name: str, folder: LabelledFolder, items: Sequence[LabelledItem], work: Path) -> Package:
    """The package of a lever."""
    out = work / f"P{list(LEVERS).index(name)}"
    settings = replace(USUAL, **LEVERS[name])
    return found_package(folder, items, out, settings=settings, backbone=backbone(name), replay_versions=0).package


def backbone(name: str) -> Backbone:
    """The default one, or with one tap."""
    made = efficientnet_lite0()
    if not name.startswith("one tap"):
        return made
    late = OneTap()
    late.load_state_dict(made.late.state_dict())
    return TorchBackbone("efficientnet-lite0 at stride 16", LateStages.channels[1], 16, made.early, late)


def measured(package: Package, tests: Mapping[str, tuple[LabelledFolder, Sequence[LabelledItem]]]) -> dict[str, Any]:
    """Dice of every test frame with its group, and bytes of the coded features."""
    dice = {}
    for part, (folder, items) in tests.items():
        found = evaluate(package, folder, items)
        dice[part] = {"values": found.values.tolist(), "groups": [s.group for s in found.seen]}
    folder, items = tests["ClinicDB"]
    runtime, form = Runtime(package), package.manifest.released
    sizes = [
        len(codec.encode_features(codec.quantize(release_vectors(runtime.extract(f.pixels), form), form), form))
        for f in folder.frames(items)
        if isinstance(f, Frame)
    ]
    return {"dice": dice, "bytes": float(np.mean(sizes)), "channels": form.channels}


def cell(found: dict[str, Any], usual: dict[str, Any] | None) -> str:
    """Mean Dice, and its difference from the usual founding's on the same frames."""
    values = np.array(found["values"])
    if usual is None:
        return f"{values.mean():.4f}"
    difference = values - np.array(usual["values"])
    low, high = np.quantile(bootstrap_means(difference, np.array(found["groups"]), seed=1), [0.025, 0.975])
    return f"{values.mean():.4f}, {difference.mean():+.4f} ({low:+.4f} to {high:+.4f})"


if __name__ == "__main__":
    main()
