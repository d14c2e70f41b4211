#!/usr/bin/env python3
"""What a new site's real records teach in forms of few rows: ClinicDB's sequences, a recognizer of Kvasir-SEG.

    benchmarks/bench_teaching_polyps.py [--package runs/polyps/P0] [--founding 50] [--seeds 1 2 3]
        [--forms set "set subset=16,balanced" ...] [--data ../shared/data/polyps] [--work runs/teaching]

From today's default package little is left to learn at ClinicDB, so in every form a recognizer begins anew from a few
of the founding images (as they are, and one changed version of each, as kept for replay: all rows of each), under the
package's extractor and neck. Then it is trained on by the learner's own function, with replay, all of the way, on the
records of two thirds of ClinicDB's sequences with their true masks in that form. Every seed holds another third of the
sequences back, and draws other rows. Dice over sub-cells on the sequences held back, as a device recognizes them: from
the whole frame's values. "rows alone" is the whole set with a recognizer that sees each row by itself, as one of
subsets does: it separates what the missing context costs from what the missing rows do. What is in --work already isn't
done again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_least_reliable import STEPS, interval
from bench_privacy import slug
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from featureloop.core.types import Bag, Frame, Task
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.assembly import plain_form, write_recognizer
from featureloop.learner.bags import Bags, training_set
from featureloop.learner.founding import CALIBRATION_SHARE
from featureloop.learner.founding_records import FOUNDING_SITE, package_rows, true_part
from featureloop.learner.training import TrainSettings, train_recognizer
from featureloop.model.augment import augment, augmentation_for
from featureloop.model.early_cache import square_truth
from featureloop.model.fit import FitSettings, fit_recognizer
from featureloop.model.forms import request_form
from featureloop.model.manifest import Manifest
from featureloop.model.package import SIGNATURE, WEIGHTS, Package, load_package, seal_package
from featureloop.model.preprocess import resize_frame
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import rules_of
from featureloop.sharing.anonymize import canonical_order, release_vectors
from featureloop.sharing.release import replayed

Float64 = NDArray[np.float64]
ALONE = ", rows alone"
FORMS = ("set", f"set{ALONE}", "set subset=64,balanced", "set subset=16,balanced", "set subset=4,balanced")
SITE, SITE_HOLD_OUT, FOUNDING_SEED = "clinic", 1 / 3, 1


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame, what the extractor makes of it, float32 (N, C), and its true rows, uint8 (N, T)."""

    frame: Frame
    vectors: NDArray[np.float32]
    rows: NDArray[np.uint8]

    @property
    def group(self) -> str:
        """Whose it is."""
        return self.frame.group or self.frame.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, default=root / "runs" / "polyps" / "P0")
    parser.add_argument("--founding", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--forms", nargs="+", default=list(FORMS))
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--work", type=Path, default=root / "runs" / "teaching")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(load_package(args.package), args.data, args.work, founding=args.founding)
    heads = ("form", "before, by seed", "after, by seed", "gain, points", "after, over the first form")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    first: Sequence[Float64] = ()
    for form in args.forms:
        before, after, names = zip(*(bench.taught(form, seed) for seed in args.seeds), strict=True)
        first = first or after
        gains = [a - b for a, b in zip(after, before, strict=True)]
        lost = [a - f for a, f in zip(after, first, strict=True)]
        each = [" ".join(f"{x.mean():.4f}" for x in part) for part in (before, after)]
        print(f"| `{form}` | {each[0]} | {each[1]} | {said(gains, names)} | {said(lost, names)} |", flush=True)


def said(differences: Sequence[Float64], names: Sequence[NDArray[np.str_]]) -> str:
    """The mean over seeds in points, and 95% over sequences: one that several seeds hold back is drawn with all."""
    low, high = interval(np.concatenate(differences), np.concatenate(names))
    return f"{100 * np.mean([d.mean() for d in differences]):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


class Bench:
    """The frames as the extractor sees them, and what was learned of them, kept in `work`."""

    def __init__(self, package: Package, data: Path, work: Path, *, founding: int) -> None:
        self.package, self.work, self.founding = package, work, founding
        self.runtime, self.manifest = Runtime(package), package.manifest
        kvasir, clinic = (open_labelled(data / n, task=Task.SEGMENTATION) for n in ("kvasir-seg", "cvc-clinicdb"))
        self.kvasir, self.clinic = kvasir, clinic
        self._few: list[Seen] = []
        self._site: list[Seen] = []

    def taught(self, form: str, seed: int) -> tuple[Float64, Float64, NDArray[np.str_]]:
        """Dice of the frames held back, before and after, float64 (M,), and their sequences."""
        kept = self.work / f"{self.package.short}-{self.founding}-{slug(form)}-{seed}.npz"
        if not kept.exists():
            before, after, names = self._taught(form, seed)
            np.savez(kept, before=before, after=after, names=names)
        data = np.load(kept)
        return data["before"], data["after"], data["names"]

    def _taught(self, form: str, seed: int) -> tuple[Float64, Float64, NDArray[np.str_]]:
        draft, founding = self._draft(form)
        _, site = self._seen()
        _, held_items = split(self.clinic.items, hold_out=SITE_HOLD_OUT, seed=seed)
        held_groups = {i.group for i in held_items}
        held = [s for s in site if s.group in held_groups]
        own = [s for s in site if s.group not in held_groups]
        bags = together(founding, self._bags(own, draft, SITE, seed))
        settings = TrainSettings(fit=FitSettings(seed=seed), interpolation=1.0)
        after, _ = train_recognizer(draft, bags, ~bags.held, settings=settings)
        before = build_recognizer(draft.manifest.recognizer, channels=draft.manifest.released.channels)
        before.load_state_dict(load_file(draft.file(WEIGHTS)))
        return self._dice(before.eval(), held), self._dice(after, held), np.array([s.group for s in held])

    def _draft(self, form: str) -> tuple[Package, Bags]:
        """A package of the same extractor whose values leave in that form, and the few founding records."""
        manifest, release = self.manifest, request_form(form.removesuffix(ALONE))
        plain = plain_form(release, manifest.released.levels, (), flags=manifest.released.flags)
        context = release.context and not form.endswith(ALONE)
        spec = replace(manifest.recognizer, context=context)
        made = replace(manifest, released=plain, recognizer=spec, reports={}, files={})
        kept = replace(self.package, manifest=replayed(made))
        founding = self._bags(self._seen()[0], kept, FOUNDING_SITE, FOUNDING_SEED)
        out = self.work / f"{self.package.short}-{self.founding}-{slug(form)}"
        if not out.exists():
            work = out.with_name(f"{out.name}.new")
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(self.package.path, work, ignore=shutil.ignore_patterns(SIGNATURE))
            write_recognizer(self._founded(made, founding), work, form=spec.form, channels=plain.channels)
            seal_package(work, made)
            work.rename(out)
        return load_package(out), founding

    def _founded(self, manifest: Manifest, founding: Bags) -> nn.Module:
        """A recognizer of the few founding records."""
        torch.manual_seed(FOUNDING_SEED)
        network = build_recognizer(manifest.recognizer, channels=manifest.released.channels)
        known = training_set(founding, manifest, founding_share=1.0, chosen=~founding.held)
        fit = FitSettings(STEPS * 16 / len(known), seed=FOUNDING_SEED)
        fit_recognizer(network, known, task=Task.SEGMENTATION, settings=fit)
        return network.eval()

    def _bags(self, seen: Sequence[Seen], draft: Package, site: str, seed: int) -> Bags:
        """What of frames leaves in the draft's form, with the truth."""
        secret = f"rows of seed {seed}".encode()
        parts = [
            canonical_order(
                true_part(self.runtime, s.frame, manifest=draft.manifest, secret=secret, vectors=s.vectors),
                unit=draft.manifest.released.form.unit(draft.manifest.features.grid),
            )
            for s in seen
        ]
        return bags_of(parts, [s.group for s in seen], site)

    def _dice(self, network: nn.Module, seen: Sequence[Seen]) -> Float64:
        """As a device recognizes frames: from all values, before quantization."""
        rules, found = rules_of(self.manifest), []
        for s in seen:
            with torch.no_grad():
                logits = network(torch.from_numpy(s.vectors)[None])[0].numpy()
            found.append(rules.quality(rules.recognition(logits, self.manifest.calibration), s.rows))
        return np.array(found)

    def _seen(self) -> tuple[list[Seen], list[Seen]]:
        """A few founding frames with a changed version of each, and all of the site's."""
        if not self._site:
            rest, _ = split(self.kvasir.items, hold_out=0.2, seed=FOUNDING_SEED)
            train, _ = split(rest, hold_out=CALIBRATION_SHARE, seed=FOUNDING_SEED)
            drawn = np.random.default_rng(FOUNDING_SEED).permutation(len(train))[: self.founding]
            frames = _frames(self.kvasir, [train[i] for i in drawn])
            by, rng = augmentation_for(frames, "auto"), np.random.default_rng(FOUNDING_SEED)
            size = self.manifest.preprocessing.size
            for frame in frames:
                pixels, truth = augment(resize_frame(frame.pixels, size), square_truth(frame, size), rng, by=by)
                self._few += [self._look(frame), self._look(replace(frame, pixels=pixels, truth=truth))]
            self._site = [self._look(f) for f in _frames(self.clinic, self.clinic.items)]
        return self._few, self._site

    def _look(self, frame: Frame) -> Seen:
        vectors = release_vectors(self.runtime.extract(frame.pixels), self.manifest.released)
        return Seen(frame, vectors, package_rows(frame, self.manifest))


def bags_of(parts: Sequence[Bag], groups: Sequence[str], site: str) -> Bags:
    """One site's records as a learner holds them, all with their true result."""
    n = len(parts)
    return Bags(
        [p.symbols for p in parts],
        [p.recognized for p in parts],
        np.full(n, site),
        np.array(groups),
        np.ones(n, np.bool_),
        np.ones(n, np.float32),
        np.zeros(n, np.bool_),
        0,
    )


def together(founding: Bags, other: Bags) -> Bags:
    """Two sites' records, of whose frames the founding ones' are whole."""

    def both(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(b, name) for b in (founding, other)])

    symbols, results = [*founding.symbols, *other.symbols], [*founding.results, *other.results]
    whole = np.arange(len(symbols)) < len(founding.symbols)
    parted = len({len(s) for s in symbols}) > 1
    sites, groups, held = map(both, ("sites", "groups", "held"))
    verified, weights = both("verified"), both("weights")
    return Bags(symbols, results, sites, groups, verified, weights, held, 0, whole=whole if parted else None)


def _frames(folder: LabelledFolder, items: Sequence[LabelledItem]) -> list[Frame]:
    return [f for f in folder.frames(items) if isinstance(f, Frame)]


if __name__ == "__main__":
    main()
