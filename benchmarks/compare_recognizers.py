#!/usr/bin/env python3
"""What a recognizer loses by not knowing where its vectors stood: a `set` recognizer against a convolutional one.

Under one package's extractor, both are trained alike on the founding features as they are released: the `set`
recognizer on shuffled bags, the convolutional one (3x3 convolutions, as many weights) on the full map. Compared on
images that neither learned from. Also: how long extractor and recognizer take.

    benchmarks/compare_recognizers.py [--package runs/polyps/P0] [--data ../shared/data/polyps] [--seeds 1 2 3]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from featureloop.core.types import Float32, Frame, Task, UInt8
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.founding import CALIBRATION_SHARE
from featureloop.learner.gate import bootstrap_means
from featureloop.model.augment import augment
from featureloop.model.early_cache import square_truth
from featureloop.model.export import export_onnx
from featureloop.model.fit import BagSet, FitSettings, fit_recognizer
from featureloop.model.package import WEIGHTS, Package, load_package
from featureloop.model.preprocess import mask_to_targets, resize_frame
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import Runtime, open_session
from featureloop.model.tasks.segmentation import dice
from featureloop.sharing import codec

VERSIONS = 3
HEADS = 4
EPOCHS = 5.0


class ConvRecognizer(nn.Module):
    """Residual 3x3 convolutions on the full map, and no context of the whole: (B, N, C) in the map's order."""

    def __init__(self, channels: int, *, width: int, blocks: int, outputs: int) -> None:
        super().__init__()
        self.lift = nn.Conv2d(channels, width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, width), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1)
            )
            for _ in range(blocks)
        )
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits (B, N, T)."""
        b, n, c = vectors.shape
        grid = round(n**0.5)
        x = self.lift(vectors.transpose(1, 2).reshape(b, c, grid, grid))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x).flatten(2).transpose(1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, default=root / "runs" / "polyps" / "P0")
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()
    package = load_package(args.package)
    times(package)
    kvasir, clinic = (open_labelled(args.data / name) for name in ("kvasir-seg", "cvc-clinicdb"))
    rest, held = split(kvasir.items, hold_out=0.2, seed=1)
    learned, _ = split(rest, hold_out=CALIBRATION_SHARE, seed=1)
    x, y = released(package, kvasir, learned, versions=VERSIONS)
    tests = {"Kvasir-SEG 200": (kvasir, held), "ClinicDB": (clinic, clinic.items)}
    features = {
        name: (*released(package, folder, items, versions=0), [i.group for i in items])
        for name, (folder, items) in tests.items()
    }
    print("| seed | recognizer | weights | " + " | ".join(features) + " |\n|---|---|---|" + "---|" * len(features))
    spec = package.manifest.recognizer
    channels = package.manifest.released.channels
    for seed in args.seeds:
        torch.manual_seed(seed)
        on_set = build_recognizer(spec, channels=channels)
        weights = sum(p.numel() for p in on_set.parameters())
        width = next(
            w for w in range(8, 512, 4) if size(ConvRecognizer(channels, width=w, blocks=3, outputs=16)) >= weights
        )
        on_map = ConvRecognizer(channels, width=width, blocks=3, outputs=16)
        attentive = build_recognizer(replace(spec, heads=HEADS), channels=channels)
        found = {}
        for name, network, shuffled in (
            ("set", on_set, True),
            ("set with attention among the rows", attentive, True),
            ("3x3 on the map", on_map, False),
        ):
            bags = bag_set(package, *(shuffle(x, y, seed) if shuffled else (x, y)))
            fit_recognizer(network, bags, task=Task.SEGMENTATION, settings=FitSettings(epochs=EPOCHS, seed=seed))
            found[name] = {part: qualities(package, network, *f[:2]) for part, f in features.items()}
            row = " | ".join(f"{q.mean():.4f}" for q in found[name].values())
            print(f"| {seed} | {name} | {size(network)} | {row} |", flush=True)
        for name in list(found)[:-1]:
            cells = []
            for part, f in features.items():
                difference = found[name][part] - found["3x3 on the map"][part]
                low, high = np.quantile(bootstrap_means(difference, np.array(f[2]), seed=1), [0.025, 0.975])
                cells.append(f"{difference.mean():+.4f} ({low:+.4f} to {high:+.4f})")
            print(f"| {seed} | {name}, less 3x3 | | " + " | ".join(cells) + " |", flush=True)


def size(network: nn.Module) -> int:
    """Weights of a network."""
    return sum(p.numel() for p in network.parameters())


def released(
    package: Package, folder: LabelledFolder, items: Sequence[LabelledItem], *, versions: int
) -> tuple[UInt8, UInt8]:
    """Quantized vectors uint8 (M, N, C) in the map's order and rows of targets, of frames and augmented versions."""
    runtime, manifest, rng = Runtime(package), package.manifest, np.random.default_rng(1)
    values, targets = [], []
    for frame in folder.frames(items):
        if not isinstance(frame, Frame) or frame.truth is None:
            raise SystemExit(f"every image must be readable: {frame}")
        small, square = (
            resize_frame(frame.pixels, manifest.preprocessing.size),
            square_truth(frame, manifest.preprocessing.size),
        )
        for pixels, truth in [(frame.pixels, frame.truth), *(augment(small, square, rng) for _ in range(versions))]:
            if truth.mask is None:
                raise SystemExit(f"'{frame.name}' has no mask")
            values.append(codec.quantize(runtime.extract(pixels), manifest.released))
            targets.append(mask_to_targets(truth.mask, manifest.features.grid))
    return np.stack(values), np.stack(targets)


