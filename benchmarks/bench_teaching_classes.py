#!/usr/bin/env python3
"""What a new site's records teach a recognizer of classes, over the bits of a record: PneumoniaMNIST's other source.

    benchmarks/bench_teaching_classes.py [--package runs/recognition/pneumonia/P0] [--founding 100] [--seeds 1 2 3]
        [--forms 100 100:values 20 8 5 ...] [--data ../shared/data]

The package is bench_recognition.py's, founded on the official training images; the official test images come from
another source. There is little left for it to learn there, so a recognizer begins anew from a few of the founding
images under the package's extractor, and is trained on by the learner's own function, with their records replayed, all
of the way, on the records of two thirds of the test images with their true class. A form is how many bits a record has,
told in directions, or with `:values` each value by itself. Every seed draws other founding images, and holds another
third of the test images back. AUC and accuracy on the images held back, and on the validation images (of the founding
images' source), from float32 as a device recognizes them; 95% over images, one that several seeds hold back drawn with
all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from bench_least_reliable import STEPS
from bench_pooled_bits import with_bits
from bench_recognition import pneumonia_folder
from bench_teaching_polyps import SITE, bags_of, together
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import nn

from featureloop.core.types import Bag, Frame, Task
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.learner.bags import Bags, training_set
from featureloop.learner.founding import CALIBRATION_SHARE
from featureloop.learner.founding_records import FOUNDING_SITE, package_rows
from featureloop.learner.pooled_tables import ASKED_FRAMES
from featureloop.learner.training import TrainSettings, train_recognizer
from featureloop.model.fit import FitSettings, fit_recognizer
from featureloop.model.package import WEIGHTS, Package, load_package
from featureloop.model.recognizers import GlobalRecognizer, build_recognizer
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors

FORMS = ("100", "100:values", "20", "20:values", "8", "8:values", "5")
HELD_SHARE = 1 / 3
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Seen:
    """Images as the device sees them: pooled vectors float32 (M, C), rows of the true class, classes, and names."""

    vectors: NDArray[np.float32]
    rows: NDArray[np.uint8]
    classes: NDArray[np.intp]
    names: NDArray[np.str_]

    def __getitem__(self, at: NDArray[np.intp]) -> Seen:
        return Seen(self.vectors[at], self.rows[at], self.classes[at], self.names[at])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, default=root / "runs" / "recognition" / "pneumonia" / "P0")
    parser.add_argument("--founding", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--forms", nargs="+", default=list(FORMS))
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    args = parser.parse_args()
    package, work = load_package(args.package), args.package.parent
    train = open_labelled(work / "train")
    learned, _ = split(train.items, hold_out=CALIBRATION_SHARE, seed=1)
    known = look(package, train, every=-(-len(learned) // ASKED_FRAMES), names={i.name for i in learned})
    site, source = (look(package, pneumonia_folder(args.data / "chest", work / part)) for part in ("test", "val"))
    images = Images(known, site, source)
    heads = (
        "form",
        "site, AUC: before, after",
        "gain, points",
        "accuracy",
        "founding's source, AUC: before, after",
        "gain",
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for form in args.forms:
        drafted = with_bits(package, known.vectors, form)
        lessons = [taught(drafted, images, founding=args.founding, seed=s) for s in args.seeds]
        print(f"| {form} | {row(lessons)} |", flush=True)


def look(package: Package, folder: LabelledFolder, *, every: int = 1, names: set[str] | None = None) -> Seen:
    """A labelled folder's images, all or every so many of those named."""
    runtime, manifest = Runtime(package), package.manifest
    folder = folder.with_classes(manifest.labels)
    items = [i for i in folder.items if names is None or i.name in names][::every]
    frames = [f for f in folder.frames(items) if isinstance(f, Frame)]
    vectors = np.concatenate([release_vectors(runtime.extract(f.pixels), manifest.released) for f in frames])
    rows = np.concatenate([package_rows(f, manifest) for f in frames])
    classes = np.array([f.truth.label for f in frames if f.truth], np.intp)
    return Seen(vectors, rows, classes, np.array([f.name for f in frames]))


@dataclass(frozen=True, eq=False)
class Taught:
    """Of one seed: the images held back and of the founding's source, and the last class's chance before and after."""

    held: Seen
    source: Seen
    at_site: tuple[NDArray[np.float32], NDArray[np.float32]]
    at_source: tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Images:
    """Of the founding, of the new site and, unseen, of the founding's source."""

    known: Seen
    site: Seen
    source: Seen


