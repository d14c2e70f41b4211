#!/usr/bin/env python3
"""Leak against quality over released forms: what leaves is learned from at both ends, and attacked.

Kvasir-SEG founds and attacks, ClinicDB's sequences are the victims. The backbone is tuned once, in the founding of the
default package: a neck and a release don't change it. A form then costs its neck and recognizer, or, where the
default's neck is kept, only the recognizer that learns from what leaves:

- another neck (bits, channels, breadth, adversary): founded from the tuned backbone, as `model train` goes on from
  there when it was stopped;
- another release of a neck (`window`, `none`, `subset`, `mix`, `noise`): the same extractor, the form's own tables,
  and, where a record doesn't hold a whole frame as it was recognized, a recognizer that learns anew from the decoded
  founding records, which hold whole frames where parts leave. `window` and `none` keep an order that the recognizer
  can't see: theirs is the set's.

Dice is that of the device, from the whole frame's values, on Kvasir-SEG's held-out 200 and on ClinicDB. Attacks are the
audit's own on decoded bytes. Linkage is run on every form with the audit's images and training, without its curve and
with smaller controls; reconstruction (networks and ridge regression, no search along the gradient), text and position
are run on forms of --whole with the budgets that BUDGETS states; with full budgets and all controls they are `audit
privacy`'s. Of records that mix several patients' frames, two share a patient by chance more often: beside their figure
stands what guessing gives. What is in --work already isn't done again.

    benchmarks/bench_privacy.py [--data ../shared/data/polyps] [--work runs/privacy] [--only set "set, 3 bits" ...]
        [--package runs/polyps/P0 --tuned runs/polyps/P0.checkpoint]

--package with --tuned takes the default package from elsewhere, with the checkpoint folder that its founding had.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featureloop.audit.inversion import attack_inversion
from featureloop.audit.inversion_settings import InversionSettings
from featureloop.audit.linkage import LinkageSettings, attack_linkage
from featureloop.audit.material import Lab, party
from featureloop.audit.position import PositionSettings, attack_position
from featureloop.audit.text import TextSettings, attack_text
from featureloop.core.ports import silent
from featureloop.core.types import Frame, Task
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.assembly import described, plain_form, write_recognizer
from featureloop.learner.bags import load_bags, training_set
from featureloop.learner.evaluation import evaluate
from featureloop.learner.founding import CALIBRATION_SHARE, found_package
from featureloop.learner.founding_records import founding_records
from featureloop.model.accountant import guarantee
from featureloop.model.checkpoint import Checkpoint, checkpoint_path, fingerprint
from featureloop.model.fit import FitSettings, fit_recognizer
from featureloop.model.forms import request_form
from featureloop.model.founding import train_networks
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import SIGNATURE, Package, load_package, seal_package
from featureloop.model.preprocess import resize_frame
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import Runtime

TASK = Task.SEGMENTATION


@dataclass(frozen=True, slots=True)
class Arm:
    """A form: the founding settings of its neck that aren't the default's, and how its values leave."""

    neck: Mapping[str, Any] = field(default_factory=dict)
    release: str = "set"


OLD: Mapping[str, Any] = {"bits_per_vector": 66.0, "breadth": 0.001}
ARMS: Mapping[str, Arm] = {
    "set": Arm(),
    "set subset=64,balanced": Arm(release="set subset=64,balanced"),
    "set subset=64,balanced mix=4": Arm(release="set subset=64,balanced mix=4"),
    "set noise=0.3": Arm(release="set noise=0.3"),
    "set, 66 bits, breadth 0.001": Arm(OLD),
    "set, 3 bits": Arm({"bits_per_vector": 3.0}),
    "none": Arm(release="none"),
    "window=2": Arm(release="window=2"),
    "set, 16 bits, trained at 0.5": Arm({"bits_per_vector": 16.0, "adversary": 0.5}),
    "set noise=1.0": Arm(release="set noise=1.0"),
    "set subset=16,balanced": Arm(release="set subset=16,balanced"),
    "set subset=8,balanced": Arm(release="set subset=8,balanced"),
    "set subset=4,balanced": Arm(release="set subset=4,balanced"),
    "set subset=2,balanced": Arm(release="set subset=2,balanced"),
    "set subset=16,balanced, 3 bits": Arm({"bits_per_vector": 3.0}, release="set subset=16,balanced"),
    "set, 16 bits": Arm({"bits_per_vector": 16.0}),
    "set, trained at 0.5": Arm({"adversary": 0.5}),
    "set, 2 channels": Arm({"channels": 2}),
    "set mix=4": Arm(release="set mix=4"),
    "set noise=0.1": Arm(release="set noise=0.1"),
    "none, 66 bits, breadth 0.001": Arm(OLD, release="none"),
}
DEFAULT = "set"
WHOLE = ("set", "set subset=64,balanced", "set subset=64,balanced mix=4", "set noise=0.3", "set, 3 bits", "none")
"""Forms on which all of these attacks are run."""
MOST = 400
"""Images of either side."""
BUDGETS = {
    "linkage": LinkageSettings(control=100, held_images=40, curve=()),
    "inversion": InversionSettings(victims=100, steps=300, control_steps=150, surrogate_steps=150, searched=0),
    "text": TextSettings(most=200, numbers=2),
    "position": PositionSettings(steps=600, bags=200, victims=30, control=20),
}
ATTACKS = {
    "linkage": attack_linkage,
    "inversion": attack_inversion,
    "text": attack_text,
    "position": attack_position,
}
FIGURES = ("linkage.top1", "linkage.auc", "inversion.gain_db", "text.presence_auc", "position.exact_ratio")
FAR = "top-1, at least 10 frames apart"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--work", type=Path, default=root / "runs" / "privacy")
    parser.add_argument("--only", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--whole", nargs="*", default=list(WHOLE), choices=list(ARMS))
    parser.add_argument("--package", type=Path)
    parser.add_argument("--tuned", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.data, args.work, package=args.package, tuned=args.tuned)
    for name in args.only:  # What every point of the plot needs comes first.
        bench.measured(name, whole=False)
    print(f"| form | bytes | Kvasir-SEG 200 | ClinicDB | {FAR} | {' | '.join(FIGURES)} |\n|{'---|' * 10}", flush=True)
    for name in args.only:
        print(row(name, bench.measured(name, whole=name in args.whole)), flush=True)


class Bench:
    """The images, the tuned backbone, and what was measured of each form, kept in `work`."""

    def __init__(self, data: Path, work: Path, *, package: Path | None, tuned: Path | None) -> None:
        self.kvasir, self.clinic = (open_labelled(data / name) for name in ("kvasir-seg", "cvc-clinicdb"))
        self.rest, self.held_out = split(self.kvasir.items, hold_out=0.2, seed=1)
        self.work, self.package = work, package or work / "P0"
        self.tuned = tuned or work / "tuned"
        train, held = split(self.rest, hold_out=CALIBRATION_SHARE, seed=FoundingSettings().seed)
        size = FoundingSettings().size
        self.train, self.held = (_frames(self.kvasir, items, size) for items in (train, held))

    def measured(self, name: str, *, whole: bool) -> dict[str, Any]:
        """Quality, bytes and figures of a form; what was kept is taken as it is."""
        kept = self.work / f"{slug(name)}.json"
        found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"seconds": {}}
        made: list[Package] = []

        def package() -> Package:
            if not made:
                made.append(self._timed(found, "making", lambda: self.form(ARMS[name])))
            return made[0]

        def keep() -> None:
            kept.write_text(json.dumps(found, indent=1))

        if "dice" not in found:
            parts = ((self.kvasir, self.held_out), (self.clinic, self.clinic.items))
            each = self._timed(found, "Dice", lambda: [evaluate(package(), *on) for on in parts])
            found["dice"] = [[f.value, f.low, f.high] for e in each for f in e.figures[:1]]
            form, grid = package().manifest.released.form, package().manifest.features.grid
            epsilon = guarantee(form, grid=grid) if form.noise else None
            found["epsilon"] = [epsilon.vector, epsilon.frame] if epsilon else None
            found["form"] = {"text": str(form), "levels": package().manifest.released.levels}
            keep()
        missing = [a for a in ATTACKS if a not in found["seconds"] and (whole or a == "linkage")]
        if missing:
            size = package().manifest.preprocessing.size
            sides = [party(f.frames(), size=size, most=MOST)[0] for f in (self.kvasir, self.clinic)]
            lab = Lab(package(), *sides)
            found["bytes"] = float(np.mean([r.payload / len(r.frames) for r in lab.theirs]))
            for attack in missing:
                finding = self._timed(found, attack, lambda a=attack: ATTACKS[a](lab, BUDGETS[a]))
                figures = {k: [m.value, m.low, m.high, m.by, m.chance] for k, m in finding.headline.items()}
                others = {f"{m.figure} by {m.by} on {m.arm}": [m.value, m.low, m.high] for m in finding.measures}
                found |= figures | {f"controls of {attack}": finding.controls, f"all of {attack}": others}
                keep()
        return found

    def form(self, arm: Arm) -> Package:
        """The package of a form."""
        base = self.neck(arm.neck)
        if arm.release == "set":
            return base
        out = self.work / "forms" / slug(f"{base.path.name} {arm.release}")
        return load_package(out) if out.exists() else self.released(base, arm.release, out)

    def neck(self, given: Mapping[str, Any]) -> Package:
        """A package that releases a set, founded from the tuned backbone."""
        self._tune()
        name = slug(" ".join(f"{k} {v:g}" for k, v in given.items())) or "default"
        out = self.package if not given else self.work / "necks" / name
        if out.exists():
            return load_package(out)
        settings = FoundingSettings(release="set", **given)
        # A neck that is trained needs changed versions of the held frames, too.
        kept = [p for p in self.tuned.iterdir() if _is_tuning(p) and not (settings.adversary and "held" in p.name)]
        place = checkpoint_path(out)
        place.mkdir(parents=True, exist_ok=True)
        for path in kept:
            shutil.copy(path, place / path.name)
        return found_package(self.kvasir, self.rest, out, settings=settings, replay_versions=0).package

    def _tune(self) -> None:
        """Tune the backbone, where no checkpoint of it is there."""
        if (self.tuned / "done").exists() or (self.package.exists() and self.tuned.exists()):
            return
        settings = FoundingSettings(release="set")
        tasks = [(TASK, self.kvasir.classes)]
        frames = [*self.train, *self.held]
        mark = fingerprint(frames, tasks=tasks, settings=settings, backbone="efficientnet_lite0")
        train_networks(
            self.train, task=TASK, classes=len(self.kvasir.classes), settings=settings, held=self.held,
            checkpoint=Checkpoint(self.tuned, mark),
        )  # fmt: skip
        (self.tuned / "done").touch()

    def released(self, base: Package, release: str, out: Path) -> Package:
        """The same extractor under another released form; a recognizer that learns from it where it isn't whole."""
        form, manifest = request_form(release), base.manifest
        plain = plain_form(form, manifest.released.levels, (), flags=manifest.released.flags)
        work = out.with_name(f"{out.name}.new")
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(base.path, work, ignore=shutil.ignore_patterns(SIGNATURE, "reports"))
        spec = replace(manifest.recognizer, context=form.context)
        network = build_recognizer(spec, channels=plain.channels)
        if spec != manifest.recognizer:
            write_recognizer(network, work, form=spec.form, channels=plain.channels)
        draft = seal_package(work, replace(manifest, released=plain, recognizer=spec, reports={}))
        draft = seal_package(work, described(Runtime(draft), self.train, self.held, form=form, progress=silent))
        if not form.whole:
            self._learn(network, draft)
            write_recognizer(network, work, form=spec.form, channels=plain.channels)
            seal_package(work, draft.manifest)
        work.rename(out)
        return load_package(out)

    def _learn(self, network: torch.nn.Module, draft: Package) -> None:
        """A recognizer of what leaves: founding's own frames, versions and steps, but from decoded records."""
        settings = FoundingSettings(release="set")
        records = founding_records(
            draft, self.train, self.held, settings=settings, versions=settings.augmentations, progress=silent
        )
        bags = load_bags(iter([records]), draft.manifest)
        known = training_set(bags, draft.manifest, founding_share=1.0, chosen=~bags.held)
        torch.manual_seed(settings.seed)
        network.load_state_dict(
            build_recognizer(draft.manifest.recognizer, channels=known.values.shape[2]).state_dict()
        )
        passes = settings.recognizer_steps(len(self.train)) * settings.batch / len(known)
        fit = FitSettings(passes, settings.batch, settings.learning_rate, seed=settings.seed)
        held = training_set(bags, draft.manifest, founding_share=1.0, chosen=bags.held) if bags.held.any() else None
        fit_recognizer(network, known, task=TASK, settings=fit, held=held)
        network.eval()

    @staticmethod
    def _timed(found: dict[str, Any], what: str, run: Any) -> Any:
        started = time.process_time()
        made = run()
        found["seconds"][what] = round(time.process_time() - started)
        print(f"{what}: {found['seconds'][what]} s of the processor", file=sys.stderr, flush=True)
        return made