def shuffle(x: UInt8, y: UInt8, seed: int) -> tuple[UInt8, UInt8]:
    """Every bag's rows in an order of its own."""
    order = np.argsort(np.random.default_rng(seed).random(x.shape[:2]), axis=1)[:, :, None]
    return np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)


def bag_set(package: Package, x: UInt8, y: UInt8) -> BagSet:
    """Bags that are all drawn alike."""
    scale, offset = scaling(package)
    n = len(x)
    return BagSet(x, y, np.full(n, 1 / n), np.ones(n, np.float32), scale, offset)


def scaling(package: Package) -> tuple[Float32, Float32]:
    """Scale and offset of the quantized values."""
    form = package.manifest.released
    low, high = np.array(form.low, np.float32), np.array(form.high, np.float32)
    return (high - low) / (np.array(form.levels, np.float32) - 1), low


def qualities(package: Package, network: nn.Module, x: UInt8, y: UInt8) -> NDArray[np.float64]:
    """Dice of sub-cells of every bag."""
    scale, offset = scaling(package)
    out = []
    with torch.no_grad():
        for at in np.array_split(np.arange(len(x)), max(1, len(x) // 16)):
            logits = network(torch.from_numpy(offset + scale * x[at].astype(np.float32))).numpy()
            out += [dice((a > 0).astype(np.uint8), b) for a, b in zip(logits, y[at], strict=True)]
    return np.array(out)


def times(package: Package) -> None:
    """Print what a frame costs in ONNX Runtime, one thread and two; the recognizer as this version exports it."""
    rng = np.random.default_rng(1)
    image = rng.random((1, 3, package.manifest.preprocessing.size, package.manifest.preprocessing.size)).astype(
        np.float32
    )
    spec, channels = package.manifest.recognizer, package.manifest.released.channels
    network = build_recognizer(spec, channels=channels)
    network.load_state_dict(load_file(package.file(WEIGHTS)))
    print("| threads | extractor, ms | recognizer, ms | share | frames per second |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recognizer.onnx"
        example = torch.zeros(1, package.manifest.features.grid**2, channels)
        export_onnx(network, example, path, source="vectors", result="logits", dynamic={1: "rows"})
        for threads in (1, 2):
            runtime, session = Runtime(package, threads=threads), open_session(path, threads=threads)
            vectors = runtime.extract_input(image)[None]
            first = median_ms(lambda r=runtime: r.extract_input(image))
            second = median_ms(lambda s=session, v=vectors: s.run(None, {"vectors": v}))
            print(
                f"| {threads} | {first:.1f} | {second:.2f} | {second / first:.1%} | {1000 / (first + second):.0f} |",
                flush=True,
            )


def median_ms(run: Callable[[], object]) -> float:
    """Median milliseconds of a call."""
    seconds = []
    for _ in range(60):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds[10:]))


if __name__ == "__main__":
    main()