def taught(package: Package, images: Images, *, founding: int, seed: int) -> Taught:
    """A recognizer of few founding images, and what the site's records make of it."""
    known, site, source = images.known, images.site, images.source
    order, rng = np.arange(len(site.names)), np.random.default_rng(seed)
    held = np.sort(rng.permutation(order)[: round(HELD_SHARE * len(order))])
    few = known[rng.permutation(len(known.names))[:founding]]
    replayed = records(few, package, FOUNDING_SITE)
    bags = together(replayed, records(site[np.setdiff1d(order, held)], package, SITE))
    before = founded(few, replayed, package, seed)
    with TemporaryDirectory() as work:
        draft = replace(package, path=Path(work), manifest=replace(package.manifest, files={}))
        draft.file(WEIGHTS).parent.mkdir(parents=True, exist_ok=True)
        save_file(before.state_dict(), draft.file(WEIGHTS))
        settings = TrainSettings(fit=FitSettings(seed=seed), interpolation=1.0)
        after, _ = train_recognizer(draft, bags, ~bags.held, settings=settings)
    both = before.eval(), after.eval()
    seen = (site[held], source)
    at_site, at_source = ((chances(both[0], s), chances(both[1], s)) for s in seen)
    return Taught(*seen, at_site, at_source)


def founded(few: Seen, bags: Bags, package: Package, seed: int) -> nn.Module:
    """A recognizer that begins anew, of few founding images' records."""
    torch.manual_seed(seed)
    network = build_recognizer(package.manifest.recognizer, channels=package.manifest.released.channels)
    if isinstance(network, GlobalRecognizer):
        network.standardize_by(torch.from_numpy(few.vectors[:, None]))
    learned = training_set(bags, package.manifest, founding_share=1.0, chosen=~bags.held)
    fit_recognizer(
        network, learned, task=Task.CLASSIFICATION, settings=FitSettings(STEPS * 16 / len(learned), seed=seed)
    )
    return network


def records(seen: Seen, package: Package, site: str) -> Bags:
    """What leaves of images, with the truth, as a learner holds it."""
    symbols = codec.quantize(seen.vectors, package.manifest.released)
    return bags_of([Bag(s[None], r[None]) for s, r in zip(symbols, seen.rows, strict=True)], list(seen.names), site)


def chances(network: nn.Module, seen: Seen) -> NDArray[np.float32]:
    """The last class's probability, float32 (M,)."""
    with torch.no_grad():
        found = torch.softmax(network(torch.from_numpy(seen.vectors[:, None]))[:, 0], dim=-1)[:, -1].numpy()
    return np.asarray(found, np.float32)


def row(seeds: Sequence[Taught]) -> str:
    """A form's line."""
    cells = []
    for seen, found in (("held", "at_site"), ("source", "at_source")):
        parts = [(getattr(t, seen), *getattr(t, found)) for t in seeds]
        pairs = ", ".join(f"{auc(s, b):.4f} {auc(s, a):.4f}" for s, b, a in parts)
        names = np.unique(np.concatenate([s.names for s, _, _ in parts]))
        rng, gains = np.random.default_rng(1), []
        for _ in range(RESAMPLES):
            drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
            counts = [drawn[np.searchsorted(names, s.names)] for s, _, _ in parts]
            gains.append(np.mean([auc(s, a, n) - auc(s, b, n) for (s, b, a), n in zip(parts, counts, strict=True)]))
        low, high = 100 * np.quantile(gains, [0.025, 0.975])
        gain = 100 * np.mean([auc(s, a) - auc(s, b) for s, b, a in parts])
        cells += [pairs, f"{gain:+.2f} ({low:+.2f} to {high:+.2f})"]
        if seen == "held":
            right = [[((x > 0.5) == (s.classes == 1)).mean() for x in (b, a)] for s, b, a in parts]
            cells.append(", ".join(f"{b:.3f} {a:.3f}" for b, a in right))
    return " | ".join(cells)


def auc(seen: Seen, found: NDArray[np.float32], counts: NDArray[np.intp] | None = None) -> float:
    """Of the last class, each image as often as counted."""
    return float(roc_auc_score(seen.classes == 1, found, sample_weight=counts))


if __name__ == "__main__":
    main()