def _frames(folder: LabelledFolder, items: Sequence[LabelledItem], size: int) -> list[Frame]:
    read = [f for f in folder.frames(items) if isinstance(f, Frame)]
    return [replace(f, pixels=resize_frame(f.pixels, size)) for f in read]


def _is_tuning(path: Path) -> bool:
    return path.name.startswith(("frames", "held", "fine-tuning"))


def slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "=.-" else "_" for c in name)


def row(name: str, found: Mapping[str, Any]) -> str:
    """A form's line of the table."""
    own = [v for k, v in found.get("all of linkage", {}).items() if k.startswith(FAR) and k.endswith("on release")]
    figures = [own[0] if own else None, *(found.get(k) for k in FIGURES)]
    said = ["" if v is None else f"{v[0]:.3g} ({v[1]:.3g} to {v[2]:.3g})" for v in figures]
    if "mix" in name:
        said[1] += f", by chance {found['linkage.top1'][4]:.3g}"
    dice = " | ".join(f"{value:.4f}" for value, _, _ in found["dice"])
    noise = (
        ""
        if not found["epsilon"]
        else f", epsilon {found['epsilon'][0]:.0f} a vector, {found['epsilon'][1]:.0f} a frame"
    )
    return f"| {name}{noise} | {found['bytes']:.0f} | {dice} | {' | '.join(said)} |"


if __name__ == "__main__":
    main()
