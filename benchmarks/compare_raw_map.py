#!/usr/bin/env python3
"""What released forms cost against the raw feature map: 3x3 convolutions on all of the backbone's taps, in order.

    benchmarks/compare_raw_map.py [--package runs/polyps/P0] [--others runs/privacy/forms/...]
        [--data ../shared/data/polyps] [--work runs/raw-map]

Nothing is taken away from the raw map: no neck, no quantization, every vector where it stood. Its recognizer learns
from the package's founding images and five changed versions of each, as many steps as founding gives a recognizer, and
keeps what was best on the calibration images, as there. Compared are the recognizers of the package and of others with
the same extractor, as they were founded, each from the whole frame's values as a device sees them. Dice over sub-cells
on Kvasir-SEG's held-out 200 and on ClinicDB, and the differences, with 95% intervals over groups. What is in --work
already isn't done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from compare_necks import taps_of
from compare_recognizers import ConvRecognizer, size
from numpy.typing import NDArray

from featureloop.core.types import Frame, Task
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.founding import CALIBRATION_SHARE
from featureloop.learner.gate import bootstrap_means
from featureloop.model.augment import augment, augmentation_for
from featureloop.model.early_cache import square_truth
from featureloop.model.fit import BagSet, FitSettings, fit_recognizer
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import Package, load_package
from featureloop.model.preprocess import mask_to_targets, resize_frame
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import Runtime
from featureloop.model.tasks.segmentation import dice
from featureloop.sharing.anonymize import release_vectors

Float64 = NDArray[np.float64]
Part = tuple[LabelledFolder, Sequence[LabelledItem]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, default=root / "runs" / "polyps" / "P0")
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--work", type=Path, default=root / "runs" / "raw-map")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    package = load_package(args.package)
    kvasir, clinic = (open_labelled(args.data / name) for name in ("kvasir-seg", "cvc-clinicdb"))
    rest, held_out = split(kvasir.items, hold_out=0.2, seed=1)
    tests: dict[str, Part] = {"Kvasir-SEG 200": (kvasir, held_out), "ClinicDB": (clinic, clinic.items)}
    kept = args.work / f"raw-{package.short}.npz"
    if not kept.exists():
        np.savez(kept, **raw_map(package, (kvasir, rest), tests, args.work))
    raw = np.load(kept)
    print(
        "| recognized from | " + " | ".join(f"{name} | less" for name in tests) + " |\n|---|" + "---|---|" * len(tests)
    )
    print("| the raw map | " + " | ".join(f"{raw[name].mean():.4f} |" for name in tests) + " |", flush=True)
    lost_by: dict[str, dict[str, float]] = {}
    for path in (args.package, *args.others):
        cells = []
        for name, part in tests.items():
            found, groups = recognized(load_package(path), part)
            low, high = np.quantile(bootstrap_means(found - raw[name], groups, seed=1), [0.025, 0.975])
            lost_by.setdefault(path.name, {})[name] = float((found - raw[name]).mean())
            lost = f"{100 * (found - raw[name]).mean():+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
            cells.append(f"{found.mean():.4f} | {lost}")
        print(f"| {path.name} | {' | '.join(cells)} |", flush=True)
    (args.work / "less.json").write_text(json.dumps(lost_by, indent=1))


def raw_map(package: Package, founding: Part, tests: dict[str, Part], work: Path) -> dict[str, Float64]:
    """Dice of every test frame from its raw map, by a recognizer that learned from the founding images' maps."""
    settings, taps, grid = FoundingSettings(), taps_of(package), package.manifest.features.grid
    train, held = split(founding[1], hold_out=CALIBRATION_SHARE, seed=settings.seed)
    shape = (len(train) * (settings.augmentations + 1), grid**2, len(taps(np.zeros((64, 64, 3), np.uint8))[0]))
    path = work / "taps.npy"
    values, targets = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape), []
    for i, (frame, mask) in enumerate(versions(founding[0], train, package, settings.augmentations)):
        values[i], row = taps(frame), mask_to_targets(mask, grid)
        targets.append(row)
    values = values[: len(targets)]
    calibration = [(taps(f), mask_to_targets(m, grid)) for f, m in versions(founding[0], held, package, 0)]
    drawn = values[:: max(1, len(values) // 400)].astype(np.float32).reshape(-1, shape[2])
    scale, offset = 1 / (drawn.std(axis=0) + 1e-3), -drawn.mean(axis=0) / (drawn.std(axis=0) + 1e-3)

    def bags(x: NDArray[np.float16], y: NDArray[np.uint8]) -> BagSet:
        return BagSet(x, y, np.full(len(x), 1 / len(x)), np.ones(len(x), np.float32), scale, offset)  # type: ignore[arg-type]  # A batch becomes float32.

    channels = shape[2]
    weights = size(build_recognizer(package.manifest.recognizer, channels=channels))
    width = next(w for w in range(8, 512, 4) if size(conv(channels, w)) >= weights)
    torch.manual_seed(settings.seed)
    network = conv(channels, width)
    passes = settings.recognizer_steps(len(train)) * settings.batch / len(values)
    known, looked = (np.stack(part) for part in zip(*calibration, strict=True))
    fit_recognizer(
        network, bags(values, np.stack(targets)), task=Task.SEGMENTATION,
        settings=FitSettings(passes, settings.batch, settings.learning_rate, seed=settings.seed),
        held=bags(known.astype(np.float16), looked),
    )  # fmt: skip
    network.eval()
    out = {}
    for name, (folder, items) in tests.items():
        found = []
        for frame, mask in versions(folder, items, package, 0):
            with torch.no_grad():
                logits = network(torch.from_numpy(offset + scale * taps(frame))[None])[0].numpy()
            found.append(dice((logits >= 0).astype(np.uint8), mask_to_targets(mask, grid)))
        out[name] = np.array(found)
    path.unlink()
    return out


def conv(channels: int, width: int) -> ConvRecognizer:
    return ConvRecognizer(channels, width=width, blocks=3, outputs=16)


def versions(
    folder: LabelledFolder, items: Sequence[LabelledItem], package: Package, count: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Pixels and mask of frames, each followed by so many changed versions."""
    frames = [f for f in folder.frames(items) if isinstance(f, Frame) and f.truth and f.truth.mask is not None]
    rng, edge = np.random.default_rng(1), package.manifest.preprocessing.size
    by = augmentation_for(frames, FoundingSettings().augmentation)
    for frame in frames:
        small, square = resize_frame(frame.pixels, edge), square_truth(frame, edge)
        for pixels, truth in [(frame.pixels, frame.truth), *(augment(small, square, rng, by=by) for _ in range(count))]:
            if truth is None or truth.mask is None:
                raise SystemExit(f"'{frame.name}' has no mask")
            yield pixels, truth.mask


def recognized(package: Package, part: Part) -> tuple[Float64, NDArray[np.str_]]:
    """Dice of every frame as a device recognizes it, and its group."""
    runtime, manifest, found, groups = Runtime(package), package.manifest, [], []
    for frame in part[0].frames(part[1]):
        if isinstance(frame, Frame) and frame.truth and frame.truth.mask is not None:
            logits = runtime.logits(release_vectors(runtime.extract(frame.pixels), manifest.released))
            found.append(
                dice((logits >= 0).astype(np.uint8), mask_to_targets(frame.truth.mask, manifest.features.grid))
            )
            groups.append(frame.group or frame.name)
    return np.array(found), np.array(groups)


if __name__ == "__main__":
    main()
